// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"maps"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
)

const (
	skewed     = "node(s) didn't match pod topology spread constraints"
	noTopology = "node(s) didn't match pod topology spread constraints (missing required label)"
)

// constraint is how evenly Pods are to be spread over the values of a label.
type constraint struct {
	topology   string
	skew       int
	pods       labels.Selector
	minDomains int
	// Nodes that the Pod's node affinity, or taints, exclude are no domains.
	heedsAffinity, heedsTaints bool
}

// usualSpread is what Pods are spread by that ask for nothing and are of a
// Service or a controller; kube-scheduler's built-in constraints.
var usualSpread = [...]constraint{
	{topology: corev1.LabelHostname, skew: 3, minDomains: 1, heedsAffinity: true},
	{topology: corev1.LabelTopologyZone, skew: 5, minDomains: 1, heedsAffinity: true},
}

// newConstraints reads those of one kind.
func newConstraints(p *corev1.Pod, action corev1.UnsatisfiableConstraintAction) (out []constraint) {
	for _, c := range p.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable != action {
			continue
		}
		s := selectorOf(c.LabelSelector)
		for _, key := range c.MatchLabelKeys {
			if value, ok := p.Labels[key]; ok {
				more, _ := labels.SelectorFromSet(labels.Set{key: value}).Requirements()
				s = s.Add(more...)
			}
		}
		out = append(out, constraint{
			topology: c.TopologyKey, skew: int(c.MaxSkew), pods: s, minDomains: int(ptr.Deref(c.MinDomains, 1)),
			heedsAffinity: ptr.Deref(c.NodeAffinityPolicy, corev1.NodeInclusionPolicyHonor) == corev1.NodeInclusionPolicyHonor,
			heedsTaints:   ptr.Deref(c.NodeTaintsPolicy, corev1.NodeInclusionPolicyIgnore) == corev1.NodeInclusionPolicyHonor,
		})
	}
	return out
}

// counts: the Pod is one of those that are spread. Who ends is not, and an empty
// selector selects nobody.
func (c *constraint) counts(w *wish, p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && p.Namespace == w.pod.Namespace && !c.pods.Empty() && c.pods.Matches(labels.Set(p.Labels))
}

// admits: the node is one of those that Pods are spread over.
func (c *constraint) admits(w *wish, n *corev1.Node) bool {
	return (!c.heedsAffinity || matches(w, n)) && (!c.heedsTaints || !tainted(w, n))
}

// spanned: the node is in a domain of each constraint.
func spanned(list []constraint, n *corev1.Node) bool {
	return !slices.ContainsFunc(list, func(c constraint) bool { _, ok := n.Labels[c.topology]; return !ok })
}

// tally is how many Pods there are in each domain of each constraint.
type tally []map[string]int

func newTally(list []constraint) tally {
	t := make(tally, len(list))
	for k := range t {
		t[k] = map[string]int{}
	}
	return t
}

func (t tally) copy() tally {
	c := make(tally, len(t))
	for k := range t {
		c[k] = maps.Clone(t[k])
	}
	return c
}

// open makes the domains of a node known, though nobody is there.
func (t tally) open(w *wish, n *corev1.Node) {
	for k := range t {
		if spanned(w.hard, n) && w.hard[k].admits(w, n) {
			t[k][n.Labels[w.hard[k].topology]] += 0
		}
	}
}

func (t tally) count(w *wish, l *load, n *corev1.Node, sign int) {
	for k := range t {
		if c := &w.hard[k]; c.counts(w, l.pod) && spanned(w.hard, n) && c.admits(w, n) {
			t[k][n.Labels[c.topology]] += sign
		}
	}
}

// least is the count that no domain is below; of too few domains it is nothing.
func (t tally) least(k, minDomains int) int {
	if len(t[k]) < minDomains {
		return 0
	}
	return slices.Min(slices.Collect(maps.Values(t[k])))
}

