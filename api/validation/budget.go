// SPDX-License-Identifier: Apache-2.0

package validation

import (
	policyv1 "k8s.io/api/policy/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
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
	if n == nil {
		return nil
	}
	return append(intOrPercent(*n, at), atMostAll(*n, at)...)
}

// PodDisruptionBudgetStatusUpdate checks counts and conditions.
func PodDisruptionBudgetStatusUpdate(b, _ *policyv1.PodDisruptionBudget) field.ErrorList {
	at, s := field.NewPath("status"), &b.Status
	errs := metavalidation.ValidateConditions(s.Conditions, at.Child("conditions"))
	return append(errs, numbers(at, number{"disruptionsAllowed", s.DisruptionsAllowed}, number{"currentHealthy", s.CurrentHealthy},
		number{"desiredHealthy", s.DesiredHealthy}, number{"expectedPods", s.ExpectedPods})...)
}
