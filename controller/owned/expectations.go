// SPDX-License-Identifier: Apache-2.0

package owned

import (
	"slices"
	"sync"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Expectations remember what was done for an owner until the cache shows it,
// so that no reconciliation acts twice on the same lack. A write is seen when the
// cache is as new as it, whether the object is still there or not (KEP-5647); a
// removal when the Pod is ending or gone.
type Expectations struct {
	mu   sync.Mutex // guards the map and what it leads to
	done map[types.NamespacedName]*deeds
}

// deeds are what was done for one owner.
type deeds struct {
	owner   types.UID
	written string // the highest resource version of what was written
	itself  string // the resource version of the owner, when it was written
	removed map[types.UID]bool
	freed   map[types.UID]bool // Pods that lost the finalizer of Jobs
}

// of finds or makes the record of an owner. Another of the same name has none
// yet. The lock is held.
func (e *Expectations) of(owner client.Object) *deeds {
	key := client.ObjectKeyFromObject(owner)
	if d := e.done[key]; d != nil && d.owner == owner.GetUID() {
		return d
	}
	if e.done == nil {
		e.done = map[types.NamespacedName]*deeds{}
	}
	d := &deeds{owner: owner.GetUID(), removed: map[types.UID]bool{}, freed: map[types.UID]bool{}}
	e.done[key] = d
	return d
}

// Wrote awaits that the cache is as new as o is now.
func (e *Expectations) Wrote(owner, o client.Object) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if d := e.of(owner); d.written == "" || newer(o.GetResourceVersion(), d.written) {
		d.written = o.GetResourceVersion()
	}
}

func (e *Expectations) Removed(owner client.Object, p *corev1.Pod) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.of(owner).removed[p.UID] = true
}

// WroteItself awaits that the owner is read as new as it is now.
func (e *Expectations) WroteItself(owner client.Object) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.of(owner).itself = owner.GetResourceVersion()
}

// Released awaits that a Pod is read without the finalizer of Jobs, or is gone.
func (e *Expectations) Released(owner client.Object, p *corev1.Pod) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.of(owner).freed[p.UID] = true
}

// Unreleased takes back that a Pod loses its finalizer: it could not.
func (e *Expectations) Unreleased(owner client.Object, p *corev1.Pod) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.of(owner).freed, p.UID)
}

// Kept takes back that a Pod is being removed: it could not be.
func (e *Expectations) Kept(owner client.Object, p *corev1.Pod) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.of(owner).removed, p.UID)
}

// Fulfilled drops what can be seen by now, and says whether that is all. seen
// is the resource version that the cache had reached before listed was read
// from it.
func (e *Expectations) Fulfilled(owner client.Object, seen string, listed []*corev1.Pod) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	key := client.ObjectKeyFromObject(owner)
	d := e.done[key]
	if d == nil || d.owner != owner.GetUID() {
		return true
	}
	alive, held := map[types.UID]bool{}, map[types.UID]bool{}
	for _, p := range listed {
		alive[p.UID], held[p.UID] = p.DeletionTimestamp == nil, Tracked(p)
	}
	for uid := range d.freed {
		if !held[uid] {
			delete(d.freed, uid)
		}
	}
	for uid := range d.removed {
		if !alive[uid] {
			delete(d.removed, uid)
		}
	}
	if d.written != "" && !newer(d.written, seen) {
		d.written = ""
	}
	if d.itself != "" && !newer(d.itself, owner.GetResourceVersion()) {
		d.itself = ""
	}
	if d.written != "" || d.itself != "" || len(d.removed)+len(d.freed) > 0 {
		return false
	}
	delete(e.done, key)
	return true
}

func (e *Expectations) Forget(owner types.NamespacedName) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.done, owner)
}

// newer says whether a resource version is higher than another; any is higher
// than one that is none.
func newer(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err != nil || order > 0
}

// Tracked says whether the Pod's end is not counted yet.
func Tracked(p *corev1.Pod) bool { return slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer) }
