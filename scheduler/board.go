// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// mostClasses bounds how many classes are kept; who was asked for least
// recently goes.
const mostClasses = 16

// board is the nodes in columns, and what is known of them for each class of
// Pods. It holds as long as nothing changes but which Pods are where; what else
// changes makes a new one.
type board struct {
	nodes   []*nodeInfo
	at      map[*nodeInfo]int
	columns map[string]*column // by label
	images  map[string]int     // how many nodes have each
	classes map[string]*class
	asked   uint64 // orders by when they were asked for
}

// column is the domains of all nodes for one label: the values that it has.
type column struct {
	of     []int // the domain of each node; -1: it is in none
	values map[string]int
}

func newBoard(k *known) *board {
	b := &board{at: map[*nodeInfo]int{}, columns: map[string]*column{}, images: map[string]int{}, classes: map[string]*class{}}
	for _, i := range k.nodes {
		if i.node == nil {
			continue
		}
		b.at[i] = len(b.nodes)
		b.nodes = append(b.nodes, i)
		for name := range imagesOn(i.node) {
			b.images[name]++
		}
	}
	return b
}

// onBoard is the board as it is now.
func (k *known) onBoard() *board {
	if k.board == nil {
		k.board = newBoard(k)
	}
	return k.board
}

func (b *board) column(label string) *column {
	c := b.columns[label]
	if c != nil {
		return c
	}
	c = &column{of: make([]int, len(b.nodes)), values: map[string]int{}}
	for x, i := range b.nodes {
		c.of[x] = -1
		if value, ok := i.node.Labels[label]; ok {
			d, known := c.values[value]
			if !known {
				d = len(c.values)
				c.values[value] = d
			}
			c.of[x] = d
		}
	}
	b.columns[label] = c
	return c
}

// domains are the numbers of Pods, or weights of them, in each domain.
type domains struct {
	*column
	label string
	n     []int
	sum   int
}

func (b *board) newDomains(label string) *domains {
	c := b.column(label)
	return &domains{c, label, make([]int, len(c.values)), 0}
}

// add counts in the domain of a node, if it is in one.
func (d *domains) add(x, n int) {
	if k := d.of[x]; k >= 0 {
		d.n[k] += n
		d.sum += n
	}
}

// domainsOf finds or makes those of a label.
func (b *board) domainsOf(list *[]*domains, label string) *domains {
	if k := slices.IndexFunc(*list, func(d *domains) bool { return d.label == label }); k >= 0 {
		return (*list)[k]
	}
	d := b.newDomains(label)
	*list = append(*list, d)
	return d
}

// class finds what is known for the Pods that ask for the same as one; nil if
// such Pods are looked at one by one: those that take volumes along, claim
// devices, or name their nodes.
func (k *known) class(w *wish) *class {
	if len(w.claims) > 0 || len(w.pod.Spec.ResourceClaims) > 0 || w.only != nil || len(w.pod.Status.ContainerStatuses) > 0 {
		return nil
	}
	b, key := k.onBoard(), classKey(w.pod)
	c := b.classes[key]
	if c == nil {
		if len(b.classes) == mostClasses {
			oldest := ""
			for key, c := range b.classes {
				if oldest == "" || c.asked < b.classes[oldest].asked {
					oldest = key
				}
			}
			delete(b.classes, oldest)
		}
		c = newClass(w, k)
		b.classes[key] = c
	}
	b.asked++
	c.asked = b.asked
	return c
}

// classKey is all of a Pod that rules and scores look at, but volumes and names.
func classKey(p *corev1.Pod) string {
	s := &p.Spec
	k := corev1.Pod{Spec: corev1.PodSpec{
		NodeSelector: s.NodeSelector, Affinity: s.Affinity, Tolerations: s.Tolerations, TopologySpreadConstraints: s.TopologySpreadConstraints,
		Overhead: s.Overhead, Resources: s.Resources, Priority: s.Priority, HostNetwork: s.HostNetwork,
	}}
	k.Namespace, k.Labels = p.Namespace, p.Labels
	for _, o := range p.OwnerReferences {
		if o.Controller != nil && *o.Controller {
			k.OwnerReferences = append(k.OwnerReferences, o)
		}
	}
	k.Spec.InitContainers, k.Spec.Containers = scheduled(s.InitContainers), scheduled(s.Containers)
	for _, v := range s.Volumes {
		if v.Image != nil {
			k.Spec.Volumes = append(k.Spec.Volumes, v)
		}
	}
	b, err := k.Marshal()
	if err != nil {
		return string(p.UID) // a class of its own
	}
	return string(b)
}

// scheduled is what of containers decides about nodes.
func scheduled(list []corev1.Container) (out []corev1.Container) {
	for i := range list {
		c := &list[i]
		out = append(out, corev1.Container{Name: c.Name, Image: c.Image, Resources: c.Resources, Ports: c.Ports, RestartPolicy: c.RestartPolicy})
	}
	return out
}

// moved tells the classes that a Pod came to a node, or left it with a sign of
// -1.
func (k *known) moved(i *nodeInfo, l *load, sign int) {
	if k.board == nil {
		return
	}
	x, ok := k.board.at[i]
	if !ok {
		return
	}
	for _, c := range k.board.classes {
		c.touch(x)
		c.count(x, l, sign)
	}
}

// promisedChanged tells the classes that a node is promised to others than
// before.
func (k *known) promisedChanged(i *nodeInfo) {
	if k.board == nil {
		return
	}
	if x, ok := k.board.at[i]; ok {
		for _, c := range k.board.classes {
			c.touch(x)
		}
	}
}

// budgetsChanged tells the classes that budgets keep others than before.
func (k *known) budgetsChanged() {
	if k.board == nil {
		return
	}
	for _, c := range k.board.classes {
		clear(c.ends)
	}
}

// anew lets the board be made again, as something else has changed than which
// Pods are where.
func (k *known) anew() { k.board = nil }
