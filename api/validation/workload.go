// SPDX-License-Identifier: Apache-2.0

package validation

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ReplicaSet checks a new ReplicaSet.
func ReplicaSet(r *appsv1.ReplicaSet) field.ErrorList {
	errs := meta(&r.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, replicaSetSpec(r, nil)...)
}

// ReplicaSetUpdate checks a change; the selector stays.
func ReplicaSetUpdate(r, old *appsv1.ReplicaSet) field.ErrorList {
	errs := metaUpdate(&r.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, replicaSetSpec(r, &old.Spec.Template)...)
	return append(errs, apivalidation.ValidateImmutableField(r.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))...)
}

func replicaSetSpec(r *appsv1.ReplicaSet, old *corev1.PodTemplateSpec) (errs field.ErrorList) {
	spec := field.NewPath("spec")
	errs = append(errs, nonNegativeIfSet(r.Spec.Replicas, spec.Child("replicas"))...)
	errs = append(errs, nonNegative(int64(r.Spec.MinReadySeconds), spec.Child("minReadySeconds"))...)
	at := spec.Child("selector")
	errs = append(errs, fullSelector("deployment", r.Spec.Selector, at)...)
	selector, err := metav1.LabelSelectorAsSelector(r.Spec.Selector)
	if err != nil {
		return append(errs, field.Invalid(at, r.Spec.Selector, "invalid label selector"))
	}
	return append(errs, ownedTemplate("ReplicaSet", &r.Spec.Template, old, selector, spec.Child("template"))...)
}

// ownedTemplate checks the template of a controller that restarts for ever.
func ownedTemplate(kind string, t, old *corev1.PodTemplateSpec, selector labels.Selector, at *field.Path) (errs field.ErrorList) {
	if !selector.Empty() && !selector.Matches(labels.Set(t.Labels)) {
		errs = append(errs, field.Invalid(at.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`"))
	}
	errs = append(errs, template(t, old, at)...)
	return append(errs, endless(kind, &t.Spec, at.Child("spec"))...)
}

// endless: the Pods of a controller that makes new ones for ever do not end.
func endless(kind string, s *corev1.PodSpec, at *field.Path) field.ErrorList {
	errs := supported(s.RestartPolicy, at.Child("restartPolicy"), corev1.RestartPolicyAlways)
	if s.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(at.Child("activeDeadlineSeconds"), "activeDeadlineSeconds in "+kind+" is not Supported"))
	}
	return errs
}

// ReplicaSetStatusUpdate checks the counts of a status.
func ReplicaSetStatusUpdate(r, old *appsv1.ReplicaSet) field.ErrorList {
	errs := metaUpdate(&r.ObjectMeta, &old.ObjectMeta)
	s := r.Status
	return append(errs, counts(s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas, s.ObservedGeneration, s.TerminatingReplicas)...)
}

func counts(total, labeled, ready, available int32, generation int64, terminating *int32) (errs field.ErrorList) {
	at := field.NewPath("status")
	parts := []number{{"fullyLabeledReplicas", labeled}, {"readyReplicas", ready}, {"availableReplicas", available}}
	errs = numbers(at, append([]number{{"replicas", total}}, parts...)...)
	errs = append(errs, nonNegative(generation, at.Child("observedGeneration"))...)
	errs = append(errs, nonNegativeIfSet(terminating, at.Child("terminatingReplicas"))...)
	errs = append(errs, within(total, at, parts...)...)
	return append(errs, availableReady(available, ready, at)...)
}

// ReplicationController checks a new controller.
func ReplicationController(r *corev1.ReplicationController) field.ErrorList {
	errs := meta(&r.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	bad, declared := controllerSpec(r, nil)
	return reported(append(errs, bad...), declared)
}

// ReplicationControllerUpdate checks a change.
func ReplicationControllerUpdate(r, old *corev1.ReplicationController) field.ErrorList {
	errs := metaUpdate(&r.ObjectMeta, &old.ObjectMeta)
	bad, declared := controllerSpec(r, old.Spec.Template)
	return reported(append(errs, bad...), declared)
}

func controllerSpec(r *corev1.ReplicationController, old *corev1.PodTemplateSpec) (errs, declared field.ErrorList) {
	spec := field.NewPath("spec")
	if r.Spec.Replicas == nil {
		declared = append(declared, field.Required(spec.Child("replicas"), ""))
	} else {
		declared = append(declared, nonNegative(int64(*r.Spec.Replicas), spec.Child("replicas"))...)
	}
	declared = append(declared, nonNegative(int64(r.Spec.MinReadySeconds), spec.Child("minReadySeconds"))...)
	if len(r.Spec.Selector) == 0 {
		errs = append(errs, field.Required(spec.Child("selector"), ""))
	}
	if r.Spec.Template == nil {
		return append(errs, field.Required(spec.Child("template"), "")), declared
	}
	selector := labels.Set(r.Spec.Selector).AsSelectorPreValidated()
	return append(errs, ownedTemplate("ReplicationController", r.Spec.Template, old, selector, spec.Child("template"))...), declared
}

// ReplicationControllerStatusUpdate checks the counts of a status.
func ReplicationControllerStatusUpdate(r, old *corev1.ReplicationController) field.ErrorList {
	errs := metaUpdate(&r.ObjectMeta, &old.ObjectMeta)
	s := r.Status
	return append(errs, counts(s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas, s.ObservedGeneration, nil)...)
}

// PodTemplate checks a new template.
func PodTemplate(t *corev1.PodTemplate) field.ErrorList {
	errs := meta(&t.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, template(&t.Template, nil, field.NewPath("template"))...)
}

// PodTemplateUpdate checks a change.
func PodTemplateUpdate(t, old *corev1.PodTemplate) field.ErrorList {
	errs := metaUpdate(&t.ObjectMeta, &old.ObjectMeta)
	return append(errs, template(&t.Template, &old.Template, field.NewPath("template"))...)
}

// ReplicaSetWarnings are the notes on its template, when it is new or changes.
func ReplicaSetWarnings(r, old *appsv1.ReplicaSet) []string {
	name, at := r.Name, field.NewPath("spec", "template")
	if old != nil {
		if name = ""; r.Generation == old.Generation {
			return nil
		}
	}
	return templateWarnings(name, &r.Spec.Template, at)
}

// ReplicationControllerWarnings are the notes on its template. Of a change,
// Kubernetes comments the template that was there before.
func ReplicationControllerWarnings(r, old *corev1.ReplicationController) []string {
	name, at := r.Name, field.NewPath("spec", "template")
	if old == nil {
		return templateWarnings(name, r.Spec.Template, at)
	}
	if r.Generation == old.Generation {
		return nil
	}
	return templateWarnings("", old.Spec.Template, at)
}

// PodTemplateWarnings are the notes on a template.
func PodTemplateWarnings(t, old *corev1.PodTemplate) []string {
	if old != nil && t.Generation == old.Generation {
		return nil
	}
	return templateWarnings("", &t.Template, field.NewPath("template"))
}
