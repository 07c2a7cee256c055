// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/peapod/peapod/api/pod"
)

// report writes the Pod's status where it differs from what the API has. It
// says whether the API now has it (or has no use for it any more).
func (x *actor) report(ctx context.Context, p *corev1.Pod, have *observed, e *ending) bool {
	if x.isGone() {
		return true
	}
	st := status(p, have, &x.mem, e, x.agent.cfg.IP, x.agent.cfg.Now())
	base := p.Status
	if x.mem.reported != nil {
		base = *x.mem.reported
	}
	if equality.Semantic.DeepEqual(base, st) {
		return true
	}
	if err := x.patch(ctx, p, base, st); err != nil {
		if apierrors.IsNotFound(err) {
			return true
		}
		if ctx.Err() == nil {
			x.agent.cfg.Log.Warn("cannot write status", "pod", key(p), "uid", p.UID, "err", err)
			x.mem.reported = nil
			x.wakeAt(x.agent.cfg.Now().Add(time.Second))
		}
		return false
	}
	x.mem.reported = st.DeepCopy()
	return true
}

func (x *actor) patch(ctx context.Context, p *corev1.Pod, from, to corev1.PodStatus) error {
	old, err := json.Marshal(corev1.Pod{Status: from})
	if err != nil {
		return err
	}
	// The UID makes sure that it is this Pod and not a successor.
	fresh, err := json.Marshal(corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: p.UID}, Status: to})
	if err != nil {
		return err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(old, fresh, corev1.Pod{})
	if err != nil {
		return err
	}
	_, err = x.agent.cfg.Client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsConflict(err) {
		return apierrors.NewNotFound(corev1.Resource("pods"), p.Name)
	}
	return err
}

// status is what the API shall say of the Pod. It is pure.
func status(p *corev1.Pod, have *observed, m *memory, e *ending, hostIP net.IP, now time.Time) corev1.PodStatus {
	s := *p.Status.DeepCopy()
	s.ObservedGeneration = p.Generation
	if s.StartTime == nil {
		s.StartTime = &metav1.Time{Time: now.Truncate(time.Second)}
	}
	s.HostIP, s.HostIPs = hostIP.String(), []corev1.HostIP{{IP: hostIP.String()}}
	addresses(p, have, &s)
	s.InitContainerStatuses = statuses(p, p.Spec.InitContainers, have, m, e, true)
	s.ContainerStatuses = statuses(p, p.Spec.Containers, have, m, e, false)
	if !pod.Terminal(p) || e == nil {
		s.Phase = phaseOf(p, have, e != nil)
	}
	if e != nil && e.outcome != nil && !have.runningAny() {
		s.Phase, s.Reason, s.Message = e.outcome.phase, e.outcome.reason, e.outcome.message
	}
	if e != nil && !have.runningAny() && s.Phase != corev1.PodSucceeded && s.Phase != corev1.PodFailed {
		s.Phase = endPhase(p, have)
	}
	if pod.Terminal(p) {
		s.Phase = p.Status.Phase // never back
	}
	conditions(p, have, m, &s, now)
	return s
}

func addresses(p *corev1.Pod, have *observed, s *corev1.PodStatus) {
	var ips []string
	if p.Spec.HostNetwork {
		ips = []string{s.HostIP}
	} else if sb := have.sandbox(); sb != nil {
		ips = sb.ips
	}
	if len(ips) == 0 {
		return // what was said stays said
	}
	s.PodIP, s.PodIPs = ips[0], nil
	for _, ip := range ips {
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip})
	}
}

// phaseOf follows from the containers and the restart policy.
func phaseOf(p *corev1.Pod, have *observed, ending bool) corev1.PodPhase {
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		at := have.latest(c.Name)
		if pod.Sidecar(c) {
			continue
		}
		if at != nil && at.exited() && at.exitCode != 0 && p.Spec.RestartPolicy == corev1.RestartPolicyNever {
			return corev1.PodFailed
		}
		if !mainsBegun(p, have) && (at == nil || !at.exited() || at.exitCode != 0) {
			return corev1.PodPending
		}
	}
	running, waiting, failed, ended := 0, 0, 0, 0
	for i := range p.Spec.Containers {
		at := have.latest(p.Spec.Containers[i].Name)
		switch {
		case at == nil || !at.running() && !at.exited():
			waiting++
		case at.running():
			running++
		case at.exitCode == 0:
			ended++
		default:
			failed++
		}
	}
	policy := p.Spec.RestartPolicy
	switch {
	case waiting > 0 && running+failed+ended == 0:
		return corev1.PodPending
	case running > 0 || waiting > 0:
		return corev1.PodRunning
	case policy == corev1.RestartPolicyAlways && !ending:
		return corev1.PodRunning
	case failed == 0 && policy != corev1.RestartPolicyAlways:
		return corev1.PodSucceeded
	case policy == corev1.RestartPolicyNever:
		return corev1.PodFailed
	}
	return corev1.PodRunning
}

