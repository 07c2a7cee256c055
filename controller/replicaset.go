// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// addReplicaSet keeps ReplicaSets true.
func addReplicaSet(m manager.Manager, _ Config) error {
	r, err := newReplicas(m, "replicaset-controller", appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))
	if err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(m).Named("replicaset").For(&appsv1.ReplicaSet{}).
		Watches(&corev1.Pod{}, ofOwned(r.owning, &appsv1.ReplicaSetList{}, func(s *appsv1.ReplicaSet, p client.Object) bool {
			return selects(s.Spec.Selector, p)
		})).
		Complete(replicaSet{r})
}

type replicaSet struct{ *replicas }

func (r replicaSet) Reconcile(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
	rs := &appsv1.ReplicaSet{}
	if err := r.get(ctx, q, rs); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return reconcile.Result{}, nil // validation keeps such a thing out
	}
	c, after, err := r.sync(ctx, rs, selector, &rs.Spec.Template, *rs.Spec.Replicas, rs.Spec.MinReadySeconds)
	if err != nil {
		return reconcile.Result{}, err
	}
	st := appsv1.ReplicaSetStatus{
		Replicas: c.total, FullyLabeledReplicas: c.labeled, ReadyReplicas: c.ready, AvailableReplicas: c.available,
		TerminatingReplicas: &c.terminating, ObservedGeneration: rs.Generation, Conditions: slices.Clone(rs.Status.Conditions),
	}
	failed := slices.IndexFunc(st.Conditions, func(x appsv1.ReplicaSetCondition) bool { return x.Type == appsv1.ReplicaSetReplicaFailure })
	switch {
	case c.failure == nil && failed >= 0:
		st.Conditions = slices.Delete(st.Conditions, failed, failed+1)
	case c.failure != nil && failed < 0:
		st.Conditions = append(st.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now().Rfc3339Copy(),
			Reason: failureReason(*rs.Spec.Replicas, c), Message: c.failure.Error(),
		})
	}
	if !equality.Semantic.DeepEqual(rs.Status, st) {
		rs.Status = st
		if err := r.client.Status().Update(ctx, rs); err != nil {
			return reconcile.Result{}, ignoreStale(err)
		}
	}
	return reconcile.Result{RequeueAfter: after}, c.failure
}

func failureReason(want int32, c counts) string {
	if c.total < want {
		return "FailedCreate"
	}
	return "FailedDelete"
}

// get reads an owner. Of one that is gone nothing is expected any more.
func (r *replicas) get(ctx context.Context, q reconcile.Request, owner client.Object) error {
	err := r.client.Get(ctx, q.NamespacedName, owner)
	if apierrors.IsNotFound(err) {
		r.expected.forget(q.NamespacedName)
	}
	return err
}

// ignoreTerminating: nothing can be made any more in a namespace that is going
// away, and that is no failure.
func ignoreTerminating(err error) error {
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}

// ignoreStale: a write that lost to another is repeated by its event.
func ignoreStale(err error) error {
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
