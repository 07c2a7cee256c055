// SPDX-License-Identifier: Apache-2.0

package garbage

import (
	"fmt"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/lru"
)

// identity says which object is meant. A reference and the object it is meant
// for may disagree: then it refers to nothing.
type identity struct {
	APIVersion, Kind, Namespace, Name string
	UID                               types.UID
}

// String is how upstream's events name an object.
func (i identity) String() string {
	return fmt.Sprintf("[%s/%s, namespace: %s, name: %s, uid: %s]", i.APIVersion, i.Kind, i.Namespace, i.Name, i.UID)
}

// ownerOf is what a reference of an object in a namespace means.
func ownerOf(ns string, r metav1.OwnerReference) identity {
	return identity{r.APIVersion, r.Kind, ns, r.Name, r.UID}
}

// vertex is an object of the graph as it was seen last.
type vertex struct {
	identity
	owners []metav1.OwnerReference
	// deleting has begun; then the finalizers say what is to happen first.
	deleting, foreground, orphans bool
}

func newVertex(apiVersion, kind string, o metav1.Object) vertex {
	has := func(f string) bool { return slices.Contains(o.GetFinalizers(), f) }
	return vertex{
		identity: identity{apiVersion, kind, o.GetNamespace(), o.GetName(), o.GetUID()}, owners: o.GetOwnerReferences(),
		deleting: o.GetDeletionTimestamp() != nil, foreground: has(metav1.FinalizerDeleteDependents), orphans: has(metav1.FinalizerOrphanDependents),
	}
}

// waits says whether the object stays until its blocking dependents are gone.
func (v *vertex) waits() bool { return v.deleting && v.foreground }

// refers says whether a reference of v means the object o.
func (v *vertex) refers(r metav1.OwnerReference, o identity) bool {
	return ownerOf(o.Namespace, r) == o && (o.Namespace == "" || o.Namespace == v.Namespace)
}

func blocking(r metav1.OwnerReference) bool {
	return r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion
}

// maxAbsent bounds what is remembered of owners that are gone, as upstream.
const maxAbsent = 500

// graph is who owns whom among all objects that are served. Edges are known
// from the dependents alone, so that an owner may be unknown yet, or gone.
type graph struct {
	mu         sync.Mutex // guards the maps and what they lead to
	vertices   map[types.UID]vertex
	dependents map[types.UID]map[types.UID]bool // by the UID of the owner
	absent     *lru.Cache                       // identities of owners known to be gone; has a lock of its own
}

func newGraph() *graph {
	return &graph{vertices: map[types.UID]vertex{}, dependents: map[types.UID]map[types.UID]bool{}, absent: lru.New(maxAbsent)}
}

// stray is a reference into a namespace that it cannot reach.
type stray struct {
	from identity
	to   identity
}

// observe takes in how an object is now. wake are those to be looked at for it.
func (g *graph) observe(v vertex) (wake []types.UID, strays []stray) {
	g.mu.Lock()
	defer g.mu.Unlock()
	old, known := g.vertices[v.UID]
	g.vertices[v.UID] = v
	if v.deleting && (v.foreground || v.orphans) {
		wake = append(wake, v.UID)
	}
	for _, r := range old.owners {
		i := slices.IndexFunc(v.owners, func(x metav1.OwnerReference) bool { return x.UID == r.UID })
		if i < 0 {
			g.disconnect(v.UID, r.UID)
		}
		if owner := g.vertices[r.UID]; owner.waits() && blocking(r) && (i < 0 || !blocking(v.owners[i])) {
			wake = append(wake, r.UID)
		}
	}
	for _, r := range v.owners {
		if slices.ContainsFunc(old.owners, func(x metav1.OwnerReference) bool { return x.UID == r.UID }) {
			continue
		}
		if g.dependents[r.UID] == nil {
			g.dependents[r.UID] = map[types.UID]bool{}
		}
		g.dependents[r.UID][v.UID] = true
		owner, seen := g.vertices[r.UID]
		if !seen || owner.waits() || !v.refers(r, owner.identity) {
			wake = append(wake, v.UID)
		}
		if seen {
			strays = append(strays, strayed(v, r, owner)...)
		}
	}
	if !known {
		for uid := range g.dependents[v.UID] {
			d := g.vertices[uid]
			for _, r := range d.owners {
				if r.UID == v.UID && uid != v.UID && !d.refers(r, v.identity) {
					wake, strays = append(wake, uid), append(strays, strayed(d, r, v)...)
				}
			}
		}
	}
	return wake, strays
}

func strayed(v vertex, r metav1.OwnerReference, owner vertex) []stray {
	if owner.Namespace == "" || owner.Namespace == v.Namespace {
		return nil
	}
	return []stray{{v.identity, ownerOf(v.Namespace, r)}}
}

// disconnect takes an edge away. The lock is held.
func (g *graph) disconnect(dependent, owner types.UID) {
	delete(g.dependents[owner], dependent)
	if len(g.dependents[owner]) == 0 {
		delete(g.dependents, owner)
	}
}

// remove takes an object out that is gone, and says who is to be looked at.
func (g *graph) remove(uid types.UID) (wake []types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	v, known := g.vertices[uid]
	if !known {
		return nil
	}
	delete(g.vertices, uid)
	for _, r := range v.owners {
		g.disconnect(uid, r.UID)
		if owner := g.vertices[r.UID]; owner.waits() {
			wake = append(wake, r.UID)
		}
	}
	if len(g.dependents[uid]) > 0 {
		g.absent.Add(v.identity, nil)
	}
	for d := range g.dependents[uid] {
		wake = append(wake, d)
	}
	return wake
}

// of are the objects of a kind.
func (g *graph) of(kind schema.GroupKind) (uids []types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for uid, v := range g.vertices {
		if kindOf(v.APIVersion, v.Kind) == kind {
			uids = append(uids, uid)
		}
	}
	return uids
}

// ownedBy are the objects that name an owner of a kind.
func (g *graph) ownedBy(kind schema.GroupKind) (uids []types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for uid, v := range g.vertices {
		if slices.ContainsFunc(v.owners, func(r metav1.OwnerReference) bool { return kindOf(r.APIVersion, r.Kind) == kind }) {
			uids = append(uids, uid)
		}
	}
	return uids
}

func kindOf(apiVersion, kind string) schema.GroupKind {
	return schema.FromAPIVersionAndKind(apiVersion, kind).GroupKind()
}

// look finds an object and those that name it as an owner.
func (g *graph) look(uid types.UID) (v vertex, dependents []vertex, known bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	v, known = g.vertices[uid]
	for d := range g.dependents[uid] {
		dependents = append(dependents, g.vertices[d])
	}
	return v, dependents, known
}

// owner finds what a reference of v means, when it has been seen.
func (g *graph) owner(v vertex, r metav1.OwnerReference) (owner vertex, known bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	owner, known = g.vertices[r.UID]
	return owner, known && v.refers(r, owner.identity)
}

// gone says whether an owner is known to be gone.
func (g *graph) gone(owner identity) bool {
	_, yes := g.absent.Get(owner)
	return yes
}
