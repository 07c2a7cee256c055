// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Pod checks a new Pod.
func Pod(p *corev1.Pod) field.ErrorList {
	errs := meta(&p.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	spec := field.NewPath("spec")
	errs = append(errs, PodSpec(&p.Spec, spec)...)
	if len(p.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(spec.Child("ephemeralContainers"), "cannot be set on create"))
	}
	return errs
}

// PodTemplate checks a template inside a workload.
func PodTemplate(t *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	errs := metavalidation.ValidateLabels(t.Labels, path.Child("labels"))
	errs = append(errs, apivalidation.ValidateAnnotations(t.Annotations, path.Child("annotations"))...)
	errs = append(errs, PodSpec(&t.Spec, path.Child("spec"))...)
	if len(t.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(path.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}

// PodSpec checks what Pods and templates share.
func PodSpec(s *corev1.PodSpec, path *field.Path) field.ErrorList {
	volumes, errs := volumeSet(s.Volumes, path.Child("volumes"))
	names := &unique{}
	errs = append(errs, containers(s, volumes, names, path)...)
	errs = append(errs, initContainers(s, volumes, names, path)...)
	errs = append(errs, ephemeralContainers(s, volumes, names, path)...)
	errs = append(errs, oneOf(s.RestartPolicy, path.Child("restartPolicy"), corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)...)
	errs = append(errs, oneOf(s.DNSPolicy, path.Child("dnsPolicy"), corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)...)
	errs = append(errs, metavalidation.ValidateLabels(s.NodeSelector, path.Child("nodeSelector"))...)
	errs = append(errs, podSecurity(s, path)...)
	errs = append(errs, podNames(s, path)...)
	errs = append(errs, tolerations(s.Tolerations, path.Child("tolerations"))...)
	errs = append(errs, nodeAffinity(s.Affinity, path.Child("affinity"))...)
	errs = append(errs, hostAliases(s.HostAliases, path.Child("hostAliases"))...)
	errs = append(errs, dnsConfig(s, path.Child("dnsConfig"))...)
	if g := s.TerminationGracePeriodSeconds; g == nil {
		errs = append(errs, field.Required(path.Child("terminationGracePeriodSeconds"), ""))
	}
	if a := s.ActiveDeadlineSeconds; a != nil && (*a < 1 || *a > 1<<31-1) {
		errs = append(errs, field.Invalid(path.Child("activeDeadlineSeconds"), *a, validation.InclusiveRangeError(1, 1<<31-1)))
	}
	if s.PriorityClassName != "" {
		errs = append(errs, invalidAll(path.Child("priorityClassName"), s.PriorityClassName, apivalidation.NameIsDNSSubdomain(s.PriorityClassName, false))...)
	}
	if s.RuntimeClassName != nil {
		errs = append(errs, invalidAll(path.Child("runtimeClassName"), *s.RuntimeClassName, apivalidation.NameIsDNSSubdomain(*s.RuntimeClassName, false))...)
	}
	for i, g := range s.ReadinessGates {
		errs = append(errs, invalidAll(path.Child("readinessGates").Index(i).Child("conditionType"), string(g.ConditionType), validation.IsQualifiedName(string(g.ConditionType)))...)
	}
	gates := &unique{}
	for i, g := range s.SchedulingGates {
		at := path.Child("schedulingGates").Index(i)
		errs = append(errs, invalidAll(at.Child("name"), g.Name, validation.IsQualifiedName(g.Name))...)
		errs = append(errs, gates.add(g.Name, at.Child("name"))...)
	}
	if len(s.SchedulingGates) > 0 && s.NodeName != "" {
		errs = append(errs, field.Forbidden(path.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	if s.OS != nil && s.OS.Name != corev1.Linux && s.OS.Name != corev1.Windows {
		errs = append(errs, field.NotSupported(path.Child("os", "name"), s.OS.Name, []corev1.OSName{corev1.Linux, corev1.Windows}))
	}
	return errs
}

// podNames checks the names a Pod gives or refers to.
func podNames(s *corev1.PodSpec, path *field.Path) (errs field.ErrorList) {
	if s.ServiceAccountName != "" {
		errs = append(errs, invalidAll(path.Child("serviceAccountName"), s.ServiceAccountName, apivalidation.ValidateServiceAccountName(s.ServiceAccountName, false))...)
	}
	if s.NodeName != "" {
		errs = append(errs, invalidAll(path.Child("nodeName"), s.NodeName, apivalidation.NameIsDNSSubdomain(s.NodeName, false))...)
	}
	if s.Hostname != "" {
		errs = append(errs, invalidAll(path.Child("hostname"), s.Hostname, validation.IsDNS1123Label(s.Hostname))...)
	}
	if s.Subdomain != "" {
		errs = append(errs, invalidAll(path.Child("subdomain"), s.Subdomain, validation.IsDNS1123Label(s.Subdomain))...)
	}
	for i, ref := range s.ImagePullSecrets {
		if ref.Name == "" {
			errs = append(errs, field.Required(path.Child("imagePullSecrets").Index(i).Child("name"), ""))
		}
	}
	return errs
}

func podSecurity(s *corev1.PodSpec, path *field.Path) (errs field.ErrorList) {
	sc, at := s.SecurityContext, path.Child("securityContext")
	if sc == nil {
		return nil
	}
	if s.ShareProcessNamespace != nil && *s.ShareProcessNamespace && s.HostPID {
		errs = append(errs, field.Invalid(path.Child("shareProcessNamespace"), *s.ShareProcessNamespace, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	return append(errs, podSecurityIDs(sc, at)...)
}

// PodUpdate checks a change of a Pod: beside metadata, only images,
// activeDeadlineSeconds, tolerations (added), a grace period of -1 to 1 and
// scheduling gates (removed, and while gated the node selection).
func PodUpdate(p, old *corev1.Pod) field.ErrorList {
	spec := field.NewPath("spec")
	errs := metaUpdate(&p.ObjectMeta, &old.ObjectMeta)
	if len(p.Spec.Containers) != len(old.Spec.Containers) {
		return append(errs, field.Forbidden(spec.Child("containers"), "pod updates may not add or remove containers"))
	}
	if len(p.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return append(errs, field.Forbidden(spec.Child("initContainers"), "pod updates may not add or remove containers"))
	}
	errs = append(errs, images(p.Spec.Containers, spec.Child("containers"))...)
	errs = append(errs, images(p.Spec.InitContainers, spec.Child("initContainers"))...)
	errs = append(errs, deadline(p, old, spec.Child("activeDeadlineSeconds"))...)
	errs = append(errs, gatesRemoved(p, old, spec.Child("schedulingGates"))...)
	munged := mutablePart(p, old)
	if !equality.Semantic.DeepEqual(munged.Spec, old.Spec) {
		text := fmt.Sprintf("pod updates may not change fields other than %s\n%v", strings.Join(mutableFields, ","), diff.Diff(munged.Spec, old.Spec))
		errs = append(errs, field.Forbidden(spec, text))
	}
	return append(errs, addedTolerations(p, old, spec.Child("tolerations"))...)
}

var mutableFields = []string{"`spec.containers[*].image`", "`spec.initContainers[*].image`", "`spec.activeDeadlineSeconds`", "`spec.tolerations` (only additions to existing tolerations)", "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"}

func images(list []corev1.Container, path *field.Path) (errs field.ErrorList) {
	for i, c := range list {
		if c.Image == "" {
			errs = append(errs, field.Required(path.Index(i).Child("image"), ""))
		} else if strings.TrimSpace(c.Image) != c.Image {
			errs = append(errs, field.Invalid(path.Index(i).Child("image"), c.Image, "must not have leading or trailing whitespace"))
		}
	}
	return errs
}

func deadline(p, old *corev1.Pod, path *field.Path) field.ErrorList {
	now, was := p.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds
	switch {
	case now != nil && (*now < 0 || *now > 1<<31-1):
		return field.ErrorList{field.Invalid(path, *now, validation.InclusiveRangeError(0, 1<<31-1))}
	case now != nil && was != nil && *was < *now:
		return field.ErrorList{field.Invalid(path, *now, "must be less than or equal to previous value")}
	case now == nil && was != nil:
		return field.ErrorList{field.Invalid(path, now, "must not update from a positive integer to nil value")}
	}
	return nil
}

func gatesRemoved(p, old *corev1.Pod, path *field.Path) (errs field.ErrorList) {
	for i, g := range p.Spec.SchedulingGates {
		if !slices.Contains(old.Spec.SchedulingGates, g) {
			errs = append(errs, field.Forbidden(path.Index(i).Child("name"), "only deletion is allowed, but found new scheduling gate '"+g.Name+"'"))
		}
	}
	return errs
}

// mutablePart is the new Pod with everything that may change put back.
func mutablePart(p, old *corev1.Pod) *corev1.Pod {
	m := p.DeepCopy()
	for i := range m.Spec.Containers {
		m.Spec.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range m.Spec.InitContainers {
		m.Spec.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	m.Spec.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	m.Spec.Tolerations = old.Spec.Tolerations
	m.Spec.SchedulingGates = old.Spec.SchedulingGates
	if g := old.Spec.TerminationGracePeriodSeconds; g != nil && *g < 0 && m.Spec.TerminationGracePeriodSeconds != nil && *m.Spec.TerminationGracePeriodSeconds == 1 {
		m.Spec.TerminationGracePeriodSeconds = g
	}
	if len(old.Spec.SchedulingGates) > 0 {
		// While gated, the choice of nodes may be narrowed.
		m.Spec.NodeSelector = old.Spec.NodeSelector
		if m.Spec.Affinity != nil && old.Spec.Affinity != nil {
			m.Spec.Affinity.NodeAffinity = old.Spec.Affinity.NodeAffinity
		}
	}
	return m
}

func addedTolerations(p, old *corev1.Pod, path *field.Path) (errs field.ErrorList) {
	for _, was := range old.Spec.Tolerations {
		kept := slices.ContainsFunc(p.Spec.Tolerations, func(t corev1.Toleration) bool {
			t.TolerationSeconds, was.TolerationSeconds = nil, nil
			return t == was
		})
		if !kept {
			return append(errs, field.Forbidden(path, "existing toleration can not be modified except its tolerationSeconds"))
		}
	}
	return tolerations(p.Spec.Tolerations, path)
}

// PodStatusUpdate checks a status: container states only move forward.
func PodStatusUpdate(p, old *corev1.Pod) field.ErrorList {
	errs := metaUpdate(&p.ObjectMeta, &old.ObjectMeta)
	status := field.NewPath("status")
	if p.Spec.NodeName != old.Spec.NodeName {
		errs = append(errs, field.Forbidden(status.Child("nodeName"), "may not be changed directly"))
	}
	if n := p.Status.NominatedNodeName; n != "" {
		errs = append(errs, invalidAll(status.Child("nominatedNodeName"), n, apivalidation.NameIsDNSSubdomain(n, false))...)
	}
	if p.Status.QOSClass != old.Status.QOSClass {
		errs = append(errs, field.Invalid(status.Child("qosClass"), p.Status.QOSClass, immutable))
	}
	if p.Spec.RestartPolicy == corev1.RestartPolicyNever {
		errs = append(errs, noRevival(p.Status.ContainerStatuses, old.Status.ContainerStatuses, status.Child("containerStatuses"))...)
	}
	for i, a := range p.Status.PodIPs {
		errs = append(errs, ip(a.IP, status.Child("podIPs").Index(i))...)
	}
	return errs
}

// noRevival keeps what has terminated terminated when nothing restarts it.
func noRevival(now, was []corev1.ContainerStatus, path *field.Path) (errs field.ErrorList) {
	for _, o := range was {
		if o.State.Terminated == nil {
			continue
		}
		for i, n := range now {
			if n.Name == o.Name && n.State.Terminated == nil {
				errs = append(errs, field.Forbidden(path.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
			}
		}
	}
	return errs
}

// PodEphemeralContainersUpdate lets ephemeral containers be added only.
func PodEphemeralContainersUpdate(p, old *corev1.Pod) field.ErrorList {
	path := field.NewPath("spec", "ephemeralContainers")
	errs := metaUpdate(&p.ObjectMeta, &old.ObjectMeta)
	volumes, _ := volumeSet(p.Spec.Volumes, field.NewPath("spec", "volumes"))
	names := &unique{}
	for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for _, c := range list {
			names.add(c.Name, path)
		}
	}
	errs = append(errs, ephemeralContainers(&p.Spec, volumes, names, field.NewPath("spec"))...)
	for i, was := range old.Spec.EphemeralContainers {
		at := slices.IndexFunc(p.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == was.Name })
		switch {
		case at < 0:
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", was.Name)))
		case !equality.Semantic.DeepEqual(p.Spec.EphemeralContainers[at], was):
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v", was.Name, diff.Diff(p.Spec.EphemeralContainers[at], old.Spec.EphemeralContainers[i]))))
		}
	}
	return errs
}

// PodResize checks a change of resources in place (KEP-1287).
func PodResize(p, old *corev1.Pod) field.ErrorList {
	errs := metaUpdate(&p.ObjectMeta, &old.ObjectMeta)
	spec := field.NewPath("spec")
	if len(p.Spec.Containers) != len(old.Spec.Containers) {
		return append(errs, field.Forbidden(spec.Child("containers"), "containers may not be added or removed on resize"))
	}
	for i := range p.Spec.Containers {
		at := spec.Child("containers").Index(i).Child("resources")
		errs = append(errs, resources(&p.Spec.Containers[i].Resources, at)...)
		for _, name := range []corev1.ResourceName{corev1.ResourceEphemeralStorage} {
			if !p.Spec.Containers[i].Resources.Requests[name].Equal(old.Spec.Containers[i].Resources.Requests[name]) {
				errs = append(errs, field.Forbidden(spec, "only cpu and memory resources are mutable"))
			}
		}
	}
	return errs
}

// PodWarnings are the notes of kubectl for what is accepted but unwise.
func PodWarnings(p, old *corev1.Pod) (out []string) {
	if old != nil {
		return nil
	}
	for i, c := range p.Spec.Containers {
		out = append(out, envWarnings(c.Env, fmt.Sprintf("spec.containers[%d].env", i))...)
	}
	for i, c := range p.Spec.InitContainers {
		out = append(out, envWarnings(c.Env, fmt.Sprintf("spec.initContainers[%d].env", i))...)
	}
	if g := p.Spec.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		out = append(out, "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1")
	}
	return out
}

func envWarnings(env []corev1.EnvVar, path string) (out []string) {
	seen := map[string]bool{}
	for i, e := range env {
		if seen[e.Name] {
			out = append(out, fmt.Sprintf("%s[%d]: hides previous definition of %q, which may be dropped when using apply", path, i, e.Name))
		}
		seen[e.Name] = true
	}
	return out
}
