// SPDX-License-Identifier: Apache-2.0

package table

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ResourceQuota are the columns of resourcequotas: used/hard of each resource,
// those of limits apart.
func ResourceQuota() Columns[corev1.ResourceQuota] {
	return Columns[corev1.ResourceQuota]{
		Definitions: []metav1.TableColumnDefinition{
			name(), text("Request", "Request represents a minimum amount of cpu/memory that a container may consume."),
			text("Limit", "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node."), ageColumn(),
		},
		Cells: func(q *corev1.ResourceQuota, now time.Time) []any {
			var requests, limits []string
			for _, n := range slices.Sorted(maps.Keys(q.Status.Hard)) {
				used, hard := q.Status.Used[n], q.Status.Hard[n]
				cell := fmt.Sprintf("%s: %s/%s", n, used.String(), hard.String())
				if strings.HasPrefix(string(n), "limits.") {
					limits = append(limits, cell)
				} else {
					requests = append(requests, cell)
				}
			}
			return []any{q.Name, strings.Join(requests, ", "), strings.Join(limits, ", "), age(q.CreationTimestamp, now)}
		},
	}
}

// LimitRange are the columns of limitranges.
func LimitRange() Columns[corev1.LimitRange] {
	return Columns[corev1.LimitRange]{
		Definitions: []metav1.TableColumnDefinition{name(), createdAt()},
		Cells:       func(l *corev1.LimitRange, _ time.Time) []any { return []any{l.Name, created(l.CreationTimestamp)} },
	}
}
