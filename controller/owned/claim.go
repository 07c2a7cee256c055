// SPDX-License-Identifier: Apache-2.0

package owned

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

	"github.com/peapod/peapod/controller/loop"
)

// Owning is what controllers of one kind need that own other objects.
type Owning struct {
	Client client.Client
	// Live reads past the cache, before something is taken over.
	Live   client.Reader
	Events record.EventRecorder
	Gvk    schema.GroupVersionKind
}

func NewOwning(m manager.Manager, component string, gvk schema.GroupVersionKind) Owning {
	return Owning{Client: m.GetClient(), Live: m.GetAPIReader(), Events: m.GetEventRecorderFor(component), Gvk: gvk}
}

// OfOwned are whom a change of an object concerns that owners of one kind may
// own: its controller, or for an orphan all that would take it. kind is an empty
// list of such owners.
func OfOwned[T client.Object](o Owning, kind client.ObjectList, takes func(owner T, orphan client.Object) bool) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, owned client.Object) (out []reconcile.Request) {
		if ref := metav1.GetControllerOfNoCopy(owned); ref != nil {
			return o.Named(owned.GetNamespace(), ref)
		}
		list := kind.DeepCopyObject().(client.ObjectList)
		if err := o.Client.List(ctx, list, client.InNamespace(owned.GetNamespace()), client.UnsafeDisableDeepCopy); err != nil {
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

// Selects says whether a selector matches an object. One that cannot be read,
// which validation keeps out, matches nothing.
func Selects(s *metav1.LabelSelector, o client.Object) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(o.GetLabels()))
}

// Named is the request for the object that a reference names, if that is of
// the kind.
func (o Owning) Named(namespace string, ref *metav1.OwnerReference) []reconcile.Request {
	if ref.Kind != o.Gvk.Kind {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: namespace, Name: ref.Name}}}
}

// Deletions are the events of what is gone.
func Deletions() predicate.Predicate {
	p := predicate.NewPredicateFuncs(func(client.Object) bool { return false })
	p.DeleteFunc = nil // which passes
	return p
}

// Claim takes over matching objects without a controller and lets go of own
// ones that match no more. An object that may or may not be owned is an error,
// so that none is made in its place.
func Claim[T client.Object](ctx context.Context, o Owning, owner client.Object, matches func(T) bool, list []T) (mine []T, err error) {
	mayAdopt := sync.OnceValue(func() error { return o.MayAdopt(ctx, owner) })
	ending := owner.GetDeletionTimestamp() != nil
	for _, x := range list {
		ref, match := metav1.GetControllerOfNoCopy(x), matches(x)
		switch {
		case ref != nil && ref.UID != owner.GetUID():
		case ref != nil && match:
			mine = append(mine, x)
		case ref != nil && !ending:
			err = errors.Join(err, loop.IgnoreGone(o.release(ctx, owner, x)))
		case ref == nil && match && !ending && x.GetDeletionTimestamp() == nil:
			adoptErr := mayAdopt()
			if adoptErr == nil {
				adoptErr = o.adopt(ctx, owner, x)
			}
			switch {
			case adoptErr == nil:
				mine = append(mine, x)
			case !apierrors.IsNotFound(adoptErr):
				kind, _ := o.Client.GroupVersionKindFor(x) // every kind here is known
				err = errors.Join(err, fmt.Errorf("cannot adopt %s %s/%s (%s): %w", kind.Kind, x.GetNamespace(), x.GetName(), x.GetUID(), adoptErr))
			}
		}
	}
	return mine, err
}

// MayAdopt asks past the cache whether the owner is still there under its UID
// and not ending.
func (o Owning) MayAdopt(ctx context.Context, owner client.Object) error {
	fresh := owner.DeepCopyObject().(client.Object)
	if err := o.Live.Get(ctx, client.ObjectKeyFromObject(owner), fresh); err != nil {
		return err
	}
	if fresh.GetUID() != owner.GetUID() {
		return fmt.Errorf("the original %s %s/%s is gone: its UID is %s, not %s", o.Gvk.Kind, owner.GetNamespace(), owner.GetName(), fresh.GetUID(), owner.GetUID())
	}
	if fresh.GetDeletionTimestamp() != nil {
		return fmt.Errorf("%s/%s has just been deleted at %v", fresh.GetNamespace(), fresh.GetName(), fresh.GetDeletionTimestamp())
	}
	return nil
}

func (o Owning) adopt(ctx context.Context, owner, x client.Object) error {
	return o.patchOwners(ctx, x, fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"name":%q,"uid":%q,"controller":true,"blockOwnerDeletion":true}`, o.Gvk.GroupVersion(), o.Gvk.Kind, owner.GetName(), owner.GetUID()))
}

func (o Owning) release(ctx context.Context, owner, x client.Object) error {
	return o.patchOwners(ctx, x, fmt.Sprintf(`{"$patch":"delete","uid":%q}`, owner.GetUID()))
}

func (o Owning) patchOwners(ctx context.Context, x client.Object, ref string) error {
	patch := fmt.Sprintf(`{"metadata":{"ownerReferences":[%s],"uid":%q}}`, ref, x.GetUID())
	return o.Client.Patch(ctx, x.DeepCopyObject().(client.Object), client.RawPatch(types.StrategicMergePatchType, []byte(patch)))
}
