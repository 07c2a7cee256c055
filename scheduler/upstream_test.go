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

	corev1 "k8s.io/api/core/v1"
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
}

const questions = 600

func ask(seed uint64) question {
	r := rand.New(rand.NewPCG(seed, 37))
	q := question{Seed: seed}
	var names []string
	for k := range r.IntN(5) {
		n := randomNode(r, fmt.Sprint("n", k))
		q.Nodes, names = append(q.Nodes, n), append(names, n.Name)
		for j := range r.IntN(4) {
			p := placed(randomPod(r, fmt.Sprintf("old%d-%d", k, j), nil), n.Name)
			p.Status.Phase = corev1.PodRunning
			q.Pods = append(q.Pods, p)
		}
	}
	q.Pod = randomPod(r, "p", names)
	if r.IntN(3) == 0 {
		a := q.Pod.Spec.Affinity
		if a == nil {
			a = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{}}
			q.Pod.Spec.Affinity = a
		}
		for _, op := range []corev1.NodeSelectorOperator{corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn} {
			a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution, corev1.PreferredSchedulingTerm{
				Weight:     int32(1 + r.IntN(100)),
				Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: op, Values: []string{"fast"}}}},
			})
		}
	}
	return q
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

// answers are the nodes with the best score, or what is said if none fits.
func answers(q question) (all []string) {
	nodes := map[string]*nodeInfo{}
	for _, n := range q.Nodes {
		nodes[n.Name] = nodeWith(n)
	}
	for _, p := range q.Pods {
		nodes[p.Spec.NodeName].add(newLoad(p))
	}
	w := newWish(q.Pod)
	v := look(w, nodes)
	if len(v.fit) == 0 {
		_, words, _ := preemption(w, v, "")
		return []string{explain(v, words)}
	}
	points := scores(w, v.fit)
	for k, i := range v.fit {
		if points[k] == slices.Max(points) {
			all = append(all, i.node.Name)
		}
	}
	return all
}
