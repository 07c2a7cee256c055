// SPDX-License-Identifier: Apache-2.0

package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/api/pod"
	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/controller/owned"
)

// jobs runs Pods until enough of them have succeeded (job controller of
// kube-controller-manager). A Pod of a Job has a finalizer until its end is
// counted (KEP-2307): the status first names the Pod as not counted yet, then
// the finalizer goes, then the count grows and the name goes. So no crash in
// between loses or doubles an end.
type jobs struct {
	*owned.Replicas
	failures failures
}

// addJob keeps Jobs true.
func addJob(m manager.Manager, _ loop.Config) error {
	r, err := owned.NewReplicas(m, "job-controller", batchv1.SchemeGroupVersion.WithKind("Job"))
	if err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(m).Named("job").For(&batchv1.Job{}).
		Watches(&corev1.Pod{}, owned.OfOwned(r.Owning, &batchv1.JobList{}, func(j *batchv1.Job, p client.Object) bool {
			return owned.Selects(j.Spec.Selector, p)
		})).
		Complete(&jobs{Replicas: r})
}

// round is one look at a Job: what there is, and what becomes of it.
type round struct {
	job    *batchv1.Job // a copy, whose status is written at the end
	now    time.Time
	pods   []*corev1.Pod // of the Job, not copied
	active []*corev1.Pod
	// before are the ends that the status has named and not counted yet.
	before map[types.UID]bool
	// succeeded and failed are what the counts will be.
	succeeded, failed int32
	// completed and broken are the indexes that are done or given up.
	completed, broken intervals
	// held are failed Pods that stay until the next one of their index has
	// their count of failures.
	held map[int]*corev1.Pod
	// end is the condition that ends the Job.
	end                       *batchv1.JobCondition
	recent                    streak
	running, ready, departing int32
	after                     time.Duration
}

// later makes the round come again after d at the latest.
func (r *round) later(d time.Duration) {
	if r.after == 0 || d < r.after {
		r.after = max(d, time.Millisecond)
	}
}

// Reconcile makes a Job true.
func (c *jobs) Reconcile(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
	job := &batchv1.Job{}
	if err := c.Get(ctx, q, job); err != nil {
		c.failures.forget(q.NamespacedName)
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if managedElsewhere(job) {
		return reconcile.Result{}, nil
	}
	if finished(job) {
		c.failures.forget(q.NamespacedName)
		c.Expected.Forget(q.NamespacedName)
		return reconcile.Result{}, nil
	}
	all, settled, err := c.Known(ctx, job)
	if err != nil {
		return reconcile.Result{}, err
	}
	if !settled {
		return reconcile.Result{RequeueAfter: loop.Unseen}, nil
	}
	mine, changed, err := c.claimForJob(ctx, job, all)
	if err != nil {
		return reconcile.Result{}, err
	}
	if changed {
		return reconcile.Result{RequeueAfter: loop.Unseen}, nil // the changes come back as events
	}
	r := &round{job: job, now: time.Now(), pods: mine}
	if err := c.sync(ctx, r); err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: r.after}, nil
}

// managedElsewhere: the Job says who runs it (KEP-4368).
func managedElsewhere(j *batchv1.Job) bool {
	return ptr.Deref(j.Spec.ManagedBy, batchv1.JobControllerName) != batchv1.JobControllerName
}

// finished says whether a Job is over.
func finished(j *batchv1.Job) bool {
	return isTrue(j, batchv1.JobComplete) || isTrue(j, batchv1.JobFailed)
}

func jobCondition(j *batchv1.Job, t batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range j.Status.Conditions {
		if j.Status.Conditions[i].Type == t {
			return &j.Status.Conditions[i]
		}
	}
	return nil
}

func isTrue(j *batchv1.Job, t batchv1.JobConditionType) bool {
	c := jobCondition(j, t)
	return c != nil && c.Status == corev1.ConditionTrue
}

