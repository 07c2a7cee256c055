// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/api/pod"
)

// status is what the API shall say of the Pod. It is pure. e is nil while the
// Pod shall run.
func status(p *corev1.Pod, have *observed, m *memory, e *ending, hostIP net.IP, now time.Time) corev1.PodStatus {
	s := *p.Status.DeepCopy()
	s.ObservedGeneration = p.Generation
	if s.StartTime == nil {
		s.StartTime = seconds(now)
	}
	if s.QOSClass == "" {
		s.QOSClass = pod.QOS(p)
	}
	if e != nil && have.nothing() && len(s.ContainerStatuses) == 0 && neverBegan(p, e, &s) {
		return s
	}
	s.HostIP, s.HostIPs = hostIP.String(), []corev1.HostIP{{IP: hostIP.String()}}
	addresses(p, have, &s)
	s.InitContainerStatuses = statuses(p, p.Spec.InitContainers, have, m, e, true)
	s.ContainerStatuses = statuses(p, p.Spec.Containers, have, m, e, false)
	s.EphemeralContainerStatuses = ephemeralStatuses(p, have, m, e)
	slices.SortFunc(s.ContainerStatuses, func(a, b corev1.ContainerStatus) int { return strings.Compare(a.Name, b.Name) })
	over := e != nil && !have.runningAny()
	s.Phase = phase(p, &s, over, mainsBegun(p, have))
	if terminal(p.Status.Phase) {
		s.Phase = p.Status.Phase // never back
	}
	if s.Phase != p.Status.Phase {
		s.Reason, s.Message = "", ""
	}
	if e != nil && e.outcome != nil && !terminal(p.Status.Phase) {
		s.Phase, s.Reason, s.Message = e.outcome.phase, e.outcome.reason, e.outcome.message
	}
	resizeConditions(&s, m)
	conditions(p, have, &s, now)
	if terminal(s.Phase) && !over {
		// The conditions tell at once, the phase when everything is dead.
		s.Phase, s.Reason, s.Message = p.Status.Phase, p.Status.Reason, p.Status.Message
	}
	if over {
		lastWord(p, &s)
	}
	s.AllocatedResources = resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{})
	s.Resources = reportedPodResources(p, p.Status.Phase, m)
	limitMessages(p, &s)
	return s
}

// neverBegan fills in the status of a Pod that was refused, now or by an
// earlier agent: of its containers there is nothing to say.
func neverBegan(p *corev1.Pod, e *ending, s *corev1.PodStatus) bool {
	if e.outcome != nil && e.outcome.refused {
		s.Phase, s.Reason, s.Message = e.outcome.phase, e.outcome.reason, e.outcome.message
		return true
	}
	return terminal(p.Status.Phase)
}

func terminal(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}

// seconds is a time as the API keeps it; finer ones would differ for ever.
func seconds(t time.Time) *metav1.Time { return &metav1.Time{Time: t.Truncate(time.Second)} }

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

// phase follows from the containers' statuses as in a kubelet (getPhase). over
// is true when nothing will run again; begun when main containers were made.
func phase(p *corev1.Pod, s *corev1.PodStatus, over, begun bool) corev1.PodPhase {
	n := countInit(p, s)
	n.countMain(p, s)
	switch {
	case n.initFailed:
		return corev1.PodFailed
	case n.initPending > 0, n.sidecarsPending > 0 && !begun, n.waiting > 0:
		return corev1.PodPending
	case n.running > 0:
		return corev1.PodRunning
	case n.stopped == 0:
		return corev1.PodPending
	case !over && n.stopped != n.stoppedForGood:
		return corev1.PodRunning
	case n.stopped == n.succeeded:
		return corev1.PodSucceeded
	}
	return corev1.PodFailed
}

// census counts containers by what they do.
type census struct {
	initPending, sidecarsPending       int
	initFailed                         bool
	running, waiting                   int
	stopped, stoppedForGood, succeeded int
}

