// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func memory(q string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests[corev1.ResourceMemory] = resource.MustParse(q)
	}
}

// asking replaces the requests of the Pod's container.
func asking(r corev1.ResourceList) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = r }
}

// TestScoresOfOneNode: the figures are worked out by hand from the formulas of
// kube-scheduler's LeastAllocated and NodeResourcesBalancedAllocation.
func TestScoresOfOneNode(t *testing.T) {
	for name, x := range map[string]struct {
		pod             *corev1.Pod
		node            *nodeInfo
		least, balanced int64
	}{
		// CPU 500 of 1000 left; 200Mi of 1Gi count for memory: 80.
		"no memory asked for": {testPod("p", 500), nodeWith(testNode("n", 1000)), 65, 62},
		"half of both":        {testPod("p", 500, memory("512Mi")), nodeWith(testNode("n", 1000)), 50, 75},
		// 0.5 and 0.25 used: deviation 0.125 before, none after.
		"evens out":   {testPod("p", 0, memory("256Mi")), nodeWith(testNode("n", 1000), testPod("a", 500, memory("256Mi"))), 50, 81},
		"best effort": {testPod("p", 0, asking(nil)), nodeWith(testNode("n", 1000)), 85, 0},
		"best effort beside best effort": {testPod("p", 0, asking(nil)), nodeWith(testNode("n", 1000), testPod("a", 0, asking(nil)), testPod("b", 0, asking(nil))),
			(70 + 41) / 2, 0},
		"zero is not nothing": {testPod("p", 0, memory("0")), nodeWith(testNode("n", 1000)), 100, 0},
		"no memory there":     {testPod("p", 500), nodeWith(testNode("n", 1000, func(n *corev1.Node) { delete(n.Status.Allocatable, corev1.ResourceMemory) })), 50, 75},
		"of the Pod itself":   {testPod("p", 0, asking(nil), wholly("500m")), nodeWith(testNode("n", 1000)), 65, 62},
	} {
		w := newWish(x.pod)
		if least, even := leastAllocated(w, x.node), balanced(w, x.node); least != x.least || even != x.balanced {
			t.Errorf("%s: least allocated %d, want %d; balanced %d, want %d", name, least, x.least, even, x.balanced)
		}
	}
}

// TestPreferences: taints weigh 3, preferred node affinity 2, each against the
// most of any node.
func TestPreferences(t *testing.T) {
	avoid := func(keys ...string) func(*corev1.Node) {
		return func(n *corev1.Node) {
			for _, k := range keys {
				n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: k, Effect: corev1.TaintEffectPreferNoSchedule})
			}
		}
	}
	disk := func(v string) func(*corev1.Node) { return func(n *corev1.Node) { n.Labels["disk"] = v } }
	preferring := func(weights map[string]int32) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			var terms []corev1.PreferredSchedulingTerm
			for v, weight := range weights {
				terms = append(terms, corev1.PreferredSchedulingTerm{Weight: weight, Preference: corev1.NodeSelectorTerm{
					MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpIn, Values: []string{v}}},
				}})
			}
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: terms}}
		}
	}
	nodes := func(change ...func(*corev1.Node)) (list []*nodeInfo) {
		for k, f := range change {
			list = append(list, nodeWith(testNode(fmt.Sprint("n", k), 1000, f)))
		}
		return list
	}
	nobody := func(*corev1.Node) {}
	for name, x := range map[string]struct {
		pod  *corev1.Pod
		fit  []*nodeInfo
		want []int64 // beside what the rooms give
	}{
		"none":      {testPod("p", 100), nodes(nobody, nobody), []int64{300, 300}},
		"taints":    {testPod("p", 100), nodes(nobody, avoid("a"), avoid("a", "b")), []int64{300, 150, 0}},
		"tolerated": {testPod("p", 100, tolerating(corev1.Toleration{Key: "a", Operator: corev1.TolerationOpExists})), nodes(nobody, avoid("a"), avoid("a", "b")), []int64{300, 300, 0}},
		"tolerated, another effect": {testPod("p", 100, tolerating(corev1.Toleration{Key: "a", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule})),
			nodes(nobody, avoid("a")), []int64{300, 0}},
		"affinity":     {testPod("p", 100, preferring(map[string]int32{"fast": 80, "big": 20})), nodes(disk("fast"), disk("big"), nobody), []int64{500, 350, 300}},
		"nobody's own": {testPod("p", 100, preferring(map[string]int32{"fast": 80})), nodes(nobody, disk("big")), []int64{300, 300}},
	} {
		w := newWish(x.pod)
		got := scores(w, &verdict{fit: x.fit, known: cluster(x.fit...)})
		for k, i := range x.fit {
			got[k] -= leastAllocated(w, i) + balanced(w, i)
		}
		if !slices.Equal(got, x.want) {
			t.Errorf("%s: %v, want %v", name, got, x.want)
		}
	}
}

