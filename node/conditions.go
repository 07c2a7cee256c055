// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/peapod/peapod/api/pod"
)

// ownConditions are the node's, in the order it writes them. All others
// belong to somebody else and are left alone.
func ownConditions() []corev1.PodConditionType {
	return []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled}
}

// conditions are the Pod's conditions; the time of each moves only when its
// status does.
func conditions(p *corev1.Pod, have *observed, s *corev1.PodStatus, now time.Time) {
	set := func(t corev1.PodConditionType, reason, message string) {
		c := corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, ObservedGeneration: p.Generation, Reason: reason, Message: message, LastTransitionTime: *seconds(now)}
		if reason != "" && (t != corev1.PodInitialized || reason != reasonCompleted) {
			c.Status = corev1.ConditionFalse
		}
		pod.SetCondition(s, c)
	}
	reason, message := sandboxProblem(have)
	set(corev1.PodReadyToStartContainers, reason, message)
	reason, message = uninitialized(p, have, s)
	set(corev1.PodInitialized, reason, message)
	reason, message = unready(p, s)
	set(corev1.ContainersReady, reason, message)
	if reason == "" {
		reason, message = closedGates(p, s)
	}
	set(corev1.PodReady, reason, message)
	set(corev1.PodScheduled, "", "")
	own := ownConditions()
	slices.SortStableFunc(s.Conditions, func(a, b corev1.PodCondition) int { return slices.Index(own, a.Type) - slices.Index(own, b.Type) })
}

const reasonCompleted = "PodCompleted"

// Each of these is why a condition is false, or "" when it is true.

func sandboxProblem(have *observed) (reason, message string) {
	ready := 0
	for _, s := range have.sandboxes {
		if s.ready {
			ready++
		}
	}
	switch {
	case len(have.sandboxes) == 0:
		message = "no pod sandbox exists"
	case ready > 1:
		message = "multiple pod sandboxes are ready and need to be reconciled"
	case have.sandbox() == nil:
		message = "pod sandbox is not ready"
	default:
		return "", ""
	}
	return "PodSandboxNotReady", message
}

func uninitialized(p *corev1.Pod, have *observed, s *corev1.PodStatus) (reason, message string) {
	var incomplete []string
	for i, c := range s.InitContainerStatuses {
		if pod.Sidecar(&p.Spec.InitContainers[i]) && !*c.Started || !pod.Sidecar(&p.Spec.InitContainers[i]) && !c.Ready {
			incomplete = append(incomplete, c.Name)
		}
	}
	begun := slices.ContainsFunc(s.ContainerStatuses, func(c corev1.ContainerStatus) bool {
		return c.State.Running != nil || c.State.Terminated != nil
	})
	was := pod.Condition(&p.Status, corev1.PodInitialized)
	switch {
	case s.Phase == corev1.PodSucceeded:
		return reasonCompleted, ""
	case len(incomplete) == 0, begun, was != nil && was.Status == corev1.ConditionTrue:
		return "", ""
	}
	return "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: %s", incomplete)
}

func unready(p *corev1.Pod, s *corev1.PodStatus) (reason, message string) {
	if was := pod.Condition(&p.Status, corev1.ContainersReady); terminal(p.Status.Phase) && was != nil && was.Status == corev1.ConditionFalse {
		return was.Reason, was.Message // of a Pod that is over
	}
	switch s.Phase {
	case corev1.PodSucceeded:
		return reasonCompleted, ""
	case corev1.PodFailed:
		return "PodFailed", ""
	}
	var names []string
	for i, c := range s.InitContainerStatuses {
		if pod.Sidecar(&p.Spec.InitContainers[i]) && !c.Ready {
			names = append(names, c.Name)
		}
	}
	for _, c := range p.Spec.Containers {
		if i := slices.IndexFunc(s.ContainerStatuses, func(st corev1.ContainerStatus) bool { return st.Name == c.Name }); !s.ContainerStatuses[i].Ready {
			names = append(names, c.Name)
		}
	}
	if len(names) == 0 {
		return "", ""
	}
	return "ContainersNotReady", fmt.Sprintf("containers with unready status: %s", names)
}

func closedGates(p *corev1.Pod, s *corev1.PodStatus) (reason, message string) {
	var closed []string
	for _, g := range p.Spec.ReadinessGates {
		switch c := pod.Condition(s, g.ConditionType); {
		case c == nil:
			closed = append(closed, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", g.ConditionType))
		case c.Status != corev1.ConditionTrue:
			closed = append(closed, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", g.ConditionType, c.Status))
		}
	}
	if len(closed) == 0 {
		return "", ""
	}
	return "ReadinessGatesNotReady", strings.Join(closed, ", ")
}
