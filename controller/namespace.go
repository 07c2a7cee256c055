// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// addServiceAccount gives every namespace its account "default".
func addServiceAccount(m manager.Manager, _ Config) error {
	return perNamespace(m, "serviceaccount", &corev1.ServiceAccount{}, "default", func(ns string) client.Object {
		return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "default"}}
	}, nil)
}

// addRootCA publishes the cluster's CA to every namespace, for the token
// volumes of Pods.
func addRootCA(m manager.Manager, c Config) error {
	const name, key = "kube-root-ca.crt", "ca.crt"
	return perNamespace(m, "root-ca-certificate-publisher", &corev1.ConfigMap{}, name, func(ns string) client.Object {
		return &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Annotations: map[string]string{"kubernetes.io/description": "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."}},
			Data:       map[string]string{key: string(c.RootCA)},
		}
	}, func(o client.Object) bool {
		m := o.(*corev1.ConfigMap)
		if len(m.Data) == 1 && m.Data[key] == string(c.RootCA) {
			return false
		}
		m.Data = map[string]string{key: string(c.RootCA)}
		return true
	})
}

// perNamespace keeps one object of a name in every namespace. mend puts it
// right and says whether it had to; nil leaves what is there.
func perNamespace(m manager.Manager, controller string, example client.Object, name string, make func(ns string) client.Object, mend func(client.Object) bool) error {
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
				err = c.Create(ctx, make(ns.Name))
				if apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
					err = nil
				}
			case err == nil && mend != nil && mend(have):
				err = ignoreStale(c.Update(ctx, have))
			}
			return reconcile.Result{}, err
		}))
}

// namespaceEnd empties namespaces that are being deleted and then lets go.
type namespaceEnd struct {
	client    kubernetes.Interface
	discovery discovery.DiscoveryInterface
	metadata  metadata.Interface
}

func addNamespace(m manager.Manager, c Config) error {
	meta, err := metadata.NewForConfig(m.GetConfig())
	if err != nil {
		return err
	}
	n := namespaceEnd{c.Client, c.Client.Discovery(), meta}
	return ctrl.NewControllerManagedBy(m).Named("namespace").For(&corev1.Namespace{}).
		Complete(reconcile.AsReconciler(m.GetClient(), reconcile.ObjectReconciler[*corev1.Namespace](n)))
}

// remainRetry is how soon a namespace is looked at again whose content takes
// its time to go; half of upstream's estimate for Pods.
const remainRetry = time.Second

func (n namespaceEnd) Reconcile(ctx context.Context, ns *corev1.Namespace) (reconcile.Result, error) {
	if ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return reconcile.Result{}, nil
	}
	left, err := n.empty(ctx, ns.Name)
	if err != nil {
		return reconcile.Result{}, errors.Join(err, n.tell(ctx, ns, left, err))
	}
	if left > 0 {
		return reconcile.Result{RequeueAfter: remainRetry}, n.tell(ctx, ns, left, nil)
	}
	ns = ns.DeepCopy()
	ns.Spec.Finalizers = slices.DeleteFunc(ns.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	_, err = n.client.CoreV1().Namespaces().Finalize(ctx, ns, metav1.UpdateOptions{})
	return reconcile.Result{}, ignoreStale(err)
}

// empty deletes everything in a namespace and counts what is still there.
func (n namespaceEnd) empty(ctx context.Context, ns string) (left int, err error) {
	lists, err := n.discovery.ServerPreferredNamespacedResources()
	if err != nil {
		return 0, fmt.Errorf("cannot find out what namespace %s holds: %w", ns, err)
	}
	lists = discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"list", "deletecollection"}}, lists)
	var errs []error
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			return 0, err
		}
		for _, r := range l.APIResources {
			if gv.Group == "events.k8s.io" {
				continue // the other face of core events
			}
			in := n.metadata.Resource(gv.WithResource(r.Name)).Namespace(ns)
			background := metav1.DeletePropagationBackground
			if err := in.DeleteCollection(ctx, metav1.DeleteOptions{PropagationPolicy: &background}, metav1.ListOptions{}); err != nil && !apierrors.IsNotFound(err) {
				errs = append(errs, err)
				continue
			}
			rest, err := in.List(ctx, metav1.ListOptions{})
			if err != nil {
				errs = append(errs, err)
				continue
			}
			left += len(rest.Items)
		}
	}
	return left, errors.Join(errs...)
}

// tell writes what holds the namespace up, as conditions.
func (n namespaceEnd) tell(ctx context.Context, ns *corev1.Namespace, left int, failure error) error {
	up := ns.DeepCopy()
	changed := setNamespaceCondition(&up.Status, corev1.NamespaceDeletionContentFailure, failure != nil, "ContentDeleted", "ContentDeletionFailed", "All content successfully deleted, may be waiting on finalization", fmt.Sprint(failure))
	changed = setNamespaceCondition(&up.Status, corev1.NamespaceContentRemaining, left > 0, "ContentRemoved", "SomeResourcesRemain", "All content successfully removed", fmt.Sprintf("Some resources are remaining: %d objects", left)) || changed
	if !changed {
		return nil
	}
	_, err := n.client.CoreV1().Namespaces().UpdateStatus(ctx, up, metav1.UpdateOptions{})
	return ignoreStale(err)
}

func setNamespaceCondition(s *corev1.NamespaceStatus, t corev1.NamespaceConditionType, on bool, reasonOff, reasonOn, textOff, textOn string) bool {
	c := corev1.NamespaceCondition{Type: t, Status: corev1.ConditionFalse, Reason: reasonOff, Message: textOff, LastTransitionTime: metav1.Now()}
	if on {
		c.Status, c.Reason, c.Message = corev1.ConditionTrue, reasonOn, textOn
	}
	for i, old := range s.Conditions {
		if old.Type != t {
			continue
		}
		if old.Status == c.Status && old.Message == c.Message {
			return false
		}
		s.Conditions[i] = c
		return true
	}
	s.Conditions = append(s.Conditions, c)
	return true
}
