// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"encoding/json"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// StatefulSet checks a new StatefulSet.
func StatefulSet(s *appsv1.StatefulSet) field.ErrorList {
	errs := meta(&s.ObjectMeta, true, apivalidation.NameIsDNSLabel)
	spec := field.NewPath("spec")
	errs = append(errs, statefulSetSpec(&s.Spec, nil, spec, false)...)
	if s.Spec.ServiceName != "" {
		errs = append(errs, invalidAll(spec.Child("serviceName"), s.Spec.ServiceName, validation.IsDNS1123Label(s.Spec.ServiceName))...)
	}
	for i := range s.Spec.VolumeClaimTemplates {
		errs = append(errs, claimSpec(&s.Spec.VolumeClaimTemplates[i].Spec, spec.Child("volumeClaimTemplates").Index(i).Child("spec"))...)
	}
	return errs
}

// StatefulSetUpdate checks a change: what makes the identity of its Pods stays.
// A template that was not valid before is not held against the change.
func StatefulSetUpdate(s, old *appsv1.StatefulSet) field.ErrorList {
	errs := metaUpdate(&s.ObjectMeta, &old.ObjectMeta)
	spec := field.NewPath("spec")
	was := len(statefulSetSpec(&old.Spec, &old.Spec.Template, nil, false)) > 0
	errs = append(errs, statefulSetSpec(&s.Spec, &old.Spec.Template, spec, was)...)
	kept := func(now, was any, name string) {
		errs = append(errs, apivalidation.ValidateImmutableField(now, was, spec.Child(name))...)
	}
	kept(s.Spec.Selector, old.Spec.Selector, "selector")
	kept(s.Spec.VolumeClaimTemplates, old.Spec.VolumeClaimTemplates, "volumeClaimTemplates")
	kept(s.Spec.ServiceName, old.Spec.ServiceName, "serviceName")
	kept(s.Spec.PodManagementPolicy, old.Spec.PodManagementPolicy, "podManagementPolicy")
	return errs
}

