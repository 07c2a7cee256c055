// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/api/pod"
	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/controller/owned"
)

const (
	// daemonBurst bounds how many Pods of one DaemonSet are made or deleted at once.
	daemonBurst = 250
	// generationLabel is the template's generation on Pods, which kubectl and
	// Pods from before there were hashes go by.
	generationLabel = "pod-template-generation"
)

// daemons are the Pods of one DaemonSet as they are, and what is to be done
// with them.
type daemons struct {
	daemonSets
	set   *appsv1.DaemonSet
	now   time.Time
	nodes []corev1.Node
	// pods are those that count, by the node they are on or are meant for.
	pods map[string][]*corev1.Pod
	all  []*corev1.Pod

	tolerations []corev1.Toleration
	affinity    nodeaffinity.RequiredNodeAffinity
	hash        string // of the current revision
	old         []*appsv1.ControllerRevision
	after       time.Duration // when to look again whatever happens; 0 is never
}

func newDaemons(r daemonSets, set *appsv1.DaemonSet, nodes []corev1.Node, pods []*corev1.Pod, now time.Time) *daemons {
	s := &set.Spec.Template.Spec
	return &daemons{
		daemonSets: r, set: set, now: now, nodes: nodes, all: pods,
		tolerations: daemonTolerations(s), affinity: nodeaffinity.NewRequiredNodeAffinity(s.NodeSelector, s.Affinity),
	}
}

// spread tells the Pods apart by their nodes.
func (d *daemons) spread() {
	d.pods = map[string][]*corev1.Pod{}
	for _, p := range d.all {
		if name := meantFor(p); name != "" && !(pod.Terminal(p) && ending(p)) {
			d.pods[name] = append(d.pods[name], p)
		}
	}
	for _, list := range d.pods {
		slices.SortFunc(list, placedFirst)
	}
}

// placedFirst orders Pods: those on a node first, then the oldest.
func placedFirst(a, b *corev1.Pod) int {
	if placed := a.Spec.NodeName != ""; placed != (b.Spec.NodeName != "") {
		if placed {
			return -1
		}
		return 1
	}
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
}

// meantFor is the node that a Pod is on, or may only be on. It is empty for
// one that says nothing about it.
func meantFor(p *corev1.Pod) string {
	if p.Spec.NodeName != "" {
		return p.Spec.NodeName
	}
	a := p.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, t := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, f := range t.MatchFields {
			if f.Key == metav1.ObjectNameField && f.Operator == corev1.NodeSelectorOpIn {
				if len(f.Values) != 1 {
					return ""
				}
				return f.Values[0]
			}
		}
	}
	return ""
}

// daemonTolerations are those of the template and those that let a daemon stay
// on a node in trouble and come to one that is not to be used otherwise.
func daemonTolerations(s *corev1.PodSpec) []corev1.Toleration {
	more := []corev1.Taint{
		{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute},
		{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute},
		{Key: corev1.TaintNodeDiskPressure, Effect: corev1.TaintEffectNoSchedule},
		{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule},
		{Key: corev1.TaintNodePIDPressure, Effect: corev1.TaintEffectNoSchedule},
		{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule},
	}
	if s.HostNetwork {
		more = append(more, corev1.Taint{Key: corev1.TaintNodeNetworkUnavailable, Effect: corev1.TaintEffectNoSchedule})
	}
	out := slices.Clone(s.Tolerations)
	for _, m := range more {
		t := corev1.Toleration{Key: m.Key, Operator: corev1.TolerationOpExists, Effect: m.Effect}
		found := false
		for i := range out {
			if t.MatchToleration(&out[i]) { // it may have been for some seconds only
				out[i], found = t, true
			}
		}
		if !found {
			out = append(out, t)
		}
	}
	return out
}

