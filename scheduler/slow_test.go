// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"math/rand/v2"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
)

// teams are the namespaces of the model tests, with their labels.
var teams = map[string]labels.Set{"default": {"team": "x"}, "other": {"team": "y"}}

var topologies = []string{corev1.LabelHostname, corev1.LabelTopologyZone}

func randomSelector(r *rand.Rand) *metav1.LabelSelector {
	return pick(r, &metav1.LabelSelector{MatchLabels: map[string]string{"app": pick(r, "a", "b")}},
		&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpExists}}},
		&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"a"}}}})
}

func randomTerm(r *rand.Rand) corev1.PodAffinityTerm {
	t := corev1.PodAffinityTerm{LabelSelector: randomSelector(r), TopologyKey: pick(r, topologies...)}
	switch r.IntN(5) {
	case 0:
		t.Namespaces = []string{"other"}
	case 1:
		t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": pick(r, "x", "y")}}
	case 2:
		t.NamespaceSelector = &metav1.LabelSelector{}
	}
	return t
}

// relate gives a Pod a label, and sometimes terms about other Pods.
func relate(r *rand.Rand, p *corev1.Pod) {
	if r.IntN(4) > 0 {
		p.Labels = map[string]string{"app": pick(r, "a", "b")}
	}
	if r.IntN(3) > 0 {
		return
	}
	if p.Spec.Affinity == nil {
		p.Spec.Affinity = &corev1.Affinity{}
	}
	weigh := func() (list []corev1.WeightedPodAffinityTerm) {
		for range r.IntN(2) {
			list = append(list, corev1.WeightedPodAffinityTerm{Weight: int32(1 + r.IntN(100)), PodAffinityTerm: randomTerm(r)})
		}
		return list
	}
	need := func() (list []corev1.PodAffinityTerm) {
		for range max(r.IntN(4)-1, 0) {
			list = append(list, randomTerm(r))
		}
		return list
	}
	if r.IntN(2) == 0 {
		p.Spec.Affinity.PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: need(), PreferredDuringSchedulingIgnoredDuringExecution: weigh()}
	}
	if r.IntN(2) == 0 {
		p.Spec.Affinity.PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: need(), PreferredDuringSchedulingIgnoredDuringExecution: weigh()}
	}
}

// scatter sometimes gives a Pod constraints of spreading.
func scatter(r *rand.Rand, p *corev1.Pod) {
	if r.IntN(4) > 0 {
		return
	}
	for range 1 + r.IntN(2) {
		c := corev1.TopologySpreadConstraint{
			MaxSkew: int32(1 + r.IntN(2)), TopologyKey: pick(r, topologies...), LabelSelector: randomSelector(r),
			WhenUnsatisfiable: pick(r, corev1.DoNotSchedule, corev1.ScheduleAnyway),
		}
		if r.IntN(3) == 0 {
			c.NodeAffinityPolicy = ptr.To(pick(r, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore))
		}
		if r.IntN(3) == 0 {
			c.NodeTaintsPolicy = ptr.To(pick(r, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore))
		}
		if r.IntN(3) == 0 && c.WhenUnsatisfiable == corev1.DoNotSchedule {
			c.MinDomains = ptr.To(int32(1 + r.IntN(3)))
		}
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
	}
}

// slowWorld is nodes and the Pods on them.
type slowWorld struct {
	nodes []*corev1.Node
	on    map[string][]*corev1.Pod
}

// each calls f with every Pod and its node; of one node the Pods are others.
func (w slowWorld) each(n *corev1.Node, on []*corev1.Pod, f func(*corev1.Pod, *corev1.Node)) {
	for _, m := range w.nodes {
		pods := w.on[m.Name]
		if m == n {
			pods = on
		}
		for _, p := range pods {
			f(p, m)
		}
	}
}

func slowSelects(s *metav1.LabelSelector, set map[string]string) bool {
	if s == nil {
		return false
	}
	x, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && x.Matches(labels.Set(set))
}

