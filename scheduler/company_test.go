// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func inZone(z string) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Labels[corev1.LabelTopologyZone] = z }
}

// TestAround: what the Pods of other nodes make of a node; a is in zone x with
// b, c in zone y, and d in none.
func TestAround(t *testing.T) {
	zone, host := corev1.LabelTopologyZone, corev1.LabelHostname
	in := func(f func(*corev1.PodAffinityTerm)) func(*corev1.Pod) {
		return func(p *corev1.Pod) { f(&p.Spec.Affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0]) }
	}
	constrained := func(f func(*corev1.TopologySpreadConstraint)) func(*corev1.Pod) {
		return func(p *corev1.Pod) { f(&p.Spec.TopologySpreadConstraints[0]) }
	}
	for name, x := range map[string]struct {
		pod  *corev1.Pod
		on   map[string][]*corev1.Pod
		want string // what a, b, c and d say
	}{
		"beside, on the node":      {testPod("p", 0, beside("w", host)), map[string][]*corev1.Pod{"a": {testPod("1", 0, app("w"))}}, "- near near near"},
		"beside, in the zone":      {testPod("p", 0, beside("w", zone)), map[string][]*corev1.Pod{"b": {testPod("1", 0, app("w"))}}, "- - near near"},
		"beside, nobody there":     {testPod("p", 0, beside("w", zone)), nil, "near near near near"},
		"beside itself, the first": {testPod("p", 0, app("w"), beside("w", zone)), nil, "- - - near"},
		"beside itself, not first": {testPod("p", 0, app("w"), beside("w", zone)), map[string][]*corev1.Pod{"c": {testPod("1", 0, app("w"))}}, "near near - near"},
		"another namespace":        {testPod("p", 0, beside("w", zone)), map[string][]*corev1.Pod{"b": {testPod("1", 0, app("w"), elsewhere)}}, "near near near near"},
		"a namespace by name": {testPod("p", 0, beside("w", zone), in(func(t *corev1.PodAffinityTerm) { t.Namespaces = []string{"other"} })),
			map[string][]*corev1.Pod{"b": {testPod("1", 0, app("w"), elsewhere)}}, "- - near near"},
		"a namespace by label": {testPod("p", 0, beside("w", zone), in(func(t *corev1.PodAffinityTerm) {
			t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "y"}}
		})), map[string][]*corev1.Pod{"b": {testPod("1", 0, app("w"), elsewhere)}, "c": {testPod("2", 0, app("w"))}}, "- - near near"},
		"any namespace": {testPod("p", 0, beside("w", zone), in(func(t *corev1.PodAffinityTerm) { t.NamespaceSelector = &metav1.LabelSelector{} })),
			map[string][]*corev1.Pod{"b": {testPod("1", 0, app("w"), elsewhere)}}, "- - near near"},
		"apart, on the node":   {testPod("p", 0, apart("w", host)), map[string][]*corev1.Pod{"a": {testPod("1", 0, app("w"))}}, "far - - -"},
		"apart, in the zone":   {testPod("p", 0, apart("w", zone)), map[string][]*corev1.Pod{"a": {testPod("1", 0, app("w"))}}, "far far - -"},
		"apart, where no zone": {testPod("p", 0, apart("w", zone)), map[string][]*corev1.Pod{"d": {testPod("1", 0, app("w"))}}, "- - - -"},
		"not welcomed":         {testPod("p", 0, app("w")), map[string][]*corev1.Pod{"a": {testPod("1", 0, apart("w", zone))}}, "averse averse - -"},
		"another is meant":     {testPod("p", 0, app("v")), map[string][]*corev1.Pod{"a": {testPod("1", 0, apart("w", zone))}}, "- - - -"},
		"spread":               {testPod("p", 0, app("w"), spreadBy(zone, "w")), map[string][]*corev1.Pod{"a": {testPod("1", 0, app("w"))}}, "skew skew - label"},
		"even":                 {testPod("p", 0, app("w"), spreadBy(zone, "w")), map[string][]*corev1.Pod{"a": {testPod("1", 0, app("w"))}, "c": {testPod("2", 0, app("w"))}}, "- - - label"},
		"spread, not itself":   {testPod("p", 0, spreadBy(zone, "w")), map[string][]*corev1.Pod{"a": {testPod("1", 0, app("w"))}}, "- - - label"},
		"spread, who ends": {testPod("p", 0, app("w"), spreadBy(zone, "w")),
			map[string][]*corev1.Pod{"a": {testPod("1", 0, app("w"), func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} })}}, "- - - label"},
		"too few zones": {testPod("p", 0, app("w"), spreadBy(zone, "w"), constrained(func(c *corev1.TopologySpreadConstraint) { c.MinDomains = ptr.To[int32](3) })),
			map[string][]*corev1.Pod{"a": {testPod("1", 0, app("w"))}, "c": {testPod("2", 0, app("w"))}}, "skew skew skew label"},
		"a zone left out": {testPod("p", 0, app("w"), spreadBy(zone, "w"), func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{zone: "x"} }),
			map[string][]*corev1.Pod{"a": {testPod("1", 0, app("w"))}}, "- - affinity affinity"},
		"a zone left out that counts": {testPod("p", 0, app("w"), spreadBy(zone, "w"), func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{zone: "x"} },
			constrained(func(c *corev1.TopologySpreadConstraint) {
				c.NodeAffinityPolicy = ptr.To(corev1.NodeInclusionPolicyIgnore)
			})),
			map[string][]*corev1.Pod{"a": {testPod("1", 0, app("w"))}}, "skew skew affinity affinity"},
		"by revision": {testPod("p", 0, spreadBy(zone, "w"), func(p *corev1.Pod) { p.Labels = map[string]string{"app": "w", "rev": "2"} },
			constrained(func(c *corev1.TopologySpreadConstraint) { c.MatchLabelKeys = []string{"rev"} })),
			map[string][]*corev1.Pod{"a": {testPod("1", 0, func(p *corev1.Pod) { p.Labels = map[string]string{"app": "w", "rev": "1"} })}}, "- - - label"},
	} {
		k := cluster(nodeWith(testNode("a", 9, inZone("x")), x.on["a"]...), nodeWith(testNode("b", 9, inZone("x")), x.on["b"]...),
			nodeWith(testNode("c", 9, inZone("y")), x.on["c"]...), nodeWith(testNode("d", 9), x.on["d"]...))
		k.namespaces = teams
		w := newWish(x.pod)
		a := newAround(w, k, luggage{})
		var got []string
		for _, n := range []string{"a", "b", "c", "d"} {
			_, why := refusal(w, &place{k.nodes[n], a, w}, rules)
			got = append(got, map[string]string{"[]": "-", fmt.Sprint(final(noCompany)): "near", fmt.Sprint([]reason{{text: badCompany}}): "far",
				fmt.Sprint([]reason{{text: notWelcomed}}): "averse", fmt.Sprint([]reason{{text: skewed}}): "skew",
				fmt.Sprint(final(noTopology)): "label", fmt.Sprint(final(noMatch)): "affinity"}[fmt.Sprint(why)])
		}
		if s := strings.Join(got, " "); s != x.want {
			t.Errorf("%s: %s, want %s", name, s, x.want)
		}
	}
}

