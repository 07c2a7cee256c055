// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"math"
	"math/rand/v2"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// class is what is known of all nodes for Pods that ask for the same. What a
// node by itself is to them is asked again when its Pods are others; what is
// counted around the nodes is kept by domain. So one look is a walk over a few
// columns. It finds the same as look and scores do (TestClasses).
type class struct {
	*board
	known *known
	wish  *wish // with a Pod that has no UID, so that nothing is promised to it
	asked uint64

	stale   []int // nodes to be asked again
	isStale []bool

	// Of each node by itself:
	by                 []*rule // who refuses it, and why
	why                [][]reason
	worth              []int64 // by its room and its images
	images             []int64
	ends               []*outcome // who would have to go for the Pod; nil: not asked yet
	avoided, preferred []int64    // nil: all are equal
	unclear            int        // nodes that are promised to Pods that count around others
	isUnclear          []bool

	// Around the nodes:
	near       []*domains // by term
	far        []*domains // of the Pod's terms
	averse     []*domains // of the terms of others
	liked      []*domains
	hard, soft []*spreading
	isCompared []bool // by soft constraints

	fit   []int
	sum   []int64
	extra []int64
	draw  []int
}

// spreading is a constraint and how many Pods there are in its domains.
type spreading struct {
	constraint
	*domains
	eligible []bool // nodes whose Pods count
	open     []bool // domains of such nodes
	opened   int
	here     []int // of a soft constraint over nodes: the Pods of each; then there are no domains
	self     int   // what the Pod itself adds
	met      []int // the round in which a domain was met last; the first is no domain
	round    int
}

// alone are the rules that ask nothing but the node itself. Pods with claims
// have no class, so that those about volumes are not asked.
var alone = []*rule{&unschedulable, &taints, &affinity, &hostPorts, &resources}

func newClass(w *wish, k *known) *class {
	p := *w.pod
	p.UID = ""
	n := len(k.board.nodes)
	c := &class{
		board: k.board, known: k, wish: newWish(&p), isStale: make([]bool, n), by: make([]*rule, n), why: make([][]reason, n), ends: make([]*outcome, n), worth: make([]int64, n), images: make([]int64, n), isUnclear: make([]bool, n), isCompared: make([]bool, n),
	}
	w = c.wish
	for _, t := range w.near {
		c.near = append(c.near, c.newDomains(t.topology))
	}
	c.hard = c.newSpreadings(w.hard, w.hard)
	soft, all := softConstraints(w, k)
	for x, i := range c.nodes {
		c.isCompared[x] = !all || spanned(soft, i.node)
	}
	c.soft = c.newSpreadings(soft, nil)
	avoids, prefers := false, false
	c.avoided, c.preferred = make([]int64, n), make([]int64, n)
	for x, i := range c.nodes {
		c.avoided[x] = avoidance(w, i.node)
		if w.preferred != nil {
			c.preferred[x] = w.preferred.Score(i.node)
		}
		avoids, prefers = avoids || c.avoided[x] != 0, prefers || c.preferred[x] != 0
		c.images[x] = locality(w, i, c.board)
		c.touch(x)
		for _, l := range i.pods {
			c.count(x, l, 1)
		}
	}
	if !avoids {
		c.avoided = nil
	}
	if !prefers {
		c.preferred = nil
	}
	return c
}

// newSpreadings has the nodes that count, which are in a domain of each of the
// constraints together.
func (c *class) newSpreadings(list, together []constraint) (out []*spreading) {
	for _, x := range list {
		s := &spreading{constraint: x, domains: c.newDomains(x.topology), eligible: make([]bool, len(c.nodes))}
		s.open, s.met = make([]bool, len(s.n)), make([]int, len(s.n)+1)
		if together == nil && x.topology == corev1.LabelHostname {
			s.here = make([]int, len(c.nodes))
		}
		if x.pods.Matches(labels.Set(c.wish.pod.Labels)) {
			s.self = 1
		}
		for k, i := range c.nodes {
			in := spanned(together, i.node) && x.admits(c.wish, i.node)
			if together == nil {
				in = in && c.isCompared[k]
			}
			s.eligible[k] = in
			if d := s.of[k]; in && d >= 0 && !s.open[d] {
				s.open[d] = true
				s.opened++
			}
		}
		out = append(out, s)
	}
	return out
}

// touch lets a node be asked again.
func (c *class) touch(x int) {
	c.ends[x] = nil
	if !c.isStale[x] {
		c.isStale[x] = true
		c.stale = append(c.stale, x)
	}
}

