// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Deployment checks a new Deployment.
func Deployment(d *appsv1.Deployment) field.ErrorList {
	errs := meta(&d.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, deploymentSpec(d, nil)...)
}

// DeploymentUpdate checks a change; the selector stays.
func DeploymentUpdate(d, old *appsv1.Deployment) field.ErrorList {
	errs := metaUpdate(&d.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, deploymentSpec(d, &old.Spec.Template)...)
	return append(errs, apivalidation.ValidateImmutableField(d.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))...)
}

func deploymentSpec(d *appsv1.Deployment, old *corev1.PodTemplateSpec) field.ErrorList {
	s, spec := &d.Spec, field.NewPath("spec")
	errs := nonNegativeIfSet(s.Replicas, spec.Child("replicas"))
	errs = append(errs, fullSelector("deployment", s.Selector, spec.Child("selector"))...)
	selector, err := metav1.LabelSelectorAsSelector(s.Selector)
	if err != nil {
		errs = append(errs, field.Invalid(spec.Child("selector"), s.Selector, "invalid label selector"))
	} else {
		// Its Pods are a ReplicaSet's, and so are the words.
		errs = append(errs, ownedTemplate("ReplicaSet", &s.Template, old, selector, spec.Child("template"))...)
	}
	errs = append(errs, deploymentStrategy(&s.Strategy, spec.Child("strategy"))...)
	errs = append(errs, nonNegative(int64(s.MinReadySeconds), spec.Child("minReadySeconds"))...)
	errs = append(errs, nonNegativeIfSet(s.RevisionHistoryLimit, spec.Child("revisionHistoryLimit"))...)
	if v, ok := d.Annotations[appsv1.DeprecatedRollbackTo]; ok && v != "" {
		if n, err := strconv.ParseInt(v, 10, 64); err != nil {
			errs = append(errs, field.Invalid(metadata.Child("annotations").Key(appsv1.DeprecatedRollbackTo), v, err.Error()))
		} else {
			errs = append(errs, nonNegative(n, spec.Child("rollback", "version"))...)
		}
	}
	if deadline := s.ProgressDeadlineSeconds; deadline != nil {
		at := spec.Child("progressDeadlineSeconds")
		errs = append(errs, nonNegative(int64(*deadline), at)...)
		if *deadline <= s.MinReadySeconds {
			errs = append(errs, field.Invalid(at, *deadline, "must be greater than minReadySeconds"))
		}
	}
	return errs
}

// fullSelector checks the selector of a workload, which may not be empty.
func fullSelector(kind string, s *metav1.LabelSelector, at *field.Path) field.ErrorList {
	if s == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := labelSelector(s, false, at)
	if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(at, s, "empty selector is invalid for "+kind))
	}
	return errs
}

func nonNegativeIfSet(n *int32, at *field.Path) field.ErrorList {
	if n == nil {
		return nil
	}
	return nonNegative(int64(*n), at)
}

func deploymentStrategy(s *appsv1.DeploymentStrategy, at *field.Path) field.ErrorList {
	rolling := at.Child("rollingUpdate")
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(rolling, "may not be specified when strategy `type` is 'Recreate'")}
		}
		return nil
	case appsv1.RollingUpdateDeploymentStrategyType:
		return rollingUpdate(s.RollingUpdate, rolling)
	}
	shown := s.DeepCopy()
	if r := shown.RollingUpdate; r != nil { // neither can be nil in Kubernetes' own type
		r.MaxUnavailable, r.MaxSurge = orZero(r.MaxUnavailable), orZero(r.MaxSurge)
	}
	return field.ErrorList{field.NotSupported(at, goFields{shown}, []appsv1.DeploymentStrategyType{appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType})}
}

func orZero(v *intstr.IntOrString) *intstr.IntOrString {
	if v == nil {
		return &intstr.IntOrString{}
	}
	return v
}

func rollingUpdate(r *appsv1.RollingUpdateDeployment, at *field.Path) field.ErrorList {
	if r == nil {
		return field.ErrorList{field.Required(at, "this should be defaulted and never be nil")}
	}
	unavailable, surge := *r.MaxUnavailable, *r.MaxSurge // defaulted
	errs := intOrPercent(unavailable, at.Child("maxUnavailable"))
	errs = append(errs, intOrPercent(surge, at.Child("maxSurge"))...)
	if howMany(unavailable) == 0 && howMany(surge) == 0 {
		errs = append(errs, field.Invalid(at.Child("maxUnavailable"), unavailable, "may not be 0 when `maxSurge` is 0"))
	}
	return append(errs, atMostAll(unavailable, at.Child("maxUnavailable"))...)
}

