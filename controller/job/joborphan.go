// SPDX-License-Identifier: Apache-2.0

package job

import (
	"context"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/controller/owned"
)

// jobOrphans takes the finalizer from Pods whose end nobody will count any
// more: their Job is over, gone, or not their Job any longer.
type jobOrphans struct{ client client.Client }

func addJobOrphans(m manager.Manager, _ loop.Config) error {
	c := m.GetClient()
	held := predicate.NewPredicateFuncs(func(o client.Object) bool { return owned.Tracked(o.(*corev1.Pod)) })
	return ctrl.NewControllerManagedBy(m).Named("joborphans").For(&corev1.Pod{}, builder.WithPredicates(held)).
		Watches(&batchv1.Job{}, handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) (out []reconcile.Request) {
			pods, err := owned.PodsOf(ctx, c, o.GetNamespace(), o.GetUID())
			if err != nil {
				return nil // the cache is stopping
			}
			for _, p := range pods {
				if owned.Tracked(p) {
					out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(p)})
				}
			}
			return out
		}), builder.WithPredicates(jobLetsGo())).
		Complete(jobOrphans{c})
}

// jobLetsGo passes the events after which a Job counts no more: its end and
// its deletion.
func jobLetsGo() predicate.Predicate {
	p := predicate.NewPredicateFuncs(func(o client.Object) bool { return finished(o.(*batchv1.Job)) })
	p.DeleteFunc = nil // which passes
	return p
}

// Reconcile lets a Pod go, unless its Job counts it.
func (o jobOrphans) Reconcile(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
	p := &corev1.Pod{}
	if err := o.client.Get(ctx, q.NamespacedName, p); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if !owned.Tracked(p) {
		return reconcile.Result{}, nil
	}
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
		if ref.Kind != "Job" || ref.APIVersion != batchv1.SchemeGroupVersion.String() {
			return reconcile.Result{}, nil
		}
		job := &batchv1.Job{}
		err := o.client.Get(ctx, types.NamespacedName{Namespace: p.Namespace, Name: ref.Name}, job)
		if err != nil && !apierrors.IsNotFound(err) {
			return reconcile.Result{}, err
		}
		if err == nil && job.UID == ref.UID && (managedElsewhere(job) || !finished(job)) {
			return reconcile.Result{}, nil
		}
	}
	return reconcile.Result{}, takeFinalizer(ctx, o.client, p)
}
