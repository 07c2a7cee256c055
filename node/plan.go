// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/api/pod"
)

// verb is what can be done to a Pod that shall run.
type verb int

const (
	prepare         verb = iota // volumes, cgroup
	makeSandbox                 // a new sandbox
	stopSandbox                 // one that died, with what still runs in it
	removeSandbox               // an old one without containers
	startContainer              // with its image, and its postStart
	killContainer               // because it failed a probe or changed
	removeContainer             // an old instance
	tellBackOff                 // that a container keeps ending
	tellPullBackOff             // that a pull is held back
	resizePod                   // other limits for what runs
)

// action is one thing to do next.
type action struct {
	verb      verb
	container *corev1.Container
	instance  *instance // to start, kill or remove
	sandbox   string
	attempt   int
	target    *target // of an ephemeral container, or nil
	reason    string  // for the Killing event
}

// decision is the outcome of planning: actions that may go on at the same
// time, and when to look again although nothing happened.
type decision struct {
	actions []action
	wakeAt  time.Time
}

func (d *decision) add(a action) { d.actions = append(d.actions, a) }

func (d *decision) wake(t time.Time) { d.wakeAt = sooner(d.wakeAt, t) }

// sooner is the earlier of two moments; a zero one is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// plan says what to do next for a Pod that shall run. It changes nothing but
// the back-offs in m and the reasons to wait that follow from them.
func plan(p *corev1.Pod, have *observed, m *memory, now time.Time) decision {
	var d decision
	if now.Before(m.retryAt) {
		d.wake(m.retryAt)
		return d
	}
	for i, s := range have.sandboxes {
		if s.ready && i > 0 || !s.ready && have.runningIn(s.id) {
			d.add(action{verb: stopSandbox, sandbox: s.id})
		}
	}
	switch {
	case len(d.actions) > 0:
	case !m.prepared:
		d.add(action{verb: prepare})
	case have.sandbox() == nil:
		d.add(action{verb: makeSandbox, attempt: nextSandbox(have)})
	default:
		d.planContainers(p, have, m, now)
		d.planResize(p, have, m, now)
		d.collect(have)
	}
	return d
}

func nextSandbox(have *observed) int {
	if len(have.sandboxes) == 0 {
		return 0
	}
	return have.sandboxes[0].attempt + 1
}

// planContainers goes through the init containers in order, and when they are
// done starts the main ones. Ephemeral ones wait for nobody.
func (d *decision) planContainers(p *corev1.Pod, have *observed, m *memory, now time.Time) {
	for _, c := range ephemeralContainers(p) {
		d.tend(p, &c, false, have.latest(c.Name), have, m, now)
	}
	begun := mainsBegun(p, have)
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		at := have.current(c.Name) // in an older sandbox it counts for nothing
		if pod.Sidecar(c) {
			d.tend(p, c, true, at, have, m, now)
			if !begun && !m.hasStarted(c, at) {
				return
			}
			continue
		}
		if begun || at != nil && at.exited() && at.exitCode == 0 {
			continue
		}
		d.tend(p, c, true, at, have, m, now)
		return
	}
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		d.tend(p, c, false, have.latest(c.Name), have, m, now)
		if c.Lifecycle != nil && c.Lifecycle.PostStart != nil && (m.starting[c.Name] || d.starts(c.Name)) {
			return // the next one waits for its hook: proxies are started so
		}
	}
}

func (d *decision) starts(name string) bool {
	return slices.ContainsFunc(d.actions, func(a action) bool { return a.verb == startContainer && a.container.Name == name })
}

// mainsBegun: once a main container was made in the current sandbox, the init
// containers are over.
func mainsBegun(p *corev1.Pod, have *observed) bool {
	return slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool { return have.current(c.Name) != nil })
}

// tend decides about one container.
func (d *decision) tend(p *corev1.Pod, c *corev1.Container, init bool, at *instance, have *observed, m *memory, now time.Time) {
	list := have.containers[c.Name]
	for _, old := range list {
		if old != at && old.running() || old.state == runtimeapi.ContainerState_CONTAINER_UNKNOWN {
			d.add(action{verb: killContainer, container: c, instance: old, reason: "Stopping container " + c.Name})
			return // never two at once
		}
	}
	switch {
	case at == nil && !init && ended(p, c):
		// It ran, and the runtime has lost it: not twice.
	case at == nil || at.sandbox != have.sandboxes[0].id && !at.exited():
		d.begin(c, nil, nextAttempt(p, c, list), m, now)
	case at.running():
		if reason := m.killReason(p, c, init, at); reason != "" {
			d.add(action{verb: killContainer, container: c, instance: at, reason: reason})
		}
	case !at.exited():
		// Created and never started: the agent or the runtime died in between.
		d.begin(c, at, at.attempt, m, now)
	case changed(c, init, at), m.resized[at.id]:
		d.begin(c, nil, at.attempt+1, m, now)
	case restartable(p, c, init, at.exitCode):
		if h := m.holds[c.Name]; h != nil && h.kind == holdStart {
			delete(m.holds, c.Name) // it did end, so the back-off of ends counts
		}
		b, fresh := m.backOffOf(c.Name, list)
		if !now.Before(b.until) {
			d.begin(c, nil, at.attempt+1, m, now)
			return
		}
		m.waiting[c.Name] = waiting{reason: "CrashLoopBackOff", message: backOffText(p, c, b.delay)}
		if fresh {
			d.add(action{verb: tellBackOff, container: c})
		}
		d.wake(b.until)
	}
}

// nextAttempt counts on from what the runtime has, or what the API remembers
// when the runtime has lost it.
func nextAttempt(p *corev1.Pod, c *corev1.Container, list []*instance) int {
	if len(list) > 0 {
		return list[0].attempt + 1
	}
	if s := statusOf(p, c.Name); s != nil && s.ContainerID != "" {
		return int(s.RestartCount) + 1
	}
	return 0
}

