// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	mirrorAnnotation     = corev1.MirrorPodAnnotationKey
	seccompOfPod         = corev1.SeccompPodAnnotationKey
	seccompOfContainer   = corev1.SeccompContainerAnnotationKeyPrefix
	appArmorOfContainer  = corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix
	deletionCost         = corev1.PodDeletionCost
	dockerDefaultSeccomp = corev1.DeprecatedSeccompProfileDockerDefault
)

// isMirror says whether the Pod shows a static Pod of a node.
func isMirror(annotations map[string]string) bool {
	_, ok := annotations[mirrorAnnotation]
	return ok
}

func podAnnotations(p, old *corev1.Pod, at *field.Path) field.ErrorList {
	var was *metav1.ObjectMeta
	if old != nil {
		was = &old.ObjectMeta
	}
	return specAnnotations(&p.ObjectMeta, was, &p.Spec, at)
}

// specAnnotations checks the annotations that mean something to a Pod.
func specAnnotations(m, old *metav1.ObjectMeta, s *corev1.PodSpec, at *field.Path) (errs field.ErrorList) {
	if v, ok := m.Annotations[mirrorAnnotation]; ok && s.NodeName == "" {
		errs = append(errs, field.Invalid(at.Key(mirrorAnnotation), v, "must set spec.nodeName if mirror pod annotation is set"))
	}
	if v := m.Annotations[corev1.TolerationsAnnotationKey]; v != "" {
		var list []corev1.Toleration
		if err := json.Unmarshal([]byte(v), &list); err != nil {
			errs = append(errs, field.Invalid(at, corev1.TolerationsAnnotationKey, err.Error()))
		} else {
			errs = append(errs, tolerations(list, at.Child(corev1.TolerationsAnnotationKey))...)
		}
	}
	if !goodCost(m.Annotations) && (old == nil || goodCost(old.Annotations)) {
		errs = append(errs, field.Invalid(at.Key(deletionCost), m.Annotations[deletionCost], "must be a 32bit integer"))
	}
	if v, ok := m.Annotations[seccompOfPod]; ok {
		errs = append(errs, seccompName(v, at.Child(seccompOfPod))...)
	}
	for _, k := range sorted(m.Annotations) {
		if strings.HasPrefix(k, seccompOfContainer) {
			errs = append(errs, seccompName(m.Annotations[k], at.Child(k))...)
		}
	}
	for _, k := range sorted(m.Annotations) {
		name, ok := strings.CutPrefix(k, appArmorOfContainer)
		if !ok {
			continue
		}
		if !hasContainer(s, name) {
			errs = append(errs, field.Invalid(at.Key(k), name, "container not found"))
		}
		if v := m.Annotations[k]; v != "" && v != corev1.DeprecatedAppArmorBetaProfileRuntimeDefault && v != corev1.DeprecatedAppArmorBetaProfileNameUnconfined &&
			!strings.HasPrefix(v, corev1.DeprecatedAppArmorBetaProfileNamePrefix) {
			errs = append(errs, field.Invalid(at.Key(k), v, fmt.Sprintf("invalid AppArmor profile name: %q", v)))
		}
	}
	return errs
}

func hasContainer(s *corev1.PodSpec, name string) (found bool) {
	eachContainer(s, nil, func(k *corev1.Container, _ *field.Path) { found = found || k.Name == name })
	return found
}

// goodCost: a whole number without a plus or zeros in front.
func goodCost(annotations map[string]string) bool {
	v, ok := annotations[deletionCost]
	if !ok {
		return true
	}
	n, err := strconv.ParseInt(v, 10, 32)
	return err == nil && strconv.FormatInt(n, 10) == v
}

func seccompName(v string, at *field.Path) field.ErrorList {
	if v == corev1.SeccompProfileRuntimeDefault || v == dockerDefaultSeccomp || v == corev1.SeccompProfileNameUnconfined {
		return nil
	}
	if local, ok := strings.CutPrefix(v, corev1.SeccompLocalhostProfileNamePrefix); ok {
		return localPath(local, at)
	}
	return field.ErrorList{field.Invalid(at, v, "must be a valid seccomp profile")}
}

