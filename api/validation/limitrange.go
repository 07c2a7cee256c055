// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// LimitRange checks that its limits can be kept together.
func LimitRange(l *corev1.LimitRange) field.ErrorList {
	errs := meta(&l.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	var types unique
	for i := range l.Spec.Limits {
		item, at := &l.Spec.Limits[i], field.NewPath("spec", "limits").Index(i)
		errs = append(errs, limitType(item.Type, at.Child("type"))...)
		if types.again(string(item.Type)) {
			errs = append(errs, field.Duplicate(at.Child("type"), item.Type))
		}
		errs = append(errs, limitNames(item, at)...)
		names := map[corev1.ResourceName]bool{}
		lists := []corev1.ResourceList{item.Max, item.Min, item.MaxLimitRequestRatio}
		if item.Type != corev1.LimitTypePod {
			lists = append(lists, item.Default, item.DefaultRequest)
		}
		for _, list := range lists {
			for n := range list {
				names[n] = true
			}
		}
		for _, n := range slices.Sorted(maps.Keys(names)) {
			errs = append(errs, limitOf(item, n, at)...)
		}
	}
	return errs
}

// LimitRangeUpdate checks a change.
func LimitRangeUpdate(l, _ *corev1.LimitRange) field.ErrorList { return LimitRange(l) }

func limitType(t corev1.LimitType, at *field.Path) field.ErrorList {
	if errs := invalidAll(at, t, validation.IsQualifiedName(string(t))); len(errs) > 0 {
		return errs
	}
	switch t {
	case corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim:
		return nil
	}
	if strings.Contains(string(t), "/") {
		return nil
	}
	return field.ErrorList{field.Invalid(at, t, "must be a standard limit type or fully qualified")}
}

// limitNames checks the names of what is limited; a Pod as a whole has no
// defaults.
func limitNames(item *corev1.LimitRangeItem, at *field.Path) (errs field.ErrorList) {
	check := resourceName
	if item.Type == corev1.LimitTypePod || item.Type == corev1.LimitTypeContainer {
		check = containerResource
	}
	list := func(l corev1.ResourceList, name string) {
		for _, n := range slices.Sorted(maps.Keys(l)) {
			errs = append(errs, check(n, at.Child(name).Key(string(n)))...)
		}
	}
	list(item.Max, "max")
	list(item.Min, "min")
	if item.Type != corev1.LimitTypePod {
		list(item.Default, "default")
		list(item.DefaultRequest, "defaultRequest")
	} else {
		if len(item.Default) > 0 {
			errs = append(errs, field.Forbidden(at.Child("default"), "may not be specified when `type` is 'Pod'"))
		}
		if len(item.DefaultRequest) > 0 {
			errs = append(errs, field.Forbidden(at.Child("defaultRequest"), "may not be specified when `type` is 'Pod'"))
		}
	}
	if item.Type == corev1.LimitTypePersistentVolumeClaim {
		_, least := item.Min[corev1.ResourceStorage]
		_, most := item.Max[corev1.ResourceStorage]
		if !least && !most {
			errs = append(errs, field.Required(at.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
		}
	}
	list(item.MaxLimitRequestRatio, "maxLimitRequestRatio")
	return errs
}

// limitOf checks what is said of one resource against each other.
func limitOf(item *corev1.LimitRangeItem, n corev1.ResourceName, at *field.Path) (errs field.ErrorList) {
	low, hasLow := item.Min[n]
	high, hasHigh := item.Max[n]
	limit, hasLimit := item.Default[n]
	request, hasRequest := item.DefaultRequest[n]
	if item.Type == corev1.LimitTypePod {
		hasLimit, hasRequest = false, false
	}
	ordered := func(both bool, a, b resource.Quantity, name string, shown resource.Quantity, text string) {
		if both && a.Cmp(b) > 0 {
			errs = append(errs, field.Invalid(at.Child(name).Key(string(n)), shown, fmt.Sprintf(text, a.String(), b.String())))
		}
	}
	ordered(hasLow && hasHigh, low, high, "min", low, "min value %s is greater than max value %s")
	ordered(hasRequest && hasLow, low, request, "defaultRequest", request, "min value %s is greater than default request value %s")
	ordered(hasRequest && hasHigh, request, high, "defaultRequest", request, "default request value %s is greater than max value %s")
	ordered(hasRequest && hasLimit, request, limit, "defaultRequest", request, "default request value %s is greater than default limit value %s")
	ordered(hasLimit && hasLow, low, limit, "default", low, "min value %s is greater than default value %s")
	ordered(hasLimit && hasHigh, limit, high, "default", high, "default value %s is greater than max value %s")
	if ratio, ok := item.MaxLimitRequestRatio[n]; ok {
		at := at.Child("maxLimitRequestRatio").Key(string(n))
		if ratio.Cmp(*resource.NewQuantity(1, resource.DecimalSI)) < 0 {
			errs = append(errs, field.Invalid(at, ratio, fmt.Sprintf("ratio %s is less than 1", ratio.String())))
		}
		if hasLow && hasHigh {
			asked, widest := ratios(ratio, low, high)
			if asked > widest {
				errs = append(errs, field.Invalid(at, ratio, fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), widest)))
			}
		}
	}
	if !overcommit(n) && hasLimit && hasRequest && limit.Cmp(request) != 0 {
		errs = append(errs, field.Invalid(at.Child("defaultRequest").Key(string(n)), request, fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", limit.String(), request.String(), n)))
	}
	return errs
}

// ratios are the ratio asked for and the widest there can be, in thousandths
// where they are not too large for that.
func ratios(ratio, low, high resource.Quantity) (asked, widest float64) {
	if ratio.Value() < resource.MaxMilliValue && low.Value() < resource.MaxMilliValue && high.Value() < resource.MaxMilliValue {
		return float64(ratio.MilliValue()) / 1000, float64(high.MilliValue()) / float64(low.MilliValue())
	}
	return float64(ratio.Value()), float64(high.Value()) / float64(low.Value())
}
