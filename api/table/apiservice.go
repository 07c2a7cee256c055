// SPDX-License-Identifier: Apache-2.0

package table

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
)

// APIService are the columns of who serves what.
func APIService() Columns[apiregistrationv1.APIService] {
	return Columns[apiregistrationv1.APIService]{
		Definitions: []metav1.TableColumnDefinition{
			name(), text("Service", "The reference to the service that hosts this API endpoint."),
			text("Available", "Whether this service is available."), ageColumn(),
		},
		Cells: func(a *apiregistrationv1.APIService, now time.Time) []any {
			service, available := "Local", string(apiregistrationv1.ConditionUnknown)
			if s := a.Spec.Service; s != nil {
				service = s.Namespace + "/" + s.Name
			}
			if c := helper.GetAPIServiceConditionByType(a, apiregistrationv1.Available); c != nil {
				available = string(c.Status)
				if c.Status != apiregistrationv1.ConditionTrue && c.Reason != "" {
					available = fmt.Sprintf("%s (%s)", c.Status, c.Reason)
				}
			}
			return []any{a.Name, service, available, age(a.CreationTimestamp, now)}
		},
	}
}