// TestEqualsAreDrawn: of nodes that are alike each has its turn, and no other.
func TestEqualsAreDrawn(t *testing.T) {
	w := newWish(testPod("p", 100))
	fit := []*nodeInfo{nodeWith(testNode("a", 1000)), nodeWith(testNode("b", 1000)), nodeWith(testNode("used", 1000), testPod("x", 500))}
	drawn := map[string]int{}
	for range 200 {
		drawn[best(w, &verdict{fit: fit, known: cluster(fit...)}).node.Name]++
	}
	if drawn["a"] < 50 || drawn["b"] < 50 || drawn["used"] > 0 {
		t.Error(drawn)
	}
}

// thousand is a cluster of some size: every tenth node is tainted, and each has
// ten Pods.
func thousand(nodes int) *known {
	m := newKnown()
	for k := range nodes {
		n := testNode(fmt.Sprint("n", k), 4000, func(n *corev1.Node) {
			n.Status.Allocatable[corev1.ResourcePods] = resource.MustParse("110")
			if k%10 == 0 {
				n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}
			}
		})
		i := newNodeInfo(n)
		for j := range 10 {
			i.add(newLoad(testPod(fmt.Sprintf("p%d-%d", k, j), int64(100+k%7*10), port("", "TCP", int32(8000+j)))))
		}
		m.nodes[n.Name] = i
	}
	return m
}

// BenchmarkCycle is one Pod's look over all nodes and its choice.
func BenchmarkCycle(b *testing.B) {
	for _, n := range []int{100, 1000} {
		nodes := thousand(n)
		for name, p := range map[string]*corev1.Pod{
			"fits":     testPod("p", 100, memory("10Mi")),
			"affinity": testPod("p", 100, needing(corev1.NodeSelectorOpExists, corev1.LabelHostname), port("", "TCP", 80)),
			"nowhere":  testPod("p", 4000, urgent(5)),
		} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				for b.Loop() {
					w := newWish(p)
					v := look(w, nodes)
					if len(v.fit) > 0 != (name != "nowhere") {
						b.Fatalf("fits on %d nodes", len(v.fit))
					}
					if len(v.fit) == 0 {
						_, words, _ := preemption(w, v, "")
						_ = explain(v, words)
						continue
					}
					i := best(w, v)
					i.add(w.load)
					i.remove(p.UID)
				}
			})
		}
	}
}

// BenchmarkClass is the same for one of many Pods that ask for the same.
func BenchmarkClass(b *testing.B) {
	for _, n := range []int{100, 1000, 5000} {
		k := thousand(n)
		for _, i := range k.nodes {
			i.moved = k.moved
		}
		for name, p := range map[string]*corev1.Pod{
			"fits":   testPod("p", 100, memory("10Mi")),
			"apart":  testPod("p", 100, app("w"), apart("w", corev1.LabelHostname)),
			"spread": testPod("p", 100, app("w"), spreadBy(corev1.LabelHostname, "w")),
		} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				for b.Loop() {
					w := newWish(p)
					i := k.class(w).best()
					if i == nil {
						b.Fatal("it fits nowhere")
					}
					i.add(w.load)
					i.remove(p.UID)
				}
			})
		}
	}
}

// BenchmarkQueue is a Pod's way through a queue in which others wait.
func BenchmarkQueue(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			q := newQueue()
			for k := range n {
				q.add(queued(fmt.Sprint(k), urgent(int32(k%100))))
			}
			for b.Loop() {
				q.add(q.next())
			}
		})
	}
}
