// SPDX-License-Identifier: Apache-2.0

package garbage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/controller/loop"
)

// garbage follows owner references of all kinds that are served:
//
//	background  the owner goes at once; a dependent whose owners are all gone
//	            is deleted
//	foreground  the owner waits, with a finalizer, for its blocking dependents
//	orphan      the owner waits until its dependents have let go of it
//
// A dependent with an owner left only loses its references to those gone. The
// API is asked about an owner only while the graph does not know it.
type garbage struct {
	graph  *graph
	client client.Client // of metadata; writes
	live   client.Reader
	mapper meta.RESTMapper
	// watched says whether a kind comes into the graph.
	watched func(schema.GroupKind) bool
}

func addGarbage(m manager.Manager, all *Everything) error {
	g := &garbage{graph: all.graph, client: m.GetClient(), live: m.GetAPIReader(), mapper: m.GetRESTMapper(), watched: all.watches}
	gc, err := controller.NewTyped("garbage", m, controller.TypedOptions[types.UID]{Reconciler: g})
	if err != nil {
		return err
	}
	return gc.Watch(all)
}

// Reconcile does for one object what is due: for its dependents when it is
// ending, for itself when its owners are.
func (g *garbage) Reconcile(ctx context.Context, uid types.UID) (reconcile.Result, error) {
	v, dependents, known := g.graph.look(uid)
	switch {
	case !known:
		return reconcile.Result{}, nil
	case v.deleting && v.orphans:
		return reconcile.Result{}, g.orphan(ctx, v, dependents)
	case v.waits():
		return reconcile.Result{}, g.foreground(ctx, v, dependents)
	case v.deleting:
		return reconcile.Result{}, nil // its dependents are looked at when it is gone
	}
	return g.dependent(ctx, v, dependents)
}

// object is what the client needs to find an object.
func (i identity) object() *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: i.APIVersion, Kind: i.Kind},
		ObjectMeta: metav1.ObjectMeta{Namespace: i.Namespace, Name: i.Name},
	}
}

// get reads an object past the cache; another of its name is not it.
func (g *garbage) get(ctx context.Context, i identity) (*metav1.PartialObjectMetadata, error) {
	o := i.object()
	if err := g.live.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
		return nil, err
	}
	if o.UID != i.UID {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: i.Kind}, i.Name)
	}
	return o, nil
}

// orphan takes the references to v away from its dependents, then lets v go.
func (g *garbage) orphan(ctx context.Context, v vertex, dependents []vertex) error {
	for _, d := range dependents {
		if err := client.IgnoreNotFound(g.letGo(ctx, d.identity, v.UID)); err != nil {
			return fmt.Errorf("cannot orphan %s of %s: %w", d.identity, v.identity, err)
		}
	}
	return g.release(ctx, v.identity, metav1.FinalizerOrphanDependents)
}

