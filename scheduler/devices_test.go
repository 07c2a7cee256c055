// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// TestDevicesAreNotGivenOut: a Pod that claims devices waits, and says what
// kube-scheduler says.
func TestDevicesAreNotGivenOut(t *testing.T) {
	play(t, func(s *stage) {
		s.nodes.h.OnAdd(testNode("n", 1000), false)
		s.create(t, testPod("p", 100, func(p *corev1.Pod) {
			p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimName: ptr.To("gpu")}}
		}))
		want := "0/1 nodes are available: 1 cannot allocate all claims. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
		if _, c := s.get(t, "p"); c.Message != want || c.Reason != corev1.PodReasonUnschedulable {
			t.Errorf("said %s: %q", c.Reason, c.Message)
		}
		if s.on("p") != "" {
			t.Errorf("is on %s", s.on("p"))
		}
	})
}
