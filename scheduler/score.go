// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"math"
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
)

// maxScore is the best that one score gives.
const maxScore = 100

// Weights of kube-scheduler's default profile; what is left of each node, how
// evenly it is used, and what it has of the images weigh 1.
const (
	taintWeight       = 3
	affinityWeight    = 2
	spreadWeight      = 2
	podAffinityWeight = 2
)

// best is the node with the highest score. Of equals one is drawn, so that a
// row of small Pods does not fill them one after another.
func best(w *wish, v *verdict) *nodeInfo {
	fit := v.fit
	if len(fit) == 1 {
		return fit[0]
	}
	var found *nodeInfo
	top, equals := int64(-1), 0
	for k, s := range scores(w, v) {
		if s > top {
			top, equals = s, 0
		}
		if s == top {
			if equals++; rand.IntN(equals) == 0 {
				found = fit[k]
			}
		}
	}
	return found
}

// scores compares nodes that all fit.
func scores(w *wish, v *verdict) []int64 {
	fit := v.fit
	avoided, preferred := make([]int64, len(fit)), make([]int64, len(fit))
	for k, i := range fit {
		avoided[k] = avoidance(w, i.node)
		if w.preferred != nil {
			preferred[k] = w.preferred.Score(i.node)
		}
	}
	normalize(avoided)
	normalize(preferred)
	even, liked, sum := evenSpread(w, fit, v.known), attraction(w, fit, v.known), make([]int64, len(fit))
	for k, i := range fit {
		sum[k] = taintWeight*(maxScore-avoided[k]) + affinityWeight*preferred[k] + leastAllocated(w, i) + balanced(w, i) +
			spreadWeight*even[k] + podAffinityWeight*liked[k] + locality(w, i, v.known.onBoard())
	}
	return sum
}

// normalize stretches counts to 0..maxScore.
func normalize(counts []int64) {
	top := int64(0)
	for _, n := range counts {
		top = max(top, n)
	}
	if top == 0 {
		return
	}
	for k, n := range counts {
		counts[k] = maxScore * n / top
	}
}

// avoidance counts the taints of a node that would rather not have the Pod.
func avoidance(w *wish, n *corev1.Node) (count int64) {
	for _, t := range n.Spec.Taints {
		if t.Effect == corev1.TaintEffectPreferNoSchedule && !tolerates(w.pod.Spec.Tolerations, t) {
			count++
		}
	}
	return count
}

// scored are the resources that are compared, each with the weight 1.
var scored = [...]corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}

// leastAllocated is what share of the node would be left, on average.
func leastAllocated(w *wish, i *nodeInfo) int64 {
	sum, kinds := int64(0), int64(0)
	for _, name := range scored {
		room := i.room[name]
		if room == 0 {
			continue
		}
		kinds++
		if left := room - i.scored[name] - w.scored[name]; left > 0 {
			sum += left * maxScore / room
		}
	}
	if kinds == 0 {
		return 0
	}
	return sum / kinds
}

// balanced is how much more evenly the node's resources would be used with the
// Pod than without. A Pod that requests nothing changes nothing: it is not
// drawn to the node that happens to be even.
func balanced(w *wish, i *nodeInfo) int64 {
	if w.wants[corev1.ResourceCPU] == 0 && w.wants[corev1.ResourceMemory] == 0 {
		return 0
	}
	with, without := evenness(i, w.wants), evenness(i, nil)
	return maxScore/2 + (maxScore/2+with-without)/2
}

// evenness is maxScore less the standard deviation of the shares that are used.
func evenness(i *nodeInfo, more amounts) int64 {
	var shares []float64
	for _, name := range scored {
		if room := i.room[name]; room > 0 {
			shares = append(shares, min(float64(i.used[name]+more[name])/float64(room), 1))
		}
	}
	deviation := 0.0
	if len(shares) == 2 {
		deviation = math.Abs(shares[0]-shares[1]) / 2
	}
	return int64((1 - deviation) * maxScore)
}