func statefulSetSpec(s *appsv1.StatefulSetSpec, old *corev1.PodTemplateSpec, spec *field.Path, lenient bool) field.ErrorList {
	var errs field.ErrorList
	if p := s.PodManagementPolicy; p != appsv1.OrderedReadyPodManagement && p != appsv1.ParallelPodManagement {
		errs = append(errs, field.Invalid(spec.Child("podManagementPolicy"), p, "must be 'OrderedReady' or 'Parallel'"))
	}
	errs = append(errs, statefulSetStrategy(&s.UpdateStrategy, spec.Child("updateStrategy"))...)
	if p := s.PersistentVolumeClaimRetentionPolicy; p != nil {
		at := spec.Child("persistentVolumeClaimRetentionPolicy")
		retain, remove := appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
		errs = append(errs, supported(p.WhenDeleted, at.Child("whenDeleted"), retain, remove)...)
		errs = append(errs, supported(p.WhenScaled, at.Child("whenScaled"), retain, remove)...)
	}
	errs = append(errs, nonNegativeIfSet(s.Replicas, spec.Child("replicas"))...)
	errs = append(errs, nonNegative(int64(s.MinReadySeconds), spec.Child("minReadySeconds"))...)
	if s.Ordinals != nil {
		errs = append(errs, nonNegative(int64(s.Ordinals.Start), spec.Child("ordinals.start"))...)
	}
	errs = append(errs, fullSelector("statefulset", s.Selector, spec.Child("selector"))...)
	at := spec.Child("template")
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err != nil {
		errs = append(errs, field.Invalid(spec.Child("selector"), s.Selector, ""))
	} else {
		if !selector.Empty() && !selector.Matches(labels.Set(s.Template.Labels)) {
			errs = append(errs, field.Invalid(at.Child("metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
		}
		errs = append(errs, identified(s, old, at, lenient)...)
	}
	return append(errs, endless("StatefulSet", &s.Template.Spec, at.Child("spec"))...)
}

// identified checks the template as the Pods will have it: with volumes for
// the claims, and without names that the controller gives. Labels and
// annotations are checked again, as in Kubernetes.
func identified(s *appsv1.StatefulSetSpec, old *corev1.PodTemplateSpec, at *field.Path, lenient bool) (errs field.ErrorList) {
	t := s.Template.DeepCopy()
	t.Spec.Subdomain, t.Spec.Hostname = "", ""
	if len(s.VolumeClaimTemplates) > 0 {
		t.Spec.Volumes = nil
		for _, c := range s.VolumeClaimTemplates {
			source := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c.Name}}
			t.Spec.Volumes = append(t.Spec.Volumes, corev1.Volume{Name: c.Name, VolumeSource: source})
		}
		for _, v := range s.Template.Spec.Volumes {
			if !slices.ContainsFunc(s.VolumeClaimTemplates, func(c corev1.PersistentVolumeClaim) bool { return c.Name == v.Name }) {
				t.Spec.Volumes = append(t.Spec.Volumes, v)
			}
		}
	}
	var was *metav1.ObjectMeta
	if old != nil {
		was = &old.ObjectMeta
	}
	if !lenient {
		errs = append(errs, template(t, old, at)...)
	}
	errs = append(errs, metavalidation.ValidateLabels(t.Labels, at.Child("labels"))...)
	errs = append(errs, apivalidation.ValidateAnnotations(t.Annotations, at.Child("annotations"))...)
	return append(errs, specAnnotations(&t.ObjectMeta, was, &t.Spec, at.Child("annotations"))...)
}

func statefulSetStrategy(u *appsv1.StatefulSetUpdateStrategy, at *field.Path) (errs field.ErrorList) {
	r, rolling := u.RollingUpdate, at.Child("rollingUpdate")
	switch u.Type {
	case appsv1.OnDeleteStatefulSetStrategyType:
		if r != nil {
			errs = append(errs, field.Invalid(rolling, goFields{shownPartition(r)}, "only allowed for updateStrategy 'RollingUpdate'"))
		}
	case appsv1.RollingUpdateStatefulSetStrategyType:
		if r == nil {
			return nil
		}
		errs = append(errs, nonNegativeIfSet(r.Partition, rolling.Child("partition"))...)
		if m := r.MaxUnavailable; m != nil {
			most := rolling.Child("maxUnavailable")
			errs = append(errs, intOrPercent(*m, most)...)
			if howMany(*m) == 0 {
				errs = append(errs, field.Invalid(most, *m, "cannot be 0"))
			}
			errs = append(errs, atMostAll(*m, most)...)
		}
	default:
		shown := u.DeepCopy()
		shown.RollingUpdate = shownPartition(shown.RollingUpdate)
		errs = append(errs, field.Invalid(at, goFields{shown}, "must be 'RollingUpdate' or 'OnDelete'"))
	}
	return errs
}

// shownPartition has a partition, as Kubernetes' own type always has.
func shownPartition(r *appsv1.RollingUpdateStatefulSetStrategy) *appsv1.RollingUpdateStatefulSetStrategy {
	if r = r.DeepCopy(); r != nil && r.Partition == nil {
		r.Partition = new(int32)
	}
	return r
}

// StatefulSetStatusUpdate checks the counts of a status.
func StatefulSetStatusUpdate(s, old *appsv1.StatefulSet) field.ErrorList {
	st, at := &s.Status, field.NewPath("status")
	parts := []number{{"readyReplicas", st.ReadyReplicas}, {"currentReplicas", st.CurrentReplicas}, {"updatedReplicas", st.UpdatedReplicas}, {"availableReplicas", st.AvailableReplicas}}
	errs := numbers(at, append([]number{{"replicas", st.Replicas}}, parts...)...)
	errs = append(errs, nonNegative(st.ObservedGeneration, at.Child("observedGeneration"))...)
	errs = append(errs, nonNegativeIfSet(st.CollisionCount, at.Child("collisionCount"))...)
	errs = append(errs, within(st.Replicas, at, parts...)...)
	if st.AvailableReplicas > st.ReadyReplicas {
		errs = append(errs, field.Invalid(at.Child("availableReplicas"), st.AvailableReplicas, "cannot be greater than status.readyReplicas"))
	}
	errs = append(errs, metaUpdate(&s.ObjectMeta, &old.ObjectMeta)...)
	return append(errs, notDecremented(st.CollisionCount, old.Status.CollisionCount)...)
}

// StatefulSetWarnings are the notes on its template, when it is new or changes,
// and on its claims and history.
func StatefulSetWarnings(s, old *appsv1.StatefulSet) (out []string) {
	spec := field.NewPath("spec")
	if old == nil || s.Generation != old.Generation {
		out = templateWarnings("", &s.Spec.Template, spec.Child("template"))
	}
	for i := range s.Spec.VolumeClaimTemplates {
		at := spec.Child("volumeClaimTemplates").Index(i)
		if old != nil {
			at = at.Child("Spec") // as Kubernetes has it
		}
		n := notes{}
		n.fraction(s.Spec.VolumeClaimTemplates[i].Spec.Resources.Requests, corev1.ResourceStorage, at.Child("resources", "requests"))
		n.fraction(s.Spec.VolumeClaimTemplates[i].Spec.Resources.Limits, corev1.ResourceStorage, at.Child("resources", "limits"))
		out = append(out, n...)
	}
	if n := s.Spec.RevisionHistoryLimit; n != nil && *n < 0 {
		out = append(out, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
	}
	return out
}

// ControllerRevision checks a new revision; its data is an object.
func ControllerRevision(r *appsv1.ControllerRevision) field.ErrorList {
	errs, at := revisionMeta(r), field.NewPath("data")
	var v any
	switch err := json.Unmarshal(r.Data.Raw, &v); {
	case r.Data.Raw == nil:
		return append(errs, field.Required(at, "data is mandatory"))
	case err != nil:
		return append(errs, field.Invalid(at, "<value omitted>", "error parsing data: "+err.Error()))
	case v == nil:
		return append(errs, field.Required(at, "data is mandatory"))
	}
	if _, ok := v.(map[string]any); !ok {
		errs = append(errs, field.Required(at, "data must be a valid JSON object"))
	}
	return errs
}

// ControllerRevisionUpdate checks a change; the data stays.
func ControllerRevisionUpdate(r, old *appsv1.ControllerRevision) field.ErrorList {
	errs := metaUpdate(&r.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, revisionMeta(r)...)
	return append(errs, apivalidation.ValidateImmutableField(r.Data, old.Data, field.NewPath("data"))...)
}

func revisionMeta(r *appsv1.ControllerRevision) field.ErrorList {
	return append(meta(&r.ObjectMeta, true, apivalidation.NameIsDNSSubdomain), nonNegative(r.Revision, field.NewPath("revision"))...)
}
