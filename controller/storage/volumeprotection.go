// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	apiclaim "github.com/peapod/peapod/api/claim"
	"github.com/peapod/peapod/api/pod"
	"github.com/peapod/peapod/controller/loop"
)

// protection lets go of what is deleted, when it is not used any more: claims
// that Pods use, volumes that claims have, and classes of attributes that
// either names. Admission gave them the finalizers.
type protection struct {
	client client.Client
	live   client.Reader
}

func addVolumeProtection(m manager.Manager, _ loop.Config) error {
	p := &protection{m.GetClient(), m.GetAPIReader()}
	err := ctrl.NewControllerManagedBy(m).Named("persistentvolumeclaim-protection").For(&corev1.PersistentVolumeClaim{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(claimsOfPod)).
		Complete(reconcile.Func(func(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
			return let(ctx, p.client, r, &corev1.PersistentVolumeClaim{}, apiclaim.ClaimProtection, p.claimUsed)
		}))
	if err != nil {
		return err
	}
	err = ctrl.NewControllerManagedBy(m).Named("persistentvolume-protection").For(&corev1.PersistentVolume{}).
		Complete(reconcile.Func(func(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
			return let(ctx, p.client, r, &corev1.PersistentVolume{}, apiclaim.VolumeProtection, func(_ context.Context, v *corev1.PersistentVolume) (bool, error) {
				return v.Status.Phase == corev1.VolumeBound, nil
			})
		}))
	if err != nil {
		return err
	}
	classOf := func(name *string) []reconcile.Request {
		if name == nil {
			return nil
		}
		return []reconcile.Request{{NamespacedName: client.ObjectKey{Name: *name}}}
	}
	return ctrl.NewControllerManagedBy(m).Named("volumeattributesclass-protection").For(&storagev1.VolumeAttributesClass{}).
		Watches(&corev1.PersistentVolume{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
			return classOf(o.(*corev1.PersistentVolume).Spec.VolumeAttributesClassName)
		})).
		Watches(&corev1.PersistentVolumeClaim{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
			c := o.(*corev1.PersistentVolumeClaim)
			return slices.Concat(classOf(c.Spec.VolumeAttributesClassName), classOf(c.Status.CurrentVolumeAttributesClassName))
		})).
		Complete(reconcile.Func(func(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
			return let(ctx, p.client, r, &storagev1.VolumeAttributesClass{}, apiclaim.ClassProtection, p.classUsed)
		}))
}

// let takes the finalizer from an object that is deleted and not used.
func let[T client.Object](ctx context.Context, c client.Client, r reconcile.Request, o T, finalizer string, used func(context.Context, T) (bool, error)) (reconcile.Result, error) {
	if err := c.Get(ctx, r.NamespacedName, o); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if o.GetDeletionTimestamp() == nil || !controllerutil.ContainsFinalizer(o, finalizer) {
		return reconcile.Result{}, nil
	}
	if in, err := used(ctx, o); in || err != nil {
		return reconcile.Result{}, err
	}
	controllerutil.RemoveFinalizer(o, finalizer)
	return reconcile.Result{}, client.IgnoreNotFound(c.Update(ctx, o))
}

// claimsOfPod are the claims that a Pod uses.
func claimsOfPod(_ context.Context, o client.Object) (out []reconcile.Request) {
	p := o.(*corev1.Pod)
	for i := range p.Spec.Volumes {
		if name := apiclaim.Of(p, &p.Spec.Volumes[i]); name != "" {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKey{Namespace: p.Namespace, Name: name}})
		}
	}
	return out
}

// claimUsed asks the API itself: a Pod may be newer than the cache.
func (p *protection) claimUsed(ctx context.Context, c *corev1.PersistentVolumeClaim) (bool, error) {
	for _, r := range []client.Reader{p.client, p.live} {
		var all corev1.PodList
		if err := r.List(ctx, &all, client.InNamespace(c.Namespace)); err != nil {
			return false, err
		}
		if slices.ContainsFunc(all.Items, func(q corev1.Pod) bool { return holds(&q, c) }) {
			return true, nil
		}
	}
	return false, nil
}

// holds: the Pod has a node, where the claim can be mounted. One that is over
// does not need the claim that was made for it.
func holds(p *corev1.Pod, c *corev1.PersistentVolumeClaim) bool {
	own := slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.Ephemeral != nil && apiclaim.Of(p, &v) == c.Name })
	return p.Spec.NodeName != "" && uses(p, c) && (!own || !pod.Terminal(p))
}

func (p *protection) classUsed(ctx context.Context, c *storagev1.VolumeAttributesClass) (bool, error) {
	var volumes corev1.PersistentVolumeList
	if err := p.live.List(ctx, &volumes); err != nil {
		return false, err
	}
	var claims corev1.PersistentVolumeClaimList
	if err := p.live.List(ctx, &claims); err != nil {
		return false, err
	}
	names := func(name *string) bool { return ptr.Deref(name, "") == c.Name }
	return slices.ContainsFunc(volumes.Items, func(v corev1.PersistentVolume) bool { return names(v.Spec.VolumeAttributesClassName) }) ||
		slices.ContainsFunc(claims.Items, func(x corev1.PersistentVolumeClaim) bool {
			m := x.Status.ModifyVolumeStatus
			return names(x.Spec.VolumeAttributesClassName) || names(x.Status.CurrentVolumeAttributesClassName) || m != nil && m.TargetVolumeAttributesClassName == c.Name
		}), nil
}