// claimForJob takes over matching Pods without a controller, with the
// finalizer, and lets go of own ones that match no more, without it.
func (c *jobs) claimForJob(ctx context.Context, job *batchv1.Job, all []*corev1.Pod) (mine []*corev1.Pod, changed bool, err error) {
	selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
	if err != nil {
		return nil, false, nil // validation keeps such a thing out
	}
	ending := job.DeletionTimestamp != nil
	for _, p := range all {
		switch ref, matches := metav1.GetControllerOfNoCopy(p), selector.Matches(labels.Set(p.Labels)); {
		case ref != nil && matches:
			mine = append(mine, p)
		case ref != nil && !ending:
			patch := fmt.Sprintf(`{"metadata":{"uid":%q,"ownerReferences":[{"$patch":"delete","uid":%q}],"$deleteFromPrimitiveList/finalizers":[%q]}}`, p.UID, job.UID, batchv1.JobTrackingFinalizer)
			changed, err = true, errors.Join(err, loop.IgnoreGone(c.patch(ctx, job, p, patch)))
		case ref == nil && matches && !ending && p.DeletionTimestamp == nil:
			adoptErr := c.MayAdopt(ctx, job)
			if adoptErr == nil {
				patch := fmt.Sprintf(`{"metadata":{"uid":%q,"ownerReferences":[{"apiVersion":"batch/v1","kind":"Job","name":%q,"uid":%q,"controller":true,"blockOwnerDeletion":true}],"finalizers":[%q]}}`, p.UID, job.Name, job.UID, batchv1.JobTrackingFinalizer)
				adoptErr = c.patch(ctx, job, p, patch)
			}
			if !apierrors.IsNotFound(adoptErr) && adoptErr != nil {
				err = errors.Join(err, fmt.Errorf("cannot adopt Pod %s/%s (%s): %w", p.Namespace, p.Name, p.UID, adoptErr))
			}
			changed = true
		}
	}
	return mine, changed, err
}

// patch changes a Pod, and awaits that the cache shows it.
func (c *jobs) patch(ctx context.Context, job *batchv1.Job, p *corev1.Pod, patch string) error {
	out := p.DeepCopy()
	if err := c.Client.Patch(ctx, out, client.RawPatch(types.StrategicMergePatchType, []byte(patch))); err != nil {
		return err
	}
	c.Expected.Wrote(job, out)
	return nil
}

// sync runs one round, and returns the first error that is to be tried again.
func (c *jobs) sync(ctx context.Context, r *round) (err error) {
	job := r.job
	was := job.Status.DeepCopy()
	r.look(c.failures.of(job))
	if job.Status.StartTime == nil && !suspended(job) {
		job.Status.StartTime = ptr.To(metav1.NewTime(r.now).Rfc3339Copy())
	}
	r.judge()
	if r.end != nil {
		var all bool
		if all, err = c.stop(ctx, r, r.active, false); !all {
			r.end = nil // not yet: there are Pods left that could not be ended
		}
	} else {
		if job.DeletionTimestamp == nil {
			err = c.manage(ctx, r)
		}
		if r.complete() {
			r.end = newCondition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods", r.now)
		} else if job.DeletionTimestamp == nil {
			c.suspension(r)
		}
	}
	job.Status.Active, job.Status.Ready, job.Status.Terminating = r.running, &r.ready, &r.departing
	if trackErr := c.track(ctx, r, was); trackErr != nil {
		return trackErr
	}
	return err
}

