// SPDX-License-Identifier: Apache-2.0

package defaults

import corev1 "k8s.io/api/core/v1"

// ResourceQuota rounds its amounts.
func ResourceQuota(q *corev1.ResourceQuota) {
	limits(q.Spec.Hard)
	limits(q.Status.Hard)
	limits(q.Status.Used)
}
