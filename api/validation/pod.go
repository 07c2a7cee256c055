// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/pod"
)

// Pod checks a new Pod.
func Pod(p *corev1.Pod) field.ErrorList {
	errs := podWhole(p, nil)
	spec := field.NewPath("spec")
	if len(p.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(spec.Child("ephemeralContainers"), "cannot be set on create"))
	}
	if len(p.Spec.SchedulingGates) > 0 && p.Spec.NodeName != "" {
		errs = append(errs, field.Forbidden(spec.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	errs = append(errs, seccompAgreement(p, spec)...)
	return append(errs, appArmorAgreement(p, spec)...)
}

// podWhole checks metadata and spec, of a new Pod or of a changed one.
func podWhole(p, old *corev1.Pod) field.ErrorList {
	errs := meta(&p.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, podAnnotations(p, old, metadata.Child("annotations"))...)
	var was *corev1.PodSpec
	if old != nil {
		was = &old.Spec
	}
	spec := field.NewPath("spec")
	errs = append(errs, podSpec(&p.Spec, &p.ObjectMeta, was, spec)...)
	if p.Spec.ServiceAccountName == "" {
		for i, v := range p.Spec.Volumes {
			if v.Projected == nil {
				continue
			}
			for j, s := range v.Projected.Sources {
				if s.ServiceAccountToken != nil {
					at := spec.Child("volumes").Index(i).Child("projected", "sources").Index(j).Child("serviceAccountToken")
					errs = append(errs, field.Forbidden(at, "must not be specified when serviceAccountName is not set"))
				}
			}
		}
	}
	if g := p.Spec.TerminationGracePeriodSeconds; g != nil {
		errs = append(errs, nonNegative(*g, spec.Child("terminationGracePeriodSeconds"))...)
	}
	for i := range p.Spec.Containers {
		errs = append(errs, trimmedImage(&p.Spec.Containers[i], spec.Child("containers").Index(i))...)
	}
	for i := range p.Spec.InitContainers {
		errs = append(errs, trimmedImage(&p.Spec.InitContainers[i], spec.Child("initContainers").Index(i))...)
	}
	return errs
}

// template checks a template inside a workload; old is the one before a
// change, or nil.
func template(t, old *corev1.PodTemplateSpec, at *field.Path) field.ErrorList {
	var was *corev1.PodSpec
	var wasMeta *metav1.ObjectMeta
	if old != nil {
		was, wasMeta = &old.Spec, &old.ObjectMeta
	}
	errs := metavalidation.ValidateLabels(t.Labels, at.Child("labels"))
	errs = append(errs, apivalidation.ValidateAnnotations(t.Annotations, at.Child("annotations"))...)
	errs = append(errs, specAnnotations(&t.ObjectMeta, wasMeta, &t.Spec, at.Child("annotations"))...)
	errs = append(errs, podSpec(&t.Spec, nil, was, at.Child("spec"))...)
	whole := &corev1.Pod{ObjectMeta: t.ObjectMeta, Spec: t.Spec}
	errs = append(errs, seccompAgreement(whole, at.Child("spec"))...)
	errs = append(errs, appArmorAgreement(whole, at.Child("spec"))...)
	if len(t.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(at.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}

// PodUpdate checks a change of a Pod: beside metadata, only images,
// activeDeadlineSeconds, tolerations (added), a negative grace period that
// becomes 1, and scheduling gates (removed; while gated, the choice of nodes
// may be narrowed).
func PodUpdate(p, old *corev1.Pod) field.ErrorList {
	errs := metaUpdate(&p.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, podWhole(p, old)...)
	errs = append(errs, keptAnnotations(p, old, metadata.Child("annotations"))...)
	return append(errs, podSpecUpdate(p, old, field.NewPath("spec"))...)
}

func podSpecUpdate(p, old *corev1.Pod, spec *field.Path) (errs field.ErrorList) {
	for _, l := range []struct {
		name     string
		now, was []corev1.Container
	}{{"containers", p.Spec.Containers, old.Spec.Containers}, {"initContainers", p.Spec.InitContainers, old.Spec.InitContainers}} {
		at := spec.Child(l.name)
		if len(l.now) != len(l.was) {
			return append(errs, field.Forbidden(at, "pod updates may not add or remove containers"))
		}
		for i := range l.now {
			errs = append(errs, required(l.now[i].Image, at.Index(i).Child("image"))...)
			errs = append(errs, trimmedImage(&l.now[i], at.Index(i))...)
		}
	}
	bad, stop := deadline(p, old, spec.Child("activeDeadlineSeconds"))
	if errs = append(errs, bad...); stop {
		return errs
	}
	errs = append(errs, addedTolerations(p, old, spec.Child("tolerations"))...)
	errs = append(errs, gatesRemoved(p, old, spec.Child("schedulingGates"))...)
	if equality.Semantic.DeepEqual(p.Spec, old.Spec) {
		return errs
	}
	rest := p.DeepCopy()
	restore(&rest.Spec, &old.Spec)
	if len(old.Spec.SchedulingGates) > 0 {
		errs = append(errs, narrowed(&rest.Spec, &old.Spec, spec)...)
	}
	if !equality.Semantic.DeepEqual(rest.Spec, old.Spec) {
		text := fmt.Sprintf("pod updates may not change fields other than %s\n%v", strings.Join(mutableFields, ","), diff.Diff(goFields{old.Spec}, goFields{rest.Spec}))
		errs = append(errs, field.Forbidden(spec, text))
	}
	return errs
}

var mutableFields = []string{
	"`spec.containers[*].image`", "`spec.initContainers[*].image`", "`spec.activeDeadlineSeconds`",
	"`spec.tolerations` (only additions to existing tolerations)",
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
}

// PodEphemeralContainersUpdate lets ephemeral containers be added only.
func PodEphemeralContainersUpdate(p, old *corev1.Pod) field.ErrorList {
	errs := metaUpdate(&p.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, podWhole(p, old)...)
	errs = append(errs, keptAnnotations(p, old, metadata.Child("annotations"))...)
	if isMirror(old.Annotations) {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers")}
	}
	at := field.NewPath("spec", "ephemeralContainers")
	now := map[string]corev1.EphemeralContainer{}
	for _, e := range p.Spec.EphemeralContainers {
		now[e.Name] = e
	}
	for _, was := range old.Spec.EphemeralContainers {
		if e, ok := now[was.Name]; !ok {
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", was.Name)))
		} else if !equality.Semantic.DeepEqual(was, e) {
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v", was.Name, diff.Diff(goFields{was}, goFields{e}))))
		}
	}
	return errs
}

// PodResize checks a change of resources in place (KEP-1287).
func PodResize(p, old *corev1.Pod) field.ErrorList {
	errs := metaUpdate(&p.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, podWhole(p, old)...)
	nowhere := field.NewPath("")
	if isMirror(old.Annotations) {
		return field.ErrorList{field.Forbidden(nowhere, "static pods cannot be resized")}
	}
	if old.Spec.OS != nil && old.Spec.OS.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(nowhere, "windows pods cannot be resized")}
	}
	spec := field.NewPath("spec")
	class := old.Status.QOSClass
	if class == "" {
		class = pod.QOS(old)
	}
	if class != pod.QOS(p) {
		errs = append(errs, field.Invalid(spec, p.Status.QOSClass, "Pod QOS Class may not change as a result of resizing"))
	}
	for _, s := range old.Status.ContainerStatuses {
		if s.State.Running != nil {
			if s.Resources == nil {
				errs = append(errs, field.Forbidden(spec, "Pod running on node without support for resize"))
			}
			break
		}
	}
	return append(errs, resized(p, old, spec)...)
}

// PodStatusUpdate checks a status: container states only move forward.
func PodStatusUpdate(p, old *corev1.Pod) field.ErrorList {
	errs := metaUpdate(&p.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, keptAnnotations(p, old, metadata.Child("annotations"))...)
	return append(errs, podStatus(p, old, field.NewPath("status"))...)
}