// foreground has the dependents of v deleted, and lets v go when none blocks.
func (g *garbage) foreground(ctx context.Context, v vertex, dependents []vertex) error {
	blocked := false
	var errs []error
	for _, d := range dependents {
		blocked = blocked || slices.ContainsFunc(d.owners, func(r metav1.OwnerReference) bool { return r.UID == v.UID && blocking(r) })
		if d.deleting {
			continue
		}
		_, of, _ := g.graph.look(d.UID)
		_, err := g.dependent(ctx, d, of)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil || blocked {
		return err // the last one that blocks it wakes it
	}
	return g.release(ctx, v.identity, metav1.FinalizerDeleteDependents)
}

// verdict is what became of an object's owners.
type verdict struct {
	solid         bool        // one is there to stay
	gone, waiting []types.UID // do not exist; wait in the foreground for their dependents
	unseen        bool        // one is there, but not in the graph yet
	invalid       bool        // one is in a namespace, and the object is in none
}

// dependent deletes an object whose owners are gone or wait for that, or takes
// the references to such owners away when it has another.
func (g *garbage) dependent(ctx context.Context, v vertex, dependents []vertex) (reconcile.Result, error) {
	if judged := g.known(v, v.owners); judged != nil && judged.solid && len(judged.waiting) == 0 || len(v.owners) == 0 {
		return reconcile.Result{}, nil
	}
	latest, err := g.get(ctx, v.identity)
	if err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err) // its event comes
	}
	if len(latest.OwnerReferences) == 0 {
		return reconcile.Result{}, nil
	}
	judged, err := g.judge(ctx, v, latest.OwnerReferences)
	switch {
	case err != nil:
		return reconcile.Result{}, err
	case judged.invalid:
		return reconcile.Result{}, nil // told in an event; no retry makes it better
	case judged.solid:
		if lost := append(judged.gone, judged.waiting...); len(lost) > 0 {
			err = client.IgnoreNotFound(g.letGo(ctx, v.identity, lost...))
		}
	case len(judged.waiting) > 0 && len(dependents) > 0:
		// Two that wait for each other would wait for ever.
		if slices.ContainsFunc(dependents, func(d vertex) bool { return d.waits() }) {
			if err := g.unblock(ctx, latest); err != nil {
				return reconcile.Result{}, client.IgnoreNotFound(err)
			}
		}
		err = g.delete(ctx, v.identity, latest, metav1.DeletePropagationForeground)
	default:
		policy := metav1.DeletePropagationBackground
		switch {
		case slices.Contains(latest.Finalizers, metav1.FinalizerOrphanDependents):
			policy = metav1.DeletePropagationOrphan
		case slices.Contains(latest.Finalizers, metav1.FinalizerDeleteDependents):
			policy = metav1.DeletePropagationForeground
		}
		err = g.delete(ctx, v.identity, latest, policy)
	}
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("cannot collect %s: %w", v.identity, err)
	}
	if judged.unseen { // it may go without an event, if the watch is broken
		return reconcile.Result{RequeueAfter: loop.Unseen}, nil
	}
	return reconcile.Result{}, nil
}

// known judges by the graph alone, or not at all.
func (g *garbage) known(v vertex, refs []metav1.OwnerReference) *verdict {
	judged := &verdict{}
	for _, r := range refs {
		owner, known := g.graph.owner(v, r)
		switch {
		case !known:
			return nil
		case owner.waits():
			judged.waiting = append(judged.waiting, r.UID)
		default:
			judged.solid = true
		}
	}
	return judged
}

// judge finds out what became of each owner; the API is asked about those that
// the graph does not know.
func (g *garbage) judge(ctx context.Context, v vertex, refs []metav1.OwnerReference) (verdict, error) {
	var judged verdict
	for _, r := range refs {
		owner, known := g.graph.owner(v, r)
		if !known {
			id := ownerOf(v.Namespace, r)
			kind := schema.FromAPIVersionAndKind(r.APIVersion, r.Kind)
			mapping, err := g.mapper.RESTMapping(kind.GroupKind(), kind.Version)
			if meta.IsNoMatchError(err) {
				// Should the kind come, then the object is looked at again.
				return judged, reconcile.TerminalError(fmt.Errorf("cannot judge the owners of %s: %w", v.identity, err))
			}
			if err != nil {
				return judged, fmt.Errorf("cannot judge the owners of %s: %w", v.identity, err)
			}
			if mapping.Scope.Name() == meta.RESTScopeNameRoot {
				id.Namespace = ""
			} else if v.Namespace == "" {
				judged.invalid = true
				return judged, nil
			}
			if g.graph.gone(id) {
				judged.gone = append(judged.gone, r.UID)
				continue
			}
			o, err := g.get(ctx, id)
			if apierrors.IsNotFound(err) {
				g.graph.absent.Add(id, nil)
				judged.gone = append(judged.gone, r.UID)
				continue
			}
			if err != nil {
				return judged, fmt.Errorf("cannot find the owner %s of %s: %w", id, v.identity, err)
			}
			owner, judged.unseen = newVertex(r.APIVersion, r.Kind, o), judged.unseen || g.watched(kind.GroupKind())
		}
		if owner.waits() {
			judged.waiting = append(judged.waiting, r.UID)
		} else {
			judged.solid = true
		}
	}
	return judged, nil
}