// count takes a Pod in, or out with a sign of -1.
func (c *class) count(x int, l *load, sign int) {
	w, in := c.wish, c.known.namespaces
	if w.nears(l.pod, in) {
		for _, n := range c.near {
			n.add(x, sign)
		}
	}
	for _, t := range w.far {
		if t.matches(l.pod, in) {
			c.domainsOf(&c.far, t.topology).add(x, sign)
		}
	}
	for _, t := range l.far {
		if t.matches(w.pod, in) {
			c.domainsOf(&c.averse, t.topology).add(x, sign)
		}
	}
	attractions(w, l, in, func(t *term) { c.domainsOf(&c.liked, t.topology).add(x, sign*t.weight) })
	for _, s := range c.hard {
		if s.eligible[x] && s.counts(w, l.pod) {
			s.add(x, sign)
		}
	}
	for _, s := range c.soft {
		switch {
		case s.here != nil && s.counts(w, l.pod):
			s.here[x] += sign
		case s.here == nil && s.eligible[x] && s.counts(w, l.pod):
			s.add(x, sign)
		}
	}
}

// ask asks again about the nodes that are not as they were.
func (c *class) ask() {
	for _, x := range c.stale {
		i := c.nodes[x]
		c.isStale[x] = false
		c.worth[x] = leastAllocated(c.wish, i) + balanced(c.wish, i) + c.images[x]
		unclear := len(i.promised) > 0 && c.heeds(i)
		if unclear != c.isUnclear[x] {
			c.isUnclear[x] = unclear
			c.unclear += map[bool]int{true: 1, false: -1}[unclear]
		}
		if !unclear {
			c.by[x], c.why[x] = refusal(c.wish, &place{i, &around{}, c.wish}, alone)
		}
	}
	c.stale = c.stale[:0]
}

// heeds: those that a node is promised to count around other nodes, too.
func (c *class) heeds(i *nodeInfo) bool {
	if len(c.near)+len(c.wish.far)+len(c.hard) > 0 {
		return true
	}
	for _, l := range i.promised {
		if len(l.far) > 0 {
			return true
		}
	}
	return false
}

// gate says of each domain of a column whether its nodes come into question.
type gate struct {
	*column
	open    []bool
	outside bool // whether nodes do that are in no domain
}

func (d *domains) gate(outside bool, open func(n int) bool) gate {
	g := gate{d.column, make([]bool, len(d.n)), outside}
	for k, n := range d.n {
		g.open[k] = open(n)
	}
	return g
}

// gates are the rules that count around nodes.
func (c *class) gates() (out []gate) {
	// Who asks for company, and there is none anywhere, may be the first.
	first := c.wish.nears(c.wish.pod, c.known.namespaces) && !slices.ContainsFunc(c.near, func(d *domains) bool { return d.sum > 0 })
	for _, d := range c.near {
		out = append(out, d.gate(false, func(n int) bool { return first || n > 0 }))
	}
	for _, d := range slices.Concat(c.far, c.averse) {
		if d.sum > 0 {
			out = append(out, d.gate(true, func(n int) bool { return n == 0 }))
		}
	}
	for _, s := range c.hard {
		least := s.least()
		out = append(out, s.gate(false, func(n int) bool { return n+s.self-least <= s.skew }))
	}
	return out
}

// least is the count that no domain is below; of too few domains it is nothing.
func (s *spreading) least() int {
	if s.opened < s.minDomains {
		return 0
	}
	least := math.MaxInt
	for k, n := range s.n {
		if s.open[k] {
			least = min(least, n)
		}
	}
	return least
}

// judge fills in fit, the nodes that fit, and sum, their scores. It is false if
// only a look at every node can tell.
func (c *class) judge() bool {
	c.ask()
	if c.unclear > 0 {
		return false
	}
	gates := c.gates()
	c.fit = c.fit[:0]
nodes:
	for x, by := range c.by {
		if by != nil {
			continue
		}
		for k := range gates {
			g := &gates[k]
			if d := g.of[x]; d < 0 && !g.outside || d >= 0 && !g.open[d] {
				continue nodes
			}
		}
		c.fit = append(c.fit, x)
	}
	c.score()
	return true
}