// TestWaitsForCompany: a Pod that must be beside another waits until that has a
// node, and goes to it.
func TestWaitsForCompany(t *testing.T) {
	play(t, func(s *stage) {
		s.nodes.h.OnAdd(testNode("n", 1000), false)
		s.nodes.h.OnAdd(testNode("m", 1000), false)
		s.create(t, testPod("p", 100, beside("db", corev1.LabelHostname)))
		want := "0/2 nodes are available: 2 node(s) didn't match pod affinity rules. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
		if _, c := s.get(t, "p"); c.Message != want {
			t.Fatalf("said %q", c.Message)
		}
		db := testPod("db", 100, app("db"))
		s.create(t, db)
		s.pods.h.OnUpdate(db, placed(db, s.on("db")))
		synctest.Wait()
		if s.on("p") == "" || s.on("p") != s.on("db") {
			t.Errorf("p is on %q, db on %q", s.on("p"), s.on("db"))
		}
	})
}

// TestMakesRoomBeside: who is more urgent displaces one that it, or that would
// not have it beside it.
func TestMakesRoomBeside(t *testing.T) {
	for name, x := range map[string]struct {
		p, other *corev1.Pod
	}{
		"shunned": {testPod("p", 1, urgent(5), apart("w", corev1.LabelHostname)), testPod("v", 1, app("w"))},
		"shuns":   {testPod("p", 1, urgent(5), app("w")), testPod("v", 1, apart("w", corev1.LabelHostname))},
		"skews":   {testPod("p", 1, urgent(5), app("w"), spreadBy(corev1.LabelHostname, "w")), testPod("v", 1, app("w"))},
	} {
		i := nodeWith(testNode("n", 1000), x.other, testPod("bystander", 1))
		o := victimsOn(newWish(x.p), placeOf(x.p, i, nodeWith(testNode("empty", 0))), nil)
		c, why := o.candidate, o.why
		if got := victimsOf(c); len(got) != 1 || got[0] != "v" {
			t.Errorf("%s: %q, %v", name, got, why)
		}
	}
}

