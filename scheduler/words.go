// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
)

const (
	noNodes    = "no nodes available to schedule pods"
	noVictims  = "No preemption victims found for incoming pod"
	notHelpful = "Preemption is not helpful for scheduling"
	never      = "not eligible due to preemptionPolicy=Never."
)

// explain says why a Pod fits nowhere, as `kubectl describe` shows it.
func explain(w *wish, v *verdict) string {
	if v.total == 0 {
		return noNodes
	}
	why := v.whole
	if why == "" {
		why = histogram(v.reasons)
	}
	text := available(v.total) + why + "."
	if p := preemption(w, v); p != "" {
		text += " preemption: " + p
	}
	return text
}

func available(total int) string { return fmt.Sprintf("0/%d nodes are available: ", total) }

// preemption says why nobody is put off a node for this Pod. It says nothing
// when somebody could be: as nothing is preempted here, that is what
// kube-scheduler says without its preemption.
func preemption(w *wish, v *verdict) string {
	if p := w.pod.Spec.PreemptionPolicy; p != nil && *p == corev1.PreemptNever {
		return never
	}
	reasons := map[string]int{}
	for i := range v.empty {
		rest, victims := i.without(func(p *corev1.Pod) bool {
			return schedulinghelper.PodPriority(p) < schedulinghelper.PodPriority(w.pod)
		})
		if victims == 0 {
			reasons[noVictims]++
			continue
		}
		r, why := refusal(w, rest)
		if r == nil {
			return ""
		}
		for _, x := range why {
			reasons[x.text]++
		}
	}
	if n := v.total - len(v.empty); n > 0 {
		reasons[notHelpful] = n
	}
	return available(v.total) + histogram(reasons) + "."
}

// histogram lists what was said how often, sorted as text.
func histogram(counts map[string]int) string {
	var list []string
	for text, n := range counts {
		list = append(list, fmt.Sprintf("%d %s", n, text))
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}
