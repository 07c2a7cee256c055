// SPDX-License-Identifier: Apache-2.0

package job

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/controller/owned"
)

// mostUncounted bounds how many Pods the status names at a time.
const mostUncounted = 500

// podFailed says whether a Pod counts as failed: one that is ending does,
// unless only ended ones are replaced.
func podFailed(p *corev1.Pod, j *batchv1.Job) bool {
	return p.Status.Phase == corev1.PodFailed || !onlyFailed(j) && p.DeletionTimestamp != nil && p.Status.Phase != corev1.PodSucceeded
}

// track counts the ends of Pods: names them in the status, takes their
// finalizers, counts. The last status says that the Job is over. was is the
// status as it is stored.
func (c *jobs) track(ctx context.Context, r *round, was *batchv1.JobStatus) error {
	job := r.job
	held := map[types.UID]bool{}
	for _, p := range r.pods {
		if owned.Tracked(p) {
			held[p.UID] = true
		}
	}
	settle(&job.Status, held)
	counted, full := r.name()
	r.announce()
	if !equality.Semantic.DeepEqual(was, &job.Status) {
		if err := c.write(ctx, job); err != nil {
			return loop.IgnoreStale(err) // nothing was counted
		}
		c.failures.keep(job, r.recent)
		was = job.Status.DeepCopy()
	}
	releaseErr := c.releaseAll(ctx, job, counted, held)
	settle(&job.Status, held)
	over := releaseErr == nil && !full && r.finish()
	if !equality.Semantic.DeepEqual(was, &job.Status) {
		if err := c.write(ctx, job); err != nil {
			return cmp.Or(releaseErr, loop.IgnoreStale(err))
		}
	}
	if over {
		c.tellEnd(job, r.end)
	}
	return releaseErr
}

// write stores the status, and awaits that the cache shows it.
func (c *jobs) write(ctx context.Context, job *batchv1.Job) error {
	if err := c.Client.Status().Update(ctx, job); err != nil {
		return fmt.Errorf("cannot write the status of Job %s/%s: %w", job.Namespace, job.Name, err)
	}
	c.Expected.WroteItself(job)
	return nil
}

// settle counts the named Pods that have no finalizer any more.
func settle(st *batchv1.JobStatus, held map[types.UID]bool) {
	for _, l := range []struct {
		named *[]types.UID
		count *int32
	}{{&st.UncountedTerminatedPods.Succeeded, &st.Succeeded}, {&st.UncountedTerminatedPods.Failed, &st.Failed}} {
		n := len(*l.named)
		*l.named = slices.DeleteFunc(*l.named, func(uid types.UID) bool { return !held[uid] })
		*l.count += int32(n - len(*l.named))
	}
}

// name writes into the status which Pods have ended. Those of an indexed Job
// that succeeded are told by their index. full says that there are more.
func (r *round) name() (counted []*corev1.Pod, full bool) {
	job, u := r.job, r.job.Status.UncountedTerminatedPods
	wasDone := r.alreadyCompleted()
	fresh := 0
	slices.SortStableFunc(r.pods, func(a, b *corev1.Pod) int { return indexOf(a) - indexOf(b) })
	for _, p := range r.pods {
		failed := podFailed(p, job)
		if !owned.Tracked(p) || !r.releasable(p, failed) {
			continue
		}
		counted = append(counted, p)
		valid := !isIndexed(job) || inRange(job, indexOf(p))
		switch {
		case p.Status.Phase == corev1.PodSucceeded && !slices.Contains(u.Failed, p.UID):
			if isIndexed(job) && valid && !wasDone.has(indexOf(p)) {
				fresh++
			} else if !isIndexed(job) && !r.before[p.UID] {
				u.Succeeded = append(u.Succeeded, p.UID)
			}
		case !failed && (r.end == nil || r.end.Type == batchv1.JobSuccessCriteriaMet): // no end of its own
		case valid && !r.before[p.UID] && failureAction(job.Spec.PodFailurePolicy, p).counts:
			u.Failed = append(u.Failed, p.UID)
		}
		if fresh+len(u.Succeeded)+len(u.Failed) >= mostUncounted {
			full = true
			break
		}
	}
	if isIndexed(job) {
		job.Status.Succeeded, job.Status.CompletedIndexes = int32(r.completed.total()), r.completed.String()
		job.Status.FailedIndexes = nil
		if perIndex(job) {
			job.Status.FailedIndexes = ptr.To(r.broken.String())
		}
	}
	return counted, full
}

