// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"math"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// deadline may be set, and then only made shorter. stop: nothing more is
// looked at after a wrong value.
func deadline(p, old *corev1.Pod, at *field.Path) (errs field.ErrorList, stop bool) {
	now, was := p.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds
	switch {
	case now != nil && (*now < 0 || *now > math.MaxInt32):
		return field.ErrorList{field.Invalid(at, *now, validation.InclusiveRangeError(0, math.MaxInt32))}, true
	case now != nil && was != nil && *was < *now:
		return field.ErrorList{field.Invalid(at, *now, "must be less than or equal to previous value")}, true
	case now == nil && was != nil:
		return field.ErrorList{field.Invalid(at, now, "must not update from a positive integer to nil value")}, false
	}
	return nil, false
}

func addedTolerations(p, old *corev1.Pod, at *field.Path) field.ErrorList {
	for _, was := range old.Spec.Tolerations {
		if !slices.ContainsFunc(p.Spec.Tolerations, func(t corev1.Toleration) bool {
			was.TolerationSeconds = t.TolerationSeconds
			return reflect.DeepEqual(was, t)
		}) {
			return field.ErrorList{field.Forbidden(at, "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return tolerations(p.Spec.Tolerations, at)
}

func gatesRemoved(p, old *corev1.Pod, at *field.Path) (errs field.ErrorList) {
	for i, g := range p.Spec.SchedulingGates {
		if !slices.Contains(old.Spec.SchedulingGates, g) {
			errs = append(errs, field.Forbidden(at.Index(i).Child("name"), fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", g.Name)))
		}
	}
	return errs
}

// restore puts back everything that may change, so that what is left differs
// only where it may not.
func restore(s, old *corev1.PodSpec) {
	for i := range s.Containers {
		s.Containers[i].Image = old.Containers[i].Image
	}
	for i := range s.InitContainers {
		s.InitContainers[i].Image = old.InitContainers[i].Image
	}
	s.ActiveDeadlineSeconds, s.SchedulingGates, s.Tolerations = old.ActiveDeadlineSeconds, old.SchedulingGates, old.Tolerations
	if now, was := s.TerminationGracePeriodSeconds, old.TerminationGracePeriodSeconds; was != nil && *was < 0 && now != nil && *now == 1 {
		s.TerminationGracePeriodSeconds = was
	}
}

// narrowed lets a gated Pod ask for fewer nodes than before, and puts the old
// choice back into s.
func narrowed(s, old *corev1.PodSpec, at *field.Path) (errs field.ErrorList) {
	for k, v := range old.NodeSelector {
		if now, ok := s.NodeSelector[k]; !ok || now != v {
			errs = append(errs, field.Invalid(at.Child("nodeSelector"), s.NodeSelector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)"))
			break
		}
	}
	if !equality.Semantic.DeepEqual(s.NodeSelector, old.NodeSelector) {
		s.NodeSelector = old.NodeSelector
	}
	nodes := func(a *corev1.Affinity) *corev1.NodeAffinity {
		if a == nil {
			return nil
		}
		return a.NodeAffinity
	}
	was, now := nodes(old.Affinity), nodes(s.Affinity)
	if equality.Semantic.DeepEqual(was, now) {
		return errs
	}
	errs = append(errs, narrowedTerms(now, was, at.Child("affinity", "nodeAffinity", requiredTerms, "nodeSelectorTerms"))...)
	switch {
	case s.Affinity == nil:
		s.Affinity = &corev1.Affinity{NodeAffinity: was}
	case old.Affinity == nil && s.Affinity.PodAffinity == nil && s.Affinity.PodAntiAffinity == nil:
		s.Affinity = nil
	default:
		s.Affinity.NodeAffinity = was
	}
	return errs
}

func narrowedTerms(now, was *corev1.NodeAffinity, at *field.Path) (errs field.ErrorList) {
	if was == nil || was.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	old := was.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	var terms []corev1.NodeSelectorTerm
	if now != nil && now.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		terms = now.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	if len(old) > 0 && len(old) != len(terms) {
		return field.ErrorList{field.Invalid(at, goFields{terms}, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")}
	}
	for i := range old {
		if !onlyAdds(terms[i], old[i]) {
			errs = append(errs, field.Invalid(at.Index(i), goFields{terms[i]}, "only additions are allowed (no mutations or deletions)"))
		}
	}
	return errs
}

// onlyAdds: more requirements choose fewer nodes, except on a term without
// any, which chooses none.
func onlyAdds(now, was corev1.NodeSelectorTerm) bool {
	if len(was.MatchExpressions)+len(was.MatchFields) == 0 && len(now.MatchExpressions)+len(now.MatchFields) > 0 {
		return false
	}
	starts := func(list, prefix []corev1.NodeSelectorRequirement) bool {
		return len(list) >= len(prefix) && equality.Semantic.DeepEqual(list[:len(prefix):len(prefix)], prefix)
	}
	return (len(was.MatchExpressions) == 0 || starts(now.MatchExpressions, was.MatchExpressions)) &&
		(len(was.MatchFields) == 0 || starts(now.MatchFields, was.MatchFields))
}

// resized compares the resources of p and old, and all that must not differ.
func resized(p, old *corev1.Pod, spec *field.Path) (errs field.ErrorList) {
	set := func(r *corev1.ResourceRequirements) bool { return r != nil && len(r.Requests)+len(r.Limits) > 0 }
	rest := p.Spec.DeepCopy()
	if set(old.Spec.Resources) || set(p.Spec.Resources) {
		errs = append(errs, resizedPod(p, old, rest, spec)...)
	}
	if bad := sameContainers(p, old, spec); len(bad) > 0 {
		return append(errs, bad...)
	}
	errs = append(errs, nothingRemoved(p.Spec.InitContainers, old.Spec.InitContainers, spec.Child("initContainers"))...)
	errs = append(errs, nothingRemoved(p.Spec.Containers, old.Spec.Containers, spec.Child("containers"))...)
	for i := range rest.Containers {
		was := &old.Spec.Containers[i]
		restoreCompute(&rest.Containers[i].Resources, &was.Resources)
		if !equality.Semantic.DeepEqual(rest.Containers[i], *was) {
			errs = append(errs, field.Forbidden(spec, "only cpu and memory resources are mutable"))
		}
	}
	for i := range rest.InitContainers {
		k, was, at := &rest.InitContainers[i], &old.Spec.InitContainers[i], spec.Child("initContainers").Index(i)
		changed := !equality.Semantic.DeepEqual(*k, *was)
		restoreCompute(&k.Resources, &was.Resources)
		if !equality.Semantic.DeepEqual(*k, *was) {
			errs = append(errs, field.Forbidden(at, "only cpu and memory resources for init or sidecar containers are mutable"))
		}
		if !changed || sidecar(k) {
			continue
		}
		for _, r := range k.ResizePolicy {
			if r.RestartPolicy == corev1.RestartContainer {
				errs = append(errs, field.Forbidden(at, "non-sidecar init containers with a resize policy of RestartContainer cannot be resized"))
			}
		}
	}
	if !equality.Semantic.DeepEqual(p.Spec.Volumes, old.Spec.Volumes) {
		errs = append(errs, field.Forbidden(spec.Child("volumes"), "volumes are immutable on resize when InPlacePodVerticalScalingMemoryBackedVolumes feature gate is disabled"))
	}
	if len(errs) == 0 && !equality.Semantic.DeepEqual(*rest, old.Spec) {
		errs = append(errs, field.Forbidden(spec, "only cpu and memory resources are mutable"))
	}
	return errs
}

// resizedPod checks the resources of the Pod as a whole.
func resizedPod(p, old *corev1.Pod, rest *corev1.PodSpec, spec *field.Path) (errs field.ErrorList) {
	was, at := old.Spec.Resources, spec.Child("resources")
	if was != nil && p.Spec.Resources == nil {
		return field.ErrorList{field.Forbidden(at, "pod-level resources cannot be removed")}
	}
	if was != nil {
		if removed(p.Spec.Resources.Requests, was.Requests) {
			errs = append(errs, field.Forbidden(at.Child("requests"), "pod-level resource requests cannot be removed"))
		}
		if removed(p.Spec.Resources.Limits, was.Limits) {
			errs = append(errs, field.Forbidden(at.Child("limits"), "pod-level resource limits cannot be removed"))
		}
		restoreCompute(rest.Resources, was)
	} else {
		restoreCompute(rest.Resources, &corev1.ResourceRequirements{})
		if r := rest.Resources; len(r.Requests)+len(r.Limits)+len(r.Claims) == 0 {
			rest.Resources = nil
		}
	}
	if !equality.Semantic.DeepEqual(rest.Resources, was) {
		errs = append(errs, field.Forbidden(spec, "only cpu and memory resources are mutable at pod-level"))
	}
	return errs
}

// sameContainers: a resize keeps the lists as they are.
func sameContainers(p, old *corev1.Pod, spec *field.Path) (errs field.ErrorList) {
	for _, l := range []struct {
		name     string
		now, was []corev1.Container
	}{{"containers", p.Spec.Containers, old.Spec.Containers}, {"initContainers", p.Spec.InitContainers, old.Spec.InitContainers}} {
		at := spec.Child(l.name)
		if len(l.now) != len(l.was) {
			errs = append(errs, field.Forbidden(at, l.name+" may not be added or removed on resize"))
			continue
		}
		for i := range l.was {
			if l.now[i].Name != l.was[i].Name {
				errs = append(errs, field.Forbidden(at.Index(i).Child("name"), l.name+" may not be renamed or reordered on resize"))
			}
		}
	}
	return errs
}

func nothingRemoved(now, was []corev1.Container, at *field.Path) (errs field.ErrorList) {
	for i := range was {
		p := at.Index(i).Child("resources")
		if removed(now[i].Resources.Requests, was[i].Resources.Requests) {
			errs = append(errs, field.Forbidden(p.Child("requests"), "resource requests cannot be removed"))
		}
		if removed(now[i].Resources.Limits, was[i].Resources.Limits) {
			errs = append(errs, field.Forbidden(p.Child("limits"), "resource limits cannot be removed"))
		}
	}
	return errs
}

func removed(now, was corev1.ResourceList) bool {
	for name := range was {
		if _, ok := now[name]; !ok {
			return true
		}
	}
	return false
}

// restoreCompute puts back CPU and memory, which may be resized.
func restoreCompute(r, was *corev1.ResourceRequirements) {
	one := func(now, was corev1.ResourceList) corev1.ResourceList {
		if now == nil && was == nil {
			return nil
		}
		out := corev1.ResourceList{}
		for name, q := range now {
			if name != corev1.ResourceCPU && name != corev1.ResourceMemory {
				out[name] = q
			}
		}
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			if q, ok := was[name]; ok {
				out[name] = q
			}
		}
		return out
	}
	r.Limits, r.Requests = one(r.Limits, was.Limits), one(r.Requests, was.Requests)
}
