// SPDX-License-Identifier: Apache-2.0

package job

import (
	"context"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/controller/loop"
)

// jobTTL deletes Jobs a while after they are over (KEP-592,
// ttl-after-finished-controller of kube-controller-manager).
type jobTTL struct {
	client client.Client
	// live is asked before something is deleted.
	live client.Reader
}

func addJobTTL(m manager.Manager, _ loop.Config) error {
	return ctrl.NewControllerManagedBy(m).Named("ttlafterfinished").For(&batchv1.Job{}).Complete(jobTTL{m.GetClient(), m.GetAPIReader()})
}

// Reconcile deletes a Job whose time has come, with its Pods before it, or
// comes back then.
func (t jobTTL) Reconcile(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
	job := &batchv1.Job{}
	for _, reader := range []client.Reader{t.client, t.live} {
		if err := reader.Get(ctx, q.NamespacedName, job); err != nil {
			return reconcile.Result{}, client.IgnoreNotFound(err)
		}
		left, limited := timeLeft(job, time.Now())
		switch {
		case !limited:
			return reconcile.Result{}, nil
		case left > 0:
			return reconcile.Result{RequeueAfter: left}, nil
		}
	}
	err := t.client.Delete(ctx, job, client.Preconditions{UID: &job.UID}, client.PropagationPolicy(metav1.DeletePropagationForeground))
	return reconcile.Result{}, loop.IgnoreStale(err)
}

// timeLeft is how long a Job that is over has to stay; of others there is no
// such time.
func timeLeft(j *batchv1.Job, now time.Time) (left time.Duration, limited bool) {
	ttl := j.Spec.TTLSecondsAfterFinished
	if ttl == nil || j.DeletionTimestamp != nil || !finished(j) {
		return 0, false
	}
	end := jobCondition(j, batchv1.JobComplete)
	if !isTrue(j, batchv1.JobComplete) {
		end = jobCondition(j, batchv1.JobFailed)
	}
	return end.LastTransitionTime.Add(time.Duration(*ttl) * time.Second).Sub(now), true
}
