// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"slices"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
)

const (
	cordoned  = "node(s) were unschedulable"
	untaintly = "node(s) had untolerated taint(s)"
)

// tolerates: comparisons of numbers (KEP-5471) are alpha, and off.
func tolerates(list []corev1.Toleration, t corev1.Taint) bool {
	return schedulinghelper.TolerationsTolerateTaint(logr.Discard(), list, &t, false)
}

// unschedulable is a cordoned node.
var unschedulable = rule{
	refuse: func(w *wish, p *place) []reason {
		if p.node.Spec.Unschedulable && !toleratesCordon(w) {
			return final(cordoned)
		}
		return nil
	},
	cures: func(w *wish, c any) bool {
		switch c := c.(type) {
		case nodeChange:
			return !c.new.node.Spec.Unschedulable && (c.old == nil || c.old.node.Spec.Unschedulable)
		case podEdited:
			return toleratesCordon(c.new)
		}
		return false
	},
}

func toleratesCordon(w *wish) bool {
	return tolerates(w.pod.Spec.Tolerations, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
}

// taints that keep Pods away.
var taints = rule{
	refuse: func(w *wish, p *place) []reason {
		if tainted(w, p.node) {
			return final(untaintly)
		}
		return nil
	},
	cures: func(w *wish, c any) bool {
		switch c := c.(type) {
		case nodeChange:
			return !tainted(w, c.new.node) && (c.old == nil || tainted(w, c.old.node))
		case podEdited:
			return len(c.new.pod.Spec.Tolerations) != len(c.old.pod.Spec.Tolerations)
		}
		return false
	},
}

func tainted(w *wish, n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool {
		return (t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute) && !tolerates(w.pod.Spec.Tolerations, t)
	})
}
