// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// podGC removes Pods that nobody will ever finish: those of a node that no
// longer exists.
type podGC struct {
	client client.Client
	live   client.Reader
}

func addPodGC(m manager.Manager, _ Config) error {
	g := podGC{m.GetClient(), m.GetAPIReader()}
	return ctrl.NewControllerManagedBy(m).Named("podgc").For(&corev1.Pod{}).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) (out []reconcile.Request) {
			if o.GetDeletionTimestamp() == nil && o.GetResourceVersion() != "" {
				if err := g.client.Get(ctx, client.ObjectKeyFromObject(o), &corev1.Node{}); err == nil {
					return nil
				}
			}
			var pods corev1.PodList
			if g.client.List(ctx, &pods) != nil {
				return nil // the cache is stopping
			}
			for i := range pods.Items {
				if pods.Items[i].Spec.NodeName == o.GetName() {
					out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&pods.Items[i])})
				}
			}
			return out
		})).
		Complete(reconcile.AsReconciler(m.GetClient(), reconcile.ObjectReconciler[*corev1.Pod](g)))
}

func (g podGC) Reconcile(ctx context.Context, p *corev1.Pod) (reconcile.Result, error) {
	if p.Spec.NodeName == "" {
		return reconcile.Result{}, nil
	}
	if err := g.client.Get(ctx, client.ObjectKey{Name: p.Spec.NodeName}, &corev1.Node{}); !apierrors.IsNotFound(err) {
		return reconcile.Result{}, err
	}
	// The cache may be behind: a node that has just joined is not gone.
	if err := g.live.Get(ctx, client.ObjectKey{Name: p.Spec.NodeName}, &corev1.Node{}); !apierrors.IsNotFound(err) {
		return reconcile.Result{}, err
	}
	return reconcile.Result{}, client.IgnoreNotFound(g.client.Delete(ctx, p, client.Preconditions{UID: &p.UID}, client.GracePeriodSeconds(0)))
}