// letGo takes references to owners away from an object.
func (g *garbage) letGo(ctx context.Context, i identity, owners ...types.UID) error {
	var refs []map[string]any
	for _, uid := range owners {
		refs = append(refs, map[string]any{"$patch": "delete", "uid": uid})
	}
	err := g.patch(ctx, i.object(), types.StrategicMergePatchType, map[string]any{"uid": i.UID, "ownerReferences": refs})
	return g.orWhole(ctx, i, err, func(r metav1.OwnerReference) (metav1.OwnerReference, bool) {
		return r, !slices.Contains(owners, r.UID)
	})
}

// unblock makes the references of o such that its owners do not wait for it.
func (g *garbage) unblock(ctx context.Context, o *metav1.PartialObjectMetadata) error {
	var refs []metav1.OwnerReference
	for _, r := range o.OwnerReferences {
		if blocking(r) {
			r.BlockOwnerDeletion = ptr.To(false)
			refs = append(refs, r)
		}
	}
	if len(refs) == 0 {
		return nil
	}
	i := newVertex(o.APIVersion, o.Kind, o).identity
	err := g.patch(ctx, o, types.StrategicMergePatchType, map[string]any{"uid": o.UID, "ownerReferences": refs})
	return g.orWhole(ctx, i, err, func(r metav1.OwnerReference) (metav1.OwnerReference, bool) {
		r.BlockOwnerDeletion = ptr.To(false)
		return r, true
	})
}

// orWhole writes all references of an object when it does not take a patch of
// some: a custom resource has no keys in its lists. A conflict is tried again.
func (g *garbage) orWhole(ctx context.Context, i identity, err error, keep func(metav1.OwnerReference) (metav1.OwnerReference, bool)) error {
	if !apierrors.IsUnsupportedMediaType(err) {
		return err
	}
	o, err := g.get(ctx, i)
	if err != nil {
		return err
	}
	refs := []metav1.OwnerReference{}
	for _, r := range o.OwnerReferences {
		if r, stays := keep(r); stays {
			refs = append(refs, r)
		}
	}
	return g.patch(ctx, o, types.MergePatchType, map[string]any{"resourceVersion": o.ResourceVersion, "uid": i.UID, "ownerReferences": refs})
}

// release takes a finalizer away; a conflict is tried again.
func (g *garbage) release(ctx context.Context, i identity, finalizer string) error {
	o, err := g.get(ctx, i)
	if err != nil {
		return client.IgnoreNotFound(err)
	}
	rest := slices.DeleteFunc(slices.Clone(o.Finalizers), func(f string) bool { return f == finalizer })
	if len(rest) == len(o.Finalizers) {
		return nil
	}
	return client.IgnoreNotFound(g.patch(ctx, o, types.MergePatchType, map[string]any{"resourceVersion": o.ResourceVersion, "finalizers": rest}))
}

// patch changes metadata of o, which becomes what the API answers.
func (g *garbage) patch(ctx context.Context, o *metav1.PartialObjectMetadata, t types.PatchType, metadata map[string]any) error {
	b, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	return g.client.Patch(ctx, o, client.RawPatch(t, b))
}

// delete deletes an object as it was judged: if its references have changed
// since, it is judged again.
func (g *garbage) delete(ctx context.Context, i identity, latest *metav1.PartialObjectMetadata, policy metav1.DeletionPropagation) error {
	err := g.client.Delete(ctx, i.object(), client.Preconditions{UID: &i.UID, ResourceVersion: &latest.ResourceVersion}, client.PropagationPolicy(policy))
	if apierrors.IsConflict(err) {
		now, getErr := g.get(ctx, i)
		if getErr != nil {
			return client.IgnoreNotFound(getErr)
		}
		if equality.Semantic.DeepEqual(now.OwnerReferences, latest.OwnerReferences) {
			err = g.client.Delete(ctx, i.object(), client.Preconditions{UID: &i.UID}, client.PropagationPolicy(policy))
		}
	}
	return client.IgnoreNotFound(err)
}