// fits says whether a Pod should come to a node, and whether one that is there
// may stay.
func (d *daemons) fits(n *corev1.Node) (run, stay bool) {
	if name := d.set.Spec.Template.Spec.NodeName; name != "" && name != n.Name {
		return false, false
	}
	if ok, _ := d.affinity.Match(n); !ok { // a term that cannot be read matches nothing
		return false, false
	}
	return !d.repelled(n, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute), !d.repelled(n, corev1.TaintEffectNoExecute)
}

// repelled: comparisons of numbers (KEP-5471) are alpha, and off.
func (d *daemons) repelled(n *corev1.Node, effects ...corev1.TaintEffect) bool {
	_, found := schedulinghelper.FindMatchingUntoleratedTaint(logr.Discard(), n.Spec.Taints, d.tolerations,
		func(t *corev1.Taint) bool { return slices.Contains(effects, t.Effect) }, false)
	return found
}

// updated says whether a Pod is of the current template.
func (d *daemons) updated(p *corev1.Pod) bool {
	if n, err := defaults.TemplateGeneration(d.set); err == nil && p.Labels[generationLabel] == strconv.FormatInt(n, 10) {
		return true
	}
	return p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == d.hash
}

func (d *daemons) available(p *corev1.Pod) bool {
	return owned.LongReady(p, d.set.Spec.MinReadySeconds, d.now)
}

// lookAgain asks to be called after a while, if it is not to be before.
func (d *daemons) lookAgain(after time.Duration) {
	if after > 0 && (d.after == 0 || after < d.after) {
		d.after = after
	}
}

// status sums up the nodes; each counts with its first Pod.
func (d *daemons) status() appsv1.DaemonSetStatus {
	s := appsv1.DaemonSetStatus{
		ObservedGeneration: d.set.Status.ObservedGeneration, CollisionCount: d.set.Status.CollisionCount, Conditions: d.set.Status.Conditions,
	}
	for i := range d.nodes {
		run, _ := d.fits(&d.nodes[i])
		pods := d.pods[d.nodes[i].Name]
		switch {
		case !run && len(pods) > 0:
			s.NumberMisscheduled++
		case run:
			s.DesiredNumberScheduled++
		}
		if !run || len(pods) == 0 {
			continue
		}
		s.CurrentNumberScheduled++
		if pod.Ready(pods[0]) {
			s.NumberReady++
			if d.available(pods[0]) {
				s.NumberAvailable++
			}
		}
		if d.updated(pods[0]) {
			s.UpdatedNumberScheduled++
		}
	}
	s.NumberUnavailable = s.DesiredNumberScheduled - s.NumberAvailable
	return s
}

// daemonDeeds are Pods to be made on nodes, and Pods to be deleted.
type daemonDeeds struct {
	on   []string
	gone []*corev1.Pod
}

// update brings Pods to the nodes that lack one and takes away those that are
// too much. Only when each node has what it should, old ones are replaced.
func (d *daemons) update(ctx context.Context) error {
	todo := d.place()
	if len(todo.on)+len(todo.gone) == 0 && d.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		todo = d.roll()
	}
	if err := d.do(ctx, todo); err != nil {
		return err
	}
	return d.forget(ctx)
}

// place finds what is to be done that each node has its Pod.
func (d *daemons) place() (todo daemonDeeds) {
	known := map[string]bool{}
	for i := range d.nodes {
		n := &d.nodes[i]
		known[n.Name] = true
		run, stay := d.fits(n)
		pods, has := d.pods[n.Name]
		switch {
		case run && !has:
			todo.on = append(todo.on, n.Name)
		case stay:
			d.settle(n.Name, pods, run, &todo)
		default:
			todo.gone = append(todo.gone, living(pods)...)
		}
	}
	for name, pods := range d.pods {
		// Those that wait for a node that is gone; those that were on it are the
		// Pod garbage collector's.
		for _, p := range pods {
			if !known[name] && p.Spec.NodeName == "" {
				todo.gone = append(todo.gone, p)
			}
		}
	}
	return todo
}

func living(pods []*corev1.Pod) (out []*corev1.Pod) {
	for _, p := range pods {
		if !ending(p) {
			out = append(out, p)
		}
	}
	return out
}

