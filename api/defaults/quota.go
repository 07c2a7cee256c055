// SPDX-License-Identifier: Apache-2.0

package defaults

import corev1 "k8s.io/api/core/v1"

// ResourceQuota rounds its amounts.
func ResourceQuota(q *corev1.ResourceQuota) {
	limits(q.Spec.Hard)
	limits(q.Status.Hard)
	limits(q.Status.Used)
}

// LimitRange fills in for containers what they get without asking: by default
// the most they may have, and of that as much as they are limited to.
func LimitRange(l *corev1.LimitRange) {
	for i := range l.Spec.Limits {
		item := &l.Spec.Limits[i]
		if item.Type == corev1.LimitTypeContainer {
			fill := func(list *corev1.ResourceList, from corev1.ResourceList) {
				if *list == nil {
					*list = corev1.ResourceList{}
				}
				for n, q := range from {
					if _, there := (*list)[n]; !there {
						(*list)[n] = q.DeepCopy()
					}
				}
			}
			fill(&item.Default, item.Max)
			fill(&item.DefaultRequest, item.Default)
			fill(&item.DefaultRequest, item.Min)
		}
		for _, list := range []corev1.ResourceList{item.Max, item.Min, item.Default, item.DefaultRequest, item.MaxLimitRequestRatio} {
			limits(list)
		}
	}
}