// look counts what there is.
func (r *round) look(old streak) {
	job := r.job
	if job.Status.UncountedTerminatedPods == nil {
		job.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	u := job.Status.UncountedTerminatedPods
	r.before = map[types.UID]bool{}
	for _, uid := range slices.Concat(u.Succeeded, u.Failed) {
		r.before[uid] = true
	}
	var ok, bad []*corev1.Pod
	counted := int32(0)
	for _, p := range r.pods {
		switch {
		case pod.Active(p):
			r.active = append(r.active, p)
			if pod.Ready(p) {
				r.ready++
			}
		case !pod.Terminal(p):
			r.departing++
		}
		if !owned.Tracked(p) || r.before[p.UID] || isIndexed(job) && !inRange(job, indexOf(p)) {
			continue
		}
		if p.Status.Phase == corev1.PodSucceeded {
			ok = append(ok, p)
		} else if podFailed(p, job) {
			bad = append(bad, p)
			if failureAction(job.Spec.PodFailurePolicy, p).counts {
				counted++
			}
		}
	}
	r.running = int32(len(r.active))
	r.succeeded = job.Status.Succeeded + int32(len(ok)+len(u.Succeeded))
	r.failed = job.Status.Failed + counted + int32(len(u.Failed))
	r.recent = old.with(ok, bad)
	if !isIndexed(job) {
		return
	}
	r.completed = completedIndexes(job, r.pods)
	r.succeeded = int32(r.completed.total())
	if perIndex(job) {
		r.broken = brokenIndexes(job, r.pods)
		r.held = r.heldPods()
	}
}

// judge finds what ends the Job, but for its completions: what was found
// before, then failures, then the success policy.
func (r *round) judge() {
	job := r.job
	fails := func(reason, message string) { r.end = newCondition(batchv1.JobFailureTarget, reason, message, r.now) }
	if isTrue(job, batchv1.JobSuccessCriteriaMet) {
		r.end = jobCondition(job, batchv1.JobSuccessCriteriaMet).DeepCopy()
		return
	}
	if isTrue(job, batchv1.JobFailureTarget) {
		c := jobCondition(job, batchv1.JobFailureTarget)
		r.end = newCondition(batchv1.JobFailed, c.Reason, c.Message, r.now)
		return
	}
	if message := failingPod(job, r.pods); message != "" {
		fails(batchv1.JobReasonPodFailurePolicy, message)
		return
	}
	deadline := job.Spec.ActiveDeadlineSeconds
	switch {
	case r.failed > *job.Spec.BackoffLimit || tooManyRestarts(job, r.pods):
		fails(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
		return
	case deadline == nil || suspended(job) || job.Status.StartTime == nil:
	default:
		left := time.Duration(*deadline)*time.Second - r.now.Sub(job.Status.StartTime.Time)
		if left <= 0 {
			fails(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
			return
		}
		r.later(left)
	}
	if !isIndexed(job) {
		return
	}
	if n := r.broken.total(); perIndex(job) {
		switch most := job.Spec.MaxFailedIndexes; {
		case most != nil && n > int(*most):
			fails(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
			return
		case n > 0 && n+r.completed.total() >= int(*job.Spec.Completions):
			fails(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
			return
		}
	}
	if i := succeeds(job, r.completed); i >= 0 {
		r.end = newCondition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy, fmt.Sprintf("Matched rules at index %d", i), r.now)
	}
}

// complete says whether enough Pods have succeeded and none runs. Without a
// number, one success is enough.
func (r *round) complete() bool {
	if n := r.job.Spec.Completions; n != nil {
		return r.succeeded >= *n && r.running == 0
	}
	return r.succeeded > 0 && r.running == 0
}

// suspension tells in a condition that the Job is suspended, or is not any
// longer. Its time counts from when it began to run again.
func (c *jobs) suspension(r *round) {
	job := r.job
	old := jobCondition(job, batchv1.JobSuspended)
	switch {
	case suspended(job) && (old == nil || old.Status != corev1.ConditionTrue):
		setJobCondition(job, newCondition(batchv1.JobSuspended, "JobSuspended", "Job suspended", r.now))
		job.Status.StartTime = nil
		c.Events.Event(job, corev1.EventTypeNormal, "Suspended", "Job suspended")
	case !suspended(job) && old != nil && old.Status != corev1.ConditionFalse:
		resumed := newCondition(batchv1.JobSuspended, "JobResumed", "Job resumed", r.now)
		resumed.Status = corev1.ConditionFalse
		setJobCondition(job, resumed)
		job.Status.StartTime = ptr.To(metav1.NewTime(r.now).Rfc3339Copy())
		c.Events.Event(job, corev1.EventTypeNormal, "Resumed", "Job resumed")
	}
}

func suspended(j *batchv1.Job) bool { return ptr.Deref(j.Spec.Suspend, false) }

func newCondition(t batchv1.JobConditionType, reason, message string, now time.Time) *batchv1.JobCondition {
	at := metav1.NewTime(now).Rfc3339Copy()
	return &batchv1.JobCondition{Type: t, Status: corev1.ConditionTrue, LastProbeTime: at, LastTransitionTime: at, Reason: reason, Message: message}
}

func setJobCondition(j *batchv1.Job, c *batchv1.JobCondition) {
	if old := jobCondition(j, c.Type); old != nil {
		*old = *c
		return
	}
	j.Status.Conditions = append(j.Status.Conditions, *c)
}

// tooManyRestarts sums up what containers were restarted in place.
func tooManyRestarts(j *batchv1.Job, pods []*corev1.Pod) bool {
	if j.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	n := int32(0)
	for _, p := range pods {
		if p.Status.Phase != corev1.PodRunning && p.Status.Phase != corev1.PodPending {
			continue
		}
		for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			n += s.RestartCount
		}
	}
	return n > 0 && n >= *j.Spec.BackoffLimit
}
