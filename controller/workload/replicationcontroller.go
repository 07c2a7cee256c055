// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/controller/owned"
)

// addReplicationController keeps ReplicationControllers true.
func addReplicationController(m manager.Manager, _ loop.Config) error {
	r, err := owned.NewReplicas(m, "replication-controller", corev1.SchemeGroupVersion.WithKind("ReplicationController"))
	if err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(m).Named("replicationcontroller").For(&corev1.ReplicationController{}).
		Watches(&corev1.Pod{}, owned.OfOwned(r.Owning, &corev1.ReplicationControllerList{}, func(rc *corev1.ReplicationController, p client.Object) bool {
			return labels.Set(rc.Spec.Selector).AsSelectorPreValidated().Matches(labels.Set(p.GetLabels()))
		})).
		Complete(replicationController{r})
}

type replicationController struct{ *owned.Replicas }

func (r replicationController) Reconcile(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
	rc := &corev1.ReplicationController{}
	if err := r.Get(ctx, q, rc); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	c, after, err := r.Sync(ctx, rc, labels.Set(rc.Spec.Selector).AsSelectorPreValidated(), rc.Spec.Template, *rc.Spec.Replicas, rc.Spec.MinReadySeconds)
	if err != nil {
		return reconcile.Result{}, err
	}
	st := corev1.ReplicationControllerStatus{
		Replicas: c.Total, FullyLabeledReplicas: c.Labeled, ReadyReplicas: c.Ready, AvailableReplicas: c.Available,
		ObservedGeneration: rc.Generation, Conditions: slices.Clone(rc.Status.Conditions),
	}
	failed := slices.IndexFunc(st.Conditions, func(x corev1.ReplicationControllerCondition) bool {
		return x.Type == corev1.ReplicationControllerReplicaFailure
	})
	switch {
	case c.Failure == nil && failed >= 0:
		st.Conditions = slices.Delete(st.Conditions, failed, failed+1)
	case c.Failure != nil && failed < 0:
		st.Conditions = append(st.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerReplicaFailure, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now().Rfc3339Copy(),
			Reason: failureReason(*rc.Spec.Replicas, c), Message: c.Failure.Error(),
		})
	}
	if !equality.Semantic.DeepEqual(rc.Status, st) {
		rc.Status = st
		if err := r.Client.Status().Update(ctx, rc); err != nil {
			return reconcile.Result{}, loop.IgnoreStale(err)
		}
	}
	return reconcile.Result{RequeueAfter: after}, c.Failure
}