// slowMeans: a term of one Pod is about another.
func slowMeans(of *corev1.Pod, t corev1.PodAffinityTerm, p *corev1.Pod) bool {
	in := slices.Contains(t.Namespaces, p.Namespace) || slowSelects(t.NamespaceSelector, teams[p.Namespace])
	if len(t.Namespaces) == 0 && t.NamespaceSelector == nil {
		in = p.Namespace == of.Namespace
	}
	return in && slowSelects(t.LabelSelector, p.Labels)
}

func slowTogether(key string, a, b *corev1.Node) bool {
	x, ok := a.Labels[key]
	y, also := b.Labels[key]
	return ok && also && x == y
}

func slowTerms(p *corev1.Pod) (near, far []corev1.PodAffinityTerm) {
	if a := p.Spec.Affinity; a != nil && a.PodAffinity != nil {
		near = a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	if a := p.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		far = a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return near, far
}

// slowCompany is what affinity to Pods says of a node.
func (w slowWorld) slowCompany(p *corev1.Pod, n *corev1.Node, on []*corev1.Pod) (why string, final bool) {
	near, far := slowTerms(p)
	wanted := func(q *corev1.Pod) bool {
		return !slices.ContainsFunc(near, func(t corev1.PodAffinityTerm) bool { return !slowMeans(p, t, q) })
	}
	alone := true
	for _, t := range near {
		w.each(n, on, func(q *corev1.Pod, m *corev1.Node) {
			if _, ok := m.Labels[t.TopologyKey]; ok && wanted(q) {
				alone = false
			}
		})
	}
	for _, t := range near {
		found := false
		w.each(n, on, func(q *corev1.Pod, m *corev1.Node) {
			found = found || wanted(q) && slowTogether(t.TopologyKey, n, m)
		})
		if _, ok := n.Labels[t.TopologyKey]; !ok || !found && !(alone && wanted(p)) {
			return noCompany, true
		}
	}
	w.each(n, on, func(q *corev1.Pod, m *corev1.Node) {
		for _, t := range far {
			if slowMeans(p, t, q) && slowTogether(t.TopologyKey, n, m) {
				why = badCompany
			}
		}
		_, theirs := slowTerms(q)
		for _, t := range theirs {
			if why == "" && slowMeans(q, t, p) && slowTogether(t.TopologyKey, n, m) {
				why = notWelcomed
			}
		}
	})
	if why == notWelcomed { // what the Pod says itself comes first
		w.each(n, on, func(q *corev1.Pod, m *corev1.Node) {
			for _, t := range far {
				if slowMeans(p, t, q) && slowTogether(t.TopologyKey, n, m) {
					why = badCompany
				}
			}
		})
	}
	return why, false
}

// slowSpread is what the constraints that must be satisfied say of a node.
func (w slowWorld) slowSpread(p *corev1.Pod, n *corev1.Node, on []*corev1.Pod) (why string, final bool) {
	var hard []corev1.TopologySpreadConstraint
	for _, c := range p.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable == corev1.DoNotSchedule {
			hard = append(hard, c)
		}
	}
	for _, c := range hard {
		if _, ok := n.Labels[c.TopologyKey]; !ok {
			return noTopology, true
		}
		counts := map[string]int{}
		for _, m := range w.nodes {
			lacks := slices.ContainsFunc(hard, func(x corev1.TopologySpreadConstraint) bool { _, ok := m.Labels[x.TopologyKey]; return !ok })
			repelled := c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor && slowTainted(p, m)
			foreign := (c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor) && !slowMatch(p, m)
			if lacks || repelled || foreign {
				continue
			}
			counts[m.Labels[c.TopologyKey]] += 0
			w.each(n, on, func(q *corev1.Pod, at *corev1.Node) {
				if at == m && q.Namespace == p.Namespace && q.DeletionTimestamp == nil && slowSelects(c.LabelSelector, q.Labels) {
					counts[m.Labels[c.TopologyKey]]++
				}
			})
		}
		least := 1 << 30
		for _, k := range counts {
			least = min(least, k)
		}
		if len(counts) < int(ptr.Deref(c.MinDomains, 1)) {
			least = 0
		}
		there := counts[n.Labels[c.TopologyKey]]
		if slowSelects(c.LabelSelector, p.Labels) {
			there++
		}
		if there-least > int(c.MaxSkew) {
			return skewed, false
		}
	}
	return "", false
}
