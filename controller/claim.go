// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// owning is what controllers of one kind need that own other objects.
type owning struct {
	client client.Client
	// live reads past the cache, before something is taken over.
	live   client.Reader
	events record.EventRecorder
	gvk    schema.GroupVersionKind
}

func newOwning(m manager.Manager, component string, gvk schema.GroupVersionKind) owning {
	return owning{client: m.GetClient(), live: m.GetAPIReader(), events: m.GetEventRecorderFor(component), gvk: gvk}
}

// ofOwned are whom a change of an object concerns that owners of one kind may
// own: its controller, or for an orphan all that would take it. kind is an empty
// list of such owners.
func ofOwned[T client.Object](o owning, kind client.ObjectList, takes func(owner T, orphan client.Object) bool) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, owned client.Object) (out []reconcile.Request) {
		if ref := metav1.GetControllerOfNoCopy(owned); ref != nil {
			return o.named(owned.GetNamespace(), ref)
		}
		list := kind.DeepCopyObject().(client.ObjectList)
		if err := o.client.List(ctx, list, client.InNamespace(owned.GetNamespace()), client.UnsafeDisableDeepCopy); err != nil {
			return nil // the cache is stopping
		}
		_ = meta.EachListItem(list, func(x runtime.Object) error { // which has no errors of its own
			if owner := x.(T); takes(owner, owned) {
				out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(owner)})
			}
			return nil
		})
		return out
	})
}

// selects says whether a selector matches an object. One that cannot be read,
// which validation keeps out, matches nothing.
func selects(s *metav1.LabelSelector, o client.Object) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(o.GetLabels()))
}

// named is the request for the object that a reference names, if that is of
// the kind.
func (o owning) named(namespace string, ref *metav1.OwnerReference) []reconcile.Request {
	if ref.Kind != o.gvk.Kind {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: namespace, Name: ref.Name}}}
}

// deletions are the events of what is gone.
func deletions() predicate.Predicate {
	p := predicate.NewPredicateFuncs(func(client.Object) bool { return false })
	p.DeleteFunc = nil // which passes
	return p
}

// claim takes over matching objects without a controller and lets go of own
// ones that match no more. An object that may or may not be owned is an error,
// so that none is made in its place.
func claim[T client.Object](ctx context.Context, o owning, owner client.Object, matches func(T) bool, list []T) (mine []T, err error) {
	mayAdopt := sync.OnceValue(func() error { return o.mayAdopt(ctx, owner) })
	ending := owner.GetDeletionTimestamp() != nil
	for _, x := range list {
		ref, match := metav1.GetControllerOfNoCopy(x), matches(x)
		switch {
		case ref != nil && ref.UID != owner.GetUID():
		case ref != nil && match:
			mine = append(mine, x)
		case ref != nil && !ending:
			err = errors.Join(err, ignoreGone(o.release(ctx, owner, x)))
		case ref == nil && match && !ending && x.GetDeletionTimestamp() == nil:
			adoptErr := mayAdopt()
			if adoptErr == nil {
				adoptErr = o.adopt(ctx, owner, x)
			}
			switch {
			case adoptErr == nil:
				mine = append(mine, x)
			case !apierrors.IsNotFound(adoptErr):
				kind, _ := o.client.GroupVersionKindFor(x) // every kind here is known
				err = errors.Join(err, fmt.Errorf("cannot adopt %s %s/%s (%s): %w", kind.Kind, x.GetNamespace(), x.GetName(), x.GetUID(), adoptErr))
			}
		}
	}
	return mine, err
}

// mayAdopt asks past the cache whether the owner is still there under its UID
// and not ending.
func (o owning) mayAdopt(ctx context.Context, owner client.Object) error {
	fresh := owner.DeepCopyObject().(client.Object)
	if err := o.live.Get(ctx, client.ObjectKeyFromObject(owner), fresh); err != nil {
		return err
	}
	if fresh.GetUID() != owner.GetUID() {
		return fmt.Errorf("the original %s %s/%s is gone: its UID is %s, not %s", o.gvk.Kind, owner.GetNamespace(), owner.GetName(), fresh.GetUID(), owner.GetUID())
	}
	if fresh.GetDeletionTimestamp() != nil {
		return fmt.Errorf("%s/%s has just been deleted at %v", fresh.GetNamespace(), fresh.GetName(), fresh.GetDeletionTimestamp())
	}
	return nil
}

func (o owning) adopt(ctx context.Context, owner, x client.Object) error {
	return o.patchOwners(ctx, x, fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"name":%q,"uid":%q,"controller":true,"blockOwnerDeletion":true}`, o.gvk.GroupVersion(), o.gvk.Kind, owner.GetName(), owner.GetUID()))
}

func (o owning) release(ctx context.Context, owner, x client.Object) error {
	return o.patchOwners(ctx, x, fmt.Sprintf(`{"$patch":"delete","uid":%q}`, owner.GetUID()))
}

func (o owning) patchOwners(ctx context.Context, x client.Object, ref string) error {
	patch := fmt.Sprintf(`{"metadata":{"ownerReferences":[%s],"uid":%q}}`, ref, x.GetUID())
	return o.client.Patch(ctx, x.DeepCopyObject().(client.Object), client.RawPatch(types.StrategicMergePatchType, []byte(patch)))
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