// endPhase is the phase of a Pod that was made to end: Succeeded if everything
// that ran ended well.
func endPhase(p *corev1.Pod, have *observed) corev1.PodPhase {
	for i := range p.Spec.Containers {
		if at := have.latest(p.Spec.Containers[i].Name); at == nil || at.exitCode != 0 {
			return corev1.PodFailed
		}
	}
	return corev1.PodSucceeded
}

func statuses(p *corev1.Pod, list []corev1.Container, have *observed, m *memory, e *ending, init bool) []corev1.ContainerStatus {
	var out []corev1.ContainerStatus
	for i := range list {
		out = append(out, containerStatus(p, &list[i], have, m, e, init))
	}
	return out
}

func containerStatus(p *corev1.Pod, c *corev1.Container, have *observed, m *memory, e *ending, init bool) corev1.ContainerStatus {
	s := corev1.ContainerStatus{Name: c.Name, Image: c.Image, Started: new(bool)}
	list := have.containers[c.Name]
	if len(list) == 0 {
		s.State.Waiting = waitingState(p, c, have, m, init)
		if e != nil && !have.runningAny() {
			s.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "ContainerStatusUnknown", Message: "The container could not be located when the pod was terminated"}}
			if pod.Terminal(p) || e.outcome != nil || e.delete {
				s.State = corev1.ContainerState{Waiting: waitingState(p, c, have, m, init)}
			}
		}
		return s
	}
	at := list[0]
	s.RestartCount, s.ImageID, s.ContainerID = int32(at.attempt), at.imageID, "peapod://"+at.id
	s.AllocatedResources = c.Resources.Requests
	s.Resources = c.Resources.DeepCopy()
	switch {
	case at.running():
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(at.started)}
		started := m.hasStarted(c, at)
		s.Started = &started
		s.Ready = started && (c.ReadinessProbe == nil || m.results[at.id].ready) && !init
		if init && pod.Sidecar(c) {
			s.Ready = started && (c.ReadinessProbe == nil || m.results[at.id].ready)
		}
	case at.exited():
		s.State.Terminated = terminated(at, m)
		s.Ready = init && at.exitCode == 0
		if restarts(p, c, at, init, e) {
			s.LastTerminationState.Terminated = s.State.Terminated
			s.State = corev1.ContainerState{Waiting: crashLoop(p, c, at, m)}
			s.Ready = false
		}
	default:
		s.State.Waiting = waitingState(p, c, have, m, init)
	}
	if len(list) > 1 && s.LastTerminationState.Terminated == nil && list[1].exited() {
		s.LastTerminationState.Terminated = terminated(list[1], m)
	}
	return s
}

// restarts says whether an ended container will run again.
func restarts(p *corev1.Pod, c *corev1.Container, at *instance, init bool, e *ending) bool {
	if e != nil {
		return false
	}
	policy := p.Spec.RestartPolicy
	if init {
		if pod.Sidecar(c) {
			return true
		}
		return at.exitCode != 0 && policy != corev1.RestartPolicyNever
	}
	if c.RestartPolicy != nil {
		policy = corev1.RestartPolicy(*c.RestartPolicy)
	}
	return policy == corev1.RestartPolicyAlways || policy == corev1.RestartPolicyOnFailure && at.exitCode != 0
}

func crashLoop(p *corev1.Pod, c *corev1.Container, at *instance, m *memory) *corev1.ContainerStateWaiting {
	if w, ok := m.waiting[c.Name]; ok {
		return &corev1.ContainerStateWaiting{Reason: w.reason, Message: w.message}
	}
	if b := m.backOffs[c.Name]; b != nil && b.instance == at.id && b.delay > 0 {
		return &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: backOffText(p, c, b.delay)}
	}
	return &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
}

func backOffText(p *corev1.Pod, c *corev1.Container, delay time.Duration) string {
	return fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)", delay, c.Name, p.Name, p.Namespace, p.UID)
}

func waitingState(p *corev1.Pod, c *corev1.Container, have *observed, m *memory, init bool) *corev1.ContainerStateWaiting {
	if w, ok := m.waiting[c.Name]; ok {
		return &corev1.ContainerStateWaiting{Reason: w.reason, Message: w.message}
	}
	if len(p.Spec.InitContainers) > 0 && (have.sandbox() == nil || !init || !mainsBegun(p, have)) {
		return &corev1.ContainerStateWaiting{Reason: "PodInitializing"}
	}
	return &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
}

