// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// DaemonSet checks a new DaemonSet.
func DaemonSet(d *appsv1.DaemonSet) field.ErrorList {
	errs := meta(&d.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, daemonSetSpec(d, nil)...)
}

// DaemonSetUpdate checks a change; the selector stays.
func DaemonSetUpdate(d, old *appsv1.DaemonSet) field.ErrorList {
	errs := metaUpdate(&d.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, apivalidation.ValidateImmutableField(d.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))...)
	return append(errs, daemonSetSpec(d, old)...)
}

func daemonSetSpec(d, old *appsv1.DaemonSet) field.ErrorList {
	s, spec := &d.Spec, field.NewPath("spec")
	var was *corev1.PodTemplateSpec
	anyValue := false // a bad label value that is there already may stay
	if old != nil {
		was, anyValue = &old.Spec.Template, len(labelSelector(old.Spec.Selector, false, nil)) > 0
	}
	errs := labelSelector(s.Selector, anyValue, spec.Child("selector"))
	at := spec.Child("template")
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !selector.Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, field.Invalid(at.Child("metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
	}
	if s.Selector != nil && len(s.Selector.MatchLabels)+len(s.Selector.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(spec.Child("selector"), s.Selector, "empty selector is invalid for daemonset"))
	}
	errs = append(errs, template(&s.Template, was, at)...)
	errs = append(errs, endless("DaemonSet", &s.Template.Spec, at.Child("spec"))...)
	errs = append(errs, nonNegative(int64(s.MinReadySeconds), spec.Child("minReadySeconds"))...)
	if v, ok := d.Annotations[appsv1.DeprecatedTemplateGeneration]; ok {
		if _, err := strconv.ParseInt(v, 10, 64); err != nil {
			errs = append(errs, field.Invalid(metadata.Child("annotations").Key(appsv1.DeprecatedTemplateGeneration), v, err.Error()))
		}
	}
	errs = append(errs, daemonSetStrategy(&s.UpdateStrategy, spec.Child("updateStrategy"))...)
	return append(errs, nonNegativeIfSet(s.RevisionHistoryLimit, spec.Child("revisionHistoryLimit"))...)
}

func daemonSetStrategy(u *appsv1.DaemonSetUpdateStrategy, at *field.Path) field.ErrorList {
	rolling := at.Child("rollingUpdate")
	switch u.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
		return nil
	case appsv1.RollingUpdateDaemonSetStrategyType:
		return rollingDaemons(u.RollingUpdate, rolling)
	}
	return field.ErrorList{field.NotSupported(at, goFields{u}, []appsv1.DaemonSetUpdateStrategyType{appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType})}
}

// rollingDaemons: either some may be missing, or some may be there twice.
func rollingDaemons(r *appsv1.RollingUpdateDaemonSet, at *field.Path) field.ErrorList {
	if r == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	unavailable, surge := *r.MaxUnavailable, *r.MaxSurge // defaulted
	errs := intOrPercent(unavailable, at.Child("maxUnavailable"))
	errs = append(errs, intOrPercent(surge, at.Child("maxSurge"))...)
	errs = append(errs, atMostAll(unavailable, at.Child("maxUnavailable"))...)
	errs = append(errs, atMostAll(surge, at.Child("maxSurge"))...)
	switch missing, twice := howMany(unavailable) != 0, howMany(surge) != 0; {
	case missing && twice:
		errs = append(errs, field.Invalid(at.Child("maxSurge"), surge, "may not be set when maxUnavailable is non-zero"))
	case !missing && !twice:
		errs = append(errs, field.Required(at.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0"))
	}
	return errs
}

// DaemonSetStatusUpdate checks the counts of a status.
func DaemonSetStatusUpdate(d, old *appsv1.DaemonSet) field.ErrorList {
	errs := metaUpdate(&d.ObjectMeta, &old.ObjectMeta)
	s, at := &d.Status, field.NewPath("status")
	errs = append(errs, numbers(at, number{"currentNumberScheduled", s.CurrentNumberScheduled}, number{"numberMisscheduled", s.NumberMisscheduled},
		number{"desiredNumberScheduled", s.DesiredNumberScheduled}, number{"numberReady", s.NumberReady})...)
	errs = append(errs, nonNegative(s.ObservedGeneration, at.Child("observedGeneration"))...)
	errs = append(errs, numbers(at, number{"updatedNumberScheduled", s.UpdatedNumberScheduled}, number{"numberAvailable", s.NumberAvailable},
		number{"numberUnavailable", s.NumberUnavailable})...)
	errs = append(errs, nonNegativeIfSet(s.CollisionCount, at.Child("collisionCount"))...)
	return append(errs, notDecremented(s.CollisionCount, old.Status.CollisionCount)...)
}

// DaemonSetWarnings are the notes on its template, when it is new or another.
func DaemonSetWarnings(d, old *appsv1.DaemonSet) []string {
	count := appsv1.DeprecatedTemplateGeneration
	if old != nil && d.Annotations[count] == old.Annotations[count] {
		return nil
	}
	return templateWarnings("", &d.Spec.Template, field.NewPath("spec", "template"))
}
