// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const (
	noCompany   = "node(s) didn't match pod affinity rules"
	badCompany  = "node(s) didn't match pod anti-affinity rules"
	notWelcomed = "node(s) didn't satisfy existing pods anti-affinity rules"
)

// requiredWeight is what it weighs that a Pod must be where the one is that
// looks for a node (hardPodAffinityWeight).
const requiredWeight = 1

// term is what a Pod asks of the Pods around it: which they are, and how far
// around reaches. The API has merged matchLabelKeys and mismatchLabelKeys into
// the selector.
type term struct {
	namespaces []string
	alsoIn     labels.Selector // namespaces by their labels
	pods       labels.Selector
	topology   string
	weight     int // of a preference; negative: better not
}

func newTerm(p *corev1.Pod, t *corev1.PodAffinityTerm, weight int) term {
	namespaces := t.Namespaces
	if len(namespaces) == 0 && t.NamespaceSelector == nil {
		namespaces = []string{p.Namespace}
	}
	return term{namespaces, selectorOf(t.NamespaceSelector), selectorOf(t.LabelSelector), t.TopologyKey, weight}
}

// selectorOf reads a selector. None selects nothing; validation lets no selector
// through that cannot be read.
func selectorOf(s *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return selector
}

func (t *term) matches(p *corev1.Pod, namespaces map[string]labels.Set) bool {
	return (slices.Contains(t.namespaces, p.Namespace) || t.alsoIn.Matches(namespaces[p.Namespace])) && t.pods.Matches(labels.Set(p.Labels))
}

// relations are what a Pod asks of the Pods around it.
type relations struct {
	near, far []term // must have, must not have
	likes     []term
}

func newRelations(p *corev1.Pod) (r relations) {
	a := p.Spec.Affinity
	if a == nil {
		return r
	}
	if x := a.PodAffinity; x != nil {
		r.near = requiredTerms(p, x.RequiredDuringSchedulingIgnoredDuringExecution)
		r.likes = preferredTerms(p, x.PreferredDuringSchedulingIgnoredDuringExecution, 1)
	}
	if x := a.PodAntiAffinity; x != nil {
		r.far = requiredTerms(p, x.RequiredDuringSchedulingIgnoredDuringExecution)
		r.likes = append(r.likes, preferredTerms(p, x.PreferredDuringSchedulingIgnoredDuringExecution, -1)...)
	}
	return r
}

func requiredTerms(p *corev1.Pod, list []corev1.PodAffinityTerm) (out []term) {
	for i := range list {
		out = append(out, newTerm(p, &list[i], requiredWeight))
	}
	return out
}

func preferredTerms(p *corev1.Pod, list []corev1.WeightedPodAffinityTerm, sign int) (out []term) {
	for i := range list {
		out = append(out, newTerm(p, &list[i].PodAffinityTerm, sign*int(list[i].Weight)))
	}
	return out
}

// nears: the Pod is one that all terms of affinity ask for.
func (r *relations) nears(p *corev1.Pod, namespaces map[string]labels.Set) bool {
	return len(r.near) > 0 && !slices.ContainsFunc(r.near, func(t term) bool { return !t.matches(p, namespaces) })
}

// shuns: the Pod is one that a term of anti-affinity excludes.
func (r *relations) shuns(p *corev1.Pod, namespaces map[string]labels.Set) bool {
	return slices.ContainsFunc(r.far, func(t term) bool { return t.matches(p, namespaces) })
}

// company counts Pods where it matters to one that looks for a node.
type company struct {
	near   census // those that all its terms of affinity ask for
	far    census // those that a term of its anti-affinity excludes
	averse census // those whose anti-affinity excludes it
}

func newCompany() company { return company{census{}, census{}, census{}} }

func (c *company) copy() company { return company{c.near.copy(), c.far.copy(), c.averse.copy()} }