func countInit(p *corev1.Pod, s *corev1.PodStatus) (n census) {
	for i, st := range s.InitContainerStatuses {
		c := &p.Spec.InitContainers[i]
		end := lastEnd(st)
		switch {
		case pod.Sidecar(c):
			if st.State.Running != nil {
				n.running++
			}
			if st.State.Running != nil && !*st.Started || st.State.Waiting != nil && end == nil {
				n.sidecarsPending++
			}
			if st.State.Waiting != nil && end == nil {
				n.waiting++
			}
		case st.State.Running != nil || end == nil:
			n.initPending++
		case end.ExitCode != 0 && !restartable(p, c, true, int(end.ExitCode)):
			n.initFailed = true
		}
	}
	return n
}

func (n *census) countMain(p *corev1.Pod, s *corev1.PodStatus) {
	for _, st := range s.ContainerStatuses {
		end := lastEnd(st)
		switch {
		case st.State.Running != nil:
			n.running++
		case end == nil:
			n.waiting++
		default:
			n.stopped++
			if !restartable(p, containerOf(p, st.Name), false, int(end.ExitCode)) {
				n.stoppedForGood++
			}
			if st.State.Terminated != nil && end.ExitCode == 0 {
				n.succeeded++
			}
		}
	}
}

// lastEnd is how a container that does not run ended last, or nil if it never
// ran.
func lastEnd(s corev1.ContainerStatus) *corev1.ContainerStateTerminated {
	if s.State.Terminated != nil {
		return s.State.Terminated
	}
	return s.LastTerminationState.Terminated
}

func statuses(p *corev1.Pod, list []corev1.Container, have *observed, m *memory, e *ending, init bool) []corev1.ContainerStatus {
	var out []corev1.ContainerStatus
	for i := range list {
		s := containerStatus(p, &list[i], have, m, e, init)
		normalize(&s.State)
		normalize(&s.LastTerminationState)
		out = append(out, s)
	}
	return out
}

func normalize(s *corev1.ContainerState) {
	if s.Running != nil {
		s.Running.StartedAt.Time = s.Running.StartedAt.Truncate(time.Second)
	}
	if s.Terminated != nil {
		s.Terminated.StartedAt.Time = s.Terminated.StartedAt.Truncate(time.Second)
		s.Terminated.FinishedAt.Time = s.Terminated.FinishedAt.Truncate(time.Second)
	}
}

func containerStatus(p *corev1.Pod, c *corev1.Container, have *observed, m *memory, e *ending, init bool) corev1.ContainerStatus {
	s := corev1.ContainerStatus{Name: c.Name, Image: c.Image, Started: new(bool), VolumeMounts: mountStatuses(c)}
	was := statusOf(p, c.Name)
	list := have.containers[c.Name]
	if len(list) == 0 {
		absent(p, have, &s, was, init)
	} else {
		present(p, c, list, m, &s, was, init)
	}
	at := have.latest(c.Name)
	if e != nil || at != nil && (at.running() && !m.hooking[at.id] || at.exited() && !restartable(p, c, init, at.exitCode)) {
		return s
	}
	if init && at != nil && at.exited() && at.exitCode == 0 {
		return s // also a sidecar says so until it runs again
	}
	// It will run: say what it waits for, if that is known.
	if w, ok := m.waiting[c.Name]; ok && s.State.Running == nil && (at != nil || s.State.Terminated == nil) {
		if s.State.Terminated != nil {
			s.LastTerminationState.Terminated = s.State.Terminated
		}
		s.State, s.Ready = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: w.reason, Message: w.message}}, false
	}
	return s
}

// waitingByDefault is what a container says that nothing is known of.
func waitingByDefault(p *corev1.Pod) corev1.ContainerState {
	reason := "ContainerCreating"
	if len(p.Spec.InitContainers) > 0 {
		reason = "PodInitializing"
	}
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
}

const statusUnknown = "ContainerStatusUnknown"

