// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// clusters is where scripts/golden wants the questions for kube-scheduler.
var clusters = flag.String("clusters", "", "write the clusters of TestUpstream to this file")

// question is a cluster and a Pod that looks for a node, as test/stock/schedule
// reads them.
type question struct {
	Seed  uint64
	Nodes []*corev1.Node
	Pods  []*corev1.Pod
	Pod   *corev1.Pod

	Namespaces  []*corev1.Namespace
	Services    []*corev1.Service
	ReplicaSets []*appsv1.ReplicaSet
	Budgets     []*policyv1.PodDisruptionBudget
}

const questions = 1500

func ask(seed uint64) question {
	r := rand.New(rand.NewPCG(seed, 37))
	q := question{Seed: seed}
	var names []string
	for k := range r.IntN(5) {
		n := randomNode(r, fmt.Sprint("n", k))
		q.Nodes, names = append(q.Nodes, n), append(names, n.Name)
		for j := range r.IntN(4) {
			p := placed(randomPod(r, fmt.Sprintf("old%d-%d", k, j), nil), n.Name)
			p.Namespace = pick(r, "default", "default", "other")
			p.Status.Phase = corev1.PodRunning
			q.Pods = append(q.Pods, p)
		}
	}
	q.Pod = randomPod(r, "p", names)
	if r.IntN(3) == 0 {
		a := q.Pod.Spec.Affinity
		if a == nil {
			a = &corev1.Affinity{}
			q.Pod.Spec.Affinity = a
		}
		if a.NodeAffinity == nil {
			a.NodeAffinity = &corev1.NodeAffinity{}
		}
		for _, op := range []corev1.NodeSelectorOperator{corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn} {
			a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution, corev1.PreferredSchedulingTerm{
				Weight:     int32(1 + r.IntN(100)),
				Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: op, Values: []string{"fast"}}}},
			})
		}
	}
	for name, set := range teams {
		q.Namespaces = append(q.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: set}})
	}
	surround(r, &q)
	if seed%2 == 0 {
		calm(&q)
	}
	return q
}

// calm leaves nothing but other Pods, room for them and the topology to decide.
func calm(q *question) {
	for k := range 3 {
		q.Nodes = append(q.Nodes, testNode(fmt.Sprint("calm", k), 4000, func(n *corev1.Node) {
			n.Labels[corev1.LabelTopologyZone] = []string{"a", "b", "b"}[k]
		}))
	}
	for _, n := range q.Nodes {
		n.Spec.Taints, n.Spec.Unschedulable = nil, false
		n.Status.Allocatable[corev1.ResourcePods] = resource.MustParse("20")
		n.Status.Allocatable[corev1.ResourceCPU] = resource.MustParse("4")
	}
	q.Pod.Spec.NodeSelector = nil
	if a := q.Pod.Spec.Affinity; a != nil {
		a.NodeAffinity = nil
	}
}

// surround gives the Pod a Service and an owner, nodes images, and others
// budgets.
func surround(r *rand.Rand, q *question) {
	for _, app := range []string{"a", "b"} {
		if r.IntN(3) == 0 {
			s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: app, Namespace: pick(r, "default", "default", "other")}}
			s.Spec.Selector = map[string]string{"app": app}
			q.Services = append(q.Services, s)
		}
	}
	if r.IntN(3) == 0 {
		s := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default", UID: "s"}}
		s.Spec.Selector = randomSelector(r)
		q.ReplicaSets = append(q.ReplicaSets, s)
		q.Pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(s, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
	}
	q.Pod.Spec.Containers[0].Image = pick(r, "registry.local/web", "registry.local/web:v1")
	size := int64(1+r.IntN(1500)) << 20
	for _, n := range q.Nodes {
		if r.IntN(3) == 0 {
			n.Status.Images = []corev1.ContainerImage{{Names: []string{"registry.local/web:latest", "registry.local/web:v1"}, SizeBytes: size}}
		}
	}
	for _, app := range []string{"a", "b"} {
		if r.IntN(3) == 0 {
			q.Budgets = append(q.Budgets, budget(app, int32(r.IntN(2))))
		}
	}
}

// TestUpstream compares the choice, or the words, with those of kube-scheduler
// itself for the same random clusters. Of nodes with the same score kube-scheduler
// draws one too. scripts/golden writes its answers anew, as must be done when
// the clusters become others.
func TestUpstream(t *testing.T) {
	if *clusters != "" {
		var all []question
		for seed := range uint64(questions) {
			all = append(all, ask(seed))
		}
		b, err := json.Marshal(all)
		if err == nil {
			err = os.WriteFile(*clusters, b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	b, err := os.ReadFile("testdata/upstream.tsv")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	if len(lines) != questions {
		t.Fatalf("%d answers to %d questions", len(lines), questions)
	}
	for _, l := range lines {
		number, want, _ := strings.Cut(l, "\t")
		seed, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if got := answers(ask(seed)); !slices.Contains(got, want) {
			t.Errorf("cluster %d: %q, kube-scheduler has %q", seed, got, want)
		}
	}
}

// clusterOf is what a scheduler knows of the question's cluster.
func clusterOf(q question) *known {
	k := newKnown()
	for _, n := range q.Namespaces {
		k.namespaces[n.Name] = n.Labels
	}
	for _, s := range q.Services {
		k.services[nameOf(s)] = s
	}
	for _, s := range q.ReplicaSets {
		k.replicaSets[nameOf(s)] = s
	}
	for _, b := range q.Budgets {
		k.budgets[nameOf(b)] = b
	}
	for _, n := range q.Nodes {
		k.nodes[n.Name] = nodeWith(n)
	}
	for _, p := range q.Pods {
		k.nodes[p.Spec.NodeName].add(newLoad(p))
	}
	return k
}

// answers are the nodes with the best score, or what is said if none fits.
func answers(q question) (all []string) {
	w := newWish(q.Pod)
	v := look(w, clusterOf(q))
	if len(v.fit) == 0 {
		_, words, _ := preemption(w, v, "")
		return []string{explain(v, words)}
	}
	points := scores(w, v)
	for k, i := range v.fit {
		if points[k] == slices.Max(points) {
			all = append(all, i.node.Name)
		}
	}
	return all
}
