// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/peapod/peapod/api/pod"
)

// amounts are resources in the units kube-scheduler counts in: thousandths of
// CPU, and whole bytes or pieces of everything else.
type amounts map[corev1.ResourceName]int64

func amountsOf(list corev1.ResourceList) amounts {
	a := make(amounts, len(list))
	for name, q := range list {
		if name == corev1.ResourceCPU {
			a[name] = q.MilliValue()
		} else {
			a[name] = q.Value()
		}
	}
	return a
}

// add counts b in, sign times.
func (a amounts) add(b amounts, sign int64) {
	for name, n := range b {
		a[name] += sign * n
	}
}

// What a container that requests nothing counts as when nodes are compared, so
// that such Pods spread too; kube-scheduler's figures.
const (
	usualMilliCPU = 100
	usualMemory   = 200 << 20
)

// load is what a Pod takes from its node.
type load struct {
	pod    *corev1.Pod
	wants  amounts
	scored amounts // of CPU and memory, with the usual amounts where nothing is requested
	ports  []pod.HostPort
	relations
	claims []string
}

// newLoad counts what the Pod's containers are said to have beside what they
// ask for: while one is resized the larger amount is taken (KEP-1287).
func newLoad(p *corev1.Pod) *load {
	o := resourcehelper.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true}
	requests := resourcehelper.PodRequests(p, o)
	o.NonMissingContainerRequests = corev1.ResourceList{}
	for name, q := range map[corev1.ResourceName]*resource.Quantity{
		corev1.ResourceCPU:    resource.NewMilliQuantity(usualMilliCPU, resource.DecimalSI),
		corev1.ResourceMemory: resource.NewQuantity(usualMemory, resource.BinarySI),
	} {
		// With requests of the Pod itself only what those leave open is filled in.
		if _, asked := requests[name]; !asked || !resourcehelper.IsPodLevelRequestsSet(p) {
			o.NonMissingContainerRequests[name] = *q
		}
	}
	scored := amountsOf(resourcehelper.PodRequests(p, o))
	return &load{
		pod: p, wants: amountsOf(requests), ports: pod.HostPorts(p), relations: newRelations(p), claims: claimsOf(p),
		scored: amounts{corev1.ResourceCPU: scored[corev1.ResourceCPU], corev1.ResourceMemory: scored[corev1.ResourceMemory]},
	}
}

// nodeInfo is a node and the Pods that take its room. A Pod may be known before
// its node, and a node that comes back under its name has the load of its Pods.
type nodeInfo struct {
	node   *corev1.Node // nil: not known, or gone
	room   amounts      // what is allocatable
	pods   map[types.UID]*load
	used   amounts
	scored amounts
	ports  map[pod.HostPort]int
	// promised are Pods that wait until others have left this node for them.
	promised map[types.UID]*load
	// moved is told who comes, and with a sign of -1 who goes; nil: nobody asks.
	moved func(i *nodeInfo, l *load, sign int)
}

func newNodeInfo(n *corev1.Node) *nodeInfo {
	i := &nodeInfo{pods: map[types.UID]*load{}, used: amounts{}, scored: amounts{}, ports: map[pod.HostPort]int{}, promised: map[types.UID]*load{}}
	i.set(n)
	return i
}

func (i *nodeInfo) set(n *corev1.Node) {
	i.node, i.room = n, nil
	if n != nil {
		i.room = amountsOf(n.Status.Allocatable)
	}
}

// add counts a Pod, in the place of an older version of it.
func (i *nodeInfo) add(l *load) {
	i.remove(l.pod.UID)
	i.pods[l.pod.UID] = l
	i.count(l, 1)
}

// remove gives back what a Pod took; nil if it took nothing.
func (i *nodeInfo) remove(uid types.UID) *load {
	l := i.pods[uid]
	if l != nil {
		delete(i.pods, uid)
		i.count(l, -1)
	}
	return l
}

func (i *nodeInfo) count(l *load, sign int64) {
	if i.moved != nil {
		i.moved(i, l, int(sign))
	}
	i.used.add(l.wants, sign)
	i.scored.add(l.scored, sign)
	for _, p := range l.ports {
		i.ports[p] += int(sign)
		if i.ports[p] == 0 {
			delete(i.ports, p)
		}
	}
}

// copy can be changed without changing the node, but for whom it is promised to.
func (i *nodeInfo) copy() *nodeInfo {
	return &nodeInfo{
		node: i.node, room: i.room, pods: maps.Clone(i.pods), used: maps.Clone(i.used), scored: maps.Clone(i.scored), ports: maps.Clone(i.ports), promised: i.promised,
	}
}

// sameForPods: nothing that decides about Pods differs between two versions of
// a node. Most changes are heartbeats.
func sameForPods(a, b *corev1.Node) bool {
	return equality.Semantic.DeepEqual(a.Spec, b.Spec) && equality.Semantic.DeepEqual(a.Labels, b.Labels) &&
		equality.Semantic.DeepEqual(a.Status.Allocatable, b.Status.Allocatable)
}
