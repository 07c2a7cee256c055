// SPDX-License-Identifier: Apache-2.0

package defaults

import (
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
)

// APIService: an extension server is asked by HTTPS.
func APIService(a *apiregistrationv1.APIService) {
	if s := a.Spec.Service; s != nil {
		set(&s.Port, 443)
	}
}

// PrepareAPIService: what is served here is there at once.
func PrepareAPIService(a, old *apiregistrationv1.APIService) {
	if old == nil && a.Spec.Service == nil {
		helper.SetAPIServiceCondition(a, helper.NewLocalAvailableAPIServiceCondition())
	}
}
