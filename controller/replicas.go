// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/api/pod"
)

// burst bounds how many Pods one reconciliation makes or removes, as
// kube-controller-manager's BurstReplicas.
const burst = 500

// replicas is what ReplicaSet and ReplicationController have in common: a
// number of Pods that match a selector.
type replicas struct {
	client client.Client
	// live reads past the cache, before something is taken over.
	live   client.Reader
	events record.EventRecorder
	gvk    schema.GroupVersionKind
	seen   expectations
}

// expectations remember the Pods just created and removed until the cache
// shows them, so that no reconciliation acts twice on the same lack.
type expectations struct {
	mu      sync.Mutex // guards the fields below
	created map[types.UID]map[types.UID]bool
	removed map[types.UID]map[types.UID]bool
}

func (e *expectations) note(m *map[types.UID]map[types.UID]bool, owner, uid types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if *m == nil {
		*m = map[types.UID]map[types.UID]bool{}
	}
	if (*m)[owner] == nil {
		(*m)[owner] = map[types.UID]bool{}
	}
	(*m)[owner][uid] = true
}

// fulfilled drops what the cache shows by now, and says whether all is seen.
func (e *expectations) fulfilled(owner types.UID, listed map[types.UID]*corev1.Pod) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for uid := range e.created[owner] {
		if listed[uid] != nil {
			delete(e.created[owner], uid)
		}
	}
	for uid := range e.removed[owner] {
		if p := listed[uid]; p == nil || p.DeletionTimestamp != nil {
			delete(e.removed[owner], uid)
		}
	}
	return len(e.created[owner]) == 0 && len(e.removed[owner]) == 0
}

func (e *expectations) forget(owner types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.created, owner)
	delete(e.removed, owner)
}

// drop takes back that a Pod is being removed: it could not be.
func (e *expectations) drop(owner, uid types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.removed[owner], uid)
}

// podGone takes a created Pod off that was removed before it was ever listed.
func (e *expectations) podGone(owner, uid types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.created[owner], uid)
}

// counts are a status.
type counts struct {
	total, labeled, ready, available, terminating int32
	failure                                       error
}

// sync makes the number of Pods of owner what it wants. after says when a Pod
// will have been ready for long enough.
func (r *replicas) sync(ctx context.Context, owner client.Object, selector labels.Selector, template *corev1.PodTemplateSpec, want, minReady int32) (c counts, after time.Duration, err error) {
	var all corev1.PodList
	if err := r.client.List(ctx, &all, client.InNamespace(owner.GetNamespace())); err != nil {
		return c, 0, err
	}
	byUID := map[types.UID]*corev1.Pod{}
	for i := range all.Items {
		byUID[all.Items[i].UID] = &all.Items[i]
	}
	settled := r.seen.fulfilled(owner.GetUID(), byUID)
	mine, err := r.claim(ctx, owner, selector, all.Items)
	if err != nil {
		return c, 0, err
	}
	var active []*corev1.Pod
	for _, p := range mine {
		switch {
		case pod.Active(p):
			active = append(active, p)
		case p.DeletionTimestamp != nil && !pod.Terminal(p):
			c.terminating++
		}
	}
	if settled && owner.GetDeletionTimestamp() == nil {
		c.failure = r.manage(ctx, owner, template, active, int(want))
	}
	after = r.count(&c, active, template, minReady)
	return c, after, nil
}

