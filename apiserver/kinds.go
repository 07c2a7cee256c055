// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

func boolField(b bool) string { return strconv.FormatBool(b) }
func itoa(n int32) string     { return strconv.Itoa(int(n)) }

// namespaceRow: a namespace carries its own finalizer until the namespace
// controller has emptied it.
func (s *Server) namespaceRow() *row {
	return resource[corev1.Namespace, corev1.NamespaceList](corev1.SchemeGroupVersion, "Namespace", "namespaces", "namespace", hooks[corev1.Namespace]{
		Defaults: defaults.Namespace, Validate: validation.Namespace, ValidateUpdate: validation.NamespaceUpdate,
		ValidateStatus: validation.NamespaceStatusUpdate, Columns: table.Namespace(),
		Selectable:   func(n *corev1.Namespace) fields.Set { return fields.Set{"status.phase": string(n.Status.Phase)} },
		Prepare:      func(_ context.Context, n, old *corev1.Namespace) { defaults.PrepareNamespace(n, old) },
		Canonicalize: defaults.Namespace, // a generated name is known by now
		Extend: func(_ *stores, main *registry.Store) map[string]rest.Storage {
			return map[string]rest.Storage{"finalize": s.finalizeStore(main)}
		},
		Wrap: func(_ *stores, main *registry.Store) {
			main.ShouldDeleteDuringUpdate = func(ctx context.Context, key string, o, old runtime.Object) bool {
				n := o.(*corev1.Namespace)
				return len(n.Spec.Finalizers) == 0 && registry.ShouldDeleteDuringUpdate(ctx, key, o, old)
			}
		},
	}, shortNames("ns"), clusterScoped, withoutGeneration, echoDeleted, func(r *row) {
		r.replaceMain = func(m *registry.Store) rest.Storage { return namespaceStore{mainStore{m, r}, m} }
	})
}

// wholeNamespace is what namespaces serve: all but deletecollection, which
// would end the whole cluster.
type wholeNamespace interface {
	rest.Storage
	rest.Scoper
	rest.SingularNameProvider
	rest.ShortNamesProvider
	rest.CategoriesProvider
	rest.Getter
	rest.Lister
	rest.Watcher
	rest.CreaterUpdater
	rest.ResetFieldsStrategy
	rest.StorageVersionProvider
}

// namespaceStore turns a delete into a mark: the object stays, Terminating,
// until its finalizers are gone.
type namespaceStore struct {
	wholeNamespace
	main *registry.Store
}

// Delete marks a namespace at first and removes it once it is empty.
func (n namespaceStore) Delete(ctx context.Context, name string, check rest.ValidateObjectFunc, o *metav1.DeleteOptions) (runtime.Object, bool, error) {
	found, err := n.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, false, err
	}
	ns := found.(*corev1.Namespace)
	if o == nil {
		o = metav1.NewDeleteOptions(0)
	}
	if o.Preconditions == nil {
		o.Preconditions = &metav1.Preconditions{}
	}
	p := o.Preconditions
	if p.UID == nil {
		p.UID = &ns.UID
	}
	conflict := func(field string, asked, have any) error {
		return apierrors.NewConflict(corev1.Resource("namespaces"), name, fmt.Errorf("Precondition failed: %s in precondition: %v, %s in object meta: %v", field, asked, field, have))
	}
	if *p.UID != ns.UID {
		return nil, false, conflict("UID", *p.UID, ns.UID)
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != ns.ResourceVersion {
		return nil, false, conflict("ResourceVersion", *p.ResourceVersion, ns.ResourceVersion)
	}
	if ns.DeletionTimestamp == nil {
		return n.terminate(ctx, name, check, o)
	}
	if len(ns.Spec.Finalizers) != 0 {
		return ns, false, nil
	}
	return n.main.Delete(ctx, name, check, o)
}

