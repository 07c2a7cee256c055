// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/operation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// strategy is the one strategy of every row: create, update, delete and which
// fields each of them may not own. The status half has statusStrategy.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
	row *row
}

func (s strategy) NamespaceScoped() bool                         { return !s.row.cluster }
func (s strategy) AllowCreateOnUpdate(context.Context) bool      { return s.row.upsert }
func (s strategy) AllowUnconditionalUpdate(context.Context) bool { return s.row.anyUpdate }

// DefaultGarbageCollectionPolicy is the kind's own.
func (s strategy) DefaultGarbageCollectionPolicy(context.Context) rest.GarbageCollectionPolicy {
	return s.row.collection
}

func (s strategy) Canonicalize(o runtime.Object) {
	if s.row.canonicalize != nil {
		s.row.canonicalize(o)
	}
}

func (s strategy) PrepareForCreate(ctx context.Context, o runtime.Object) {
	if f := fieldOf(o, "Status"); f.IsValid() && !s.row.bornStatus {
		f.SetZero()
	}
	if s.row.generation {
		o.(object).SetGeneration(1)
	}
	if s.row.prepare != nil {
		s.row.prepare(ctx, o, nil)
	}
}

func (s strategy) PrepareForUpdate(ctx context.Context, o, old runtime.Object) {
	if f := fieldOf(o, "Status"); f.IsValid() && !s.row.noStatus {
		f.Set(fieldOf(old, "Status"))
	}
	if s.row.prepare != nil {
		s.row.prepare(ctx, o, old)
	}
	if s.row.generation {
		o.(object).SetGeneration(nextGeneration(o, old))
	}
}

// nextGeneration counts up when the spec differs.
func nextGeneration(o, old runtime.Object) int64 {
	n := old.(object).GetGeneration()
	if !equality.Semantic.DeepEqual(fieldOf(o, "Spec").Interface(), fieldOf(old, "Spec").Interface()) {
		n++
	}
	return n
}

func (s strategy) Validate(ctx context.Context, o runtime.Object) field.ErrorList {
	if s.row.validate == nil {
		return nil
	}
	return s.row.validate(ctx, o)
}

func (s strategy) ValidateUpdate(ctx context.Context, o, old runtime.Object) field.ErrorList {
	if s.row.validateUpdate == nil {
		return s.Validate(ctx, o)
	}
	return s.row.validateUpdate(ctx, o, old)
}

// ValidateDeclaratively is the API library's last word on errors. Kubernetes
// has rules generated from its types here; ours are in api/validation. Both
// show each error once.
func (strategy) ValidateDeclaratively(_ context.Context, _, _ runtime.Object, errs field.ErrorList, _ operation.Type, _ rest.DeclarativeValidationConfig) field.ErrorList {
	return errs.Filter(func(error) bool { return false })
}

// DeclarativeValidationConfig: there is nothing to configure.
func (strategy) DeclarativeValidationConfig(context.Context, runtime.Object, runtime.Object) rest.DeclarativeValidationConfig {
	return rest.DeclarativeValidationConfig{}
}

func (s strategy) WarningsOnCreate(ctx context.Context, o runtime.Object) []string {
	return s.WarningsOnUpdate(ctx, o, nil)
}

func (s strategy) WarningsOnUpdate(ctx context.Context, o, old runtime.Object) []string {
	if s.row.warn == nil {
		return nil
	}
	return s.row.warn(ctx, o, old)
}

// GetResetFields names what a writer of the main resource can never own.
func (s strategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	if !hasField(s.row.newObject(), "Status") || s.row.noStatus {
		return nil
	}
	resets := s.row.resets("status")
	if s.row.specKept {
		resets[fieldpath.APIVersion(s.row.gv.String())].Insert(fieldpath.MakePathOrDie("spec"))
	}
	return resets
}

func (r *row) resets(half string) map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{
		fieldpath.APIVersion(r.gv.String()): fieldpath.NewSet(fieldpath.MakePathOrDie(half)),
	}
}

// gracefulStrategy adds the grace period of Pods.
type gracefulStrategy struct{ strategy }

// CheckGracefulDelete answers from what was asked, not from what an earlier
// answer left in the options: the library asks again when another writer came
// in between, and the watch cache may have shown it a Pod without its node.
func (s gracefulStrategy) CheckGracefulDelete(ctx context.Context, o runtime.Object, d *metav1.DeleteOptions) bool {
	if asked, ok := ctx.Value(askedGrace{}).(*int64); ok && d != nil {
		d.GracePeriodSeconds = asked
	}
	return d != nil && s.row.graceful(ctx, o, d)
}

type askedGrace struct{}

// withGrace remembers the grace period that a delete asks for.
func withGrace(ctx context.Context, d *metav1.DeleteOptions) context.Context {
	var asked *int64
	if d != nil && d.GracePeriodSeconds != nil {
		asked = ptr.To(*d.GracePeriodSeconds)
	}
	return context.WithValue(ctx, askedGrace{}, asked)
}

// statusStrategy is an update of /status: the spec stays.
type statusStrategy struct{ strategy }

func (s statusStrategy) PrepareForUpdate(_ context.Context, o, old runtime.Object) {
	if f := fieldOf(o, "Spec"); f.IsValid() {
		f.Set(fieldOf(old, "Spec"))
	}
	if s.row.metaKept {
		metav1.ResetObjectMetaForStatus(o.(object), old.(object))
	}
	if s.row.prepareStatus != nil {
		s.row.prepareStatus(o, old)
	}
}

func (s statusStrategy) ValidateUpdate(ctx context.Context, o, old runtime.Object) field.ErrorList {
	if s.row.validateStatus == nil {
		return nil
	}
	return s.row.validateStatus(ctx, o, old)
}

func (s statusStrategy) WarningsOnUpdate(_ context.Context, o, old runtime.Object) []string {
	if s.row.warnStatus == nil {
		return nil
	}
	return s.row.warnStatus(o, old)
}

func (s statusStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	resets := s.row.resets("spec")
	if s.row.metaKept {
		resets[fieldpath.APIVersion(s.row.gv.String())].Insert(fieldpath.MakePathOrDie("metadata"))
	}
	for _, f := range s.row.resetByStatus {
		resets[fieldpath.APIVersion(s.row.gv.String())].Insert(fieldpath.MakePathOrDie("status", f))
	}
	for _, f := range s.row.notByStatus {
		resets[fieldpath.APIVersion(s.row.gv.String())].Insert(fieldpath.MakePathOrDie("metadata", f))
	}
	return resets
}

// halfStrategy is an update of one part of the spec, as pods/resize and
// pods/ephemeralcontainers are: keep copies what may change.
type halfStrategy struct {
	strategy
	keep  func(obj, old runtime.Object)
	check func(obj, old runtime.Object) field.ErrorList
}

func (s halfStrategy) PrepareForUpdate(_ context.Context, o, old runtime.Object) {
	s.keep(o, old)
	if s.row.generation {
		o.(object).SetGeneration(nextGeneration(o, old))
	}
}

func (s halfStrategy) ValidateUpdate(_ context.Context, o, old runtime.Object) field.ErrorList {
	return s.check(o, old)
}

func (s halfStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return s.row.resets("status")
}