// absent is a container the runtime has not: not yet, or not any more.
func absent(p *corev1.Pod, have *observed, s, was *corev1.ContainerStatus, init bool) {
	s.State = waitingByDefault(p)
	if was != nil {
		absentNow(p, s, was, init)
	}
	if init && s.State.Waiting != nil && mainsMade(p, have) && !pod.Sidecar(containerOf(p, s.Name)) {
		s.State, s.Ready = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			Reason: "Completed", Message: "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally",
		}}, true
	}
}

// absentNow is a container that the API remembers and the runtime does not.
func absentNow(p *corev1.Pod, s, was *corev1.ContainerStatus, init bool) {
	if was.State.Terminated != nil {
		*s = *was.DeepCopy()
		s.Started, s.Ready = new(bool), init && was.State.Terminated.ExitCode == 0 && !pod.Sidecar(containerOf(p, s.Name))
		return
	}
	s.RestartCount, s.LastTerminationState = was.RestartCount, *was.LastTerminationState.DeepCopy()
	if was.State.Running != nil && s.LastTerminationState.Terminated == nil {
		s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{
			ExitCode: 137, Reason: statusUnknown, Message: "The container could not be located when the pod was deleted.  The container used to be Running",
		}
		if p.DeletionTimestamp == nil {
			s.RestartCount++
		}
	}
}

// mainsMade says whether the runtime has a main container, in whatever sandbox.
func mainsMade(p *corev1.Pod, have *observed) bool {
	return slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool {
		at := have.latest(c.Name)
		return at != nil && at.state != runtimeapi.ContainerState_CONTAINER_UNKNOWN
	})
}

func containerOf(p *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers, ephemeralContainers(p)} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return &corev1.Container{Name: name}
}

// present is a container the runtime has. list is newest first.
func present(p *corev1.Pod, c *corev1.Container, list []*instance, m *memory, s, was *corev1.ContainerStatus, init bool) {
	at := list[0]
	s.RestartCount, s.ImageID, s.ContainerID = int32(at.attempt), at.imageID, m.containerID(at)
	if at.image != "" {
		s.Image = at.image
	}
	for i := range s.VolumeMounts {
		v := &s.VolumeMounts[i]
		if id, ok := at.images[v.MountPath]; ok {
			v.VolumeStatus = &corev1.VolumeStatus{Image: &corev1.ImageVolumeStatus{ImageRef: id}}
		}
	}
	s.AllocatedResources, s.Resources, s.User = c.Resources.Requests.DeepCopy(), reportedResources(c, at, m), userOf(at)
	if was != nil {
		s.RestartCount = max(s.RestartCount, was.RestartCount)
		s.LastTerminationState = *was.LastTerminationState.DeepCopy()
		if was.ContainerID != s.ContainerID && was.State.Terminated != nil {
			s.LastTerminationState.Terminated = was.State.Terminated.DeepCopy()
		}
	}
	if len(list) > 1 && list[1].exited() {
		s.LastTerminationState.Terminated = terminated(list[1], m)
	}
	switch {
	case at.running() && m.hooking[at.id]:
		s.State = waitingByDefault(p) // until its postStart is over
	case at.running():
		if was != nil && was.State.Terminated != nil && was.RestartCount >= int32(at.attempt) {
			s.RestartCount = was.RestartCount + 1
		}
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(at.started)}
		started := m.hasStarted(c, at)
		s.Started = &started
		s.Ready = m.isReady(c, at) && (!init || pod.Sidecar(c))
	case at.exited():
		s.State.Terminated = terminated(at, m)
		s.Ready = init && at.exitCode == 0 && !pod.Sidecar(c)
	case at.state == runtimeapi.ContainerState_CONTAINER_UNKNOWN && was != nil && was.ContainerID == s.ContainerID && was.State.Terminated != nil:
		s.State = *was.State.DeepCopy()
	case at.state == runtimeapi.ContainerState_CONTAINER_UNKNOWN && was != nil && was.ContainerID == s.ContainerID && was.State.Running != nil:
		s.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: statusUnknown, Message: "The container could not be located when the pod was terminated"}
		s.RestartCount = was.RestartCount + 1
	default:
		s.State = waitingByDefault(p)
	}
}