// score compares the nodes that fit.
func (c *class) score() {
	c.sum = slices.Grow(c.sum[:0], len(c.fit))[:len(c.fit)]
	for k, x := range c.fit {
		c.sum[k] = c.worth[x] + taintWeight*maxScore
	}
	if len(c.fit) == 0 {
		return
	}
	c.extra = slices.Grow(c.extra[:0], len(c.fit))[:len(c.fit)]
	if c.avoided != nil {
		c.add(-taintWeight, c.avoided)
	}
	if c.preferred != nil {
		c.add(affinityWeight, c.preferred)
	}
	if slices.ContainsFunc(c.liked, func(d *domains) bool {
		return d.sum != 0 || slices.ContainsFunc(d.n, func(n int) bool { return n != 0 })
	}) {
		clear(c.extra)
		for _, d := range c.liked {
			for k, x := range c.fit {
				if v := d.of[x]; v >= 0 {
					c.extra[k] += int64(d.n[v])
				}
			}
		}
		stretch(c.extra)
		c.weigh(podAffinityWeight)
	}
	if len(c.soft) > 0 {
		c.even()
		c.weigh(spreadWeight)
	}
}

// add counts a column in, stretched over the nodes that fit.
func (c *class) add(weight int64, column []int64) {
	for k, x := range c.fit {
		c.extra[k] = column[x]
	}
	normalize(c.extra)
	c.weigh(weight)
}

func (c *class) weigh(weight int64) {
	for k, n := range c.extra {
		c.sum[k] += weight * n
	}
}

// even is evenSpread for the nodes that fit.
func (c *class) even() {
	weights := make([]float64, len(c.soft))
	for j, s := range c.soft {
		weights[j] = math.Log(float64(c.compete(s) + 2))
	}
	least, most := int64(math.MaxInt64), int64(0)
	for k, x := range c.fit {
		if !c.isCompared[x] {
			continue
		}
		crowd := 0.0
		for j, s := range c.soft {
			d := s.of[x]
			if d < 0 {
				continue
			}
			n := 0
			if s.here != nil {
				n = s.here[x]
			} else {
				n = s.n[d]
			}
			crowd += float64(n)*weights[j] + float64(s.skew-1)
		}
		c.extra[k] = int64(math.Round(crowd))
		least, most = min(least, c.extra[k]), max(most, c.extra[k])
	}
	for k, x := range c.fit {
		c.extra[k] = evenScore(c.isCompared[x], c.extra[k], least, most)
	}
}

// compete is how many domains there are of the nodes that fit.
func (c *class) compete(s *spreading) (n int) {
	if s.here == nil {
		s.round++
	}
	for _, x := range c.fit {
		if !c.isCompared[x] {
			continue
		}
		if s.here != nil {
			n++
			continue
		}
		// Nodes without the label are one domain more, as there is nothing to tell them apart.
		if d := s.of[x] + 1; s.met[d] != s.round {
			s.met[d] = s.round
			n++
		}
	}
	return n
}

// plain: nothing is counted around nodes for the class, so that each node by
// itself decides.
func (c *class) plain() bool {
	return c.unclear == 0 && len(c.near)+len(c.wish.far)+len(c.hard) == 0 && !slices.ContainsFunc(c.averse, func(d *domains) bool { return d.sum > 0 })
}

// nothingAround is what is counted around nodes for a plain class.
func (c *class) nothingAround() *around {
	return &around{newCompany(), nil, luggage{}, 0, c.known.namespaces, &c.known.stock}
}

// verdict is what look finds, for a plain class. The node that is promised to
// the Pod itself is looked at anew.
func (c *class) verdict(w *wish, promised string) *verdict {
	c.ask()
	if !c.plain() || len(c.nodes) == 0 {
		return nil
	}
	v := &verdict{known: c.known, around: c.nothingAround(), reasons: map[string]int{}, class: c}
	for x, i := range c.nodes {
		if i.node.Name == promised {
			v.hear(i, w)
		} else {
			v.take(i, c.by[x], c.why[x])
		}
	}
	return v
}

// outcome is what victimsOn found.
type outcome struct {
	candidate *candidate
	by        *rule
	why       []reason
}

// victims is victimsOn for a plain class.
func (c *class) victims(i *nodeInfo) *outcome {
	x := c.at[i]
	if c.ends[x] == nil {
		o := victimsOn(c.wish, &place{i, c.nothingAround(), c.wish}, c.known.budgets)
		c.ends[x] = &o
	}
	return c.ends[x]
}

// best is one of the nodes with the highest score; nil is that none fits, or
// that this is not known.
func (c *class) best() *nodeInfo {
	if !c.judge() {
		return nil
	}
	top := int64(-1)
	c.draw = c.draw[:0]
	for k, s := range c.sum {
		if s > top {
			top, c.draw = s, c.draw[:0]
		}
		if s == top {
			c.draw = append(c.draw, c.fit[k])
		}
	}
	if len(c.draw) == 0 {
		return nil
	}
	return c.nodes[c.draw[rand.IntN(len(c.draw))]]
}