// begin starts a container unless its start is being held back.
func (d *decision) begin(c *corev1.Container, made *instance, attempt int, m *memory, now time.Time) {
	h := m.holds[c.Name]
	if h == nil || !now.Before(h.until) {
		d.add(action{verb: startContainer, container: c, instance: made, attempt: attempt})
		return
	}
	if h.kind == holdPull && m.waiting[c.Name].reason == "ErrImagePull" {
		d.add(action{verb: tellPullBackOff, container: c})
	}
	d.wake(h.until)
}

// killReason is why a running instance must go, in upstream's words, or "".
func (m *memory) killReason(p *corev1.Pod, c *corev1.Container, init bool, at *instance) string {
	kind, suffix := "Container", ""
	if init {
		kind = "Init container"
	} else if restartsAfterKill(p, c) {
		suffix = ", will be restarted"
	}
	switch m.failed[at.id] {
	case failedLiveness:
		return fmt.Sprintf("%s %s failed liveness probe%s", kind, c.Name, suffix)
	case failedStartup:
		return fmt.Sprintf("%s %s failed startup probe%s", kind, c.Name, suffix)
	case failedPostStart:
		return "FailedPostStartHook"
	}
	if _, restart := m.oversized(p, c, at); restart {
		m.resized[at.id] = true
		return fmt.Sprintf("Container %s resize requires restart", c.Name)
	}
	switch {
	case !changed(c, init, at):
		return ""
	case init:
		return fmt.Sprintf("Init container %s definition changed", c.Name)
	}
	return fmt.Sprintf("Container %s definition changed, will be restarted", c.Name)
}

// changed says whether an instance was made from another definition.
func changed(c *corev1.Container, init bool, at *instance) bool {
	return at.hash != "" && at.hash != hashOf(c) && (!init || pod.Sidecar(c))
}

func restartsAfterKill(p *corev1.Pod, c *corev1.Container) bool {
	if c.RestartPolicy != nil {
		return *c.RestartPolicy != corev1.ContainerRestartPolicyNever
	}
	return p.Spec.RestartPolicy != corev1.RestartPolicyNever
}

// restartable says whether a container that ended with this code runs again:
// by its own rules, its own policy, or the Pod's. An init container that has
// succeeded never does, unless it is a sidecar.
func restartable(p *corev1.Pod, c *corev1.Container, init bool, exitCode int) bool {
	if init && exitCode == 0 && !pod.Sidecar(c) {
		return false
	}
	policy := p.Spec.RestartPolicy
	if c.RestartPolicy != nil {
		if ruled(c, int32(exitCode)) {
			return true
		}
		policy = corev1.RestartPolicy(*c.RestartPolicy)
	}
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return exitCode != 0
	}
	return true
}

// ruled says whether a rule of the container restarts it (KEP-5307).
func ruled(c *corev1.Container, exitCode int32) bool {
	for _, r := range c.RestartPolicyRules {
		if r.ExitCodes == nil {
			continue
		}
		in := slices.Contains(r.ExitCodes.Values, exitCode)
		if in == (r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
			return r.Action == corev1.ContainerRestartRuleActionRestart
		}
	}
	return false
}

// finished says whether nothing of the Pod will run again: its main containers
// are done, an init container has failed for good, or its sandbox has died
// and it must not run twice.
func finished(p *corev1.Pod, have *observed, m *memory) bool {
	if have.sandbox() == nil && len(have.sandboxes) > 0 && len(have.containers) > 0 && !restartsOnFailure(p) {
		return true
	}
	if !mainsBegun(p, have) {
		for i := range p.Spec.InitContainers {
			c := &p.Spec.InitContainers[i]
			if at := have.latest(c.Name); !pod.Sidecar(c) && at != nil && at.exited() && at.exitCode != 0 && !restartable(p, c, true, at.exitCode) {
				return true
			}
		}
	}
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		switch at := have.latest(c.Name); {
		case at == nil:
			if !ended(p, c) {
				return false
			}
		case !at.exited() || changed(c, false, at) || m.resized[at.id] || restartable(p, c, false, at.exitCode):
			return false
		}
	}
	return true
}

// ended says whether the API remembers that a main container ended for good.
func ended(p *corev1.Pod, c *corev1.Container) bool {
	s := statusOf(p, c.Name)
	return s != nil && s.State.Terminated != nil && !restartable(p, c, false, int(s.State.Terminated.ExitCode))
}

// restartsOnFailure says whether any main container may run a second time.
func restartsOnFailure(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool {
		return restartsAfterKill(p, &c) || len(c.RestartPolicyRules) > 0
	})
}

// statusOf is what the API says of a container, or nil.
func statusOf(p *corev1.Pod, name string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// collect removes all but the last two instances of each container, so that
// `kubectl logs --previous` has one to read, and old sandboxes without any.
func (d *decision) collect(have *observed) {
	used := map[string]bool{}
	for _, list := range have.containers {
		for i, c := range list {
			if i >= 2 && c.exited() {
				d.add(action{verb: removeContainer, instance: c})
			}
			used[c.sandbox] = true
		}
	}
	for _, s := range have.sandboxes[1:] {
		if !used[s.id] {
			d.add(action{verb: removeSandbox, sandbox: s.id})
		}
	}
}

// hashOf changes when a container must be made anew: its name or its image.
func hashOf(c *corev1.Container) string {
	h := fnv.New32a()
	h.Write([]byte(strings.Join([]string{c.Name, c.Image}, "\x00")))
	return fmt.Sprintf("%08x", h.Sum32())
}