// intOrPercent checks a number, or a percentage of a number.
func intOrPercent(v intstr.IntOrString, at *field.Path) field.ErrorList {
	if v.Type == intstr.String {
		return invalidAll(at, v, validation.IsValidPercent(v.StrVal))
	}
	return nonNegative(int64(v.IntValue()), at)
}

// percent is the number before the sign, if v is a percentage.
func percent(v intstr.IntOrString) (int, bool) {
	if v.Type != intstr.String || len(validation.IsValidPercent(v.StrVal)) > 0 {
		return 0, false
	}
	n, err := strconv.Atoi(v.StrVal[:len(v.StrVal)-1])
	return n, err == nil
}

// howMany is the number of v, of a percentage the one before the sign.
func howMany(v intstr.IntOrString) int {
	if n, ok := percent(v); ok {
		return n
	}
	return v.IntValue()
}

func atMostAll(v intstr.IntOrString, at *field.Path) field.ErrorList {
	if n, ok := percent(v); ok && n > 100 {
		return field.ErrorList{field.Invalid(at, v, "must not be greater than 100%")}
	}
	return nil
}

// DeploymentStatusUpdate checks the counts of a status.
func DeploymentStatusUpdate(d, old *appsv1.Deployment) field.ErrorList {
	errs := metaUpdate(&d.ObjectMeta, &old.ObjectMeta)
	s, at := &d.Status, field.NewPath("status")
	errs = append(errs, nonNegative(s.ObservedGeneration, at.Child("observedGeneration"))...)
	errs = append(errs, numbers(at, number{"replicas", s.Replicas}, number{"updatedReplicas", s.UpdatedReplicas}, number{"readyReplicas", s.ReadyReplicas},
		number{"availableReplicas", s.AvailableReplicas}, number{"unavailableReplicas", s.UnavailableReplicas})...)
	errs = append(errs, nonNegativeIfSet(s.TerminatingReplicas, at.Child("terminatingReplicas"))...)
	errs = append(errs, nonNegativeIfSet(s.CollisionCount, at.Child("collisionCount"))...)
	errs = append(errs, within(s.Replicas, at, number{"updatedReplicas", s.UpdatedReplicas}, number{"readyReplicas", s.ReadyReplicas}, number{"availableReplicas", s.AvailableReplicas})...)
	errs = append(errs, availableReady(s.AvailableReplicas, s.ReadyReplicas, at)...)
	return append(errs, notDecremented(s.CollisionCount, old.Status.CollisionCount)...)
}

// number is one count of a status.
type number struct {
	name string
	n    int32
}

func numbers(at *field.Path, list ...number) (errs field.ErrorList) {
	for _, x := range list {
		errs = append(errs, nonNegative(int64(x.n), at.Child(x.name))...)
	}
	return errs
}

// within: no part is more than the whole.
func within(total int32, at *field.Path, parts ...number) (errs field.ErrorList) {
	for _, p := range parts {
		if p.n > total {
			errs = append(errs, field.Invalid(at.Child(p.name), p.n, "cannot be greater than status.replicas"))
		}
	}
	return errs
}

// availableReady: what is available is ready.
func availableReady(available, ready int32, at *field.Path) field.ErrorList {
	if available <= ready {
		return nil
	}
	return field.ErrorList{field.Invalid(at.Child("availableReplicas"), available, "cannot be greater than readyReplicas")}
}

// notDecremented: the count of collisions of hashes only grows.
func notDecremented(now, was *int32) field.ErrorList {
	if was != nil && (now == nil || *now < *was) {
		var n int32
		if now != nil {
			n = *now
		}
		return field.ErrorList{field.Invalid(field.NewPath("status", "collisionCount"), n, "cannot be decremented")}
	}
	return nil
}

// DeploymentWarnings are the notes on its name and template, when they are new
// or change.
func DeploymentWarnings(d, old *appsv1.Deployment) []string {
	name := d.Name
	if old != nil {
		if name = ""; d.Generation == old.Generation {
			return nil
		}
	}
	return templateWarnings(name, &d.Spec.Template, field.NewPath("spec", "template"))
}
