// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	noMatch = "node(s) didn't match Pod's node affinity/selector"
	// notNamed is said of nodes that matchFields leaves out by their names.
	notNamed = "node(s) didn't satisfy plugin(s) [NodeAffinity]"
	// conflict is said of terms that each ask for two names.
	conflict = "pod affinity terms conflict"
)

// affinity is nodeSelector and required node affinity.
var affinity = rule{
	refuse: func(w *wish, p *place) []reason {
		if !matches(w, p.node) {
			return final(noMatch)
		}
		return nil
	},
	cures: func(w *wish, c any) bool {
		n, ok := c.(nodeChange)
		return ok && matches(w, n.new.node) && (n.old == nil || !matches(w, n.old.node))
	},
}

// matches: a term that cannot be read matches nothing.
func matches(w *wish, n *corev1.Node) bool {
	ok, _ := w.required.Match(n)
	return ok
}

// namedNodes are the names that matchFields asks for: those of any term, and in
// a term those of all its requirements. Nil is that some term leaves the name
// open.
func namedNodes(p *corev1.Pod) map[string]bool {
	a := p.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	terms := a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(terms) == 0 {
		return nil
	}
	all := map[string]bool{}
	for _, t := range terms {
		var names map[string]bool
		for _, r := range t.MatchFields {
			if r.Key != metav1.ObjectNameField || r.Operator != corev1.NodeSelectorOpIn {
				continue
			}
			these := map[string]bool{}
			for _, v := range r.Values {
				if names == nil || names[v] {
					these[v] = true
				}
			}
			names = these
		}
		if names == nil {
			return nil
		}
		maps.Copy(all, names)
	}
	return all
}