// keptAnnotations: some annotations are part of what a Pod is.
func keptAnnotations(p, old *corev1.Pod, at *field.Path) (errs field.ErrorList) {
	for _, k := range sorted(old.Annotations) {
		if now, ok := p.Annotations[k]; ok && now == old.Annotations[k] {
			continue
		}
		if strings.HasPrefix(k, appArmorOfContainer) {
			errs = append(errs, field.Forbidden(at.Key(k), "may not remove or update AppArmor annotations"))
		}
		if k == mirrorAnnotation {
			errs = append(errs, field.Forbidden(at.Key(k), "may not remove or update mirror pod annotation"))
		}
	}
	for _, k := range sorted(p.Annotations) {
		if _, ok := old.Annotations[k]; ok {
			continue
		}
		if strings.HasPrefix(k, appArmorOfContainer) {
			errs = append(errs, field.Forbidden(at.Key(k), "may not add AppArmor annotations"))
		}
		if k == mirrorAnnotation {
			errs = append(errs, field.Forbidden(at.Key(k), "may not add mirror pod annotation"))
		}
	}
	return append(errs, podAnnotations(p, old, at)...)
}

// seccompAgreement: a profile in a field and in an annotation is the same.
func seccompAgreement(p *corev1.Pod, at *field.Path) (errs field.ErrorList) {
	agree := func(f *corev1.SeccompProfile, key string, at *field.Path) {
		v, ok := p.Annotations[key]
		if f == nil || !ok {
			return
		}
		names := []string{corev1.SeccompProfileNameUnconfined}
		if f.Type == corev1.SeccompProfileTypeRuntimeDefault {
			names = []string{corev1.SeccompProfileRuntimeDefault, dockerDefaultSeccomp}
		}
		errs = append(errs, agreement("seccomp", string(f.Type), f.LocalhostProfile, v, corev1.SeccompLocalhostProfileNamePrefix, names, at)...)
	}
	if sc := p.Spec.SecurityContext; sc != nil {
		agree(sc.SeccompProfile, seccompOfPod, at.Child("securityContext", "seccompProfile"))
	}
	eachContainer(&p.Spec, at, func(k *corev1.Container, at *field.Path) {
		if k.SecurityContext != nil {
			agree(k.SecurityContext.SeccompProfile, seccompOfContainer+k.Name, at.Child("securityContext", "seccompProfile"))
		}
	})
	return errs
}

// appArmorAgreement: likewise for AppArmor, where a container has the Pod's
// profile unless it has its own.
func appArmorAgreement(p *corev1.Pod, at *field.Path) (errs field.ErrorList) {
	if p.Spec.OS != nil && p.Spec.OS.Name == corev1.Windows {
		return nil
	}
	eachContainer(&p.Spec, at, func(k *corev1.Container, at *field.Path) {
		var f *corev1.AppArmorProfile
		if p.Spec.SecurityContext != nil {
			f = p.Spec.SecurityContext.AppArmorProfile
		}
		if k.SecurityContext != nil && k.SecurityContext.AppArmorProfile != nil {
			f = k.SecurityContext.AppArmorProfile
		}
		v, ok := p.Annotations[appArmorOfContainer+k.Name]
		if f == nil || !ok {
			return
		}
		name := corev1.DeprecatedAppArmorBetaProfileNameUnconfined
		if f.Type == corev1.AppArmorProfileTypeRuntimeDefault {
			name = corev1.DeprecatedAppArmorBetaProfileRuntimeDefault
		}
		errs = append(errs, agreement("apparmor", string(f.Type), f.LocalhostProfile, v, corev1.DeprecatedAppArmorBetaProfileNamePrefix, []string{name}, at.Child("securityContext", "appArmorProfile"))...)
	})
	return errs
}

// agreement compares a profile of a field with the value of an annotation:
// prefix+local, or one of the names.
func agreement(what, kind string, local *string, value, prefix string, names []string, at *field.Path) field.ErrorList {
	differs := field.ErrorList{field.Forbidden(at.Child("type"), what+" type in annotation and field must match")}
	switch kind {
	case "Localhost":
		path, ok := strings.CutPrefix(value, prefix)
		if !ok {
			return differs
		}
		if local == nil || *local != path {
			return field.ErrorList{field.Forbidden(at.Child("localhostProfile"), what+" profile in annotation and field must match")}
		}
	case "Unconfined", "RuntimeDefault":
		for _, n := range names {
			if n == value {
				return nil
			}
		}
		return differs
	}
	return nil
}
