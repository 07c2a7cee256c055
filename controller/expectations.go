// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// expectations remember what was done for an owner until the cache shows it,
// so that no reconciliation acts twice on the same lack. A write is seen when the
// cache is as new as it, whether the object is still there or not (KEP-5647); a
// removal when the Pod is ending or gone.
type expectations struct {
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
func (e *expectations) of(owner client.Object) *deeds {
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

// wrote awaits that the cache is as new as o is now.
func (e *expectations) wrote(owner, o client.Object) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if d := e.of(owner); d.written == "" || newer(o.GetResourceVersion(), d.written) {
		d.written = o.GetResourceVersion()
	}
}

func (e *expectations) removed(owner client.Object, p *corev1.Pod) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.of(owner).removed[p.UID] = true
}

// wroteItself awaits that the owner is read as new as it is now.
func (e *expectations) wroteItself(owner client.Object) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.of(owner).itself = owner.GetResourceVersion()
}

// released awaits that a Pod is read without the finalizer of Jobs, or is gone.
func (e *expectations) released(owner client.Object, p *corev1.Pod) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.of(owner).freed[p.UID] = true
}

// unreleased takes back that a Pod loses its finalizer: it could not.
func (e *expectations) unreleased(owner client.Object, p *corev1.Pod) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.of(owner).freed, p.UID)
}

// kept takes back that a Pod is being removed: it could not be.
func (e *expectations) kept(owner client.Object, p *corev1.Pod) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.of(owner).removed, p.UID)
}

// fulfilled drops what can be seen by now, and says whether that is all. seen
// is the resource version that the cache had reached before listed was read
// from it.
func (e *expectations) fulfilled(owner client.Object, seen string, listed []*corev1.Pod) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	key := client.ObjectKeyFromObject(owner)
	d := e.done[key]
	if d == nil || d.owner != owner.GetUID() {
		return true
	}
	alive, held := map[types.UID]bool{}, map[types.UID]bool{}
	for _, p := range listed {
		alive[p.UID], held[p.UID] = p.DeletionTimestamp == nil, tracked(p)
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

func (e *expectations) forget(owner types.NamespacedName) {
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
