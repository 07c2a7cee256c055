// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

func cluster(nodes ...*nodeInfo) *known {
	k := newKnown()
	for _, i := range nodes {
		k.nodes[i.node.Name] = i
	}
	return k
}

func urgent(n int32) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Priority = &n } }

// TestWords: what kube-scheduler says of a Pod that fits nowhere.
func TestWords(t *testing.T) {
	closed := func(n *corev1.Node) { n.Spec.Unschedulable = true }
	full := nodeWith(testNode("full", 1000), testPod("a", 900))
	for name, x := range map[string]struct {
		pod   *corev1.Pod
		nodes *known
		want  string
	}{
		"no nodes": {testPod("p", 0), cluster(), "no nodes available to schedule pods"},
		"a full node": {testPod("p", 500), cluster(full),
			"0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		"one reason after another": {testPod("p", 500), cluster(full, nodeWith(testNode("small", 100)), nodeWith(testNode("closed", 1000, closed))),
			"0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu. preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."},
		"several reasons of a node": {testPod("p", 500), cluster(nodeWith(testNode("n", 1000), testPod("a", 900), testPod("b", 0), testPod("c", 0))),
			"0/1 nodes are available: 1 Insufficient cpu, 1 Too many pods. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		"nobody may be put off": {testPod("p", 500, urgent(10), func(p *corev1.Pod) { p.Spec.PreemptionPolicy = ptr.To(corev1.PreemptNever) }), cluster(full),
			"0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."},
		"who is less urgent has too little": {testPod("p", 500, urgent(10)),
			cluster(nodeWith(testNode("n", 1000), testPod("a", 800, urgent(10)), testPod("b", 100)), nodeWith(testNode("m", 100))),
			"0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 1 Insufficient cpu, 1 Preemption is not helpful for scheduling."},
		"equals are no victims": {testPod("p", 500, urgent(10)), cluster(nodeWith(testNode("n", 1000), testPod("a", 800, urgent(10)))),
			"0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."},
		"somebody could be put off": {testPod("p", 500, urgent(10)), cluster(full), "0/1 nodes are available: 1 Insufficient cpu. preemption: found a potential placement for pod on node full, preempting 1 victims"},
		"another node by name": {testPod("p", 500, named("full")), cluster(full, nodeWith(testNode("n", 1000)), nodeWith(testNode("m", 1000))),
			"0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."},
		"a name of no node": {testPod("p", 0, named("gone")), cluster(full),
			"0/1 nodes are available: 1 node(s) didn't satisfy plugin(s) [NodeAffinity]. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		"two names at once": {testPod("p", 0, named("full n", "n m")), cluster(full),
			"0/1 nodes are available: pod affinity terms conflict. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
	} {
		w := newWish(x.pod)
		v := look(w, x.nodes)
		if len(v.fit) > 0 {
			t.Errorf("%s: fits %s", name, v.fit[0].node.Name)
		}
		_, words, _ := preemption(w, v, "")
		if got := explain(v, words); got != x.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, x.want)
		}
	}
}

// TestNamedNodes: a term that leaves the name open opens them all.
func TestNamedNodes(t *testing.T) {
	for name, x := range map[string]struct {
		pod  *corev1.Pod
		want int
	}{
		"none": {testPod("p", 0), -1}, "labels": {testPod("p", 0, needing(corev1.NodeSelectorOpExists, "disk")), -1},
		"one": {testPod("p", 0, named("a")), 1}, "either": {testPod("p", 0, named("a", "b")), 2}, "both": {testPod("p", 0, named("a b")), 0},
		"both or one": {testPod("p", 0, named("a b", "c")), 1}, "one or any": {testPod("p", 0, named("a", "")), -1},
	} {
		got := namedNodes(x.pod)
		if n := len(got); x.want < 0 && got != nil || x.want >= 0 && (got == nil || n != x.want) {
			t.Errorf("%s: %v, want %d names", name, got, x.want)
		}
	}
}
