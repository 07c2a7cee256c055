// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"errors"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/util/flowcontrol"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/controller/owned"
)

// firstFailure and longestFailure bound how long a Pod that failed is left
// before it is replaced, as kube-controller-manager has it.
const (
	firstFailure   = time.Second
	longestFailure = 15 * time.Minute
)

// daemonSets keeps DaemonSets true: one Pod on each node that it fits.
type daemonSets struct {
	*owned.Replicas
	// failed says how long the replacement of a failed Pod waits, by DaemonSet,
	// generation and node. It is lost with the process: then pauses are short again.
	failed *flowcontrol.Backoff
}

// addDaemonSet adds the controller of DaemonSets.
func addDaemonSet(m manager.Manager, _ loop.Config) error {
	all, err := owned.NewReplicas(m, "daemonset-controller", appsv1.SchemeGroupVersion.WithKind("DaemonSet"))
	if err != nil {
		return err
	}
	r := daemonSets{all, flowcontrol.NewBackOff(firstFailure, longestFailure)}
	owned := owned.OfOwned(r.Owning, &appsv1.DaemonSetList{}, func(d *appsv1.DaemonSet, o client.Object) bool { return owned.Selects(d.Spec.Selector, o) })
	return ctrl.NewControllerManagedBy(m).Named("daemonset").For(&appsv1.DaemonSet{}).
		Watches(&corev1.Pod{}, owned).
		Watches(&appsv1.ControllerRevision{}, owned).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(r.every), builder.WithPredicates(eligibilityChanges())).
		Complete(r)
}

func (r daemonSets) every(ctx context.Context, _ client.Object) (out []reconcile.Request) {
	var list appsv1.DaemonSetList
	if err := r.Client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return nil // the cache is stopping
	}
	for i := range list.Items {
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return out
}

// eligibilityChanges are the changes of a node that may decide which Pods it
// has. One that is marked as not to be used is tainted as well.
func eligibilityChanges() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		was, now := e.ObjectOld.(*corev1.Node), e.ObjectNew.(*corev1.Node)
		return !equality.Semantic.DeepEqual(was.Labels, now.Labels) || !equality.Semantic.DeepEqual(was.Spec.Taints, now.Spec.Taints)
	}}
}

func (r daemonSets) Reconcile(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
	set := &appsv1.DaemonSet{}
	if err := r.Get(ctx, q, set); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if set.DeletionTimestamp != nil {
		return reconcile.Result{}, nil // its revisions may be gone already, and with them what its Pods are
	}
	d, settled, err := r.look(ctx, set)
	if err != nil {
		return reconcile.Result{}, err
	}
	status := d.status()
	if settled {
		err = d.update(ctx)
		status.ObservedGeneration = set.Generation
	}
	if !equality.Semantic.DeepEqual(set.Status, status) {
		set.Status = status
		err = errors.Join(err, loop.IgnoreStale(r.Client.Status().Update(ctx, set)))
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	d.lookAgain(owned.NextAvailable(d.all, set.Spec.MinReadySeconds, d.now))
	if !settled {
		d.lookAgain(loop.Unseen)
	}
	return reconcile.Result{RequeueAfter: d.after}, nil
}

// look finds the nodes, Pods and revisions of a set, and says whether the cache
// shows all that was done for it before.
func (r daemonSets) look(ctx context.Context, set *appsv1.DaemonSet) (*daemons, bool, error) {
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return nil, false, err
	}
	var nodes corev1.NodeList
	if err := r.Client.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return nil, false, err
	}
	past, err := r.Revisions(ctx, set, selector)
	if err != nil {
		return nil, false, err
	}
	pods, settled, err := r.Known(ctx, set)
	if err != nil {
		return nil, false, err
	}
	if pods, err = owned.Claim(ctx, r.Owning, set, func(p *corev1.Pod) bool { return selector.Matches(labels.Set(p.Labels)) }, pods); err != nil {
		return nil, false, err
	}
	d := newDaemons(r, set, nodes.Items, pods, time.Now())
	if err := d.revise(ctx, past); err != nil {
		return nil, false, err
	}
	d.spread()
	return d, settled, nil
}
