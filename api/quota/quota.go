// SPDX-License-Identifier: Apache-2.0

// Package quota owns what objects cost under a ResourceQuota: Pods, Services
// and claims to volumes and devices by their resources, everything else by its number. It does not own
// who charges: the API server does on every write, and a controller counts anew
// when something is gone.
package quota

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
)

// Lister lists the objects of a kind in a namespace; the API server, which
// charges for single objects, has none.
type Lister func(kind schema.GroupVersionResource, namespace string) ([]runtime.Object, error)

// Evaluators are those of the kinds that cost more than one.
func Evaluators(list Lister) []quota.Evaluator {
	return []quota.Evaluator{
		evaluator[corev1.Pod]{
			kind: corev1.SchemeGroupVersion.WithResource("pods"), list: list, names: podResources, usage: podUsage, scope: podInScope,
			handles: podHandled, required: podRequired,
		},
		evaluator[corev1.Service]{
			kind: corev1.SchemeGroupVersion.WithResource("services"), list: list, names: serviceResources, usage: serviceUsage,
			handles: func(a admission.Attributes, _, _ *corev1.Service) bool { return a.GetSubresource() == "" },
		},
		evaluator[corev1.PersistentVolumeClaim]{
			kind: corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims"), list: list, names: claimResources, usage: claimUsage, scope: claimInScope,
			handles: claimHandled,
		},
		evaluator[resourcev1.ResourceClaim]{
			kind: resourcev1.SchemeGroupVersion.WithResource("resourceclaims"), list: list, names: deviceResources, usage: deviceUsage,
			handles: func(a admission.Attributes, _, _ *resourcev1.ResourceClaim) bool { return a.GetSubresource() == "" },
		},
	}
}

// Counted is the evaluator of a kind whose objects cost one each.
func Counted(kind schema.GroupVersionResource, list Lister) quota.Evaluator {
	var alias corev1.ResourceName
	if kind.Group == corev1.GroupName && slices.Contains(aliases, corev1.ResourceName(kind.Resource)) {
		alias = corev1.ResourceName(kind.Resource)
	}
	return generic.NewObjectCountEvaluator(kind.GroupResource(), func(namespace string) ([]runtime.Object, error) { return list(kind, namespace) }, alias)
}

// aliases are kinds that are counted under their plain name, too.
var aliases = []corev1.ResourceName{corev1.ResourceConfigMaps, corev1.ResourceQuotas, corev1.ResourceReplicationControllers, corev1.ResourceSecrets}

// Ignored are what is written but not stored, and what is not the user's.
func Ignored() map[schema.GroupResource]struct{} {
	out := map[schema.GroupResource]struct{}{}
	for group, names := range map[string][]string{
		"":                      {"bindings", "componentstatuses", "events"},
		"authentication.k8s.io": {"tokenreviews", "selfsubjectreviews"},
		"authorization.k8s.io":  {"subjectaccessreviews", "selfsubjectaccessreviews", "localsubjectaccessreviews", "selfsubjectrulesreviews"},
		"events.k8s.io":         {"events"},
	} {
		for _, n := range names {
			out[schema.GroupResource{Group: group, Resource: n}] = struct{}{}
		}
	}
	return out
}

// Admission is what the library's plugin works by.
func Admission() quota.Configuration {
	all := Evaluators(nil)
	for _, name := range aliases {
		all = append(all, Counted(corev1.SchemeGroupVersion.WithResource(string(name)), nil))
	}
	return generic.NewConfiguration(all, Ignored())
}

// evaluator measures objects of one kind. Without scope its objects are in
// none.
type evaluator[T any] struct {
	kind     schema.GroupVersionResource
	list     Lister
	names    func(corev1.ResourceName) bool
	usage    func(*T) corev1.ResourceList
	scope    func(corev1.ScopedResourceSelectorRequirement, *T) (bool, error)
	handles  func(a admission.Attributes, o, old *T) bool
	required func([]corev1.ResourceName, *T) error
}