func (c *company) count(w *wish, l *load, n *corev1.Node, namespaces map[string]labels.Set, sign int) {
	if w.nears(l.pod, namespaces) {
		for _, t := range w.near {
			c.near.add(n, t.topology, sign)
		}
	}
	for _, x := range []struct {
		terms []term
		of    *corev1.Pod
		in    census
	}{{w.far, l.pod, c.far}, {l.far, w.pod, c.averse}} {
		for _, t := range x.terms {
			if t.matches(x.of, namespaces) {
				x.in.add(n, t.topology, sign)
			}
		}
	}
}

// podAffinity is required affinity and anti-affinity to Pods, and that of the
// Pods that have a node.
var podAffinity = rule{
	refuse: func(w *wish, p *place) []reason {
		switch {
		case !accompanied(w, p):
			return final(noCompany)
		case slices.ContainsFunc(w.far, func(t term) bool { n, _ := p.far.at(p.node, t.topology); return n > 0 }):
			return []reason{{text: badCompany}}
		}
		for d := range p.averse {
			if value, ok := p.node.Labels[d.key]; ok && value == d.value {
				return []reason{{text: notWelcomed}}
			}
		}
		return nil
	},
	// More than kube-scheduler looks at: it has no hint for the node, or the
	// namespace, that frees a Pod of somebody else's anti-affinity.
	cures: func(w *wish, c any) bool {
		switch c := c.(type) {
		case nodeChange:
			return c.old == nil || !maps.Equal(c.old.node.Labels, c.new.node.Labels)
		case nodeGone, namespaceChange:
			return true
		case podCame:
			return w.nears(c.pod, c.namespaces)
		case podLeft:
			return w.shuns(c.pod, c.namespaces) || c.shuns(w.pod, c.namespaces)
		case podRelabelled:
			return !w.nears(c.old.pod, c.namespaces) && w.nears(c.new.pod, c.namespaces) ||
				w.shuns(c.old.pod, c.namespaces) && !w.shuns(c.new.pod, c.namespaces)
		case podEdited:
			return !maps.Equal(c.old.pod.Labels, c.new.pod.Labels)
		}
		return false
	},
}

// accompanied: the Pods are there that the affinity asks for; or nowhere, and
// the Pod is the first of those it asks for itself.
func accompanied(w *wish, p *place) bool {
	all := true
	for _, t := range w.near {
		n, ok := p.near.at(p.node, t.topology)
		if !ok {
			return false
		}
		all = all && n > 0
	}
	return all || len(p.near) == 0 && w.nears(w.pod, p.namespaces)
}

// attraction is how much the Pods around each node, and what they like
// themselves, speak for it.
func attraction(w *wish, fit []*nodeInfo, k *known) []int64 {
	found := census{}
	for _, i := range k.nodes {
		if i.node == nil {
			continue
		}
		for _, l := range i.pods {
			attractions(w, l, k.namespaces, func(t *term) { found.add(i.node, t.topology, t.weight) })
		}
	}
	points := make([]int64, len(fit))
	for j, i := range fit {
		for d, n := range found {
			if value, ok := i.node.Labels[d.key]; ok && value == d.value {
				points[j] += int64(n)
			}
		}
	}
	stretch(points)
	return points
}

// attractions are the terms by which a Pod on a node draws another, or keeps it
// off.
func attractions(w *wish, l *load, namespaces map[string]labels.Set, found func(*term)) {
	for k := range w.likes {
		if t := &w.likes[k]; t.matches(l.pod, namespaces) {
			found(t)
		}
	}
	for _, terms := range [...][]term{l.near, l.likes} {
		for k := range terms {
			if t := &terms[k]; t.matches(w.pod, namespaces) {
				found(t)
			}
		}
	}
}

// stretch gives the least 0 and the most maxScore; equals 0.
func stretch(points []int64) {
	least, most := slices.Min(points), slices.Max(points)
	for k, n := range points {
		points[k] = 0
		if most > least {
			points[k] = int64(maxScore * (float64(n-least) / float64(most-least)))
		}
	}
}
