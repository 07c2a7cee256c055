// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// nodeInfo is a node and the Pods that take its room.
type nodeInfo struct {
	node *corev1.Node
	pods map[types.UID]*corev1.Pod
	used corev1.ResourceList
}

func newNodeInfo() *nodeInfo {
	return &nodeInfo{pods: map[types.UID]*corev1.Pod{}, used: corev1.ResourceList{}}
}

func (i *nodeInfo) add(p *corev1.Pod) {
	i.remove(p)
	i.pods[p.UID] = p
	for name, q := range requests(p) {
		have := i.used[name]
		have.Add(q)
		i.used[name] = have
	}
}

func (i *nodeInfo) remove(p *corev1.Pod) {
	was := i.pods[p.UID]
	if was == nil {
		return
	}
	delete(i.pods, p.UID)
	for name, q := range requests(was) {
		have := i.used[name]
		have.Sub(q)
		i.used[name] = have
	}
}

func requests(p *corev1.Pod) corev1.ResourceList {
	return resource.PodRequests(p, resource.PodResourcesOptions{})
}

// sameForPods: nothing that decides about Pods differs between two versions of
// a node.
func sameForPods(a, b *corev1.Node) bool {
	return equality.Semantic.DeepEqual(a.Spec, b.Spec) && equality.Semantic.DeepEqual(a.Labels, b.Labels) && equality.Semantic.DeepEqual(a.Status.Allocatable, b.Status.Allocatable)
}

// rule says why a node does not fit a Pod; none is that it does.
type rule func(p *corev1.Pod, i *nodeInfo) []reason

// reason is why a node does not fit, in kube-scheduler's words. A final one
// stays when all Pods of the node were gone.
type reason struct {
	text  string
	final bool
}

func final(text string) []reason { return []reason{{text, true}} }

// rules in the order they are asked; the first that refuses speaks.
func rules() []rule {
	return []rule{unschedulable, nodeName, taints, affinity, hostPorts, resources}
}

// pick is the best of the nodes that fit, or an error in kube-scheduler's words.
func pick(p *corev1.Pod, nodes map[string]*nodeInfo) (string, error) {
	reasons, total, helpless := map[string]int{}, 0, 0
	best, bestScore := "", int64(-1)
	for name, i := range nodes {
		if i.node == nil {
			continue
		}
		total++
		why := refusal(p, i)
		if len(why) > 0 {
			for _, r := range why {
				reasons[r.text]++
			}
			if slices.ContainsFunc(why, func(r reason) bool { return r.final }) {
				helpless++
			}
			continue
		}
		if s := score(p, i); s > bestScore || s == bestScore && name < best {
			best, bestScore = name, s
		}
	}
	if best != "" {
		return best, nil
	}
	return "", errors.New(explain(total, helpless, reasons))
}

func refusal(p *corev1.Pod, i *nodeInfo) []reason {
	for _, r := range rules() {
		if why := r(p, i); len(why) > 0 {
			return why
		}
	}
	return nil
}

// explain counts the reasons as `kubectl describe` shows them. Of the nodes,
// helpless would not fit the Pod if they were empty; on the others there is
// nobody to make room, as nothing is preempted.
func explain(total, helpless int, reasons map[string]int) string {
	if total == 0 {
		return "no nodes available to schedule pods"
	}
	preemption := map[string]int{}
	if helpless > 0 {
		preemption["Preemption is not helpful for scheduling"] = helpless
	}
	if n := total - helpless; n > 0 {
		preemption["No preemption victims found for incoming pod"] = n
	}
	available := fmt.Sprintf("0/%d nodes are available: ", total)
	return available + histogram(reasons) + ". preemption: " + available + histogram(preemption) + "."
}

