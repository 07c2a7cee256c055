// SPDX-License-Identifier: Apache-2.0

package node

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestNodeEvents: each change of the node is told once.
func TestNodeEvents(t *testing.T) {
	inWorld(t, func(w *world) {
		a := w.agent
		cond := func(t corev1.NodeConditionType, s corev1.ConditionStatus) corev1.NodeCondition {
			return corev1.NodeCondition{Type: t, Status: s}
		}
		ready, low := cond(corev1.NodeReady, corev1.ConditionTrue), cond(corev1.NodeMemoryPressure, corev1.ConditionTrue)
		fine := cond(corev1.NodeMemoryPressure, corev1.ConditionFalse)
		a.tellConditions(nil, []corev1.NodeCondition{fine, ready})
		a.tellConditions([]corev1.NodeCondition{fine, ready}, []corev1.NodeCondition{fine, ready})
		a.tellConditions([]corev1.NodeCondition{fine, cond(corev1.NodeReady, corev1.ConditionUnknown)}, []corev1.NodeCondition{low, ready})
		open, closed := smallNode(), smallNode()
		closed.Spec.Unschedulable = true
		a.tellSchedulable(nil, closed)
		a.tellSchedulable(open, closed)
		a.tellSchedulable(closed, closed)
		a.tellSchedulable(closed, open)
		w.want(w.about("event"),
			"0 event Normal NodeHasSufficientMemory: Node n status is now: NodeHasSufficientMemory", "0 event Normal NodeReady: Node n status is now: NodeReady",
			"0 event Normal NodeHasInsufficientMemory: Node n status is now: NodeHasInsufficientMemory", "0 event Normal NodeReady: Node n status is now: NodeReady",
			"0 event Normal NodeNotSchedulable: Node n status is now: NodeNotSchedulable", "0 event Normal NodeSchedulable: Node n status is now: NodeSchedulable")
	})
}
