// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// rule is one thing that decides whether a node fits a Pod.
type rule struct {
	// refuse says why the node does not fit; nothing is that it does.
	refuse func(*wish, *place) []reason
	// cures: a Pod that this rule refused could fit after the change. The change
	// is one of the types below.
	cures func(*wish, any) bool
}

// reason is why a node does not fit, in kube-scheduler's words. A final one
// stays when all Pods of the node were gone.
type reason struct {
	text  string
	final bool
}

func final(text string) []reason { return []reason{{text, true}} }

// What happens and can let a waiting Pod fit, as kube-scheduler's queueing
// hints have it.
type (
	// nodeChange is a node that came (no old one) or became another; without
	// Pods both.
	nodeChange struct{ old, new *nodeInfo }
	// nodeGone is a node that there is no longer.
	nodeGone struct{ *nodeInfo }
	// podCame is a Pod that has a node now.
	podCame struct {
		*load
		namespaces map[string]labels.Set
	}
	// podLeft is a Pod that takes no room any more.
	podLeft struct {
		*load
		namespaces map[string]labels.Set
	}
	// podRelabelled is a Pod on a node that has other labels than before.
	podRelabelled struct {
		old, new   *load
		namespaces map[string]labels.Set
	}
	// claimChange is a claim that came, changed or is gone.
	claimChange struct{ *corev1.PersistentVolumeClaim }
	// storageChange is a volume or a class that came, changed or is gone.
	storageChange struct{}
	// namespaceChange is a namespace whose labels are not what they were.
	namespaceChange struct{ name string }
	// podShrank is a Pod on a node that takes another room than before.
	podShrank struct{ old, new *load }
	// podEdited is the waiting Pod itself, changed.
	podEdited struct{ old, new *wish }
)

// rules in the order they are asked; the first that refuses speaks.
var rules = []*rule{&unschedulable, &taints, &affinity, &hostPorts, &resources, &soleClaims, &volumes, &volumeZones, &topologySpread, &podAffinity, &devices}

// anyNode stands for what is missing when there is no node at all.
var anyNode = rule{cures: func(_ *wish, c any) bool {
	n, ok := c.(nodeChange)
	return ok && n.old == nil
}}

// wish is a Pod that looks for a node, with what the rules ask of it for every
// node.
type wish struct {
	*load
	required  nodeaffinity.RequiredNodeAffinity
	preferred *nodeaffinity.PreferredSchedulingTerms // nil: none
	only      map[string]bool                        // names of nodes that alone come into question; nil: all do
	// hard constraints must be satisfied, soft ones should be.
	hard, soft []constraint
}

func newWish(p *corev1.Pod) *wish {
	w := &wish{load: newLoad(p), required: nodeaffinity.GetRequiredNodeAffinity(p), only: namedNodes(p)}
	w.hard, w.soft = newConstraints(p, corev1.DoNotSchedule), newConstraints(p, corev1.ScheduleAnyway)
	if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil && len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
		// Validation lets no term through that cannot be read.
		w.preferred, _ = nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return w
}

// refusal asks rules about one node. The Pod must fit beside those that the node
// is promised to, and also if they never come.
func refusal(w *wish, p *place, rules []*rule) (*rule, []reason) {
	if f := p.filled(); f != nil {
		if r, why := askRules(w, f, rules); r != nil {
			return r, why
		}
	}
	return askRules(w, p, rules)
}

func askRules(w *wish, p *place, rules []*rule) (*rule, []reason) {
	for _, r := range rules {
		if why := r.refuse(w, p); len(why) > 0 {
			return r, why
		}
	}
	return nil, nil
}

// verdict is what a look over all nodes found.
type verdict struct {
	known   *known
	around  *around
	fit     []*nodeInfo
	total   int
	refused []*rule        // which rules refused some node
	whole   string         // a reason that holds for the Pod on whatever node
	reasons map[string]int // how many nodes for which reason
	empty   []*nodeInfo    // refused, but could fit if Pods of theirs were gone
	class   *class         // that knows all this; nil: every node was looked at
}

// look asks the rules about every node.
func look(w *wish, k *known) *verdict {
	taken, wait := k.pack(w)
	v := &verdict{known: k, around: newAround(w, k, taken), reasons: map[string]int{}}
	for _, i := range k.nodes {
		if i.node == nil {
			continue
		}
		switch {
		case wait != "":
			v.total++
		case w.only != nil && !w.only[i.node.Name]:
			v.take(i, &affinity, final(notNamed))
		default:
			v.hear(i, w)
		}
	}
	switch {
	case v.total == 0:
		v.add(&anyNode)
	case w.only != nil && len(w.only) == 0:
		v.whole = conflict
		v.add(&affinity)
	case wait != "":
		v.whole = wait
		v.add(&volumes)
	}
	return v
}

// hear asks the rules about a node.
func (v *verdict) hear(i *nodeInfo, w *wish) {
	r, why := refusal(w, &place{i, v.around, w}, rules)
	v.take(i, r, why)
}

// take counts what was said of a node in.
func (v *verdict) take(i *nodeInfo, by *rule, why []reason) {
	v.total++
	if by == nil {
		v.fit = append(v.fit, i)
		return
	}
	v.add(by)
	for _, x := range why {
		v.reasons[x.text]++
	}
	if !slices.ContainsFunc(why, func(x reason) bool { return x.final }) {
		v.empty = append(v.empty, i)
	}
}

func (v *verdict) add(r *rule) {
	if !slices.Contains(v.refused, r) {
		v.refused = append(v.refused, r)
	}
}
