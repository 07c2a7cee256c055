// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ResourceQuota checks a new one.
func ResourceQuota(q *corev1.ResourceQuota) field.ErrorList {
	errs := meta(&q.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, quotaSpec(&q.Spec, field.NewPath("spec"))...)
	return append(errs, quotaStatus(&q.Status)...)
}

// ResourceQuotaUpdate checks a change: what is counted stays the same.
func ResourceQuotaUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	errs := metaUpdate(&q.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, quotaSpec(&q.Spec, field.NewPath("spec"))...)
	if !sets.New(q.Spec.Scopes...).Equal(sets.New(old.Spec.Scopes...)) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "scopes"), q.Spec.Scopes, apivalidation.FieldImmutableErrorMsg))
	}
	return errs
}

// ResourceQuotaStatusUpdate checks what a controller has counted.
func ResourceQuotaStatusUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	errs := metaUpdate(&q.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, required(q.ResourceVersion, field.NewPath("resourceVersion"))...)
	return append(errs, quotaStatus(&q.Status)...)
}

func quotaStatus(s *corev1.ResourceQuotaStatus) field.ErrorList {
	at := field.NewPath("status")
	return append(quotaAmounts(s.Hard, at.Child("hard")), quotaAmounts(s.Used, at.Child("used"))...)
}

func quotaAmounts(list corev1.ResourceList, at *field.Path) (errs field.ErrorList) {
	for _, n := range slices.Sorted(maps.Keys(list)) {
		at := at.Key(string(n))
		errs = append(errs, resourceName(n, at)...)
		if !strings.Contains(string(n), "/") && !quotaName(n) {
			errs = append(errs, field.Invalid(at, n, "must be a standard resource for quota"))
		}
		errs = append(errs, amount(n, list[n], at)...)
	}
	return errs
}

// quotaName are the names without a domain that a quota may have.
func quotaName(n corev1.ResourceName) bool {
	return n != corev1.ResourceStorage && standard.Has(n) || hugePages(n) || strings.HasPrefix(string(n), corev1.ResourceRequestsHugePagesPrefix)
}

func quotaSpec(s *corev1.ResourceQuotaSpec, at *field.Path) field.ErrorList {
	errs := quotaAmounts(s.Hard, at.Child("hard"))
	scopes := at.Child("scopes")
	check := func(scope corev1.ResourceQuotaScope, unknown, misapplied *field.Error) {
		if !quotaScope(scope) {
			errs = append(errs, unknown)
		}
		for _, n := range slices.Sorted(maps.Keys(s.Hard)) {
			if quotaName(n) && !scopeApplies(scope, n) {
				errs = append(errs, misapplied)
			}
		}
	}
	for _, scope := range s.Scopes {
		check(scope, field.Invalid(scopes, s.Scopes, "unsupported scope"), field.Invalid(scopes, s.Scopes, "unsupported scope applied to resource"))
	}
	errs = append(errs, conflictingScopes(s.Scopes, s.Scopes, scopes)...)
	if s.ScopeSelector == nil {
		return errs
	}
	at = at.Child("scopeSelector", "matchExpressions")
	var selected []corev1.ResourceQuotaScope
	for _, r := range s.ScopeSelector.MatchExpressions {
		selected = append(selected, r.ScopeName)
		check(r.ScopeName, field.Invalid(at.Child("scopeName"), r.ScopeName, "unsupported scope"), field.Invalid(at, s.ScopeSelector, "unsupported scope applied to resource"))
		errs = append(errs, scopeRequirement(r, at)...)
	}
	return append(errs, conflictingScopes(selected, s.Scopes, at)...)
}

func scopeRequirement(r corev1.ScopedResourceSelectorRequirement, at *field.Path) (errs field.ErrorList) {
	switch r.ScopeName {
	case corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		if r.Operator != corev1.ScopeSelectorOpExists {
			errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"))
		}
	}
	switch r.Operator {
	case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
		if len(r.Values) == 0 {
			errs = append(errs, field.Required(at.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
		}
	case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
		if len(r.Values) != 0 {
			errs = append(errs, field.Invalid(at.Child("values"), r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
		}
	default:
		errs = append(errs, field.Invalid(at.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	return errs
}

func conflictingScopes(given, shown []corev1.ResourceQuotaScope, at *field.Path) (errs field.ErrorList) {
	for _, pair := range [][2]corev1.ResourceQuotaScope{
		{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort},
		{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating},
	} {
		if slices.Contains(given, pair[0]) && slices.Contains(given, pair[1]) {
			errs = append(errs, field.Invalid(at, shown, "conflicting scopes"))
		}
	}
	return errs
}

func quotaScope(s corev1.ResourceQuotaScope) bool {
	switch s {
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort,
		corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeVolumeAttributesClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return true
	}
	return false
}

// scopeApplies says whether what a name counts can be in a scope.
func scopeApplies(s corev1.ResourceQuotaScope, n corev1.ResourceName) bool {
	switch s {
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		switch n {
		case corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory:
			return true
		}
		return false
	case corev1.ResourceQuotaScopeBestEffort:
		return n == corev1.ResourcePods
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return n == corev1.ResourcePersistentVolumeClaims || n == corev1.ResourceRequestsStorage
	}
	return true
}
