// SPDX-License-Identifier: Apache-2.0

package controller

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

	"github.com/peapod/peapod/api/pod"
)

const (
	// burst bounds how many Pods one reconciliation makes or removes, as
	// kube-controller-manager's BurstReplicas.
	burst = 500
	// unseen is how long is waited at most for the cache to show what is known
	// to be or to have been: what comes and goes while a watch is broken makes no
	// event.
	unseen = 30 * time.Second
	// byController is the cache's index of Pods by the UID of their controller,
	// which is empty when there is none.
	byController = "controller"
)

// replicas is what ReplicaSet and ReplicationController have in common: a
// number of Pods that match a selector.
type replicas struct {
	owning
	// seen is the resource version up to which the cache knows of Pods.
	seen     func() string
	expected expectations
}

func newReplicas(m manager.Manager, component string, gvk schema.GroupVersionKind) (*replicas, error) {
	pods, err := informerOf(m, &corev1.Pod{})
	if err != nil {
		return nil, err
	}
	return &replicas{
		owning: newOwning(m, component, gvk),
		seen:   func() string { return pods.GetStore().LastStoreSyncResourceVersion() },
	}, nil
}

// indexPods lets Pods be listed by their controller.
func indexPods(m manager.Manager) error {
	return m.GetFieldIndexer().IndexField(context.Background(), &corev1.Pod{}, byController, controllerOf)
}

func controllerOf(o client.Object) []string {
	if ref := metav1.GetControllerOfNoCopy(o); ref != nil {
		return []string{string(ref.UID)}
	}
	return []string{""}
}

// counts are a status.
type counts struct {
	total, labeled, ready, available, terminating int32
	failure                                       error
}

// sync makes the number of Pods of owner what it wants. after says when it
// should be looked at again whatever happens.
func (r *replicas) sync(ctx context.Context, owner client.Object, selector labels.Selector, template *corev1.PodTemplateSpec, want, minReady int32) (c counts, after time.Duration, err error) {
	all, settled, err := r.known(ctx, owner)
	if err != nil {
		return c, 0, err
	}
	var active []*corev1.Pod
	for _, p := range all {
		switch {
		case pod.Active(p):
			active = append(active, p)
		case p.DeletionTimestamp != nil && !pod.Terminal(p) && metav1.IsControlledBy(p, owner) && selector.Matches(labels.Set(p.Labels)):
			c.terminating++
		}
	}
	mine, err := claim(ctx, r.owning, owner, func(p *corev1.Pod) bool { return selector.Matches(labels.Set(p.Labels)) }, active)
	if err != nil {
		return c, 0, err
	}
	after = r.count(&c, mine, template, minReady)
	switch {
	case !settled:
		after = cmp.Or(min(after, unseen), unseen)
	case owner.GetDeletionTimestamp() == nil:
		c.failure = r.manage(ctx, owner, template, mine, int(want))
	}
	return c, after, nil
}

// known are the Pods of owner and those that nobody controls, as the cache has
// them; settled says whether it shows all that was done for owner before.
func (r *replicas) known(ctx context.Context, owner client.Object) (all []*corev1.Pod, settled bool, err error) {
	seen := r.seen()
	if all, err = podsOf(ctx, r.client, owner.GetNamespace(), owner.GetUID(), ""); err != nil {
		return nil, false, err
	}
	return all, r.expected.fulfilled(owner, seen, all), nil
}

// podsOf reads from the cache the Pods that some controllers have; without a
// UID, those that none has. They are not copied: none may be changed.
func podsOf(ctx context.Context, cache client.Reader, namespace string, controllers ...types.UID) (all []*corev1.Pod, err error) {
	for _, uid := range controllers {
		var some corev1.PodList
		if err := cache.List(ctx, &some, client.InNamespace(namespace), client.MatchingFields{byController: string(uid)}, client.UnsafeDisableDeepCopy); err != nil {
			return nil, err
		}
		for i := range some.Items {
			all = append(all, &some.Items[i])
		}
	}
	return all, nil
}

// manage makes or removes the difference.
func (r *replicas) manage(ctx context.Context, owner client.Object, template *corev1.PodTemplateSpec, mine []*corev1.Pod, want int) error {
	if lack := want - len(mine); lack > 0 {
		return ignoreTerminating(slowStart(min(lack, burst), func(int) error { return r.create(ctx, owner, podFor(owner, r.gvk, template)) }))
	}
	surplus := min(len(mine)-want, burst)
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
	errs := together(surplus, func(i int) error { return r.remove(ctx, owner, mine[i]) })
	return cmp.Or(errs...) // the others have been told in events, and are likely the same
}

