// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// known is the cluster as the scheduler knows it.
type known struct {
	nodes      map[string]*nodeInfo
	namespaces map[string]labels.Set // the labels of each

	services               shelf[corev1.Service]
	replicationControllers shelf[corev1.ReplicationController]
	replicaSets            shelf[appsv1.ReplicaSet]
	statefulSets           shelf[appsv1.StatefulSet]
	budgets                shelf[policyv1.PodDisruptionBudget]

	stock
	board *board // nil: to be made when it is needed
}

func newKnown() *known {
	return &known{
		nodes: map[string]*nodeInfo{}, namespaces: map[string]labels.Set{},
		services: shelf[corev1.Service]{}, replicationControllers: shelf[corev1.ReplicationController]{}, replicaSets: shelf[appsv1.ReplicaSet]{},
		statefulSets: shelf[appsv1.StatefulSet]{}, budgets: shelf[policyv1.PodDisruptionBudget]{}, stock: newStock(),
	}
}

// around is what rules count over all nodes for one Pod that looks for one.
type around struct {
	company
	spread     tally
	luggage    luggage
	shared     int // how often others use claims that are for one Pod alone
	namespaces map[string]labels.Set
	stock      *stock
}

func newAround(w *wish, k *known, l luggage) *around {
	a := &around{newCompany(), newTally(w.hard), l, 0, k.namespaces, &k.stock}
	for _, i := range k.nodes {
		if i.node == nil {
			continue
		}
		a.spread.open(w, i.node)
		for _, l := range i.pods {
			a.count(w, l, i.node, 1)
		}
	}
	return a
}

// count takes a Pod on a node in, or out with a sign of -1.
func (a *around) count(w *wish, l *load, n *corev1.Node, sign int) {
	a.company.count(w, l, n, a.namespaces, sign)
	a.spread.count(w, l, n, sign)
	a.shared += sign * a.luggage.shares(w, l)
}

func (a *around) copy() *around {
	c := *a
	c.company, c.spread = a.company.copy(), a.spread.copy()
	return &c
}

// place is a node as one Pod sees it that looks for one: with what the rules
// count around the node.
type place struct {
	*nodeInfo
	*around
	by *wish
}

// copy can be changed without changing the place.
func (p *place) copy() *place {
	return &place{p.nodeInfo.copy(), p.around.copy(), p.by}
}

func (p *place) add(l *load) {
	p.nodeInfo.add(l)
	p.around.count(p.by, l, p.node, 1)
}

func (p *place) remove(l *load) {
	p.nodeInfo.remove(l.pod.UID)
	p.around.count(p.by, l, p.node, -1)
}

// filled is the place with the Pods that wait for it and that the Pod gives way
// to: those of no lower priority. Nil is that there are none.
func (p *place) filled() (f *place) {
	for uid, l := range p.promised {
		if uid == p.by.pod.UID || lower(l, p.by) {
			continue
		}
		if f == nil {
			f = p.copy()
		}
		f.add(l)
	}
	return f
}

// domain is nodes that count as one: those that have one value of a label.
type domain struct{ key, value string }

// census counts Pods by domain; what is down to nothing is not in it.
type census map[domain]int

// add counts in the domain of a node, if it is in one.
func (c census) add(n *corev1.Node, key string, k int) {
	value, ok := n.Labels[key]
	if !ok {
		return
	}
	d := domain{key, value}
	if c[d] += k; c[d] == 0 {
		delete(c, d)
	}
}

// at is the count in a node's domain; ok is that it is in one.
func (c census) at(n *corev1.Node, key string) (count int, ok bool) {
	value, ok := n.Labels[key]
	return c[domain{key, value}], ok
}

func (c census) copy() census { return maps.Clone(c) }