// TestKin: with whom a Pod is spread that does not say.
func TestKin(t *testing.T) {
	by := func(kind, name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: name, Controller: ptr.To(true)}}
			if kind == "ReplicationController" {
				p.OwnerReferences[0].APIVersion = "v1"
			}
		}
	}
	k := newKnown()
	chosen := &metav1.LabelSelector{MatchLabels: map[string]string{"set": "s"}}
	in := metav1.ObjectMeta{Name: "s", Namespace: "default"}
	s := &corev1.Service{ObjectMeta: in}
	s.Spec.Selector = map[string]string{"app": "w"}
	k.services[nameOf(s)] = s
	k.replicaSets[nameOf(s)] = &appsv1.ReplicaSet{ObjectMeta: in, Spec: appsv1.ReplicaSetSpec{Selector: chosen}}
	k.statefulSets[nameOf(s)] = &appsv1.StatefulSet{ObjectMeta: in, Spec: appsv1.StatefulSetSpec{Selector: chosen}}
	k.replicationControllers[nameOf(s)] = &corev1.ReplicationController{ObjectMeta: in, Spec: corev1.ReplicationControllerSpec{Selector: map[string]string{"rc": "s"}}}
	for name, x := range map[string]struct {
		pod  *corev1.Pod
		want string
	}{
		"nobody":                       {testPod("p", 0), ""},
		"a Service":                    {testPod("p", 0, app("w")), "app=w"},
		"a Service elsewhere":          {testPod("p", 0, app("w"), elsewhere), ""},
		"a set":                        {testPod("p", 0, by("ReplicaSet", "s")), "set=s"},
		"a set of members":             {testPod("p", 0, by("StatefulSet", "s")), "set=s"},
		"a controller":                 {testPod("p", 0, by("ReplicationController", "s")), "rc=s"},
		"a set that is gone":           {testPod("p", 0, by("ReplicaSet", "gone")), ""},
		"both":                         {testPod("p", 0, app("w"), by("StatefulSet", "s")), "app=w,set=s"},
		"an owner that does not count": {testPod("p", 0, by("Job", "s")), ""},
	} {
		if got := k.kin(x.pod).String(); got != x.want {
			t.Errorf("%s: %q, want %q", name, got, x.want)
		}
	}
}
