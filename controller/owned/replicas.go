// SPDX-License-Identifier: Apache-2.0

// Package owned is what the owners of other objects have in common: adoption and
// release, a number of Pods, what is expected of the cache, and past templates.
package owned

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/api/pod"
	"github.com/peapod/peapod/controller/loop"
)

const (
	// Burst bounds how many Pods one reconciliation makes or removes, as
	// kube-controller-manager's BurstReplicas.
	Burst = 500
	// ByController is the cache's index of Pods by the UID of their controller,
	// which is empty when there is none.
	ByController = "controller"
)

// Replicas is what ReplicaSet and ReplicationController have in common: a
// number of Pods that match a selector.
type Replicas struct {
	Owning
	// Seen is the resource version up to which the cache knows of Pods.
	Seen     func() string
	Expected Expectations
}

func NewReplicas(m manager.Manager, component string, gvk schema.GroupVersionKind) (*Replicas, error) {
	pods, err := loop.InformerOf(m, &corev1.Pod{})
	if err != nil {
		return nil, err
	}
	return &Replicas{
		Owning: NewOwning(m, component, gvk),
		Seen:   func() string { return pods.GetStore().LastStoreSyncResourceVersion() },
	}, nil
}

// IndexPods lets Pods be listed by their controller.
func IndexPods(m manager.Manager, _ loop.Config) error {
	err := m.GetFieldIndexer().IndexField(context.Background(), &corev1.Pod{}, ByController, ControllerOf)
	if err != nil {
		return fmt.Errorf("cannot index the Pods by their controllers: %w", err)
	}
	return nil
}

func ControllerOf(o client.Object) []string {
	if ref := metav1.GetControllerOfNoCopy(o); ref != nil {
		return []string{string(ref.UID)}
	}
	return []string{""}
}

// Counts are a status.
type Counts struct {
	Total, Labeled, Ready, Available, Terminating int32
	Failure                                       error
}

// Sync makes the number of Pods of owner what it wants. after says when it
// should be looked at again whatever happens.
func (r *Replicas) Sync(ctx context.Context, owner client.Object, selector labels.Selector, template *corev1.PodTemplateSpec, want, minReady int32) (c Counts, after time.Duration, err error) {
	all, settled, err := r.Known(ctx, owner)
	if err != nil {
		return c, 0, err
	}
	var active []*corev1.Pod
	for _, p := range all {
		switch {
		case pod.Active(p):
			active = append(active, p)
		case p.DeletionTimestamp != nil && !pod.Terminal(p) && metav1.IsControlledBy(p, owner) && selector.Matches(labels.Set(p.Labels)):
			c.Terminating++
		}
	}
	mine, err := Claim(ctx, r.Owning, owner, func(p *corev1.Pod) bool { return selector.Matches(labels.Set(p.Labels)) }, active)
	if err != nil {
		return c, 0, err
	}
	after = r.count(&c, mine, template, minReady)
	switch {
	case !settled:
		after = cmp.Or(min(after, loop.Unseen), loop.Unseen)
	case owner.GetDeletionTimestamp() == nil:
		c.Failure = r.manage(ctx, owner, template, mine, int(want))
	}
	return c, after, nil
}

// Known are the Pods of owner and those that nobody controls, as the cache has
// them; settled says whether it shows all that was done for owner before.
func (r *Replicas) Known(ctx context.Context, owner client.Object) (all []*corev1.Pod, settled bool, err error) {
	seen := r.Seen()
	if all, err = PodsOf(ctx, r.Client, owner.GetNamespace(), owner.GetUID(), ""); err != nil {
		return nil, false, err
	}
	return all, r.Expected.Fulfilled(owner, seen, all), nil
}

// PodsOf reads from the cache the Pods that some controllers have; without a
// UID, those that none has. They are not copied: none may be changed.
func PodsOf(ctx context.Context, cache client.Reader, namespace string, controllers ...types.UID) (all []*corev1.Pod, err error) {
	for _, uid := range controllers {
		var some corev1.PodList
		if err := cache.List(ctx, &some, client.InNamespace(namespace), client.MatchingFields{ByController: string(uid)}, client.UnsafeDisableDeepCopy); err != nil {
			return nil, err
		}
		for i := range some.Items {
			all = append(all, &some.Items[i])
		}
	}
	return all, nil
}

// manage makes or removes the difference.
func (r *Replicas) manage(ctx context.Context, owner client.Object, template *corev1.PodTemplateSpec, mine []*corev1.Pod, want int) error {
	if lack := want - len(mine); lack > 0 {
		return loop.IgnoreTerminating(SlowStart(min(lack, Burst), func(int) error { return r.Create(ctx, owner, PodFor(owner, r.Gvk, template)) }))
	}
	surplus := min(len(mine)-want, Burst)
	if surplus <= 0 {
		return nil
	}
	if surplus < len(mine) {
		kin, err := r.kin(ctx, owner)
		if err != nil {
			return err
		}
		rank(mine, kin, time.Now())
	}
	errs := Together(surplus, func(i int) error { return r.Remove(ctx, owner, mine[i]) })
	return cmp.Or(errs...) // the others have been told in events, and are likely the same
}