// kin are the Pods of owner and of the other ReplicaSets that have the same
// controller: a Deployment's replicas count together when nodes are compared.
func (r *replicas) kin(ctx context.Context, owner client.Object) ([]*corev1.Pod, error) {
	family := []types.UID{owner.GetUID()}
	if parent := metav1.GetControllerOfNoCopy(owner); parent != nil {
		var sets appsv1.ReplicaSetList
		if err := r.client.List(ctx, &sets, client.InNamespace(owner.GetNamespace()), client.UnsafeDisableDeepCopy); err != nil {
			return nil, err
		}
		for i := range sets.Items {
			if ref := metav1.GetControllerOfNoCopy(&sets.Items[i]); ref != nil && ref.UID == parent.UID && sets.Items[i].UID != owner.GetUID() {
				family = append(family, sets.Items[i].UID)
			}
		}
	}
	return podsOf(ctx, r.client, owner.GetNamespace(), family...)
}

func (r *replicas) remove(ctx context.Context, owner client.Object, p *corev1.Pod) error {
	r.expected.removed(owner, p)
	err := r.client.Delete(ctx, p, client.Preconditions{UID: &p.UID})
	switch {
	case err == nil:
		r.events.Eventf(owner, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", p.Name)
		return nil
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return nil // it is gone, and maybe another has its name; the cache will tell
	}
	r.expected.kept(owner, p)
	r.events.Eventf(owner, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
	return fmt.Errorf("unable to delete pods: %w", err) // upstream's words: they become the condition's message
}

// slowStart calls f with 0 to n-1, in batches of 1, 2, 4 and so on, and stops
// after a batch with an error: many of the same are not tried.
func slowStart(n int, f func(i int) error) error {
	for done, batch := 0, 1; done < n; batch *= 2 {
		size := min(batch, n-done)
		if err := cmp.Or(together(size, func(i int) error { return f(done + i) })...); err != nil {
			return err
		}
		done += size
	}
	return nil
}

// together calls f with 0 to n-1 at once, and gives the errors in that order.
func together(n int, f func(i int) error) []error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = f(i) })
	}
	all.Wait()
	return errs
}

// podFor is a Pod of a template that owner, of that kind, controls.
func podFor(owner client.Object, kind schema.GroupVersionKind, template *corev1.PodTemplateSpec) *corev1.Pod {
	t := template.DeepCopy()
	p := &corev1.Pod{Spec: t.Spec}
	p.GenerateName, p.Namespace = owner.GetName()+"-", owner.GetNamespace()
	p.Labels, p.Annotations, p.Finalizers = t.Labels, t.Annotations, t.Finalizers
	p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)}
	return p
}

func (r *replicas) create(ctx context.Context, owner client.Object, p *corev1.Pod) error {
	if err := r.client.Create(ctx, p); err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			r.events.Eventf(owner, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return err
	}
	r.expected.wrote(owner, p)
	r.events.Eventf(owner, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", p.Name)
	return nil
}

// count fills in the status, and says when the next Pod becomes available.
func (r *replicas) count(c *counts, active []*corev1.Pod, template *corev1.PodTemplateSpec, minReady int32) (after time.Duration) {
	want, now := labels.Set(template.Labels).AsSelectorPreValidated(), time.Now()
	for _, p := range active {
		c.total++
		if want.Matches(labels.Set(p.Labels)) {
			c.labeled++
		}
		if !pod.Ready(p) {
			continue
		}
		c.ready++
		if longReady(p, minReady, now) {
			c.available++
		}
	}
	return nextAvailable(active, minReady, now)
}

// longReady says whether a Pod has been ready for as long as its owner asks.
func longReady(p *corev1.Pod, minReady int32, now time.Time) bool {
	return pod.Ready(p) && untilAvailable(p, minReady, now) <= 0
}

// untilAvailable is how long a Pod that is ready has to stay so.
func untilAvailable(p *corev1.Pod, minReady int32, now time.Time) time.Duration {
	if minReady == 0 {
		return 0 // even if its node's clock is ahead
	}
	return readySince(p).Add(time.Duration(minReady) * time.Second).Sub(now)
}

// nextAvailable is when the next Pod will have been ready for long enough; 0 is
// never.
func nextAvailable(pods []*corev1.Pod, minReady int32, now time.Time) (next time.Duration) {
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
