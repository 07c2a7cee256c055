// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"encoding/json"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// garbage follows owner references among the kinds that own and are owned
// here: ReplicaSets and ReplicationControllers own Pods.
//
//	background  the owner goes at once; a dependent whose owners are all gone
//	            is deleted
//	foreground  the owner waits, with a finalizer, for its blocking dependents
//	orphan      the owner waits until its dependents have let go of it
type garbage struct {
	client client.Client
	live   client.Reader
}

func addGarbage(m manager.Manager, _ Config) error {
	g := garbage{m.GetClient(), m.GetAPIReader()}
	byOwner := func(kind string) handler.EventHandler {
		return handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) (out []reconcile.Request) {
			for _, r := range o.GetOwnerReferences() {
				if r.Kind == kind {
					out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: o.GetNamespace(), Name: r.Name}})
				}
			}
			return out
		})
	}
	toDependents := handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) (out []reconcile.Request) {
		pods, err := g.dependents(ctx, o)
		if err != nil {
			return nil // the cache is stopping
		}
		for i := range pods {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&pods[i])})
		}
		return out
	})
	err := ctrl.NewControllerManagedBy(m).Named("garbage-pods").For(&corev1.Pod{}).
		Watches(&appsv1.ReplicaSet{}, toDependents).Watches(&corev1.ReplicationController{}, toDependents).
		Complete(reconcile.AsReconciler(m.GetClient(), reconcile.ObjectReconciler[*corev1.Pod](dependent{g})))
	if err != nil {
		return err
	}
	err = ctrl.NewControllerManagedBy(m).Named("garbage-replicasets").For(&appsv1.ReplicaSet{}).Watches(&corev1.Pod{}, byOwner("ReplicaSet")).
		Complete(reconcile.AsReconciler(m.GetClient(), reconcile.ObjectReconciler[*appsv1.ReplicaSet](owner[*appsv1.ReplicaSet]{g})))
	if err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(m).Named("garbage-replicationcontrollers").For(&corev1.ReplicationController{}).Watches(&corev1.Pod{}, byOwner("ReplicationController")).
		Complete(reconcile.AsReconciler(m.GetClient(), reconcile.ObjectReconciler[*corev1.ReplicationController](owner[*corev1.ReplicationController]{g})))
}

// dependents are the Pods that name o as an owner.
func (g garbage) dependents(ctx context.Context, o client.Object) (out []corev1.Pod, err error) {
	var all corev1.PodList
	if err := g.client.List(ctx, &all, client.InNamespace(o.GetNamespace())); err != nil {
		return nil, err
	}
	for _, p := range all.Items {
		if slices.ContainsFunc(p.OwnerReferences, func(r metav1.OwnerReference) bool { return r.UID == o.GetUID() }) {
			out = append(out, p)
		}
	}
	return out, nil
}

// dependent looks whether a Pod's owners are still there.
type dependent struct{ garbage }

func (d dependent) Reconcile(ctx context.Context, p *corev1.Pod) (reconcile.Result, error) {
	if len(p.OwnerReferences) == 0 || p.DeletionTimestamp != nil {
		return reconcile.Result{}, nil
	}
	for _, r := range p.OwnerReferences {
		gone, err := d.gone(ctx, p.Namespace, r)
		if err != nil || !gone {
			return reconcile.Result{}, err
		}
	}
	return reconcile.Result{}, client.IgnoreNotFound(d.client.Delete(ctx, p, client.Preconditions{UID: &p.UID}, client.PropagationPolicy(metav1.DeletePropagationBackground)))
}

// gone asks the API itself: a cache may not have seen the owner yet. Owners of
// kinds that are not ours to judge count as there.
func (g garbage) gone(ctx context.Context, ns string, r metav1.OwnerReference) (bool, error) {
	gv, err := schema.ParseGroupVersion(r.APIVersion)
	if err != nil {
		return false, nil
	}
	o := &metav1.PartialObjectMetadata{}
	o.SetGroupVersionKind(gv.WithKind(r.Kind))
	switch r.Kind {
	case "ReplicaSet", "ReplicationController", "Pod", "ConfigMap", "Secret", "Service":
	default:
		return false, nil
	}
	err = g.live.Get(ctx, client.ObjectKey{Namespace: ns, Name: r.Name}, o)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	return err == nil && o.UID != r.UID, err
}

// owner carries out the finalizers of an owner that is being deleted.
type owner[T client.Object] struct{ garbage }

func (w owner[T]) Reconcile(ctx context.Context, o T) (reconcile.Result, error) {
	if o.GetDeletionTimestamp() == nil {
		return reconcile.Result{}, nil
	}
	pods, err := w.dependents(ctx, o)
	if err != nil {
		return reconcile.Result{}, err
	}
	for _, f := range o.GetFinalizers() {
		switch f {
		case metav1.FinalizerOrphanDependents:
			for i := range pods {
				if err := w.orphan(ctx, &pods[i], o.GetUID()); err != nil {
					return reconcile.Result{}, err
				}
			}
			return reconcile.Result{}, w.release(ctx, o, f)
		case metav1.FinalizerDeleteDependents:
			blocked := false
			for i := range pods {
				p := &pods[i]
				blocked = blocked || blocks(p, o.GetUID())
				if p.DeletionTimestamp == nil {
					if err := w.client.Delete(ctx, p, client.Preconditions{UID: &p.UID}); client.IgnoreNotFound(err) != nil {
						return reconcile.Result{}, err
					}
				}
			}
			if !blocked {
				return reconcile.Result{}, w.release(ctx, o, f)
			}
		}
	}
	return reconcile.Result{}, nil
}

func blocks(p *corev1.Pod, uid types.UID) bool {
	return slices.ContainsFunc(p.OwnerReferences, func(r metav1.OwnerReference) bool {
		return r.UID == uid && r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion
	})
}

func (g garbage) orphan(ctx context.Context, p *corev1.Pod, uid types.UID) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": p.UID, "ownerReferences": []map[string]any{{"$patch": "delete", "uid": uid}},
	}})
	if err != nil {
		return err
	}
	return ignoreGone(g.client.Patch(ctx, p, client.RawPatch(types.StrategicMergePatchType, patch)))
}

func (g garbage) release(ctx context.Context, o client.Object, finalizer string) error {
	up := o.DeepCopyObject().(client.Object)
	up.SetFinalizers(slices.DeleteFunc(up.GetFinalizers(), func(f string) bool { return f == finalizer }))
	return ignoreStale(g.client.Update(ctx, up))
}
