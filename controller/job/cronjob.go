// SPDX-License-Identifier: Apache-2.0

package job

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/reference"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/controller/owned"
)

// cronJobs makes Jobs at their times (cronjob-controller of
// kube-controller-manager). The name of a Job holds its minute, so that none
// is made twice. Between the times it sleeps: one timer per CronJob.
type cronJobs struct {
	client client.Client
	// live reads past the cache, before something is believed to be missing.
	live     client.Reader
	events   record.EventRecorder
	now      func() time.Time
	expected owned.Expectations
}

func addCronJob(m manager.Manager, _ loop.Config) error {
	if err := m.GetFieldIndexer().IndexField(context.Background(), &batchv1.Job{}, owned.ByController, owned.ControllerOf); err != nil {
		return err
	}
	c := &cronJobs{client: m.GetClient(), live: m.GetAPIReader(), events: m.GetEventRecorderFor("cronjob-controller"), now: time.Now}
	return ctrl.NewControllerManagedBy(m).Named("cronjob").For(&batchv1.CronJob{}).Owns(&batchv1.Job{}).Complete(c)
}

// Reconcile starts what is due, and comes back at the next time.
func (c *cronJobs) Reconcile(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
	cj := &batchv1.CronJob{}
	if err := c.client.Get(ctx, q.NamespacedName, cj); err != nil {
		c.expected.Forget(q.NamespacedName)
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if !c.expected.Fulfilled(cj, "", nil) {
		return reconcile.Result{RequeueAfter: loop.Unseen}, nil // our own status is on its way
	}
	var list batchv1.JobList
	if err := c.client.List(ctx, &list, client.InNamespace(cj.Namespace), client.MatchingFields{owned.ByController: string(cj.UID)}); err != nil {
		return reconcile.Result{}, err
	}
	jobs := make([]*batchv1.Job, len(list.Items))
	for i := range list.Items {
		jobs[i] = &list.Items[i]
	}
	was := cj.Status.DeepCopy()
	c.clean(ctx, cj, jobs)
	after, err := c.sync(ctx, cj, jobs)
	if !equality.Semantic.DeepEqual(was, &cj.Status) {
		if err := c.client.Status().Update(ctx, cj); err != nil {
			return reconcile.Result{}, loop.IgnoreStale(err)
		}
		c.expected.WroteItself(cj)
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: after}, nil
}

// sync brings the list of active Jobs up to date and starts the Job that is
// due. after is when it has to be looked at again.
func (c *cronJobs) sync(ctx context.Context, cj *batchv1.CronJob, jobs []*batchv1.Job) (after time.Duration, err error) {
	if stale, err := c.follow(ctx, cj, jobs); stale || err != nil || cj.DeletionTimestamp != nil {
		return 0, err
	}
	if z := cj.Spec.TimeZone; z != nil {
		if _, err := time.LoadLocation(*z); err != nil {
			c.events.Eventf(cj, corev1.EventTypeWarning, "UnknownTimeZone", "invalid timeZone: %q: %s", *z, err)
			return 0, nil
		}
	}
	if cj.Spec.Suspend != nil && *cj.Spec.Suspend {
		return 0, nil
	}
	if zonedSchedule(cj) {
		c.events.Eventf(cj, corev1.EventTypeWarning, "UnsupportedSchedule", "CRON_TZ or TZ used in schedule %q is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details", cj.Spec.Schedule)
	}
	schedule, err := scheduleOf(cj)
	if err != nil {
		c.events.Eventf(cj, corev1.EventTypeWarning, "UnparseableSchedule", "unparseable schedule: %q : %s", cj.Spec.Schedule, err)
		return 0, nil
	}
	now := c.now()
	due, missed, err := dueTime(cj, now, schedule)
	if err != nil {
		c.events.Eventf(cj, corev1.EventTypeWarning, "InvalidSchedule", "invalid schedule: %s : %s", cj.Spec.Schedule, err)
		return 0, nil
	}
	if missed > manyMissed {
		c.events.Eventf(cj, corev1.EventTypeWarning, "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	if !due.IsZero() && c.mayStart(cj, due, now) {
		if err := c.start(ctx, cj, due); err != nil {
			return 0, err
		}
	}
	return untilNext(cj, now, schedule), nil
}

// follow takes Jobs that have ended or are gone from the active ones. stale
// says that the cache is older than what is known of the CronJob.
func (c *cronJobs) follow(ctx context.Context, cj *batchv1.CronJob, jobs []*batchv1.Job) (stale bool, err error) {
	mine := map[types.UID]bool{}
	for _, j := range jobs {
		mine[j.UID] = true
		found := activeJob(cj, j.UID)
		switch {
		case !finished(j) && !found:
			fresh := &batchv1.CronJob{}
			if err := c.live.Get(ctx, client.ObjectKeyFromObject(cj), fresh); err != nil {
				return false, client.IgnoreNotFound(err)
			}
			if activeJob(fresh, j.UID) {
				return true, nil
			}
			c.events.Eventf(cj, corev1.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", j.Name)
		case finished(j) && found:
			how := batchv1.JobFailed
			if isTrue(j, batchv1.JobComplete) {
				how = batchv1.JobComplete
			}
			dropActive(cj, j.UID)
			c.events.Eventf(cj, corev1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %v", j.Name, how)
		}
		if t := j.Status.CompletionTime; isTrue(j, batchv1.JobComplete) && t != nil && (cj.Status.LastSuccessfulTime == nil || cj.Status.LastSuccessfulTime.Before(t)) {
			cj.Status.LastSuccessfulTime = t
		}
	}
	for _, ref := range slices.Clone(cj.Status.Active) {
		if mine[ref.UID] {
			continue
		}
		switch err := c.live.Get(ctx, types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}, &batchv1.Job{}); {
		case apierrors.IsNotFound(err):
			c.events.Eventf(cj, corev1.EventTypeNormal, "MissingJob", "Active job went missing: %v", ref.Name)
			dropActive(cj, ref.UID)
		case err != nil:
			return false, err
		}
	}
	return false, nil
}

func activeJob(cj *batchv1.CronJob, uid types.UID) bool {
	return slices.ContainsFunc(cj.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == uid })
}

func dropActive(cj *batchv1.CronJob, uid types.UID) {
	cj.Status.Active = slices.DeleteFunc(cj.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == uid })
}

// mayStart says whether a Job is to be made for a time, and tells why not.
func (c *cronJobs) mayStart(cj *batchv1.CronJob, due, now time.Time) bool {
	if d := cj.Spec.StartingDeadlineSeconds; d != nil && due.Add(time.Duration(*d)*time.Second).Before(now) {
		c.events.Eventf(cj, corev1.EventTypeWarning, "MissSchedule", "Missed scheduled time to start a job: %s", due.UTC().Format(time.RFC1123Z))
		return false
	}
	name := jobNameAt(cj, due)
	if slices.ContainsFunc(cj.Status.Active, func(r corev1.ObjectReference) bool { return r.Name == name }) || cj.Status.LastScheduleTime.Equal(&metav1.Time{Time: due}) {
		return false
	}
	if cj.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent && len(cj.Status.Active) > 0 {
		c.events.Eventf(cj, corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
		return false
	}
	return true
}

// start makes the Job of a time, in place of those that run where that is
// asked for.
func (c *cronJobs) start(ctx context.Context, cj *batchv1.CronJob, due time.Time) error {
	if cj.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent {
		for _, ref := range slices.Clone(cj.Status.Active) {
			j := &batchv1.Job{}
			if err := c.live.Get(ctx, types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}, j); err != nil {
				c.events.Eventf(cj, corev1.EventTypeWarning, "FailedGet", "Get job: %v", err)
				return err
			}
			if !c.remove(ctx, cj, j) {
				return fmt.Errorf("could not replace job %s/%s", j.Namespace, j.Name)
			}
		}
	}
	job := jobAt(cj, due)
	err := c.client.Create(ctx, job)
	switch {
	case err == nil:
		c.events.Eventf(cj, corev1.EventTypeNormal, "SuccessfulCreate", "Created job %v", job.Name)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // nothing can be made there any more
	case apierrors.IsAlreadyExists(err):
		// Made before a crash; or by somebody who knows what he does.
		if err := c.live.Get(ctx, client.ObjectKeyFromObject(job), job); err != nil {
			return err
		}
		if !metav1.IsControlledBy(job, cj) || activeJob(cj, job.UID) {
			return nil
		}
	default:
		c.events.Eventf(cj, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
		return err
	}
	ref, err := reference.GetReference(clientscheme.Scheme, job)
	if err != nil {
		return fmt.Errorf("cannot refer to Job %s/%s: %w", job.Namespace, job.Name, err)
	}
	cj.Status.Active = append(cj.Status.Active, *ref)
	cj.Status.LastScheduleTime = &metav1.Time{Time: due}
	return nil
}

// clean removes the oldest of the Jobs that are over, but for as many as are
// to be kept.
func (c *cronJobs) clean(ctx context.Context, cj *batchv1.CronJob, jobs []*batchv1.Job) {
	for _, kind := range []struct {
		limit *int32
		is    batchv1.JobConditionType
	}{{cj.Spec.SuccessfulJobsHistoryLimit, batchv1.JobComplete}, {cj.Spec.FailedJobsHistoryLimit, batchv1.JobFailed}} {
		if kind.limit == nil {
			continue
		}
		var over []*batchv1.Job
		for _, j := range jobs {
			if isTrue(j, kind.is) && j.DeletionTimestamp == nil {
				over = append(over, j)
			}
		}
		slices.SortFunc(over, func(a, b *batchv1.Job) int {
			x, y := a.Status.StartTime, b.Status.StartTime
			if x == nil || y == nil {
				return cmp.Or(loop.FalseFirst(x == nil, y == nil), cmp.Compare(a.Name, b.Name))
			}
			return cmp.Or(x.Compare(y.Time), cmp.Compare(a.Name, b.Name))
		})
		for _, j := range over[:max(0, len(over)-int(*kind.limit))] {
			c.remove(ctx, cj, j)
		}
	}
}

// remove deletes a Job, with its Pods after it.
func (c *cronJobs) remove(ctx context.Context, cj *batchv1.CronJob, j *batchv1.Job) bool {
	if err := c.client.Delete(ctx, j, client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil {
		c.events.Eventf(cj, corev1.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
		return false
	}
	dropActive(cj, j.UID)
	c.events.Eventf(cj, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", j.Name)
	return true
}