func of[T any](o runtime.Object) *T {
	t, _ := any(o).(*T)
	return t
}

func (e evaluator[T]) GroupResource() schema.GroupResource { return e.kind.GroupResource() }

// Constraints says what an object has to tell while there is a quota on it.
func (e evaluator[T]) Constraints(required []corev1.ResourceName, o runtime.Object) error {
	if e.required == nil {
		return nil
	}
	return e.required(required, of[T](o))
}

func (e evaluator[T]) Handles(a admission.Attributes) bool {
	if op := a.GetOperation(); op != admission.Create && op != admission.Update {
		return false
	}
	return e.handles(a, of[T](a.GetObject()), of[T](a.GetOldObject()))
}

func (e evaluator[T]) inScope(r corev1.ScopedResourceSelectorRequirement, o runtime.Object) (bool, error) {
	if e.scope == nil {
		return false, nil
	}
	return e.scope(r, of[T](o))
}

func (e evaluator[T]) Matches(q *corev1.ResourceQuota, o runtime.Object) (bool, error) {
	return generic.Matches(q, o, e.MatchingResources, e.inScope)
}

func (e evaluator[T]) MatchingScopes(o runtime.Object, scopes []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	out := []corev1.ScopedResourceSelectorRequirement{}
	for _, s := range scopes {
		in, err := e.inScope(s, o)
		if err != nil {
			return nil, fmt.Errorf("error on matching scope %v: %w", s, err)
		}
		if in {
			out = append(out, s)
		}
	}
	return out, nil
}

func (e evaluator[T]) UncoveredQuotaScopes(limited, matched []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	out := []corev1.ScopedResourceSelectorRequirement{}
	for _, l := range limited {
		if !slices.ContainsFunc(matched, func(m corev1.ScopedResourceSelectorRequirement) bool { return m.ScopeName == l.ScopeName }) {
			out = append(out, l)
		}
	}
	return out, nil
}

func (e evaluator[T]) MatchingResources(names []corev1.ResourceName) (out []corev1.ResourceName) {
	for _, n := range names {
		if e.names(n) {
			out = append(out, n)
		}
	}
	return out
}

func (e evaluator[T]) Usage(o runtime.Object) (corev1.ResourceList, error) {
	t := of[T](o)
	if t == nil {
		return nil, fmt.Errorf("cannot measure a %T", o)
	}
	return e.usage(t), nil
}

func (e evaluator[T]) UsageStats(o quota.UsageStatsOptions) (quota.UsageStats, error) {
	list := func(namespace string) ([]runtime.Object, error) {
		return e.list(e.kind, namespace)
	}
	return generic.CalculateUsageStats(o, list, e.inScope, e.Usage)
}

// named says whether one of the names a kind has for a scope is asked for.
func named(r corev1.ScopedResourceSelectorRequirement, names ...string) (bool, error) {
	if r.Operator == corev1.ScopeSelectorOpExists {
		return len(names) > 0, nil
	}
	op, known := map[corev1.ScopeSelectorOperator]selection.Operator{
		corev1.ScopeSelectorOpIn: selection.In, corev1.ScopeSelectorOpNotIn: selection.NotIn, corev1.ScopeSelectorOpDoesNotExist: selection.DoesNotExist,
	}[r.Operator]
	if !known {
		return false, fmt.Errorf("failed to parse and convert selector: %q is not a valid scope selector operator", r.Operator)
	}
	asked, err := labels.NewRequirement(string(r.ScopeName), op, r.Values)
	if err != nil {
		return false, fmt.Errorf("failed to parse and convert selector: %w", err)
	}
	if len(names) == 0 {
		return asked.Matches(labels.Set{}), nil
	}
	return slices.ContainsFunc(names, func(n string) bool { return asked.Matches(labels.Set{string(r.ScopeName): n}) }), nil
}

func one() resource.Quantity { return *resource.NewQuantity(1, resource.DecimalSI) }
