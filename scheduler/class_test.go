// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

// TestClasses: what is known for a class, kept while Pods come and go, is what a
// look over all nodes finds: the same nodes, with the same scores.
func TestClasses(t *testing.T) {
	compared, unclear := 0, 0
	each(t, 2000, func(t *testing.T, r *rand.Rand) {
		q := ask(r.Uint64())
		k := clusterOf(q)
		for _, i := range k.nodes {
			i.moved = k.moved
		}
		w := newWish(q.Pod)
		c := k.class(w)
		if c == nil {
			return // it names its nodes
		}
		names := slices.Sorted(maps.Keys(k.nodes))
		for step := range 12 {
			if k.class(newWish(q.Pod)) != c {
				t.Fatalf("step %d: the class is another", step)
			}
			if !c.judge() {
				unclear++
			} else {
				compared++
				compareClass(t, fmt.Sprint("step ", step), w, k, c)
			}
			if len(names) > 0 {
				disturb(r, k, k.nodes[pick(r, names...)], fmt.Sprint("new", step))
			}
		}
	})
	if *seed == 0 && (compared < 10000 || unclear == 0) {
		t.Errorf("%d looks were compared, %d were left to look at every node", compared, unclear)
	}
}

// disturb lets a Pod come to a node, leave it, or wait for it.
func disturb(r *rand.Rand, k *known, i *nodeInfo, name string) {
	switch {
	case r.IntN(3) == 0 && len(i.pods) > 0:
		i.remove(pick(r, slices.Sorted(maps.Keys(i.pods))...))
	case r.IntN(6) == 0:
		p := randomPod(r, name, nil)
		i.promised[p.UID] = newLoad(p)
		k.promisedChanged(i)
	case r.IntN(6) == 0:
		clear(i.promised)
		k.promisedChanged(i)
	default:
		i.add(newLoad(placed(randomPod(r, name, nil), i.node.Name)))
	}
}

func compareClass(t *testing.T, when string, w *wish, k *known, c *class) {
	t.Helper()
	v := look(w, k)
	want, got := map[string]int64{}, map[string]int64{}
	if len(v.fit) > 0 {
		for j, n := range scores(w, v) {
			want[v.fit[j].node.Name] = n
		}
	}
	for j, x := range c.fit {
		got[c.nodes[x].node.Name] = c.sum[j]
	}
	if !maps.Equal(got, want) {
		t.Fatalf("%s: the class has %v, every node %v", when, got, want)
	}
	if x := c.verdict(w, ""); x != nil {
		if a, b := told(x), told(v); a != b {
			t.Fatalf("%s: the class says %s, every node %s", when, a, b)
		}
	}
}

// told is a verdict in an order.
func told(v *verdict) string {
	var fit, empty []string
	for _, i := range v.fit {
		fit = append(fit, i.node.Name)
	}
	for _, i := range v.empty {
		empty = append(empty, i.node.Name)
	}
	slices.Sort(fit)
	slices.Sort(empty)
	n := 0
	for k, r := range rules {
		if slices.Contains(v.refused, r) {
			n |= 1 << k
		}
	}
	return fmt.Sprint(v.total, fit, empty, v.reasons, n, v.whole)
}

// TestClassKey: Pods of one template are of one class, whatever they are called
// and whatever token they have; what rules look at makes another.
func TestClassKey(t *testing.T) {
	p := testPod("a", 100)
	same := p.DeepCopy()
	same.Name, same.UID, same.ResourceVersion = "b", types.UID("b"), "7"
	if classKey(p) != classKey(same) {
		t.Error("another name makes another class")
	}
	if classKey(p) == classKey(testPod("a", 200)) {
		t.Error("another request makes no other class")
	}
	labelled := p.DeepCopy()
	labelled.Labels = map[string]string{"app": "z"}
	if classKey(p) == classKey(labelled) {
		t.Error("other labels make no other class")
	}
}
