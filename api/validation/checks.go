// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"cmp"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const immutable = apivalidation.FieldImmutableErrorMsg

var metadata = field.NewPath("metadata")

func meta(m *metav1.ObjectMeta, namespaced bool, name apivalidation.ValidateNameFunc) field.ErrorList {
	return append(apivalidation.ValidateObjectMeta(m, namespaced, name, metadata), metaFinalizers(m)...)
}

func metaUpdate(m, old *metav1.ObjectMeta) field.ErrorList {
	return append(apivalidation.ValidateObjectMetaUpdate(m, old, metadata), metaFinalizers(m)...)
}

// plainMeta is meta for the kinds that came without rules for finalizers.
func plainMeta(m *metav1.ObjectMeta, namespaced bool) field.ErrorList {
	return apivalidation.ValidateObjectMeta(m, namespaced, apivalidation.NameIsDNSSubdomain, metadata)
}

func metaFinalizers(m *metav1.ObjectMeta) (errs field.ErrorList) {
	for i, f := range m.Finalizers {
		errs = append(errs, ownedFinalizer(f, metadata.Child("finalizers").Index(i))...)
	}
	return errs
}

// ownedFinalizer: the name says whose it is, unless Kubernetes knows it.
func ownedFinalizer(name string, at *field.Path) field.ErrorList {
	switch name {
	case string(corev1.FinalizerKubernetes), metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents:
		return nil
	}
	if strings.Contains(name, "/") {
		return nil
	}
	return field.ErrorList{field.Invalid(at, name, "name is neither a standard finalizer name nor is it fully qualified")}
}

// oneOf refuses a value outside a set, naming the values in the order given.
// None at all is a missing value.
func oneOf[T ~string](v T, at *field.Path, allowed ...T) field.ErrorList {
	if v == "" && !slices.Contains(allowed, v) {
		return field.ErrorList{field.Required(at, "")}
	}
	return supported(v, at, allowed...)
}

// supported refuses a value outside a set, also an empty one.
func supported[T ~string](v T, at *field.Path, allowed ...T) field.ErrorList {
	if slices.Contains(allowed, v) {
		return nil
	}
	return field.ErrorList{field.NotSupported(at, v, allowed)}
}

// supportedIfSet is supported for optional values.
func supportedIfSet[T ~string](v *T, at *field.Path, allowed ...T) field.ErrorList {
	if v == nil {
		return nil
	}
	return supported(*v, at, allowed...)
}

// required refuses an empty value.
func required(v string, at *field.Path) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return nil
}

// requiredAnd refuses an empty value, or what a check says about the value.
func requiredAnd(v string, at *field.Path, check func(string) []string) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	return invalidAll(at, v, check(v))
}

// ifSet checks a value that may be left away.
func ifSet(v string, at *field.Path, check func(string) []string) field.ErrorList {
	if v == "" {
		return nil
	}
	return invalidAll(at, v, check(v))
}

// whole makes a check of a name that is not a prefix.
func whole(check apivalidation.ValidateNameFunc) func(string) []string {
	return func(name string) []string { return check(name, false) }
}

func invalidAll(at *field.Path, value any, problems []string) (errs field.ErrorList) {
	for _, p := range problems {
		errs = append(errs, field.Invalid(at, value, p))
	}
	return errs
}

func nonNegative(v int64, at *field.Path) field.ErrorList {
	return apivalidation.ValidateNonnegativeField(v, at)
}

func positive(v int64, at *field.Path) field.ErrorList {
	if v <= 0 {
		return field.ErrorList{field.Invalid(at, v, "must be greater than zero")}
	}
	return nil
}

// ip checks an address; what was stored before may stay as it is.
func ip(value string, at *field.Path, old ...string) field.ErrorList {
	return validation.IsValidIPForLegacyField(at, value, true, old)
}

func port(n int32, at *field.Path) field.ErrorList {
	return invalidAll(at, n, validation.IsValidPortNum(int(n)))
}

func portOrName(p intstr.IntOrString, at *field.Path) field.ErrorList {
	if p.Type == intstr.Int {
		return invalidAll(at, p.IntValue(), validation.IsValidPortNum(p.IntValue()))
	}
	return invalidAll(at, p.StrVal, validation.IsValidPortName(p.StrVal))
}

// localPath is relative and has no "..".
func localPath(p string, at *field.Path) (errs field.ErrorList) {
	if path.IsAbs(p) {
		errs = append(errs, field.Invalid(at, p, "must be a relative path"))
	}
	return append(errs, noBacksteps(p, at)...)
}

func noBacksteps(p string, at *field.Path) field.ErrorList {
	if slices.Contains(strings.Split(p, "/"), "..") {
		return field.ErrorList{field.Invalid(at, p, "must not contain '..'")}
	}
	return nil
}

// unreservedPath is a local path that is not one of the names the atomic
// writer keeps for itself.
func unreservedPath(p string, at *field.Path) field.ErrorList {
	errs := localPath(p, at)
	if strings.HasPrefix(p, "..") && !strings.HasPrefix(p, "../") {
		errs = append(errs, field.Invalid(at, p, "must not start with '..'"))
	}
	return errs
}

// mode checks the permission bits of a file.
func mode(m *int32, at *field.Path) field.ErrorList {
	if m != nil && (*m > 0o777 || *m < 0) {
		return field.ErrorList{field.Invalid(at, *m, "must be a number between 0 and 0777 (octal), both inclusive")}
	}
	return nil
}

// reported puts the errors that Kubernetes finds by rules generated from its
// types behind those it finds by hand.
func reported(errs, declared field.ErrorList) field.ErrorList { return append(errs, declared...) }

// matches compiles the pattern each time: few objects have such fields.
func matches(pattern, s string) bool { return regexp.MustCompile(pattern).MatchString(s) }

// declaredKept is what the rules of the types say of a field that changed and
// may not: they do not show its value.
func declaredKept(changed bool, at *field.Path) field.ErrorList {
	if !changed {
		return nil
	}
	return field.ErrorList{field.Invalid(at, nil, immutable)}
}

func yes(b *bool) bool { return b != nil && *b }

func sorted[M ~map[K]V, K cmp.Ordered, V any](m M) []K { return slices.Sorted(maps.Keys(m)) }

// eachContainer visits all containers: first init, then main, then ephemeral.
func eachContainer(s *corev1.PodSpec, at *field.Path, visit func(c *corev1.Container, at *field.Path)) {
	for i := range s.InitContainers {
		visit(&s.InitContainers[i], at.Child("initContainers").Index(i))
	}
	for i := range s.Containers {
		visit(&s.Containers[i], at.Child("containers").Index(i))
	}
	for i := range s.EphemeralContainers {
		c := corev1.Container(s.EphemeralContainers[i].EphemeralContainerCommon)
		visit(&c, at.Child("ephemeralContainers").Index(i))
	}
}

// unique collects values and refuses the second of each.
type unique struct{ seen sets.Set[string] }

// again says whether the value was there before, and keeps it.
func (u *unique) again(v string) bool {
	if u.seen == nil {
		u.seen = sets.New[string]()
	}
	if u.seen.Has(v) {
		return true
	}
	u.seen.Insert(v)
	return false
}

func (u *unique) add(v string, at *field.Path) field.ErrorList {
	if u.again(v) {
		return field.ErrorList{field.Duplicate(at, v)}
	}
	return nil
}