// topologySpread is the constraints that must be satisfied.
var topologySpread = rule{
	refuse: func(w *wish, p *place) []reason {
		for k, c := range w.hard {
			value, ok := p.node.Labels[c.topology]
			if !ok {
				return final(noTopology)
			}
			there := p.spread[k][value]
			if c.pods.Matches(labels.Set(w.pod.Labels)) {
				there++
			}
			if there-p.spread.least(k, c.minDomains) > c.skew {
				return []reason{{text: skewed}}
			}
		}
		return nil
	},
	cures: func(w *wish, c any) bool {
		switch c := c.(type) {
		case nodeChange:
			return respread(w, c)
		case nodeGone:
			return spanned(w.hard, c.node)
		case podCame:
			return counted(w, c.pod)
		case podLeft:
			return counted(w, c.pod)
		case podRelabelled:
			return slices.ContainsFunc(w.hard, func(x constraint) bool { return x.counts(w, c.old.pod) != x.counts(w, c.new.pod) })
		case podEdited:
			return !maps.Equal(c.old.pod.Labels, c.new.pod.Labels) ||
				!equality.Semantic.DeepEqual(c.old.pod.Spec.Tolerations, c.new.pod.Spec.Tolerations) && slices.ContainsFunc(w.hard, func(x constraint) bool { return x.heedsTaints })
		}
		return false
	},
}

// respread: the node came into a domain, or left one, or may count otherwise.
func respread(w *wish, c nodeChange) bool {
	now := spanned(w.hard, c.new.node)
	if c.old == nil || !now || !spanned(w.hard, c.old.node) {
		return now || c.old != nil && spanned(w.hard, c.old.node)
	}
	return !maps.Equal(c.old.node.Labels, c.new.node.Labels) || !equality.Semantic.DeepEqual(c.old.node.Spec.Taints, c.new.node.Spec.Taints)
}

func counted(w *wish, p *corev1.Pod) bool {
	return p.Namespace == w.pod.Namespace && slices.ContainsFunc(w.hard, func(x constraint) bool { return x.pods.Matches(labels.Set(p.Labels)) })
}

// evenSpread compares nodes by the constraints that should be satisfied: the
// fewer Pods there are in a node's domains, the better. Large domains, of which
// there are few, weigh less.
func evenSpread(w *wish, fit []*nodeInfo, k *known) []int64 {
	points := make([]int64, len(fit))
	soft, all := softConstraints(w, k)
	if len(soft) == 0 {
		return points
	}
	in := func(n *corev1.Node) bool { return !all || spanned(soft, n) }
	there := softTally(w, soft, fit, in)
	for _, i := range k.nodes {
		if i.node == nil || !in(i.node) {
			continue
		}
		for j, c := range soft {
			value := i.node.Labels[c.topology]
			if _, ok := there[j][value]; ok && c.topology != corev1.LabelHostname && c.admits(w, i.node) {
				there[j][value] += matching(w, &c, i)
			}
		}
	}
	least, most := int64(math.MaxInt64), int64(0)
	for j, i := range fit {
		if in(i.node) {
			points[j] = crowd(w, soft, there, i)
			least, most = min(least, points[j]), max(most, points[j])
		}
	}
	for j, i := range fit {
		points[j] = evenScore(in(i.node), points[j], least, most)
	}
	return points
}

// softConstraints are those that should be satisfied; all is that nodes are not
// compared that are not in a domain of each.
func softConstraints(w *wish, k *known) (soft []constraint, all bool) {
	if len(w.pod.Spec.TopologySpreadConstraints) == 0 {
		return k.usual(w.pod), false // a node without a zone has its name at least
	}
	return w.soft, true
}

// evenScore turns a crowd into a score: the smallest has the best.
func evenScore(compared bool, crowd, least, most int64) int64 {
	switch {
	case !compared:
		return 0
	case most == 0:
		return maxScore
	}
	return maxScore * (most + least - crowd) / most
}

// softTally has the domains of the nodes that are compared; of the nodes
// themselves, where a node's name is the topology.
func softTally(w *wish, soft []constraint, fit []*nodeInfo, in func(*corev1.Node) bool) tally {
	there := newTally(soft)
	for _, i := range fit {
		if !in(i.node) {
			continue
		}
		for j, c := range soft {
			if c.topology == corev1.LabelHostname {
				there[j][i.node.Name] = matching(w, &c, i)
			} else {
				there[j][i.node.Labels[c.topology]] = 0
			}
		}
	}
	return there
}

func matching(w *wish, c *constraint, i *nodeInfo) (n int) {
	for _, l := range i.pods {
		if c.counts(w, l.pod) {
			n++
		}
	}
	return n
}

// crowd is how many Pods there are in a node's domains.
func crowd(w *wish, soft []constraint, there tally, i *nodeInfo) int64 {
	sum := 0.0
	for j, c := range soft {
		value, ok := i.node.Labels[c.topology]
		if !ok {
			continue
		}
		if c.topology == corev1.LabelHostname {
			value = i.node.Name
		}
		sum += float64(there[j][value])*math.Log(float64(len(there[j])+2)) + float64(c.skew-1)
	}
	return int64(math.Round(sum))
}
