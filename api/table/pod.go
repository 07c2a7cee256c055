// SPDX-License-Identifier: Apache-2.0

package table

import (
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Pod are the columns of pods.
func Pod() Columns[corev1.Pod] {
	doc := corev1.PodStatus{}.SwaggerDoc()
	return Columns[corev1.Pod]{
		Definitions: []metav1.TableColumnDefinition{
			name(),
			text("Ready", "The aggregate readiness state of this pod for accepting traffic."),
			text("Status", "The aggregate status of the containers in this pod."),
			text("Restarts", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted."),
			ageColumn(),
			wide(text("IP", doc["podIP"])),
			wide(text("Node", corev1.PodSpec{}.SwaggerDoc()["nodeName"])),
			wide(text("Nominated Node", doc["nominatedNodeName"])),
			wide(text("Readiness Gates", corev1.PodSpec{}.SwaggerDoc()["readinessGates"])),
		},
		Cells:      podCells,
		Conditions: podConditions,
	}
}

func podCells(p *corev1.Pod, now time.Time) []any {
	s := summarize(p)
	ip := ""
	if len(p.Status.PodIPs) > 0 {
		ip = p.Status.PodIPs[0].IP
	} else {
		ip = p.Status.PodIP
	}
	return []any{
		p.Name, ratio(s.ready, s.total), s.reason, s.restartCell(now), age(p.CreationTimestamp, now),
		orNone(ip), orNone(p.Spec.NodeName), orNone(p.Status.NominatedNodeName), readinessGates(p),
	}
}

// podConditions marks finished Pods, so that kubectl can leave them out.
func podConditions(p *corev1.Pod) []metav1.TableRowCondition {
	mark := func(reason, message string) []metav1.TableRowCondition {
		return []metav1.TableRowCondition{{Type: metav1.RowCompleted, Status: metav1.ConditionTrue, Reason: reason, Message: message}}
	}
	switch p.Status.Phase {
	case corev1.PodSucceeded:
		return mark(string(corev1.PodSucceeded), "The pod has completed successfully.")
	case corev1.PodFailed:
		return mark(string(corev1.PodFailed), "The pod failed.")
	}
	return nil
}

// summary is what the STATUS, READY and RESTARTS columns say of a Pod.
type summary struct {
	ready, total    int
	reason          string
	restarts        int
	lastRestart     metav1.Time
	sidecarRestarts int
	lastSidecar     metav1.Time
}

func (s summary) restartCell(now time.Time) string {
	if s.restarts == 0 || s.lastRestart.IsZero() {
		return strconv.Itoa(s.restarts)
	}
	return fmt.Sprintf("%d (%s ago)", s.restarts, age(s.lastRestart, now))
}

// PodStatus is the STATUS column of a Pod.
func PodStatus(p *corev1.Pod) string { return summarize(p).reason }

func summarize(p *corev1.Pod) summary {
	s := summary{total: len(p.Spec.Containers), reason: string(p.Status.Phase)}
	if p.Status.Reason != "" {
		s.reason = p.Status.Reason
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			s.reason = corev1.PodReasonSchedulingGated
		}
	}
	initializing := s.initContainers(p)
	if !initializing || initialized(p) {
		s.mainContainers(p)
	}
	if p.DeletionTimestamp != nil {
		switch {
		case p.Status.Reason == "NodeLost":
			s.reason = "Unknown"
		case p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed:
			s.reason = "Terminating"
		}
	}
	return s
}

// initContainers reads the init containers in order and says whether one of
// them still holds the Pod back.
func (s *summary) initContainers(p *corev1.Pod) bool {
	sidecars := map[string]bool{}
	for _, c := range p.Spec.InitContainers {
		sidecars[c.Name] = c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		if sidecars[c.Name] {
			s.total++
		}
	}
	for i, c := range p.Status.InitContainerStatuses {
		s.countRestarts(c, sidecars[c.Name])
		switch {
		case c.State.Terminated != nil && c.State.Terminated.ExitCode == 0 && !sidecars[c.Name]:
			continue
		case sidecars[c.Name] && c.Started != nil && *c.Started:
			if c.Ready {
				s.ready++
			}
			continue
		case c.State.Terminated != nil:
			s.reason = "Init:" + terminatedReason(c.State.Terminated)
		case c.State.Waiting != nil && c.State.Waiting.Reason != "" && c.State.Waiting.Reason != "PodInitializing":
			s.reason = "Init:" + c.State.Waiting.Reason
		default:
			s.reason = fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers))
		}
		return true
	}
	return false
}

func (s *summary) countRestarts(c corev1.ContainerStatus, sidecar bool) {
	s.restarts += int(c.RestartCount)
	later(&s.lastRestart, c.LastTerminationState.Terminated)
	if sidecar {
		s.sidecarRestarts += int(c.RestartCount)
		later(&s.lastSidecar, c.LastTerminationState.Terminated)
	}
}

func later(t *metav1.Time, end *corev1.ContainerStateTerminated) {
	if end != nil && t.Before(&end.FinishedAt) {
		*t = end.FinishedAt
	}
}

func terminatedReason(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}

func initialized(p *corev1.Pod) bool {
	if p.Status.Phase == corev1.PodPending {
		return false
	}
	return conditionTrue(p, corev1.PodInitialized)
}

// mainContainers counts restarts of main containers and sidecars only: a
// finished init container's past is no longer of interest.
func (s *summary) mainContainers(p *corev1.Pod) {
	s.restarts, s.lastRestart = s.sidecarRestarts, s.lastSidecar
	running := false
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := p.Status.ContainerStatuses[i]
		s.countRestarts(c, false)
		switch {
		case c.State.Waiting != nil && c.State.Waiting.Reason != "":
			s.reason = c.State.Waiting.Reason
		case c.State.Terminated != nil:
			s.reason = terminatedReason(c.State.Terminated)
		case c.Ready && c.State.Running != nil:
			running = true
			s.ready++
		}
	}
	if s.reason == "Completed" && running {
		s.reason = "NotReady"
		if conditionTrue(p, corev1.PodReady) {
			s.reason = "Running"
		}
	}
}

func conditionTrue(p *corev1.Pod, t corev1.PodConditionType) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == t {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func readinessGates(p *corev1.Pod) string {
	if len(p.Spec.ReadinessGates) == 0 {
		return none
	}
	open := 0
	for _, g := range p.Spec.ReadinessGates {
		if conditionTrue(p, g.ConditionType) {
			open++
		}
	}
	return ratio(open, len(p.Spec.ReadinessGates))
}
