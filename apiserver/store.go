// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// stores are the built stores by resource, for subresources and bootstrap that
// look at other kinds.
type stores struct {
	server *Server
	main   map[schema.GroupResource]*registry.Store
}

// mainStore adds what discovery says of a resource.
type mainStore struct {
	*registry.Store
	row *row
}

func (s mainStore) ShortNames() []string { return s.row.short }
func (s mainStore) Categories() []string { return s.row.categories }

// Delete lets the strategy know what was asked.
func (s mainStore) Delete(ctx context.Context, name string, check rest.ValidateObjectFunc, o *metav1.DeleteOptions) (runtime.Object, bool, error) {
	return s.Store.Delete(withGrace(ctx, o), name, check, o)
}

// DeleteCollection does so for each.
func (s mainStore) DeleteCollection(ctx context.Context, check rest.ValidateObjectFunc, o *metav1.DeleteOptions, l *metainternalversion.ListOptions) (runtime.Object, error) {
	return s.Store.DeleteCollection(withGrace(ctx, o), check, o, l)
}

// build makes the storages of a row: the resource, /status, /scale and its own.
func (r *row) build(s *stores, scheme *runtime.Scheme, g generic.RESTOptionsGetter) (map[string]rest.Storage, error) {
	base := strategy{scheme, names.SimpleNameGenerator, r}
	store := &registry.Store{
		NewFunc: r.newObject, NewListFunc: r.newList,
		DefaultQualifiedResource:  schema.GroupResource{Group: r.gv.Group, Resource: r.plural},
		SingularQualifiedResource: schema.GroupResource{Group: r.gv.Group, Resource: r.singular},
		CreateStrategy:            base, UpdateStrategy: base, DeleteStrategy: base, ResetFieldsStrategy: base,
		TableConvertor: r.table, ReturnDeletedObject: r.echo,
		PredicateFunc: func(l labels.Selector, f fields.Selector) storage.SelectionPredicate {
			return storage.SelectionPredicate{Label: l, Field: f, GetAttrs: r.getAttrs}
		},
	}
	if r.ttl > 0 {
		store.TTLFunc = func(runtime.Object, uint64, bool) (uint64, error) { return r.ttl, nil }
	}
	if r.graceful != nil {
		store.DeleteStrategy = gracefulStrategy{base}
	}
	options := &generic.StoreOptions{RESTOptions: g, AttrFunc: r.getAttrs, TriggerFunc: r.indexes()}
	if err := store.CompleteWithOptions(options); err != nil {
		return nil, fmt.Errorf("cannot open the store of %s: %w", r.plural, err)
	}
	s.main[store.DefaultQualifiedResource] = store
	if r.wrap != nil {
		r.wrap(s, store)
	}
	out := map[string]rest.Storage{r.plural: mainStore{store, r}}
	if r.replaceMain != nil {
		out[r.plural] = r.replaceMain(store)
	}
	if hasField(r.newObject(), "Status") && !r.noStatus {
		half := *store
		half.BeginCreate, half.BeginUpdate = nil, nil // what they see to is in the spec
		half.UpdateStrategy, half.ResetFieldsStrategy = statusStrategy{base}, statusStrategy{base}
		out[r.plural+"/status"] = partStore{&half}
	}
	if r.scale != nil {
		out[r.plural+"/scale"] = scaleStore{store, r.scale}
	}
	if r.extend != nil {
		for name, sub := range r.extend(s, store) {
			out[r.plural+"/"+name] = sub
		}
	}
	return out, nil
}

func (r *row) getAttrs(o runtime.Object) (labels.Set, fields.Set, error) {
	m, err := meta.Accessor(o)
	if err != nil {
		return nil, nil, err
	}
	return m.GetLabels(), r.attributes(o), nil
}

// partStore serves get, update and patch of a part of an object.
type partStore struct{ s *registry.Store }

func (p partStore) New() runtime.Object { return p.s.New() }
func (partStore) Destroy()              {} // the main store owns the connection

func (p partStore) Get(ctx context.Context, name string, o *metav1.GetOptions) (runtime.Object, error) {
	return p.s.Get(ctx, name, o)
}

func (p partStore) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, o *metav1.UpdateOptions) (runtime.Object, bool, error) {
	// A part never creates the whole.
	return p.s.Update(ctx, name, info, create, update, false, o)
}

// fieldsStore is a part whose writers can own a few fields alone.
type fieldsStore struct {
	wholePart
	owned fieldpath.Filter
}

// wholePart is a partStore without GetResetFields: the library takes one of
// the two ways to say what may be owned.
type wholePart interface {
	rest.Storage
	rest.Patcher
	rest.TableConvertor
}

func (f fieldsStore) GetResetFieldsFilter() map[fieldpath.APIVersion]fieldpath.Filter {
	return map[fieldpath.APIVersion]fieldpath.Filter{"v1": f.owned}
}

func (p partStore) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return p.s.GetResetFields()
}

func (p partStore) ConvertToTable(ctx context.Context, o, options runtime.Object) (*metav1.Table, error) {
	return p.s.ConvertToTable(ctx, o, options)
}
