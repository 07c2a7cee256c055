// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"

	"github.com/peapod/peapod/api/table"
)

// object is what every stored resource is.
type object interface {
	runtime.Object
	metav1.Object
}

// row is one resource of the API: where it is served and the rules that are
// its own. Everything else is the same for all of them.
type row struct {
	gv         schema.GroupVersion
	kind       string
	plural     string
	singular   string
	short      []string
	categories []string
	cluster    bool // not namespaced
	upsert     bool // PUT to a missing name creates it
	anyUpdate  bool // PUT without a resourceVersion is accepted
	generation bool // metadata.generation counts changes of spec
	echo       bool // a delete answers with the object, not with a Status
	noStatus   bool // no /status subresource although the type has a status
	bornStatus bool // a new object may bring its status
	// notByStatus are fields of the metadata that a writer of /status cannot own.
	notByStatus []string
	metaKept    bool // a writer of /status changes no metadata
	specKept    bool // nobody changes the spec
	// resetByStatus is what a writer of /status cannot own of the status.
	resetByStatus []string
	ttl           uint64
	// collection is what becomes of the dependents of a deleted object unless
	// the request says otherwise.
	collection rest.GarbageCollectionPolicy

	newObject, newList func() runtime.Object
	defaults           func(runtime.Object)
	prepare            func(ctx context.Context, obj, old runtime.Object)
	prepareStatus      func(obj, old runtime.Object)
	canonicalize       func(runtime.Object)
	validate           func(ctx context.Context, obj runtime.Object) field.ErrorList
	validateUpdate     func(ctx context.Context, obj, old runtime.Object) field.ErrorList
	validateStatus     func(ctx context.Context, obj, old runtime.Object) field.ErrorList
	warn               func(ctx context.Context, obj, old runtime.Object) []string
	warnStatus         func(obj, old runtime.Object) []string
	selectable         func(runtime.Object) fields.Set
	indexed            []string // selectable fields that watches are indexed by
	graceful           func(ctx context.Context, obj runtime.Object, o *metav1.DeleteOptions) bool
	table              rest.TableConvertor
	scale              *scaleAccess
	extend             func(s *stores, main *registry.Store) map[string]rest.Storage
	wrap               func(s *stores, main *registry.Store)
	replaceMain        func(*registry.Store) rest.Storage // instead of the plain store
}

// hooks are the typed rules of a row. All are optional; old is nil on create.
type hooks[T any] struct {
	Defaults       func(*T)
	Prepare        func(ctx context.Context, obj, old *T)
	PrepareStatus  func(obj, old *T)
	Canonicalize   func(*T)
	Validate       func(*T) field.ErrorList
	ValidateUpdate func(obj, old *T) field.ErrorList
	ValidateStatus func(obj, old *T) field.ErrorList
	Warn           func(ctx context.Context, obj, old *T) []string
	WarnStatus     func(obj, old *T) []string
	Selectable     func(*T) fields.Set
	Graceful       func(*T, *metav1.DeleteOptions) bool
	Columns        table.Columns[T]
	ScaleGet       func(*T) (spec *int32, status int32, selector *metav1.LabelSelector)
	ScaleSet       func(*T, int32)
	Extend         func(s *stores, main *registry.Store) map[string]rest.Storage
	Wrap           func(s *stores, main *registry.Store)
}

type pointer[T any] interface {
	*T
	object
}

type listPointer[T any] interface {
	*T
	runtime.Object
}

// resource makes a row of a published type and its list type.
func resource[T, L any, P pointer[T], PL listPointer[L]](gv schema.GroupVersion, kind, plural, singular string, h hooks[T], options ...func(*row)) *row {
	r := &row{
		gv: gv, kind: kind, plural: plural, singular: singular,
		newObject: func() runtime.Object { return P(new(T)) },
		newList:   func() runtime.Object { return PL(new(L)) },
		extend:    h.Extend, wrap: h.Wrap,
		anyUpdate: true,
		table:     newTable(h.Columns, func(o runtime.Object) *T { return (*T)(o.(P)) }),
	}
	r.generation = hasField(r.newObject(), "Spec")
	of := func(o runtime.Object) *T {
		if o == nil {
			return nil
		}
		return (*T)(o.(P))
	}
	r.bindRules(
		lift1(h.Defaults, of), lift1(h.Canonicalize, of), lift2(h.PrepareStatus, of),
		check1(h.Validate, of), check2(h.ValidateUpdate, of), check2(h.ValidateStatus, of))
	if h.Prepare != nil {
		r.prepare = func(ctx context.Context, o, old runtime.Object) { h.Prepare(ctx, of(o), of(old)) }
	}
	if h.Warn != nil {
		r.warn = func(ctx context.Context, o, old runtime.Object) []string { return h.Warn(ctx, of(o), of(old)) }
	}
	if h.WarnStatus != nil {
		r.warnStatus = func(o, old runtime.Object) []string { return h.WarnStatus(of(o), of(old)) }
	}
	if h.Selectable != nil {
		r.selectable = func(o runtime.Object) fields.Set { return h.Selectable(of(o)) }
	}
	if h.Graceful != nil {
		r.graceful = func(_ context.Context, o runtime.Object, d *metav1.DeleteOptions) bool { return h.Graceful(of(o), d) }
	}
	if h.ScaleGet != nil {
		r.scale = &scaleAccess{
			gv:  gv,
			get: func(o runtime.Object) (*int32, int32, *metav1.LabelSelector) { return h.ScaleGet(of(o)) },
			set: func(o runtime.Object, n int32) { h.ScaleSet(of(o), n) },
		}
	}
	for _, o := range options {
		o(r)
	}
	return r
}

