// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"strconv"
	"strings"

	policyv1 "k8s.io/api/policy/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// PodDisruptionBudget checks a new budget.
func PodDisruptionBudget(b *policyv1.PodDisruptionBudget) field.ErrorList {
	return budgetSpec(&b.Spec, false, field.NewPath("spec"))
}

// PodDisruptionBudgetUpdate checks a change.
func PodDisruptionBudgetUpdate(b, old *policyv1.PodDisruptionBudget) field.ErrorList {
	return budgetSpec(&b.Spec, metavalidation.LabelSelectorHasInvalidLabelValue(old.Spec.Selector), field.NewPath("spec"))
}

func budgetSpec(s *policyv1.PodDisruptionBudgetSpec, loose bool, at *field.Path) (errs field.ErrorList) {
	if s.MinAvailable != nil && s.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(at, goFields{*s}, "minAvailable and maxUnavailable cannot be both set"))
	}
	errs = append(errs, budgetAmount(s.MinAvailable, at.Child("minAvailable"))...)
	errs = append(errs, budgetAmount(s.MaxUnavailable, at.Child("maxUnavailable"))...)
	errs = append(errs, labelSelector(s.Selector, loose, at.Child("selector"))...)
	return append(errs, supportedIfSet(s.UnhealthyPodEvictionPolicy, at.Child("unhealthyPodEvictionPolicy"), policyv1.AlwaysAllow, policyv1.IfHealthyBudget)...)
}

// budgetAmount is a number of Pods, or a part of them that is not more than
// all.
func budgetAmount(n *intstr.IntOrString, at *field.Path) field.ErrorList {
	switch {
	case n == nil:
		return nil
	case n.Type == intstr.Int:
		return nonNegative(int64(n.IntValue()), at)
	}
	if problems := validation.IsValidPercent(n.StrVal); len(problems) > 0 {
		return invalidAll(at, *n, problems)
	}
	if percent, err := strconv.Atoi(strings.TrimSuffix(n.StrVal, "%")); err == nil && percent > 100 {
		return field.ErrorList{field.Invalid(at, *n, "must not be greater than 100%")}
	}
	return nil
}

// PodDisruptionBudgetStatusUpdate checks counts and conditions.
func PodDisruptionBudgetStatusUpdate(b, _ *policyv1.PodDisruptionBudget) field.ErrorList {
	at, s := field.NewPath("status"), &b.Status
	errs := metavalidation.ValidateConditions(s.Conditions, at.Child("conditions"))
	for _, n := range []struct {
		name  string
		value int32
	}{{"disruptionsAllowed", s.DisruptionsAllowed}, {"currentHealthy", s.CurrentHealthy}, {"desiredHealthy", s.DesiredHealthy}, {"expectedPods", s.ExpectedPods}} {
		errs = append(errs, nonNegative(int64(n.value), at.Child(n.name))...)
	}
	return errs
}