// kin are the Pods of owner and of the other ReplicaSets that have the same
// controller: a Deployment's replicas count together when nodes are compared.
func (r *Replicas) kin(ctx context.Context, owner client.Object) ([]*corev1.Pod, error) {
	family := []types.UID{owner.GetUID()}
	if parent := metav1.GetControllerOfNoCopy(owner); parent != nil {
		var sets appsv1.ReplicaSetList
		if err := r.Client.List(ctx, &sets, client.InNamespace(owner.GetNamespace()), client.UnsafeDisableDeepCopy); err != nil {
			return nil, err
		}
		for i := range sets.Items {
			if ref := metav1.GetControllerOfNoCopy(&sets.Items[i]); ref != nil && ref.UID == parent.UID && sets.Items[i].UID != owner.GetUID() {
				family = append(family, sets.Items[i].UID)
			}
		}
	}
	return PodsOf(ctx, r.Client, owner.GetNamespace(), family...)
}

func (r *Replicas) Remove(ctx context.Context, owner client.Object, p *corev1.Pod) error {
	r.Expected.Removed(owner, p)
	err := r.Client.Delete(ctx, p, client.Preconditions{UID: &p.UID})
	switch {
	case err == nil:
		r.Events.Eventf(owner, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", p.Name)
		return nil
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return nil // it is gone, and maybe another has its name; the cache will tell
	}
	r.Expected.Kept(owner, p)
	r.Events.Eventf(owner, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
	return fmt.Errorf("unable to delete pods: %w", err) // upstream's words: they become the condition's message
}

// SlowStart calls f with 0 to n-1, in batches of 1, 2, 4 and so on, and stops
// after a batch with an error: many of the same are not tried.
func SlowStart(n int, f func(i int) error) error {
	for done, batch := 0, 1; done < n; batch *= 2 {
		size := min(batch, n-done)
		if err := cmp.Or(Together(size, func(i int) error { return f(done + i) })...); err != nil {
			return err
		}
		done += size
	}
	return nil
}

// Together calls f with 0 to n-1 at once, and gives the errors in that order.
func Together(n int, f func(i int) error) []error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = f(i) })
	}
	all.Wait()
	return errs
}

// PodFor is a Pod of a template that owner, of that kind, controls.
func PodFor(owner client.Object, kind schema.GroupVersionKind, template *corev1.PodTemplateSpec) *corev1.Pod {
	t := template.DeepCopy()
	p := &corev1.Pod{Spec: t.Spec}
	p.GenerateName, p.Namespace = owner.GetName()+"-", owner.GetNamespace()
	p.Labels, p.Annotations, p.Finalizers = t.Labels, t.Annotations, t.Finalizers
	p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)}
	return p
}

func (r *Replicas) Create(ctx context.Context, owner client.Object, p *corev1.Pod) error {
	if err := r.Client.Create(ctx, p); err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			r.Events.Eventf(owner, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return err
	}
	r.Expected.Wrote(owner, p)
	r.Events.Eventf(owner, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", p.Name)
	return nil
}

// count fills in the status, and says when the next Pod becomes available.
func (r *Replicas) count(c *Counts, active []*corev1.Pod, template *corev1.PodTemplateSpec, minReady int32) (after time.Duration) {
	want, now := labels.Set(template.Labels).AsSelectorPreValidated(), time.Now()
	for _, p := range active {
		c.Total++
		if want.Matches(labels.Set(p.Labels)) {
			c.Labeled++
		}
		if !pod.Ready(p) {
			continue
		}
		c.Ready++
		if LongReady(p, minReady, now) {
			c.Available++
		}
	}
	return NextAvailable(active, minReady, now)
}

// LongReady says whether a Pod has been ready for as long as its owner asks.
func LongReady(p *corev1.Pod, minReady int32, now time.Time) bool {
	return pod.Ready(p) && untilAvailable(p, minReady, now) <= 0
}

// untilAvailable is how long a Pod that is ready has to stay so.
func untilAvailable(p *corev1.Pod, minReady int32, now time.Time) time.Duration {
	if minReady == 0 {
		return 0 // even if its node's clock is ahead
	}
	return ReadySince(p).Add(time.Duration(minReady) * time.Second).Sub(now)
}

// NextAvailable is when the next Pod will have been ready for long enough; 0 is
// never.
func NextAvailable(pods []*corev1.Pod, minReady int32, now time.Time) (next time.Duration) {
	for _, p := range pods {
		if !pod.Ready(p) {
			continue
		}
		if left := untilAvailable(p, minReady, now); left > 0 && (next == 0 || left < next) {
			next = left
		}
	}
	return next
}

// Get reads an owner. Of one that is gone nothing is expected any more.
func (r *Replicas) Get(ctx context.Context, q reconcile.Request, owner client.Object) error {
	err := r.Client.Get(ctx, q.NamespacedName, owner)
	if apierrors.IsNotFound(err) {
		r.Expected.Forget(q.NamespacedName)
	}
	return err
}
