// SPDX-License-Identifier: Apache-2.0

// Package pod owns small pure questions about a Pod that several rooms ask:
// its quality of service, its conditions, whether it is over. It does not own
// defaults, validation or columns.
package pod

import (
	"iter"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Terminal says whether a Pod has ended for good.
func Terminal(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// Active says whether a controller counts the Pod as one of its replicas.
func Active(p *corev1.Pod) bool { return !Terminal(p) && p.DeletionTimestamp == nil }

// Condition finds a condition, or nil.
func Condition(s *corev1.PodStatus, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

// Ready says whether the Pod's Ready condition is true.
func Ready(p *corev1.Pod) bool {
	c := Condition(&p.Status, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// SetCondition replaces or adds a condition. Its transition time moves only
// when the status does. It reports whether anything changed.
func SetCondition(s *corev1.PodStatus, c corev1.PodCondition) bool {
	if c.LastTransitionTime.IsZero() {
		c.LastTransitionTime = metav1.Now()
	}
	old := Condition(s, c.Type)
	if old == nil {
		s.Conditions = append(s.Conditions, c)
		return true
	}
	if old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	if *old == c {
		return false
	}
	*old = c
	return true
}

// Containers goes through a Pod's containers that are part of its life: init
// containers, then the main ones. They may be changed in place.
func Containers(p *corev1.Pod) iter.Seq[*corev1.Container] {
	return func(yield func(*corev1.Container) bool) {
		for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
			for i := range list {
				if !yield(&list[i]) {
					return
				}
			}
		}
	}
}

// Sidecar says whether an init container runs beside the main ones (KEP-753).
func Sidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// QOS is the quality of service class: Guaranteed when every container has
// equal requests and limits of CPU and memory, BestEffort when none has any,
// Burstable in between. Resources of the Pod itself decide alone (KEP-2837).
func QOS(p *corev1.Pod) corev1.PodQOSClass {
	type needs struct{ requests, limits corev1.ResourceList }
	var all []needs
	if r := p.Spec.Resources; r != nil && (len(r.Requests) > 0 || len(r.Limits) > 0) {
		all = append(all, needs{r.Requests, r.Limits})
	} else {
		for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
			for _, c := range list {
				all = append(all, needs{c.Resources.Requests, c.Resources.Limits})
			}
		}
	}
	any, guaranteed := false, true
	for _, n := range all {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := n.requests[name], n.limits[name]
			any = any || !request.IsZero() || !limit.IsZero()
			if limit.IsZero() || !request.IsZero() && request.Cmp(limit) != 0 {
				guaranteed = false
			}
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}
