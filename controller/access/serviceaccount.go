// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/auth"
	"github.com/peapod/peapod/controller/loop"
)

// addServiceAccount gives every namespace its account "default".
func addServiceAccount(m manager.Manager, _ loop.Config) error {
	return perNamespace(m, "serviceaccount", &corev1.ServiceAccount{}, "default", func(client.Object) bool { return false })
}

// addRootCA publishes the cluster's CA to every namespace, for the token
// volumes of Pods.
func addRootCA(m manager.Manager, c loop.Config) error {
	want := auth.RootCA("", c.RootCA)
	return perNamespace(m, "root-ca-certificate-publisher", &corev1.ConfigMap{}, want.Name, func(o client.Object) bool {
		m := o.(*corev1.ConfigMap)
		if maps.Equal(m.Data, want.Data) && m.Annotations[auth.DescriptionAnnotation] != "" {
			return false
		}
		m.Data = maps.Clone(want.Data)
		metav1.SetMetaDataAnnotation(&m.ObjectMeta, auth.DescriptionAnnotation, want.Annotations[auth.DescriptionAnnotation])
		return true
	})
}

// perNamespace keeps one object of a name in every namespace. mend makes of an
// empty one, or of what is there, what it should be, and says whether it had to.
func perNamespace(m manager.Manager, controller string, example client.Object, name string, mend func(client.Object) bool) error {
	c := m.GetClient()
	return ctrl.NewControllerManagedBy(m).Named(controller).For(&corev1.Namespace{}).
		Watches(example, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
			if o.GetName() != name {
				return nil
			}
			return []reconcile.Request{{NamespacedName: client.ObjectKey{Name: o.GetNamespace()}}}
		})).
		Complete(reconcile.Func(func(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
			var ns corev1.Namespace
			if err := c.Get(ctx, q.NamespacedName, &ns); err != nil || ns.DeletionTimestamp != nil {
				return reconcile.Result{}, client.IgnoreNotFound(err)
			}
			have := example.DeepCopyObject().(client.Object)
			err := c.Get(ctx, client.ObjectKey{Namespace: ns.Name, Name: name}, have)
			switch {
			case apierrors.IsNotFound(err):
				have.SetNamespace(ns.Name)
				have.SetName(name)
				mend(have)
				err = c.Create(ctx, have)
				if apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
					err = nil
				}
			case err == nil && mend(have):
				err = loop.IgnoreStale(c.Update(ctx, have))
			}
			return reconcile.Result{}, err
		}))
}
