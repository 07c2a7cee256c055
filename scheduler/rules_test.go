// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"
)

// testPod asks for CPU in thousandths.
func testPod(name string, cpu int64, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name), Generation: 1},
		Spec: corev1.PodSpec{
			SchedulerName: corev1.DefaultSchedulerName,
			Containers:    []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(cpu, resource.DecimalSI)}}}},
		},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func testNode(name string, cpu int64, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: *resource.NewMilliQuantity(cpu, resource.DecimalSI), corev1.ResourcePods: resource.MustParse("3"), corev1.ResourceMemory: resource.MustParse("1Gi"),
		}},
	}
	for _, f := range change {
		f(n)
	}
	return n
}

func port(ip string, protocol corev1.Protocol, n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, corev1.ContainerPort{HostIP: ip, Protocol: protocol, HostPort: n, ContainerPort: n})
	}
}

func tolerating(t corev1.Toleration) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Tolerations = append(p.Spec.Tolerations, t) }
}

func needing(op corev1.NodeSelectorOperator, key string, values ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: op, Values: values}}}},
		}}}
	}
}

func sidecar(cpu string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "s", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways),
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}})
	}
}

func initially(cpu string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "i",
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}})
	}
}

const (
	noMatch   = "node(s) didn't match Pod's node affinity/selector"
	untaintly = "node(s) had untolerated taint(s)"
)

func TestRules(t *testing.T) {
	taint := func(key, value string, effect corev1.TaintEffect) func(*corev1.Node) {
		return func(n *corev1.Node) {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Value: value, Effect: effect})
		}
	}
	cordoned := func(n *corev1.Node) { n.Spec.Unschedulable = true }
	with := func(pods ...*corev1.Pod) []*corev1.Pod { return pods }
	for name, x := range map[string]struct {
		pod   *corev1.Pod
		node  *corev1.Node
		there []*corev1.Pod
		want  []reason
	}{
		"fits":                       {testPod("p", 1000), testNode("n", 1000), nil, nil},
		"more than is free":          {testPod("p", 600), testNode("n", 1000), with(testPod("a", 500)), []reason{{"Insufficient cpu", false}}},
		"more than there is":         {testPod("p", 1001), testNode("n", 1000), nil, []reason{{"Insufficient cpu", true}}},
		"init containers one by one": {testPod("p", 500, initially("1"), initially("1")), testNode("n", 1000), nil, nil},
		"an init container too big":  {testPod("p", 500, initially("2")), testNode("n", 1000), nil, []reason{{"Insufficient cpu", true}}},
		"sidecars add up":            {testPod("p", 600, sidecar("500m")), testNode("n", 1000), nil, []reason{{"Insufficient cpu", true}}},
		"overhead counts": {testPod("p", 900, func(p *corev1.Pod) {
			p.Spec.Overhead = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("200m")}
		}), testNode("n", 1000), nil, []reason{{"Insufficient cpu", true}}},
		"an unknown resource": {testPod("p", 0, func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests["example.com/gpu"] = resource.MustParse("1")
		}), testNode("n", 1000), nil, []reason{{"Insufficient example.com/gpu", true}}},
		"too many pods":                      {testPod("p", 0), testNode("n", 1000), with(testPod("a", 0), testPod("b", 0), testPod("c", 0)), []reason{{"Too many pods", false}}},
		"both":                               {testPod("p", 1000), testNode("n", 1000), with(testPod("a", 1), testPod("b", 0), testPod("c", 0)), []reason{{"Too many pods", false}, {"Insufficient cpu", false}}},
		"a port taken":                       {testPod("p", 0, port("", "TCP", 80)), testNode("n", 1000), with(testPod("a", 0, port("", "TCP", 80))), []reason{{portsTaken, false}}},
		"another protocol":                   {testPod("p", 0, port("", "UDP", 80)), testNode("n", 1000), with(testPod("a", 0, port("", "TCP", 80))), nil},
		"another address":                    {testPod("p", 0, port("10.0.0.1", "TCP", 80)), testNode("n", 1000), with(testPod("a", 0, port("10.0.0.2", "TCP", 80))), nil},
		"all addresses":                      {testPod("p", 0, port("0.0.0.0", "TCP", 80)), testNode("n", 1000), with(testPod("a", 0, port("10.0.0.2", "TCP", 80))), []reason{{portsTaken, false}}},
		"cordoned":                           {testPod("p", 0), testNode("n", 1000, cordoned), nil, final("node(s) were unschedulable")},
		"cordoned and tolerated":             {testPod("p", 0, tolerating(corev1.Toleration{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists})), testNode("n", 1000, cordoned), nil, nil},
		"tainted":                            {testPod("p", 0), testNode("n", 1000, taint("k", "v", corev1.TaintEffectNoSchedule)), nil, final(untaintly)},
		"tainted and tolerated":              {testPod("p", 0, tolerating(corev1.Toleration{Key: "k", Value: "v"})), testNode("n", 1000, taint("k", "v", corev1.TaintEffectNoSchedule)), nil, nil},
		"another value":                      {testPod("p", 0, tolerating(corev1.Toleration{Key: "k", Value: "w"})), testNode("n", 1000, taint("k", "v", corev1.TaintEffectNoExecute)), nil, final(untaintly)},
		"another effect":                     {testPod("p", 0, tolerating(corev1.Toleration{Key: "k", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute})), testNode("n", 1000, taint("k", "v", corev1.TaintEffectNoSchedule)), nil, final(untaintly)},
		"everything tolerated":               {testPod("p", 0, tolerating(corev1.Toleration{Operator: corev1.TolerationOpExists})), testNode("n", 1000, taint("k", "v", corev1.TaintEffectNoSchedule)), nil, nil},
		"preferred not":                      {testPod("p", 0), testNode("n", 1000, taint("k", "v", corev1.TaintEffectPreferNoSchedule)), nil, nil},
		"selected":                           {testPod("p", 0, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "n"} }), testNode("n", 1000), nil, nil},
		"not selected":                       {testPod("p", 0, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "none"} }), testNode("n", 1000), nil, final(noMatch)},
		"affinity in":                        {testPod("p", 0, needing(corev1.NodeSelectorOpIn, corev1.LabelHostname, "m", "n")), testNode("n", 1000), nil, nil},
		"affinity not in":                    {testPod("p", 0, needing(corev1.NodeSelectorOpNotIn, corev1.LabelHostname, "m", "n")), testNode("n", 1000), nil, final(noMatch)},
		"affinity exists":                    {testPod("p", 0, needing(corev1.NodeSelectorOpExists, "disk")), testNode("n", 1000), nil, final(noMatch)},
		"the first rule that refuses speaks": {testPod("p", 5000), testNode("n", 1000, cordoned, taint("k", "v", corev1.TaintEffectNoSchedule)), nil, final("node(s) were unschedulable")},
	} {
		i := newNodeInfo()
		i.node = x.node
		for _, other := range x.there {
			i.add(other)
		}
		if got := refusal(x.pod, i); fmt.Sprint(got) != fmt.Sprint(x.want) {
			t.Errorf("%s: %v, want %v", name, got, x.want)
		}
	}
}

