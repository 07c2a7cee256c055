// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ReplicaSet checks a new ReplicaSet.
func ReplicaSet(r *appsv1.ReplicaSet) field.ErrorList {
	errs := meta(&r.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, replicaSetSpec(r)...)
}

// ReplicaSetUpdate checks a change; the selector stays.
func ReplicaSetUpdate(r, old *appsv1.ReplicaSet) field.ErrorList {
	errs := metaUpdate(&r.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, replicaSetSpec(r)...)
	return append(errs, apivalidation.ValidateImmutableField(r.Spec.Selector, old.Spec.Selector, field.NewPath("spec", "selector"))...)
}

func replicaSetSpec(r *appsv1.ReplicaSet) field.ErrorList {
	spec := field.NewPath("spec")
	errs := replicas(r.Spec.Replicas, r.Spec.MinReadySeconds, spec)
	if r.Spec.Selector == nil {
		errs = append(errs, field.Required(spec.Child("selector"), ""))
	} else {
		errs = append(errs, metavalidation.ValidateLabelSelector(r.Spec.Selector, metavalidation.LabelSelectorValidationOptions{}, spec.Child("selector"))...)
		if len(r.Spec.Selector.MatchLabels)+len(r.Spec.Selector.MatchExpressions) == 0 {
			errs = append(errs, field.Invalid(spec.Child("selector"), r.Spec.Selector, "empty selector is invalid for deployment"))
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(r.Spec.Selector)
	if err != nil {
		return append(errs, field.Invalid(spec.Child("selector"), r.Spec.Selector, "invalid label selector"))
	}
	return append(errs, ownedTemplate(&r.Spec.Template, selector, spec.Child("template"))...)
}

func replicas(n *int32, minReady int32, spec *field.Path) (errs field.ErrorList) {
	if n == nil {
		errs = append(errs, field.Required(spec.Child("replicas"), ""))
	} else {
		errs = append(errs, nonNegative(int64(*n), spec.Child("replicas"))...)
	}
	return append(errs, nonNegative(int64(minReady), spec.Child("minReadySeconds"))...)
}

// ownedTemplate checks the template of a controller that restarts for ever.
func ownedTemplate(t *corev1.PodTemplateSpec, selector labels.Selector, path *field.Path) (errs field.ErrorList) {
	if !selector.Empty() && !selector.Matches(labels.Set(t.Labels)) {
		errs = append(errs, field.Invalid(path.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`"))
	}
	errs = append(errs, PodTemplate(t, path)...)
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(path.Child("spec", "restartPolicy"), t.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(path.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicaSet is not Supported"))
	}
	return errs
}

// ReplicaSetStatusUpdate checks the counts of a status.
func ReplicaSetStatusUpdate(r, old *appsv1.ReplicaSet) field.ErrorList {
	errs := metaUpdate(&r.ObjectMeta, &old.ObjectMeta)
	s := r.Status
	return append(errs, counts(s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas, s.ObservedGeneration)...)
}

func counts(total, labeled, ready, available int32, generation int64) (errs field.ErrorList) {
	status := field.NewPath("status")
	errs = append(errs, nonNegative(int64(total), status.Child("replicas"))...)
	errs = append(errs, nonNegative(int64(labeled), status.Child("fullyLabeledReplicas"))...)
	errs = append(errs, nonNegative(int64(ready), status.Child("readyReplicas"))...)
	errs = append(errs, nonNegative(int64(available), status.Child("availableReplicas"))...)
	errs = append(errs, nonNegative(generation, status.Child("observedGeneration"))...)
	const more = "cannot be greater than status.replicas"
	if labeled > total {
		errs = append(errs, field.Invalid(status.Child("fullyLabeledReplicas"), labeled, more))
	}
	if ready > total {
		errs = append(errs, field.Invalid(status.Child("readyReplicas"), ready, more))
	}
	if available > total {
		errs = append(errs, field.Invalid(status.Child("availableReplicas"), available, more))
	}
	if available > ready {
		errs = append(errs, field.Invalid(status.Child("availableReplicas"), available, "cannot be greater than readyReplicas"))
	}
	return errs
}

// ReplicationController checks a new controller.
func ReplicationController(r *corev1.ReplicationController) field.ErrorList {
	errs := meta(&r.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, controllerSpec(r)...)
}

// ReplicationControllerUpdate checks a change.
func ReplicationControllerUpdate(r, old *corev1.ReplicationController) field.ErrorList {
	return append(metaUpdate(&r.ObjectMeta, &old.ObjectMeta), controllerSpec(r)...)
}

func controllerSpec(r *corev1.ReplicationController) field.ErrorList {
	spec := field.NewPath("spec")
	errs := replicas(r.Spec.Replicas, r.Spec.MinReadySeconds, spec)
	if len(r.Spec.Selector) == 0 {
		errs = append(errs, field.Required(spec.Child("selector"), ""))
	}
	if r.Spec.Template == nil {
		return append(errs, field.Required(spec.Child("template"), ""))
	}
	return append(errs, ownedTemplate(r.Spec.Template, labels.Set(r.Spec.Selector).AsSelectorPreValidated(), spec.Child("template"))...)
}

// ReplicationControllerStatusUpdate checks the counts of a status.
func ReplicationControllerStatusUpdate(r, old *corev1.ReplicationController) field.ErrorList {
	errs := metaUpdate(&r.ObjectMeta, &old.ObjectMeta)
	s := r.Status
	return append(errs, counts(s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas, s.ObservedGeneration)...)
}

// PodTemplateObject checks the kind PodTemplate.
func PodTemplateObject(t *corev1.PodTemplate) field.ErrorList {
	errs := meta(&t.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, PodTemplate(&t.Template, field.NewPath("template"))...)
}

// Event checks that an event lies in the namespace of what it is about.
func Event(e *corev1.Event) (errs field.ErrorList) {
	about := e.InvolvedObject.Namespace
	if about == "" {
		if e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem {
			errs = append(errs, field.Invalid(field.NewPath("involvedObject", "namespace"), about, "does not match event.namespace"))
		}
	} else if e.Namespace != about {
		errs = append(errs, field.Invalid(field.NewPath("involvedObject", "namespace"), about, "does not match event.namespace"))
	}
	errs = append(errs, invalidAll(field.NewPath("namespace"), e.Namespace, apivalidation.ValidateNamespaceName(e.Namespace, false))...)
	if len(e.Message) > 1024 && !e.EventTime.IsZero() {
		errs = append(errs, field.Invalid(field.NewPath("message"), "", fmt.Sprintf("can have at most %v characters", 1024)))
	}
	return errs
}