// settle leaves one Pod on a node, or an old and a new one while the new one is
// not available yet. Pods that are over are deleted; one that failed not at once.
func (d *daemons) settle(node string, pods []*corev1.Pod, run bool, todo *daemonDeeds) {
	var running []*corev1.Pod
	for _, p := range living(pods) {
		switch p.Status.Phase {
		case corev1.PodFailed:
			if d.mayReplace(node, p) {
				todo.gone = append(todo.gone, p)
			}
		case corev1.PodSucceeded:
			d.Events.Eventf(d.set, corev1.EventTypeNormal, "SucceededDaemonPod", "Found succeeded daemon pod %s/%s on node %s, will try to delete it", p.Namespace, p.Name, node)
			todo.gone = append(todo.gone, p)
		default:
			running = append(running, p)
		}
	}
	switch surges := d.maxSurge(1) > 0; {
	case surges && len(running) == 0 && run:
		todo.on = append(todo.on, node)
	case len(running) <= 1:
	case !surges:
		todo.gone = append(todo.gone, running[1:]...)
	default:
		todo.gone = append(todo.gone, d.superseded(running)...)
	}
}

// mayReplace says whether a failed Pod has been left for long enough.
func (d *daemons) mayReplace(node string, p *corev1.Pod) bool {
	key := fmt.Sprintf("%s/%d/%s", d.set.UID, d.set.Status.ObservedGeneration, node)
	if d.failed.IsInBackOffSinceUpdate(key, d.now) {
		d.lookAgain(d.failed.Get(key))
		return false
	}
	d.failed.GC()
	d.failed.Next(key, d.now)
	d.Events.Eventf(d.set, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s/%s on node %s, will try to kill it", p.Namespace, p.Name, node)
	return true
}

// superseded are all but the first new and the first old Pod of a node, and
// the old one as soon as the new one can stand in for it.
func (d *daemons) superseded(running []*corev1.Pod) (gone []*corev1.Pod) {
	var fresh, old *corev1.Pod
	for _, p := range running {
		first := &old
		if p.Labels[appsv1.ControllerRevisionHashLabelKey] == d.hash {
			first = &fresh
		}
		if *first == nil {
			*first = p
		} else {
			gone = append(gone, p)
		}
	}
	if fresh != nil && old != nil && (!pod.Ready(old) || d.available(fresh)) {
		gone = append(gone, old)
	}
	return gone
}

// do makes and deletes Pods.
func (d *daemons) do(ctx context.Context, todo daemonDeeds) error {
	on, gone := todo.on[:min(len(todo.on), daemonBurst)], todo.gone[:min(len(todo.gone), daemonBurst)]
	err := loop.IgnoreTerminating(owned.SlowStart(len(on), func(i int) error { return d.Create(ctx, d.set, owned.PodFor(d.set, d.Gvk, d.templateFor(on[i]))) }))
	errs := owned.Together(len(gone), func(i int) error { return d.Remove(ctx, d.set, gone[i]) })
	return cmp.Or(append([]error{err}, errs...)...) // the others have been told in events, and are likely the same
}

// templateFor is the template with what binds a Pod to a node and tells what
// it was made from.
func (d *daemons) templateFor(node string) *corev1.PodTemplateSpec {
	t := d.set.Spec.Template.DeepCopy()
	t.Spec.Tolerations = daemonTolerations(&t.Spec)
	if t.Labels == nil {
		t.Labels = map[string]string{}
	}
	if n, err := defaults.TemplateGeneration(d.set); err == nil {
		t.Labels[generationLabel] = strconv.FormatInt(n, 10)
	}
	t.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = d.hash
	if t.Spec.Affinity == nil {
		t.Spec.Affinity = &corev1.Affinity{}
	}
	a := t.Spec.Affinity
	if a.NodeAffinity == nil {
		a.NodeAffinity = &corev1.NodeAffinity{}
	}
	// What the template requires of a node was asked before.
	a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchFields: []corev1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
	}}}
	return t
}
