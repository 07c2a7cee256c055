// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

func (d *daemons) rolling() *appsv1.RollingUpdateDaemonSet {
	if u := &d.set.Spec.UpdateStrategy; u.Type == appsv1.RollingUpdateDaemonSetStrategyType && u.RollingUpdate != nil {
		return u.RollingUpdate
	}
	return &appsv1.RollingUpdateDaemonSet{}
}

// maxSurge is how many of n nodes may have two Pods.
func (d *daemons) maxSurge(n int) int { return int(scaled(d.rolling().MaxSurge, int32(n), true)) }

// roll finds what is to be done next that old Pods are replaced.
func (d *daemons) roll() daemonDeeds {
	runs := map[string]bool{}
	for i := range d.nodes {
		if run, _ := d.fits(&d.nodes[i]); run {
			runs[d.nodes[i].Name] = true
		}
	}
	surge, missing := d.maxSurge(len(runs)), int(scaled(d.rolling().MaxUnavailable, int32(len(runs)), true))
	if surge > 0 {
		return d.surge(runs, surge)
	}
	return d.replace(runs, max(missing, 1))
}

// turn is the new and the old Pod of a node. There is no saying for one that
// has more than one of either.
func (d *daemons) turn(node string) (fresh, old *corev1.Pod, ok bool) {
	for _, p := range living(d.pods[node]) {
		its := &old
		if d.updated(p) {
			its = &fresh
		}
		if *its != nil {
			return nil, nil, false
		}
		*its = p
	}
	return fresh, old, true
}

// concerned are all nodes that have Pods or should, in order.
func (d *daemons) concerned(runs map[string]bool) []string {
	all := maps.Clone(runs)
	for name := range d.pods {
		all[name] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// replace deletes old Pods: those that are not available cost nothing, and of
// the others as many as may be missing. New ones come when they are gone.
func (d *daemons) replace(runs map[string]bool, most int) (todo daemonDeeds) {
	missing := 0
	var candidates []*corev1.Pod
	for _, node := range d.concerned(runs) {
		fresh, old, ok := d.turn(node)
		switch {
		case !ok, (fresh == nil) == (old == nil):
			missing++ // the next look makes or deletes one there
		case fresh != nil:
			if !d.available(fresh) {
				missing++
			}
		case !d.available(old):
			todo.gone = append(todo.gone, old)
			missing++
		default:
			candidates = append(candidates, old)
		}
	}
	todo.gone = append(todo.gone, candidates[:min(len(candidates), max(0, most-missing))]...)
	return todo
}

// surge makes new Pods beside old ones: where the old one is not available, and
// on as many other nodes as may have two. An old one goes when the new one is
// available; where none is to be any more, when there are enough elsewhere.
func (d *daemons) surge(runs map[string]bool, most int) (todo daemonDeeds) {
	twice, available := 0, 0
	var candidates []string
	var leaving []*corev1.Pod
	for _, node := range d.concerned(runs) {
		fresh, old, ok := d.turn(node)
		if !ok {
			twice++ // the next look deletes some there
			continue
		}
		if first := old; first != nil && d.available(first) || first == nil && fresh != nil && d.available(fresh) {
			available++
		}
		switch {
		case old == nil:
		case fresh != nil && d.available(fresh):
			todo.gone = append(todo.gone, old)
		case fresh != nil:
			twice++
		case !runs[node] && !d.available(old):
			todo.gone = append(todo.gone, old)
		case !runs[node]:
			leaving = append(leaving, old)
		case !d.available(old):
			todo.on = append(todo.on, node)
		default:
			candidates = append(candidates, node)
		}
	}
	todo.gone = append(todo.gone, leaving[:min(len(leaving), max(0, available-len(runs)))]...)
	todo.on = append(todo.on, candidates[:min(len(candidates), max(0, most-twice))]...)
	return todo
}