func (r *row) bindRules(defaults, canonicalize func(runtime.Object), prepareStatus func(_, _ runtime.Object),
	validate func(context.Context, runtime.Object) field.ErrorList,
	validateUpdate, validateStatus func(_ context.Context, _, _ runtime.Object) field.ErrorList) {
	r.defaults, r.canonicalize, r.prepareStatus = defaults, canonicalize, prepareStatus
	r.validate, r.validateUpdate, r.validateStatus = validate, validateUpdate, validateStatus
}

func lift1[T any](f func(*T), of func(runtime.Object) *T) func(runtime.Object) {
	if f == nil {
		return nil
	}
	return func(o runtime.Object) { f(of(o)) }
}

func lift2[T any](f func(_, _ *T), of func(runtime.Object) *T) func(_, _ runtime.Object) {
	if f == nil {
		return nil
	}
	return func(o, old runtime.Object) { f(of(o), of(old)) }
}

func check1[T any](f func(*T) field.ErrorList, of func(runtime.Object) *T) func(context.Context, runtime.Object) field.ErrorList {
	if f == nil {
		return nil
	}
	return func(_ context.Context, o runtime.Object) field.ErrorList { return f(of(o)) }
}

func check2[T any](f func(_, _ *T) field.ErrorList, of func(runtime.Object) *T) func(_ context.Context, _, _ runtime.Object) field.ErrorList {
	if f == nil {
		return nil
	}
	return func(_ context.Context, o, old runtime.Object) field.ErrorList { return f(of(o), of(old)) }
}

// Options of rows.

func shortNames(names ...string) func(*row) { return func(r *row) { r.short = names } }
func inAll(r *row)                          { r.categories = []string{"all"} }
func inExtensions(r *row)                   { r.categories = []string{"api-extensions"} }
func echoDeleted(r *row)                    { r.echo = true }
func clusterScoped(r *row)                  { r.cluster = true }
func upsertable(r *row)                     { r.upsert = true }
func strictUpdate(r *row)                   { r.anyUpdate = false }
func collected(p rest.GarbageCollectionPolicy) func(*row) {
	return func(r *row) { r.collection = p }
}
func bornWithStatus(r *row)                { r.bornStatus = true }
func metadataKept(r *row)                  { r.metaKept = true }
func specKept(r *row)                      { r.specKept = true }
func withoutGeneration(r *row)             { r.generation = false }
func indexedBy(names ...string) func(*row) { return func(r *row) { r.indexed = names } }

// specField and statusField reach the two halves that nearly every type has.
func fieldOf(o runtime.Object, name string) reflect.Value {
	return reflect.ValueOf(o).Elem().FieldByName(name)
}

func hasField(o runtime.Object, name string) bool { return fieldOf(o, name).IsValid() }

// attributes are what selectors can see of an object.
func (r *row) attributes(o runtime.Object) (set fields.Set) {
	if r.selectable != nil {
		set = r.selectable(o)
	}
	if set == nil {
		set = fields.Set{}
	}
	m := o.(object)
	set["metadata.name"] = m.GetName()
	if !r.cluster {
		set["metadata.namespace"] = m.GetNamespace()
	}
	return set
}

// indexes tells the watch cache which watches can be found without asking each
// of them; the node's watch of its own Pods is the one that matters.
func (r *row) indexes() storage.IndexerFuncs {
	out := storage.IndexerFuncs{}
	for _, name := range r.indexed {
		out[name] = func(o runtime.Object) string { return r.attributes(o)[name] }
	}
	return out
}
