// SPDX-License-Identifier: Apache-2.0

package job

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/pod"
	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/controller/owned"
)

// manage makes or ends the difference between the Pods that run and those that
// should. Either is done in a round, ending first.
func (c *jobs) manage(ctx context.Context, r *round) error {
	job := r.job
	if suspended(job) {
		_, err := c.stop(ctx, r, r.active, true)
		return err
	}
	want := *job.Spec.Parallelism
	switch n := job.Spec.Completions; {
	case n != nil:
		want = max(0, min(want, *n-r.succeeded))
	case r.succeeded > 0:
		want = r.running // those that run may end as they like
	}
	if surplus := r.surplus(int(max(0, r.running-want))); len(surplus) > 0 {
		_, err := c.stop(ctx, r, surplus[:min(len(surplus), owned.Burst)], true)
		return err
	}
	lack := want - r.running
	if onlyFailed(job) {
		lack -= r.departing
	}
	if lack <= 0 {
		return nil
	}
	if !perIndex(job) {
		if left := r.recent.pause(r.now); left > 0 {
			r.later(left)
			return nil
		}
	}
	n := int(min(lack, owned.Burst))
	if !isIndexed(job) {
		return c.start(ctx, r, slices.Repeat([]int{noIndex}, n))
	}
	indexes, left := r.ripe(r.pending(n))
	if left > 0 {
		r.later(left)
		return nil
	}
	return c.start(ctx, r, indexes)
}

// onlyFailed says whether a Pod that is ending is replaced only when it has
// ended (KEP-3939).
func onlyFailed(j *batchv1.Job) bool {
	return ptr.Deref(j.Spec.PodReplacementPolicy, batchv1.TerminatingOrFailed) == batchv1.Failed
}

// start makes a Pod for each index, or without one.
func (c *jobs) start(ctx context.Context, r *round, indexes []int) error {
	var mu sync.Mutex // guards r.running
	return loop.IgnoreTerminating(owned.SlowStart(len(indexes), func(i int) error {
		err := c.Create(ctx, r.job, podOf(r.job, indexes[i], r.held[indexes[i]]))
		if err == nil {
			mu.Lock()
			r.running++
			mu.Unlock()
		}
		return err
	}))
}

// podOf is the next Pod of a Job. before is the one that failed under its
// index, when failures are counted per index.
func podOf(job *batchv1.Job, index int, before *corev1.Pod) *corev1.Pod {
	p := owned.PodFor(job, batchv1.SchemeGroupVersion.WithKind("Job"), &job.Spec.Template)
	if !slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer) {
		p.Finalizers = append(p.Finalizers, batchv1.JobTrackingFinalizer)
	}
	if isIndexed(job) {
		for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
			for i := range list {
				tellIndex(&list[i])
			}
		}
	}
	if index == noIndex {
		return p
	}
	number := strconv.Itoa(index)
	p.Spec.Hostname = job.Name + "-" + number
	p.GenerateName = indexedName(job.Name, number)
	if p.Annotations = maps.Clone(p.Annotations); p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Annotations[batchv1.JobCompletionIndexAnnotation], p.Labels[batchv1.JobCompletionIndexAnnotation] = number, number
	if perIndex(job) {
		countFailure(p, job, before)
	}
	return p
}

// tellIndex gives a container its index in JOB_COMPLETION_INDEX.
func tellIndex(c *corev1.Container) {
	const name = "JOB_COMPLETION_INDEX"
	if slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == name }) {
		return
	}
	path := fmt.Sprintf("metadata.labels['%s']", batchv1.JobCompletionIndexAnnotation)
	c.Env = append(c.Env, corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}})
}

// longestPrefix is as much of a generated name as the API server does not cut.
const longestPrefix = validation.DNS1123LabelMaxLength - 5

// indexedName is what the names of an index begin with. The Job's own name is
// cut so that the index stays.
func indexedName(job, number string) string {
	end := "-" + number + "-"
	return job[:min(len(job), longestPrefix-len(end))] + end
}

// countFailure passes on how often an index has failed (KEP-3850).
func countFailure(p *corev1.Pod, job *batchv1.Job, before *corev1.Pod) {
	var failures, ignored int32
	if before != nil {
		failures, ignored = annotatedCount(before, batchv1.JobIndexFailureCountAnnotation), annotatedCount(before, jobIndexIgnoredFailures)
		if failureAction(job.Spec.PodFailurePolicy, before).counts {
			failures++
		} else {
			ignored++
		}
	}
	p.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(int(failures))
	if ignored > 0 {
		p.Annotations[jobIndexIgnoredFailures] = strconv.Itoa(int(ignored))
	}
}

// stop deletes Pods. They stay until their ends are counted, unless they are
// not to be: of a suspended Job, or too many. all says whether every one is
// ending now.
func (c *jobs) stop(ctx context.Context, r *round, pods []*corev1.Pod, uncounted bool) (all bool, err error) {
	errs := owned.Together(len(pods), func(i int) error {
		p := pods[i]
		if uncounted && owned.Tracked(p) {
			if err := c.release(ctx, r.job, p); err != nil {
				return fmt.Errorf("cannot take the finalizer from Pod %s/%s: %w", p.Namespace, p.Name, err)
			}
		}
		return c.Remove(ctx, r.job, p)
	})
	for i, p := range pods {
		if errs[i] != nil {
			continue
		}
		r.running--
		r.departing++
		if pod.Ready(p) {
			r.ready--
		}
	}
	err = cmp.Or(errs...)
	return err == nil, err
}

// surplus are the Pods to remove, n at least: of an indexed Job also those
// without an index, with one that is out of range, or with one that another
// has.
func (r *round) surplus(n int) []*corev1.Pod {
	left := slices.Clone(r.active)
	slices.SortStableFunc(left, removalOrder)
	if !isIndexed(r.job) {
		return left[:n]
	}
	var out, keep []*corev1.Pod
	last := map[int]*corev1.Pod{} // of each index the one that is missed most
	for _, p := range left {
		last[indexOf(p)] = p
	}
	for _, p := range left {
		if i := indexOf(p); inRange(r.job, i) && last[i] == p {
			keep = append(keep, p)
		} else {
			out = append(out, p)
		}
	}
	return append(out, keep[:max(0, min(n-len(out), len(keep)))]...)
}

// removalOrder puts first what is missed least: not assigned, pending, not
// ready, ready for less long, the restless, then the younger.
func removalOrder(a, b *corev1.Pod) int {
	phase := map[corev1.PodPhase]int{corev1.PodPending: 0, corev1.PodUnknown: 1, corev1.PodRunning: 2}
	return cmp.Or(
		loop.FalseFirst(a.Spec.NodeName != "", b.Spec.NodeName != ""), phase[a.Status.Phase]-phase[b.Status.Phase],
		loop.FalseFirst(pod.Ready(a), pod.Ready(b)), youngest(owned.ReadySince(a), owned.ReadySince(b)),
		cmp.Compare(owned.Restarts(b, false), owned.Restarts(a, false)), cmp.Compare(owned.Restarts(b, true), owned.Restarts(a, true)),
		youngest(a.CreationTimestamp.Time, b.CreationTimestamp.Time))
}

// youngest puts no time first, then the latest.
func youngest(a, b time.Time) int {
	if a.IsZero() != b.IsZero() {
		return loop.FalseFirst(!a.IsZero(), !b.IsZero())
	}
	return b.Compare(a)
}
