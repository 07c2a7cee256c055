// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"errors"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/controller/owned"
)

// statefulSets keeps StatefulSets true: Pods with names of their own that stay,
// one for each ordinal, and claims that stay with the names. No Pod is ever
// deleted by force: two of one name must not be.
type statefulSets struct{ *owned.Replicas }

// addStatefulSet adds the controller of StatefulSets.
func addStatefulSet(m manager.Manager, _ loop.Config) error {
	all, err := owned.NewReplicas(m, "statefulset-controller", appsv1.SchemeGroupVersion.WithKind("StatefulSet"))
	if err != nil {
		return err
	}
	r := statefulSets{all}
	return ctrl.NewControllerManagedBy(m).Named("statefulset").For(&appsv1.StatefulSet{}).
		Watches(&corev1.Pod{}, owned.OfOwned(r.Owning, &appsv1.StatefulSetList{}, mayTake)).
		Watches(&corev1.PersistentVolumeClaim{}, handler.EnqueueRequestsFromMapFunc(r.ofClaim), builder.WithPredicates(owned.Deletions())).
		Complete(r)
}

// mayTake says whether a set would take an orphan.
func mayTake(set *appsv1.StatefulSet, p client.Object) bool {
	parent, _ := parentOf(p.GetName())
	return parent == set.Name && owned.Selects(set.Spec.Selector, p)
}

// ofClaim is the set that may wait for the end of a claim: it is owned by the
// set or by a Pod that the set scaled away.
func (r statefulSets) ofClaim(_ context.Context, o client.Object) (out []reconcile.Request) {
	for _, ref := range o.GetOwnerReferences() {
		name := ref.Name
		switch ref.Kind {
		case "Pod":
			name, _ = parentOf(ref.Name)
		case r.Gvk.Kind:
		default:
			continue
		}
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKey{Namespace: o.GetNamespace(), Name: name}})
	}
	return out
}

func (r statefulSets) Reconcile(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
	set := &appsv1.StatefulSet{}
	if err := r.Get(ctx, q, set); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	m, settled, err := r.look(ctx, set)
	if err != nil {
		return reconcile.Result{}, err
	}
	m.count()
	if settled && set.DeletionTimestamp == nil {
		err = m.update(ctx)
	}
	m.complete()
	if !equality.Semantic.DeepEqual(set.Status, m.status) {
		set.Status = m.status
		err = errors.Join(err, loop.IgnoreStale(r.Client.Status().Update(ctx, set)))
	}
	if err = errors.Join(err, m.forget(ctx)); err != nil {
		return reconcile.Result{}, err
	}
	after := owned.NextAvailable(slices.Concat(m.wanted, m.surplus), set.Spec.MinReadySeconds, m.now)
	if !settled && (after == 0 || after > loop.Unseen) {
		after = loop.Unseen
	}
	return reconcile.Result{RequeueAfter: after}, nil
}

// look finds the Pods and revisions of a set, and says whether the cache shows
// all that was done for it before.
func (r statefulSets) look(ctx context.Context, set *appsv1.StatefulSet) (*members, bool, error) {
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
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
	pods, err = owned.Claim(ctx, r.Owning, set, func(p *corev1.Pod) bool {
		parent, _ := parentOf(p.Name)
		return parent == set.Name && selector.Matches(labels.Set(p.Labels))
	}, pods)
	if err != nil {
		return nil, false, err
	}
	m := &members{statefulSets: r, set: set, now: time.Now(), past: past}
	collisions := int32(0)
	if c := set.Status.CollisionCount; c != nil {
		collisions = *c
	}
	m.target, err = r.Present(ctx, set, &set.Spec.Template, past, &collisions, defaults.PodTemplateSpec)
	if err != nil {
		return nil, false, err
	}
	m.current = m.target
	for _, p := range past {
		if p.Name == set.Status.CurrentRevision {
			m.current = p
		}
	}
	m.status = appsv1.StatefulSetStatus{
		ObservedGeneration: set.Generation, CurrentRevision: m.current.Name, UpdateRevision: m.target.Name,
		CollisionCount: &collisions, Conditions: set.Status.Conditions,
	}
	return m, settled, m.place(pods)
}