func userOf(i *instance) *corev1.ContainerUser {
	l := i.user.GetLinux()
	if l == nil {
		return nil
	}
	return &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{UID: l.Uid, GID: l.Gid, SupplementalGroups: l.SupplementalGroups}}
}

func mountStatuses(c *corev1.Container) (out []corev1.VolumeMountStatus) {
	for _, v := range c.VolumeMounts {
		st := corev1.VolumeMountStatus{Name: v.Name, MountPath: v.MountPath, ReadOnly: v.ReadOnly}
		if v.ReadOnly {
			mode := corev1.RecursiveReadOnlyDisabled
			if r := v.RecursiveReadOnly; r != nil && *r != corev1.RecursiveReadOnlyDisabled {
				mode = corev1.RecursiveReadOnlyEnabled
			}
			st.RecursiveReadOnly = &mode
		}
		out = append(out, st)
	}
	return out
}

func terminated(i *instance, m *memory) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{
		ExitCode: int32(i.exitCode), Reason: i.reason, ContainerID: m.containerID(i),
		StartedAt: metav1.NewTime(i.started), FinishedAt: metav1.NewTime(i.finished),
	}
	if i.started.IsZero() {
		t.StartedAt = metav1.NewTime(time.Unix(0, 0))
	}
	t.Message = strings.Join(slices.DeleteFunc([]string{i.message, m.messages[i.id]}, func(s string) bool { return s == "" }), ": ")
	return t
}

// podMessages is how much all termination messages of a Pod may take together.
const podMessages = 12 << 10

func limitMessages(p *corev1.Pod, s *corev1.PodStatus) {
	most := podMessages / max(len(p.Spec.Containers)+len(p.Spec.InitContainers)+len(p.Spec.EphemeralContainers), 1)
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			for _, st := range []*corev1.ContainerState{&list[i].State, &list[i].LastTerminationState} {
				if t := st.Terminated; t != nil && len(t.Message) > most {
					t.Message = t.Message[:most]
				}
			}
		}
	}
}

// lastWord is what is said of a Pod of which nothing runs any more: a phase
// that is final, and no container whose end is open (TerminatePod).
func lastWord(p *corev1.Pod, s *corev1.PodStatus) {
	if wasInitialized(p, s) {
		for i := range s.ContainerStatuses {
			close137(&s.ContainerStatuses[i])
		}
	}
	// Init containers up to the last that was begun, and at least the first.
	last := 0
	for i, c := range s.InitContainerStatuses {
		if c.State.Waiting == nil || c.LastTerminationState.Terminated != nil {
			last = i
		}
	}
	for i := range s.InitContainerStatuses {
		if i <= last {
			close137(&s.InitContainerStatuses[i])
		}
	}
	if !terminal(s.Phase) {
		s.Phase = corev1.PodFailed
	}
}

func close137(s *corev1.ContainerStatus) {
	if s.State.Terminated == nil {
		s.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: statusUnknown, Message: "The container could not be located when the pod was terminated"}}
	}
}

// wasInitialized says whether main containers can have run.
func wasInitialized(p *corev1.Pod, s *corev1.PodStatus) bool {
	n := len(s.InitContainerStatuses)
	if n == 0 {
		return true
	}
	for _, c := range s.ContainerStatuses {
		if c.LastTerminationState.Terminated != nil || c.State.Waiting == nil {
			return true
		}
	}
	last := s.InitContainerStatuses[n-1]
	if pod.Sidecar(&p.Spec.InitContainers[n-1]) {
		return last.State.Running != nil && *last.Started
	}
	return slices.ContainsFunc([]corev1.ContainerState{last.State, last.LastTerminationState}, func(st corev1.ContainerState) bool {
		return st.Terminated != nil && st.Terminated.ExitCode == 0
	})
}
