// SPDX-License-Identifier: Apache-2.0

package owned

import (
	"cmp"
	"math/bits"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/peapod/peapod/api/pod"
	"github.com/peapod/peapod/controller/loop"
)

// rank puts first what is missed least when Pods are removed: not assigned,
// pending, not ready, low deletion cost (KEP-2255), with most of its kin on the
// same node, ready for less long, the restless, then the younger. Times are
// told apart by their order of magnitude only (KEP-2185), so that a node does
// not lose all it has because it was filled a moment later.
func rank(list, kin []*corev1.Pod, now time.Time) {
	onNode := map[string]int{}
	for _, p := range kin {
		if pod.Active(p) {
			onNode[p.Spec.NodeName]++
		}
	}
	phase := map[corev1.PodPhase]int{corev1.PodPending: 0, corev1.PodUnknown: 1, corev1.PodRunning: 2}
	slices.SortStableFunc(list, func(a, b *corev1.Pod) int {
		return cmp.Or(
			loop.FalseFirst(a.Spec.NodeName != "", b.Spec.NodeName != ""), phase[a.Status.Phase]-phase[b.Status.Phase],
			loop.FalseFirst(pod.Ready(a), pod.Ready(b)), cmp.Compare(deletionCost(a), deletionCost(b)),
			onNode[b.Spec.NodeName]-onNode[a.Spec.NodeName],
			cmp.Compare(magnitude(now, ReadySince(a)), magnitude(now, ReadySince(b))),
			cmp.Compare(Restarts(b, false), Restarts(a, false)), cmp.Compare(Restarts(b, true), Restarts(a, true)),
			cmp.Compare(magnitude(now, a.CreationTimestamp.Time), magnitude(now, b.CreationTimestamp.Time)),
			cmp.Compare(a.UID, b.UID))
	})
}

func deletionCost(p *corev1.Pod) int {
	n, err := strconv.Atoi(p.Annotations[corev1.PodDeletionCost])
	if err != nil {
		return 0
	}
	return n
}

// Restarts is the highest count of a main container, or of a sidecar.
func Restarts(p *corev1.Pod, sidecars bool) (n int32) {
	if !sidecars {
		for _, c := range p.Status.ContainerStatuses {
			n = max(n, c.RestartCount)
		}
		return n
	}
	for _, c := range p.Status.InitContainerStatuses {
		i := slices.IndexFunc(p.Spec.InitContainers, func(x corev1.Container) bool { return x.Name == c.Name })
		if i >= 0 && pod.Sidecar(&p.Spec.InitContainers[i]) {
			n = max(n, c.RestartCount)
		}
	}
	return n
}

func ReadySince(p *corev1.Pod) time.Time {
	if c := pod.Condition(&p.Status, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

// magnitude is the power of two of an age in nanoseconds; no time is the
// youngest.
func magnitude(now, t time.Time) int {
	if t.IsZero() {
		return -1
	}
	return bits.Len64(uint64(max(now.Sub(t), 0)))
}