// claim takes over matching Pods without an owner and lets go of own ones that
// match no more.
func (r *replicas) claim(ctx context.Context, owner client.Object, selector labels.Selector, all []corev1.Pod) (mine []*corev1.Pod, err error) {
	checked := false
	for i := range all {
		p := &all[i]
		ref := metav1.GetControllerOf(p)
		matches := selector.Matches(labels.Set(p.Labels))
		switch {
		case ref != nil && ref.UID != owner.GetUID():
		case ref != nil && matches:
			mine = append(mine, p)
		case ref != nil:
			if owner.GetDeletionTimestamp() == nil {
				err = errors.Join(err, ignoreGone(r.patchOwners(ctx, p, fmt.Sprintf(`{"$patch":"delete","uid":%q}`, owner.GetUID()))))
			}
		case matches && owner.GetDeletionTimestamp() == nil && p.DeletionTimestamp == nil && !pod.Terminal(p):
			if !checked {
				// The owner must still be there under this UID, whatever the cache says.
				fresh := owner.DeepCopyObject().(client.Object)
				if liveErr := r.live.Get(ctx, client.ObjectKeyFromObject(owner), fresh); liveErr != nil || fresh.GetUID() != owner.GetUID() || fresh.GetDeletionTimestamp() != nil {
					return mine, errors.Join(err, liveErr)
				}
				checked = true
			}
			adopt := fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"name":%q,"uid":%q,"controller":true,"blockOwnerDeletion":true}`, r.gvk.GroupVersion(), r.gvk.Kind, owner.GetName(), owner.GetUID())
			if patchErr := r.patchOwners(ctx, p, adopt); patchErr != nil {
				err = errors.Join(err, ignoreGone(patchErr))
				continue
			}
			mine = append(mine, p)
		}
	}
	return mine, err
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

func (r *replicas) patchOwners(ctx context.Context, p *corev1.Pod, ref string) error {
	patch := fmt.Sprintf(`{"metadata":{"ownerReferences":[%s],"uid":%q}}`, ref, p.UID)
	return r.client.Patch(ctx, p.DeepCopy(), client.RawPatch(types.StrategicMergePatchType, []byte(patch)))
}

// manage makes or removes the difference.
func (r *replicas) manage(ctx context.Context, owner client.Object, template *corev1.PodTemplateSpec, active []*corev1.Pod, want int) error {
	if diff := want - len(active); diff > 0 {
		return r.slowStart(min(diff, burst), func() error { return r.create(ctx, owner, template) })
	}
	surplus := min(len(active)-want, burst)
	if surplus <= 0 {
		return nil
	}
	rank(active, time.Now())
	var errs []error
	for _, p := range active[:surplus] {
		r.seen.note(&r.seen.removed, owner.GetUID(), p.UID)
		if err := r.client.Delete(ctx, p, client.Preconditions{UID: &p.UID}); err != nil {
			r.seen.drop(owner.GetUID(), p.UID)
			if !apierrors.IsNotFound(err) {
				r.events.Eventf(owner, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
				errs = append(errs, err)
			}
			continue
		}
		r.events.Eventf(owner, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", p.Name)
	}
	return errors.Join(errs...)
}

// slowStart calls f n times, in batches of 1, 2, 4 and so on, and stops after
// a batch with an error: many of the same are not tried.
func (r *replicas) slowStart(n int, f func() error) error {
	for batch := 1; n > 0; batch *= 2 {
		size := min(batch, n)
		errs := make([]error, size)
		var all sync.WaitGroup
		for i := range size {
			all.Go(func() { errs[i] = f() })
		}
		all.Wait()
		if err := cmp.Or(errs...); err != nil {
			return err
		}
		n -= size
	}
	return nil
}

func (r *replicas) create(ctx context.Context, owner client.Object, template *corev1.PodTemplateSpec) error {
	p := &corev1.Pod{Spec: *template.Spec.DeepCopy()}
	p.GenerateName, p.Namespace = owner.GetName()+"-", owner.GetNamespace()
	p.Labels, p.Annotations, p.Finalizers = maps.Clone(template.Labels), maps.Clone(template.Annotations), slices.Clone(template.Finalizers)
	p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, r.gvk)}
	if err := r.client.Create(ctx, p); err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			r.events.Eventf(owner, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return err
	}
	r.seen.note(&r.seen.created, owner.GetUID(), p.UID)
	r.events.Eventf(owner, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", p.Name)
	return nil
}

// rank puts first what is missed least when Pods are removed: not assigned,
// pending, not ready, low deletion cost (KEP-2255), with most of its kind on
// the same node, ready for less long, the restless, then the younger. Times are
// told apart by their order of magnitude only (KEP-2185), so that a node does
// not lose all it has because it was filled a moment later.
func rank(list []*corev1.Pod, now time.Time) {
	onNode := map[string]int{}
	for _, p := range list {
		onNode[p.Spec.NodeName]++
	}
	phase := map[corev1.PodPhase]int{corev1.PodPending: 0, corev1.PodUnknown: 1, corev1.PodRunning: 2}
	slices.SortStableFunc(list, func(a, b *corev1.Pod) int {
		return cmp.Or(
			order(a.Spec.NodeName != "", b.Spec.NodeName != ""), phase[a.Status.Phase]-phase[b.Status.Phase],
			order(pod.Ready(a), pod.Ready(b)), cmp.Compare(deletionCost(a), deletionCost(b)),
			onNode[b.Spec.NodeName]-onNode[a.Spec.NodeName],
			cmp.Compare(magnitude(now, readySince(a)), magnitude(now, readySince(b))),
			int(restarts(b)-restarts(a)),
			cmp.Compare(magnitude(now, a.CreationTimestamp.Time), magnitude(now, b.CreationTimestamp.Time)),
			cmp.Compare(a.UID, b.UID))
	})
}

// order puts false before true.
func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func deletionCost(p *corev1.Pod) int {
	n, err := strconv.Atoi(p.Annotations[corev1.PodDeletionCost])
	if err != nil {
		return 0
	}
	return n
}

func restarts(p *corev1.Pod) (n int32) {
	for _, c := range p.Status.ContainerStatuses {
		n = max(n, c.RestartCount)
	}
	return n
}

func readySince(p *corev1.Pod) time.Time {
	if c := pod.Condition(&p.Status, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

// magnitude is the power of two of an age in nanoseconds; no time is the
// youngest.
func magnitude(now, t time.Time) int {
	if t.IsZero() {
		return -1
	}
	return bits.Len64(uint64(max(now.Sub(t), 0)))
}

// count fills in the status, and says when the next Pod becomes available.
func (r *replicas) count(c *counts, active []*corev1.Pod, template *corev1.PodTemplateSpec, minReady int32) (after time.Duration) {
	want, next := labels.Set(template.Labels).AsSelectorPreValidated(), time.Duration(math.MaxInt64)
	for _, p := range active {
		c.total++
		if want.Matches(labels.Set(p.Labels)) {
			c.labeled++
		}
		if !pod.Ready(p) {
			continue
		}
		c.ready++
		left := time.Duration(minReady)*time.Second - time.Since(pod.Condition(&p.Status, corev1.PodReady).LastTransitionTime.Time)
		if minReady == 0 || left <= 0 {
			c.available++
		} else {
			next = min(next, left)
		}
	}
	if next == math.MaxInt64 {
		return 0
	}
	return next
}
