// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/controller/owned"
)

// addReplicaSet keeps ReplicaSets true.
func addReplicaSet(m manager.Manager, _ loop.Config) error {
	r, err := owned.NewReplicas(m, "replicaset-controller", appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))
	if err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(m).Named("replicaset").For(&appsv1.ReplicaSet{}).
		Watches(&corev1.Pod{}, owned.OfOwned(r.Owning, &appsv1.ReplicaSetList{}, func(s *appsv1.ReplicaSet, p client.Object) bool {
			return owned.Selects(s.Spec.Selector, p)
		})).
		Complete(replicaSet{r})
}

type replicaSet struct{ *owned.Replicas }

func (r replicaSet) Reconcile(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
	rs := &appsv1.ReplicaSet{}
	if err := r.Get(ctx, q, rs); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return reconcile.Result{}, nil // validation keeps such a thing out
	}
	c, after, err := r.Sync(ctx, rs, selector, &rs.Spec.Template, *rs.Spec.Replicas, rs.Spec.MinReadySeconds)
	if err != nil {
		return reconcile.Result{}, err
	}
	st := appsv1.ReplicaSetStatus{
		Replicas: c.Total, FullyLabeledReplicas: c.Labeled, ReadyReplicas: c.Ready, AvailableReplicas: c.Available,
		TerminatingReplicas: &c.Terminating, ObservedGeneration: rs.Generation, Conditions: slices.Clone(rs.Status.Conditions),
	}
	failed := slices.IndexFunc(st.Conditions, func(x appsv1.ReplicaSetCondition) bool { return x.Type == appsv1.ReplicaSetReplicaFailure })
	switch {
	case c.Failure == nil && failed >= 0:
		st.Conditions = slices.Delete(st.Conditions, failed, failed+1)
	case c.Failure != nil && failed < 0:
		st.Conditions = append(st.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now().Rfc3339Copy(),
			Reason: failureReason(*rs.Spec.Replicas, c), Message: c.Failure.Error(),
		})
	}
	if !equality.Semantic.DeepEqual(rs.Status, st) {
		rs.Status = st
		if err := r.Client.Status().Update(ctx, rs); err != nil {
			return reconcile.Result{}, loop.IgnoreStale(err)
		}
	}
	return reconcile.Result{RequeueAfter: after}, c.Failure
}

func failureReason(want int32, c owned.Counts) string {
	if c.Total < want {
		return "FailedCreate"
	}
	return "FailedDelete"
}