func terminated(i *instance, m *memory) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{
		ExitCode: int32(i.exitCode), Reason: i.reason, Message: i.message, ContainerID: "peapod://" + i.id,
		StartedAt: metav1.NewTime(i.started), FinishedAt: metav1.NewTime(i.finished),
	}
	if i.started.IsZero() {
		t.StartedAt = metav1.NewTime(time.Unix(0, 0))
	}
	if text := m.messages[i.id]; text != "" {
		t.Message = text
	}
	return t
}

// conditions are the Pod's conditions, each moved only when it changes.
func conditions(p *corev1.Pod, have *observed, m *memory, s *corev1.PodStatus, now time.Time) {
	set := func(t corev1.PodConditionType, ok bool, reason, message string) {
		c := corev1.PodCondition{Type: t, Status: corev1.ConditionFalse, ObservedGeneration: p.Generation, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(now.Truncate(time.Second))}
		if ok {
			c.Status = corev1.ConditionTrue
			if reason != "PodCompleted" {
				c.Reason, c.Message = "", ""
			}
		}
		pod.SetCondition(s, c)
	}
	set(corev1.PodReadyToStartContainers, have.sandbox() != nil, "", "")
	var incomplete, unready []string
	for i, c := range s.InitContainerStatuses {
		sidecar := pod.Sidecar(&p.Spec.InitContainers[i])
		if sidecar && !*c.Started || !sidecar && (c.State.Terminated == nil || c.State.Terminated.ExitCode != 0) && !mainsBegun(p, have) {
			incomplete = append(incomplete, c.Name)
		}
		if sidecar && !c.Ready {
			unready = append(unready, c.Name)
		}
	}
	for _, c := range s.ContainerStatuses {
		if !c.Ready {
			unready = append(unready, c.Name)
		}
	}
	done := s.Phase == corev1.PodSucceeded
	switch {
	case done:
		set(corev1.PodInitialized, true, "PodCompleted", "")
	default:
		set(corev1.PodInitialized, len(incomplete) == 0, "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: [%s]", strings.Join(incomplete, " ")))
	}
	reason, message := "ContainersNotReady", fmt.Sprintf("containers with unready status: [%s]", strings.Join(unready, " "))
	ready := len(unready) == 0
	switch s.Phase {
	case corev1.PodSucceeded:
		ready, reason, message = false, "PodCompleted", ""
	case corev1.PodFailed:
		ready, reason, message = false, "PodFailed", ""
	}
	set(corev1.ContainersReady, ready, reason, message)
	for _, g := range p.Spec.ReadinessGates {
		if c := pod.Condition(s, g.ConditionType); ready && (c == nil || c.Status != corev1.ConditionTrue) {
			ready, reason, message = false, "ReadinessGatesNotReady", fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but False", g.ConditionType)
		}
	}
	set(corev1.PodReady, ready, reason, message)
	set(corev1.PodScheduled, true, "", "")
	order := []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled}
	slices.SortStableFunc(s.Conditions, func(a, b corev1.PodCondition) int {
		return slices.Index(order, a.Type) - slices.Index(order, b.Type)
	})
}

// learn takes in what an observation tells once: termination messages, and
// that a container keeps failing.
func (x *actor) learn(p *corev1.Pod, have *observed) {
	for _, list := range have.containers {
		for _, i := range list {
			if _, known := x.mem.messages[i.id]; known || !i.exited() {
				continue
			}
			x.mem.messages[i.id] = x.agent.terminationMessage(i)
		}
	}
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		at := have.latest(c.Name)
		b := x.mem.backOffs[c.Name]
		if at == nil || b == nil || b.delay == 0 || b.instance != at.id || x.mem.told[at.id] || !at.exited() {
			continue
		}
		if x.mem.told == nil {
			x.mem.told = map[string]bool{}
		}
		x.mem.told[at.id] = true
		x.containerEvent(p, c, corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s_%s(%s)", c.Name, p.Name, p.Namespace, p.UID)
	}
}

// Limits of termination messages, as Kubernetes: 4 KiB of the file, or the
// last 80 lines and 2 KiB of the log.
const (
	messageLimit  = 4096
	fallbackLimit = 2048
	fallbackLines = 80
)

func (a *Agent) terminationMessage(i *instance) string {
	b, err := os.ReadFile(i.annotations[annotationMessageDir])
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return ""
	}
	text := string(b[:min(len(b), messageLimit)])
	if text == "" && i.annotations[annotationPolicy] == string(corev1.TerminationMessageFallbackToLogsOnError) && i.exitCode != 0 {
		text = tailLog(i.logPath, fallbackLines, fallbackLimit)
	}
	return text
}
