// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/test/bench/memory"
)

// scenario is one of the workloads of Kubernetes' scheduler_perf
// (test/integration/scheduler_perf), with the same Pods and nodes. Pods that
// upstream lets the scheduler place before the measurement are there from the
// beginning, spread evenly over the nodes, for both schedulers alike.
type scenario struct {
	name   string
	zones  []string
	nodes  int                 // at most; 0: as many as are asked for
	before func(nodes int) int // how many Pods of the kind in init there are already
	init   func(p *corev1.Pod) // nil: as the measured ones
	pod    func(p *corev1.Pod) // what the measured Pods are beside the default one
	count  func(asked, nodes int) int
	beside func(context.Context, *memory.Store) // what happens meanwhile
}

const (
	early    = "sched-0" // the namespace of what was there before
	measured = "sched-1" // that of the measured Pods
)

var (
	pods  = corev1.SchemeGroupVersion.WithResource("pods")
	nodes = corev1.SchemeGroupVersion.WithResource("nodes")
)

var scenarios = []scenario{
	{name: "basic", before: each(1)},
	{name: "node affinity", zones: []string{"zone1"}, before: each(1), init: func(*corev1.Pod) {}, pod: func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
				{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{"zone1", "zone2"}},
			}}},
		}}}
	}},
	{name: "pod affinity", zones: []string{"zone1"}, before: each(1), pod: func(p *corev1.Pod) {
		p.Labels = map[string]string{"color": "blue"}
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
			term("blue", corev1.LabelTopologyZone),
		}}}
	}},
	{name: "pod anti-affinity", before: func(n int) int { return n / 5 }, count: func(asked, nodes int) int { return min(asked, nodes*4/5-1) }, pod: func(p *corev1.Pod) {
		p.Labels = map[string]string{"color": "green"}
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
			term("green", corev1.LabelHostname),
		}}}
	}},
	{name: "preferred pod affinity", before: each(1), pod: func(p *corev1.Pod) {
		p.Labels = map[string]string{"color": "red"}
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
			{Weight: 1, PodAffinityTerm: term("red", corev1.LabelHostname)},
		}}}
	}},
	{name: "preferred pod anti-affinity", before: each(1), pod: func(p *corev1.Pod) {
		p.Labels = map[string]string{"color": "yellow"}
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
			{Weight: 1, PodAffinityTerm: term("yellow", corev1.LabelHostname)},
		}}}
	}},
	{name: "topology spread", zones: moons, before: each(1), init: func(*corev1.Pod) {}, pod: spread(corev1.DoNotSchedule)},
	{name: "preferred topology spread", zones: moons, before: each(1), init: func(*corev1.Pod) {}, pod: spread(corev1.ScheduleAnyway)},
	{name: "preemption", nodes: 1000, before: each(4), count: func(asked, nodes int) int { return min(asked, nodes) }, init: func(p *corev1.Pod) {
		p.Spec.TerminationGracePeriodSeconds = new(int64)
		asks(p, "900m", "500Mi")
	}, pod: func(p *corev1.Pod) {
		p.Spec.Priority = new(int32(10))
		asks(p, "3", "500Mi")
	}},
	{name: "churn", before: func(int) int { return 0 }, beside: churn},
}

var moons = []string{"moon-1", "moon-2", "moon-3"}

func each(n int) func(int) int { return func(nodes int) int { return n * nodes } }

func term(color, topology string) corev1.PodAffinityTerm {
	return corev1.PodAffinityTerm{
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"color": color}},
		TopologyKey:   topology, Namespaces: []string{measured, early},
	}
}

func spread(action corev1.UnsatisfiableConstraintAction) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Labels = map[string]string{"color": "blue"}
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: action,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"color": "blue"}},
		}}
	}
}

// newPod is the Pod of upstream's pod-default.yaml, with the defaults that an
// API server gives it.
func newPod(namespace, name string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, UID: types.UID(namespace + "/" + name), CreationTimestamp: metav1.Now(), Generation: 1},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{
				Name: "pause", Image: "registry.k8s.io/pause:3.10.2", ImagePullPolicy: corev1.PullIfNotPresent,
				Ports: []corev1.ContainerPort{{ContainerPort: 80, Protocol: corev1.ProtocolTCP}},
			}},
			RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst, SchedulerName: corev1.DefaultSchedulerName,
			TerminationGracePeriodSeconds: new(int64(30)), SecurityContext: &corev1.PodSecurityContext{}, EnableServiceLinks: new(true),
			Priority: new(int32), PreemptionPolicy: new(corev1.PreemptLowerPriority),
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	asks(p, "100m", "500Mi")
	if change != nil {
		change(p)
	}
	return p
}

func asks(p *corev1.Pod, cpu, memory string) {
	list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Limits: list, Requests: list}
}

// newNode is that of upstream's node-default.yaml; takes is how many Pods it
// takes.
func newNode(name, zone, takes string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: metav1.Now(), Labels: map[string]string{corev1.LabelHostname: name}}}
	if zone != "" {
		n.Labels[corev1.LabelTopologyZone] = zone
	}
	n.Status.Capacity = corev1.ResourceList{corev1.ResourcePods: resource.MustParse(takes), corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("32Gi")}
	n.Status.Allocatable = n.Status.Capacity
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	return n
}

// fill makes the cluster that a scenario begins with.
func (c *scenario) fill(s *memory.Store, count int) {
	for _, name := range []string{early, measured} {
		s.Put(corev1.SchemeGroupVersion.WithResource("namespaces"), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelMetadataName: name}}})
	}
	for k := range count {
		zone := ""
		if len(c.zones) > 0 {
			zone = c.zones[k%len(c.zones)]
		}
		s.Put(nodes, newNode(nodeName(k), zone, "110"))
	}
	kind := c.init
	if kind == nil {
		kind = c.pod
	}
	for k := range c.before(count) {
		p := newPod(early, fmt.Sprint("early-", k), kind)
		p.Spec.NodeName, p.Status.Phase = nodeName(k%count), corev1.PodRunning
		s.Put(pods, p)
	}
}

func nodeName(k int) string { return fmt.Sprint("scheduler-perf-", k) }

// asked are the Pods whose placement is measured.
func (c *scenario) asked(count int) (all []runtime.Object) {
	for k := range count {
		all = append(all, newPod(measured, fmt.Sprint("pod-", k), c.pod))
	}
	return all
}

// churn makes a node that takes nothing, a Pod that fits nowhere and a Service
// each second, and removes them with the next.
func churn(ctx context.Context, s *memory.Store) {
	services := corev1.SchemeGroupVersion.WithResource("services")
	for k := 0; ; k++ {
		name := fmt.Sprint("churn-", k)
		s.Put(nodes, newNode(name, "", "0"))
		s.Put(pods, newPod(early, name, func(p *corev1.Pod) {
			p.Spec.Priority = new(int32(10))
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("9"), corev1.ResourceMemory: resource.MustParse("500Mi")}}
		}))
		s.Put(services, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: early}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "foo"}, Ports: []corev1.ServicePort{{Port: 8080}}}})
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return
		}
		s.Remove(nodes, types.NamespacedName{Name: name})
		s.Remove(pods, types.NamespacedName{Namespace: early, Name: name})
		s.Remove(services, types.NamespacedName{Namespace: early, Name: name})
	}
}
