// SPDX-License-Identifier: Apache-2.0

// Package namespaces ends namespaces: all that is in one goes first, and its
// conditions say what is waited for.
package namespaces

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
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/peapod/peapod/api/pod"
	"github.com/peapod/peapod/controller/garbage"
	"github.com/peapod/peapod/controller/loop"
)

// namespaceEnd empties namespaces that are being deleted and then lets go: the
// Pods first, which end gracefully, then all the rest (KEP-5080). It is woken
// by what goes from the namespace.
type namespaceEnd struct {
	client    kubernetes.Interface
	discovery discovery.DiscoveryInterface
	metadata  metadata.Interface
	// awaited says whether an object's end will be heard of.
	awaited func(types.UID) bool
}

// patience is how soon an end that failed is tried again at the latest, as
// upstream.
const patience = time.Minute

func Add(m manager.Manager, c loop.Config, all *garbage.Everything) error {
	meta, err := metadata.NewForConfig(m.GetConfig())
	if err != nil {
		return err
	}
	n := namespaceEnd{c.Client, c.Client.Discovery(), meta, all.Awaited}
	return ctrl.NewControllerManagedBy(m).Named("namespace").For(&corev1.Namespace{}).
		WatchesRawSource(source.Func(func(ctx context.Context, queue loop.RequestQueue) error {
			all.WhenLess(func(namespace string) {
				key := types.NamespacedName{Name: namespace}
				var ns corev1.Namespace
				if m.GetClient().Get(ctx, key, &ns, client.UnsafeDisableDeepCopy) == nil && ns.DeletionTimestamp != nil {
					queue.Add(reconcile.Request{NamespacedName: key})
				}
			})
			return nil
		})).
		WithOptions(controller.Options{RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](5*time.Millisecond, patience)}).
		Complete(reconcile.AsReconciler(m.GetClient(), reconcile.ObjectReconciler[*corev1.Namespace](n)))
}

func (n namespaceEnd) Reconcile(ctx context.Context, ns *corev1.Namespace) (reconcile.Result, error) {
	if ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return reconcile.Result{}, nil
	}
	var r remains
	after := n.empty(ctx, ns, &r)
	if r.tell(&ns.Status) {
		told, err := n.client.CoreV1().Namespaces().UpdateStatus(ctx, ns, metav1.UpdateOptions{})
		if err != nil {
			return reconcile.Result{}, errors.Join(r.err(), loop.IgnoreStale(err))
		}
		ns = told
	}
	if err := r.err(); err != nil || len(r.instances) > 0 {
		return reconcile.Result{RequeueAfter: after}, err
	}
	ns.Spec.Finalizers = slices.DeleteFunc(ns.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	_, err := n.client.CoreV1().Namespaces().Finalize(ctx, ns, metav1.UpdateOptions{})
	return reconcile.Result{}, loop.IgnoreStale(err)
}

// empty deletes everything in a namespace, or only the Pods while there are
// any, and notes what is still there. after says when to look again although
// nothing has gone.
func (n namespaceEnd) empty(ctx context.Context, ns *corev1.Namespace, r *remains) (after time.Duration) {
	lists, err := n.discovery.ServerPreferredNamespacedResources()
	if err != nil {
		r.discovery = err
	}
	kinds, err := discovery.GroupVersionResources(discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"delete"}}, lists))
	if err != nil {
		r.parsing = err
	}
	pods := corev1.SchemeGroupVersion.WithResource("pods")
	if _, served := kinds[pods]; served {
		grace, err := n.grace(ctx, ns)
		if err == nil {
			after, err = n.delete(ctx, ns.Name, pods, grace, r)
		}
		if err != nil {
			r.content = append(r.content, err)
			r.failures = append(r.failures, fmt.Errorf("failed to delete pods for namespace: %s, err: %w", ns.Name, err))
		}
		if r.instances[pods] > 0 {
			return after
		}
	}
	for kind := range kinds {
		if kind == pods || kind.Group == "events.k8s.io" { // the other face of core events
			continue
		}
		again, err := n.delete(ctx, ns.Name, kind, 0, r)
		if err != nil {
			r.content, r.failures = append(r.content, err), append(r.failures, err)
		}
		after = max(after, again)
	}
	return after
}

// grace is how much longer the Pods of a namespace may take to end.
func (n namespaceEnd) grace(ctx context.Context, ns *corev1.Namespace) (time.Duration, error) {
	list, err := n.client.CoreV1().Pods(ns.Name).List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	var longest int64
	for i := range list.Items {
		if p := &list.Items[i]; !pod.Terminal(p) && p.Spec.TerminationGracePeriodSeconds != nil {
			longest = max(longest, *p.Spec.TerminationGracePeriodSeconds)
		}
	}
	return max(0, time.Duration(longest)*time.Second-time.Since(ns.DeletionTimestamp.Time)), nil
}

// delete deletes all of one kind in a namespace. What is there after that is
// an error, unless it has time left or a finalizer.
func (n namespaceEnd) delete(ctx context.Context, ns string, kind schema.GroupVersionResource, grace time.Duration, r *remains) (after time.Duration, err error) {
	in, background := n.metadata.Resource(kind).Namespace(ns), metav1.DeletePropagationBackground
	err = in.DeleteCollection(ctx, metav1.DeleteOptions{PropagationPolicy: &background}, metav1.ListOptions{})
	if apierrors.IsMethodNotSupported(err) {
		err = n.deleteEach(ctx, in)
	}
	if err != nil {
		return 0, err
	}
	rest, err := in.List(ctx, metav1.ListOptions{})
	if apierrors.IsMethodNotSupported(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	r.note(kind, rest.Items)
	finalizers, heard := false, true
	for i := range rest.Items {
		finalizers = finalizers || len(rest.Items[i].Finalizers) > 0
		heard = heard && n.awaited(rest.Items[i].UID)
	}
	if len(rest.Items) > 0 && grace == 0 && !finalizers {
		return 0, fmt.Errorf("unexpected items still remain in namespace: %s for gvr: %v", ns, kind)
	}
	if !heard {
		return loop.Unseen, nil
	}
	return grace, nil // after which it is an error
}

func (n namespaceEnd) deleteEach(ctx context.Context, in metadata.ResourceInterface) error {
	list, err := in.List(ctx, metav1.ListOptions{})
	if err != nil {
		return client.IgnoreNotFound(err)
	}
	background := metav1.DeletePropagationBackground
	for i := range list.Items {
		if err := in.Delete(ctx, list.Items[i].Name, metav1.DeleteOptions{PropagationPolicy: &background}); client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}