func (n namespaceStore) terminate(ctx context.Context, name string, check rest.ValidateObjectFunc, o *metav1.DeleteOptions) (runtime.Object, bool, error) {
	out := &corev1.Namespace{}
	err := update(ctx, n.main, name, o.Preconditions, o.DryRun, out, func(ns *corev1.Namespace) error {
		if check != nil {
			if err := check(ctx, ns); err != nil {
				return err
			}
		}
		if ns.DeletionTimestamp == nil {
			now := metav1.Now()
			ns.DeletionTimestamp = &now
		}
		ns.Status.Phase = corev1.NamespaceTerminating
		dependentFinalizers(ns, o)
		return nil
	})
	if err != nil {
		var status apierrors.APIStatus
		if !errors.As(err, &status) {
			err = apierrors.NewInternalError(err)
		}
		return nil, false, err
	}
	return out, false, nil
}

// dependentFinalizers are those that tell the garbage collector what to do
// with what the namespace owns.
func dependentFinalizers(ns *corev1.Namespace, o *metav1.DeleteOptions) {
	asked := func(orphan bool, policy metav1.DeletionPropagation, have bool) bool {
		switch {
		case o.OrphanDependents != nil: //nolint:staticcheck // older clients send it
			return *o.OrphanDependents == orphan //nolint:staticcheck // as above
		case o.PropagationPolicy != nil:
			return *o.PropagationPolicy == policy
		}
		return have
	}
	for _, f := range []struct {
		name   string
		orphan bool
		policy metav1.DeletionPropagation
	}{
		{metav1.FinalizerOrphanDependents, true, metav1.DeletePropagationOrphan},
		{metav1.FinalizerDeleteDependents, false, metav1.DeletePropagationForeground},
	} {
		have := slices.Contains(ns.Finalizers, f.name)
		switch want := asked(f.orphan, f.policy, have); {
		case want && !have:
			ns.Finalizers = append(ns.Finalizers, f.name)
		case !want && have:
			ns.Finalizers = slices.DeleteFunc(ns.Finalizers, func(n string) bool { return n == f.name })
		}
	}
}

// ConvertToTable prints namespaces as their store does.
func (n namespaceStore) ConvertToTable(ctx context.Context, o, options runtime.Object) (*metav1.Table, error) {
	return n.main.ConvertToTable(ctx, o, options)
}

// finalizeStore is namespaces/finalize: it alone may drop spec.finalizers, and
// it offers update alone.
func (s *Server) finalizeStore(main *registry.Store) rest.Storage {
	part := *main
	u := halfStrategy{
		strategy: strategy{s.scheme, names.SimpleNameGenerator, s.rowOf("namespaces")},
		keep: func(o, old runtime.Object) {
			o.(*corev1.Namespace).Status = old.(*corev1.Namespace).Status
		},
		check: func(o, old runtime.Object) field.ErrorList {
			return validation.NamespaceFinalizeUpdate(o.(*corev1.Namespace), old.(*corev1.Namespace))
		},
	}
	part.UpdateStrategy, part.ResetFieldsStrategy = u, u
	return finalizer{partStore{&part}}
}

type finalizer struct{ updateOnly }

// updateOnly is a part that can be written and not read.
type updateOnly interface {
	rest.Storage
	rest.Updater
	rest.ResetFieldsStrategy
}

// sliceGeneration counts changes of an EndpointSlice, of which the labels say
// whose it is.
func sliceGeneration(e, old *discoveryv1.EndpointSlice) int64 {
	same := func(a, b any) bool { return equality.Semantic.DeepEqual(a, b) }
	switch {
	case old == nil:
		return 1
	case e.AddressType == old.AddressType && same(e.Endpoints, old.Endpoints) && same(e.Ports, old.Ports) && same(e.Labels, old.Labels):
		return old.Generation
	}
	return old.Generation + 1
}

func templateGeneration(t, old *corev1.PodTemplate) int64 {
	switch {
	case old == nil:
		return 1
	case equality.Semantic.DeepEqual(t.Template, old.Template):
		return old.Generation
	}
	return old.Generation + 1
}
