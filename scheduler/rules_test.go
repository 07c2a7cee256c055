// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
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

// initPort gives the last init container a host port.
func initPort(n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		c := &p.Spec.InitContainers[len(p.Spec.InitContainers)-1]
		c.Ports = append(c.Ports, corev1.ContainerPort{Protocol: "TCP", HostPort: n, ContainerPort: n})
	}
}

// resizing is a Pod whose container has another CPU request than it asks for.
func resizing(has string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		r := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(has)}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", AllocatedResources: r, Resources: &corev1.ResourceRequirements{Requests: r}}}
	}
}

func infeasible(p *corev1.Pod) {
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: corev1.PodReasonInfeasible})
}

// wholly gives the Pod itself a request of CPU.
func wholly(cpu string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}
	}
}

// named adds a term for each list of names, all of which it asks for.
func named(terms ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		var s corev1.NodeSelector
		for _, names := range terms {
			var t corev1.NodeSelectorTerm
			for _, n := range strings.Fields(names) {
				t.MatchFields = append(t.MatchFields, corev1.NodeSelectorRequirement{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{n}})
			}
			s.NodeSelectorTerms = append(s.NodeSelectorTerms, t)
		}
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &s}}
	}
}

// nodeWith is a node with the Pods that are on it.
func nodeWith(n *corev1.Node, pods ...*corev1.Pod) *nodeInfo {
	i := newNodeInfo(n)
	for _, p := range pods {
		i.add(newLoad(p))
	}
	return i
}

func app(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels = map[string]string{"app": name} }
}

func elsewhere(p *corev1.Pod) { p.Namespace = "other" }

func termFor(name, topology string) corev1.PodAffinityTerm {
	return corev1.PodAffinityTerm{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, TopologyKey: topology}
}

func beside(name, topology string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		if p.Spec.Affinity == nil {
			p.Spec.Affinity = &corev1.Affinity{}
		}
		p.Spec.Affinity.PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{termFor(name, topology)}}
	}
}

func apart(name, topology string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		if p.Spec.Affinity == nil {
			p.Spec.Affinity = &corev1.Affinity{}
		}
		p.Spec.Affinity.PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{termFor(name, topology)}}
	}
}

func spreadBy(topology, name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, corev1.TopologySpreadConstraint{
			MaxSkew: 1, TopologyKey: topology, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
		})
	}
}

// placeOf is a node, and others around it, as a Pod sees it.
func placeOf(p *corev1.Pod, i *nodeInfo, others ...*nodeInfo) *place {
	w := newWish(p)
	return &place{i, newAround(w, cluster(append(others, i)...), luggage{}), w}
}

func TestRules(t *testing.T) {
	taint := func(key, value string, effect corev1.TaintEffect) func(*corev1.Node) {
		return func(n *corev1.Node) {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Value: value, Effect: effect})
		}
	}
	closed := func(n *corev1.Node) { n.Spec.Unschedulable = true }
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
		"sidecars hold ports":                {testPod("p", 0, port("", "TCP", 80)), testNode("n", 1000), with(testPod("a", 0, sidecar("1m"), initPort(80))), []reason{{portsTaken, false}}},
		"init containers do not":             {testPod("p", 0, port("", "TCP", 80)), testNode("n", 1000), with(testPod("a", 0, initially("1m"), initPort(80))), nil},
		"ports of an own sidecar":            {testPod("p", 0, sidecar("1m"), initPort(80)), testNode("n", 1000), with(testPod("a", 0, port("", "", 80))), []reason{{portsTaken, false}}},
		"a node that takes no Pods":          {testPod("p", 0), testNode("n", 1000, func(n *corev1.Node) { delete(n.Status.Allocatable, corev1.ResourcePods) }), nil, []reason{{"Too many pods", false}}},
		"shrinking, but not yet":             {testPod("p", 600), testNode("n", 1000), with(testPod("a", 100, resizing("500m"))), []reason{{"Insufficient cpu", false}}},
		"growing":                            {testPod("p", 600), testNode("n", 1000), with(testPod("a", 500, resizing("100m"))), []reason{{"Insufficient cpu", false}}},
		"a growth that cannot be":            {testPod("p", 600), testNode("n", 1000), with(testPod("a", 500, resizing("100m"), infeasible)), nil},
		"requests of the Pod itself":         {testPod("p", 100, wholly("900m")), testNode("n", 1000), with(testPod("a", 500, wholly("200m"))), []reason{{"Insufficient cpu", false}}},
		"a field of the node":                {testPod("p", 0, named("n")), testNode("n", 1000), nil, nil},
		"a field of another node":            {testPod("p", 0, named("m")), testNode("n", 1000), nil, final(noMatch)},
		"cordoned":                           {testPod("p", 0), testNode("n", 1000, closed), nil, final("node(s) were unschedulable")},
		"cordoned and tolerated":             {testPod("p", 0, tolerating(corev1.Toleration{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists})), testNode("n", 1000, closed), nil, nil},
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
		"the first rule that refuses speaks": {testPod("p", 5000), testNode("n", 1000, closed, taint("k", "v", corev1.TaintEffectNoSchedule)), nil, final("node(s) were unschedulable")},
	} {
		if _, got := refusal(newWish(x.pod), placeOf(x.pod, nodeWith(x.node, x.there...)), rules); fmt.Sprint(got) != fmt.Sprint(x.want) {
			t.Errorf("%s: %v, want %v", name, got, x.want)
		}
	}
}
