// SPDX-License-Identifier: Apache-2.0

package table

import (
	"time"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// PodDisruptionBudget are the columns of poddisruptionbudgets.
func PodDisruptionBudget() Columns[policyv1.PodDisruptionBudget] {
	amount := func(n *intstr.IntOrString) string {
		if n == nil {
			return "N/A"
		}
		return n.String()
	}
	return Columns[policyv1.PodDisruptionBudget]{
		Definitions: []metav1.TableColumnDefinition{
			name(), text("Min Available", "The minimum number of pods that must be available."),
			text("Max Unavailable", "The maximum number of pods that may be unavailable."),
			number("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time."), ageColumn(),
		},
		Cells: func(b *policyv1.PodDisruptionBudget, now time.Time) []any {
			return []any{b.Name, amount(b.Spec.MinAvailable), amount(b.Spec.MaxUnavailable), int64(b.Status.DisruptionsAllowed), age(b.CreationTimestamp, now)}
		},
	}
}