// releasable says whether the end of a Pod can be counted: it has ended for
// good, or all of the Job ends.
func (r *round) releasable(p *corev1.Pod, failed bool) bool {
	if r.job.DeletionTimestamp != nil || r.end != nil || p.Status.Phase == corev1.PodSucceeded {
		return true
	}
	return failed && r.held[indexOf(p)] != p
}

// announce writes the condition that comes before the last one into the
// status, and makes the last one of it (KEP-3998).
func (r *round) announce() {
	if r.end == nil {
		return
	}
	switch end := r.end; end.Type {
	case batchv1.JobFailureTarget:
		setJobCondition(r.job, end)
		r.end = newCondition(batchv1.JobFailed, end.Reason, end.Message, r.now)
	case batchv1.JobSuccessCriteriaMet:
		if !isTrue(r.job, batchv1.JobSuccessCriteriaMet) {
			setJobCondition(r.job, end)
		}
		r.end = newCondition(batchv1.JobComplete, end.Reason, end.Message, r.now)
	}
}

// finish ends the Job when all ends are counted and no Pod is left.
func (r *round) finish() bool {
	u := r.job.Status.UncountedTerminatedPods
	if r.end == nil || len(u.Succeeded)+len(u.Failed) > 0 || r.departing > 0 {
		return false
	}
	setJobCondition(r.job, r.end)
	if r.end.Type == batchv1.JobComplete {
		r.job.Status.CompletionTime = r.end.LastTransitionTime.DeepCopy()
	}
	return true
}

func (c *jobs) tellEnd(job *batchv1.Job, end *batchv1.JobCondition) {
	if end.Type != batchv1.JobComplete {
		c.Events.Event(job, corev1.EventTypeWarning, end.Reason, end.Message)
		return
	}
	if n := job.Spec.Completions; n != nil && job.Status.Succeeded > *n {
		c.Events.Event(job, corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached")
	}
	c.Events.Event(job, corev1.EventTypeNormal, "Completed", "Job completed")
}

// releaseAll takes the finalizers of Pods, and those that have lost it out of
// held.
func (c *jobs) releaseAll(ctx context.Context, job *batchv1.Job, pods []*corev1.Pod, held map[types.UID]bool) error {
	errs := owned.Together(len(pods), func(i int) error { return c.release(ctx, job, pods[i]) })
	for i, p := range pods {
		if errs[i] == nil {
			delete(held, p.UID)
		}
	}
	if err := cmp.Or(errs...); err != nil {
		return fmt.Errorf("cannot take finalizers from Pods of Job %s/%s: %w", job.Namespace, job.Name, err)
	}
	return nil
}

// release takes the finalizer of a Pod, and awaits that the cache shows it.
func (c *jobs) release(ctx context.Context, job *batchv1.Job, p *corev1.Pod) error {
	c.Expected.Released(job, p)
	if err := takeFinalizer(ctx, c.Client, p); err != nil {
		c.Expected.Unreleased(job, p)
		return err
	}
	return nil
}

// takeFinalizer lets a Pod go; one that is gone, or another under its name,
// needs nothing.
func takeFinalizer(ctx context.Context, to client.Client, p *corev1.Pod) error {
	patch := fmt.Sprintf(`{"metadata":{"uid":%q,"$deleteFromPrimitiveList/finalizers":[%q]}}`, p.UID, batchv1.JobTrackingFinalizer)
	err := to.Patch(ctx, p.DeepCopy(), client.RawPatch(types.StrategicMergePatchType, []byte(patch)))
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