// TestWords: what kube-scheduler says of a Pod that fits nowhere.
func TestWords(t *testing.T) {
	nodes := map[string]*nodeInfo{}
	if _, err := pick(testPod("p", 0), nodes); err == nil || err.Error() != "no nodes available to schedule pods" {
		t.Errorf("without nodes: %v", err)
	}
	put := func(n *corev1.Node, pods ...*corev1.Pod) {
		i := newNodeInfo()
		i.node = n
		for _, p := range pods {
			i.add(p)
		}
		nodes[n.Name] = i
	}
	put(testNode("full", 1000), testPod("a", 900))
	want := "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
	if _, err := pick(testPod("p", 500), nodes); err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	put(testNode("small", 100))
	put(testNode("closed", 1000, func(n *corev1.Node) { n.Spec.Unschedulable = true }))
	want = "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu. preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."
	if _, err := pick(testPod("p", 500), nodes); err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	put(testNode("room", 1000))
	if got, err := pick(testPod("p", 500), nodes); err != nil || got != "room" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestRoomIsCounted compares the sums kept by add and remove with a sum from
// scratch, over random changes.
func TestRoomIsCounted(t *testing.T) {
	rand.Seed(1)
	i := newNodeInfo()
	for range 2000 {
		p := testPod(fmt.Sprint(rand.Intn(20)), int64(rand.Intn(1000)))
		if rand.Intn(3) == 0 {
			i.remove(p)
		} else {
			i.add(p)
		}
		sum := int64(0)
		for _, p := range i.pods {
			q := requests(p)[corev1.ResourceCPU]
			sum += q.MilliValue()
		}
		if got := i.used[corev1.ResourceCPU]; got.MilliValue() != sum {
			t.Fatalf("%d Pods use %d, counted %d", len(i.pods), sum, got.MilliValue())
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{100, 1000} {
		b.Run(fmt.Sprintf("%d nodes", n), func(b *testing.B) {
			nodes := map[string]*nodeInfo{}
			for k := range n {
				i := newNodeInfo()
				i.node = testNode(fmt.Sprint("n", k), 4000)
				nodes[i.node.Name] = i
			}
			p := testPod("p", 100, needing(corev1.NodeSelectorOpExists, corev1.LabelHostname))
			for b.Loop() {
				if _, err := pick(p, nodes); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