// histogram lists what was said how often, sorted as text.
func histogram(counts map[string]int) string {
	var list []string
	for text, n := range counts {
		list = append(list, fmt.Sprintf("%d %s", n, text))
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

const (
	tooManyPods = "Too many pods"
	portsTaken  = "node(s) didn't have free ports for the requested pod ports"
)

func unschedulable(p *corev1.Pod, i *nodeInfo) []reason {
	if !i.node.Spec.Unschedulable {
		return nil
	}
	t := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	for _, x := range p.Spec.Tolerations {
		if tolerates(x, t) {
			return nil
		}
	}
	return final("node(s) were unschedulable")
}

func nodeName(p *corev1.Pod, i *nodeInfo) []reason {
	if p.Spec.NodeName != "" && p.Spec.NodeName != i.node.Name {
		return final("node(s) didn't match the requested node name")
	}
	return nil
}

// tolerates follows the API's rule (core/v1 Toleration).
func tolerates(x corev1.Toleration, t corev1.Taint) bool {
	if x.Effect != "" && x.Effect != t.Effect || x.Key != "" && x.Key != t.Key {
		return false
	}
	return x.Operator == corev1.TolerationOpExists || (x.Operator == corev1.TolerationOpEqual || x.Operator == "") && x.Value == t.Value && x.Key != ""
}

func taints(p *corev1.Pod, i *nodeInfo) []reason {
	for _, t := range i.node.Spec.Taints {
		if t.Effect != corev1.TaintEffectNoSchedule && t.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		if !slices.ContainsFunc(p.Spec.Tolerations, func(x corev1.Toleration) bool { return tolerates(x, t) }) {
			return final("node(s) had untolerated taint(s)")
		}
	}
	return nil
}

func affinity(p *corev1.Pod, i *nodeInfo) []reason {
	ok, err := nodeaffinity.GetRequiredNodeAffinity(p).Match(i.node)
	if err != nil || !ok {
		return final("node(s) didn't match Pod's node affinity/selector")
	}
	return nil
}

func hostPorts(p *corev1.Pod, i *nodeInfo) []reason {
	for _, want := range portsOf(p) {
		for _, other := range i.pods {
			if slices.ContainsFunc(portsOf(other), want.clashes) {
				return []reason{{text: portsTaken}}
			}
		}
	}
	return nil
}

type hostPort struct {
	ip, protocol string
	port         int32
}

// clashes: the same port of the same address, where no address is all of them.
func (a hostPort) clashes(b hostPort) bool {
	return a.port == b.port && a.protocol == b.protocol && (a.ip == b.ip || a.ip == "0.0.0.0" || b.ip == "0.0.0.0")
}

func portsOf(p *corev1.Pod) (out []hostPort) {
	for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for _, c := range list {
			for _, port := range c.Ports {
				if port.HostPort > 0 {
					h := hostPort{port.HostIP, string(port.Protocol), port.HostPort}
					if h.ip == "" {
						h.ip = "0.0.0.0"
					}
					out = append(out, h)
				}
			}
		}
	}
	return out
}

// resources: what a node could not give if it were empty is final.
func resources(p *corev1.Pod, i *nodeInfo) (why []reason) {
	room := i.node.Status.Allocatable
	if n, ok := room[corev1.ResourcePods]; ok && int64(len(i.pods))+1 > n.Value() {
		why = append(why, reason{text: tooManyPods})
	}
	for name, want := range requests(p) {
		if want.IsZero() {
			continue
		}
		all := room[name]
		free := all.DeepCopy()
		free.Sub(i.used[name])
		if free.Cmp(want) < 0 {
			why = append(why, reason{"Insufficient " + string(name), all.Cmp(want) < 0})
		}
	}
	return why
}

// score prefers the node with the most room left, as kube-scheduler's
// LeastAllocated, from 0 to 100.
func score(p *corev1.Pod, i *nodeInfo) int64 {
	sum, want := int64(0), requests(p)
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		room := i.node.Status.Allocatable[name]
		if room.IsZero() {
			continue
		}
		taken := i.used[name]
		taken.Add(want[name])
		sum += (room.MilliValue() - taken.MilliValue()) * 100 / room.MilliValue()
	}
	return max(sum/2, 0)
}
