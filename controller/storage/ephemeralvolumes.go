// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/ephemeral"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/controller/loop"
)

// ephemeralVolumes makes the claims that Pods bring templates of. They are the
// Pod's, and go with it.
type ephemeralVolumes struct {
	client client.Client
	events record.EventRecorder
}

func addEphemeralVolumes(m manager.Manager, _ loop.Config) error {
	e := ephemeralVolumes{m.GetClient(), m.GetEventRecorderFor("ephemeral_volume")}
	return ctrl.NewControllerManagedBy(m).Named("ephemeral-volume").For(&corev1.Pod{}).
		Watches(&corev1.PersistentVolumeClaim{}, handler.EnqueueRequestForOwner(m.GetScheme(), m.GetRESTMapper(), &corev1.Pod{}, handler.OnlyControllerOwner())).
		Complete(reconcile.AsReconciler(m.GetClient(), e))
}

// Reconcile makes what is missing.
func (e ephemeralVolumes) Reconcile(ctx context.Context, p *corev1.Pod) (reconcile.Result, error) {
	if p.DeletionTimestamp != nil {
		return reconcile.Result{}, nil
	}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if v.Ephemeral == nil {
			continue
		}
		if err := e.make(ctx, p, v); err != nil {
			e.events.Eventf(p, corev1.EventTypeWarning, "FailedBinding", "ephemeral volume %s: %v", v.Name, err)
			return reconcile.Result{}, err
		}
	}
	return reconcile.Result{}, nil
}

func (e ephemeralVolumes) make(ctx context.Context, p *corev1.Pod, v *corev1.Volume) error {
	t := v.Ephemeral.VolumeClaimTemplate
	c := &corev1.PersistentVolumeClaim{}
	switch err := e.client.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: ephemeral.VolumeClaimName(p, v)}, c); {
	case err == nil:
		return ephemeral.VolumeIsForPod(p, c)
	case !apierrors.IsNotFound(err):
		return err
	}
	c = &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Name: ephemeral.VolumeClaimName(p, v), Namespace: p.Namespace, Labels: t.Labels, Annotations: t.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(p, corev1.SchemeGroupVersion.WithKind("Pod"))},
		},
		Spec: t.Spec,
	}
	if err := e.client.Create(ctx, c); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create PVC %s: %w", c.Name, err)
	}
	return nil
}
