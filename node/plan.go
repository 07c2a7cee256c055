// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/peapod/peapod/api/pod"
)

// Back-off of a container that keeps ending, as Kubernetes: 10 s, doubled to
// 300 s, forgotten after it ran for 10 minutes.
const (
	firstBackOff = 10 * time.Second
	mostBackOff  = 300 * time.Second
	resetBackOff = 10 * time.Minute
)

// verb is what can be done to a Pod that shall run.
type verb int

const (
	prepare       verb = iota // volumes, cgroup
	makeSandbox               // a new sandbox
	removeSandbox             // an old one, with its containers
	startContainer
	killContainer // because it failed a probe or changed
	removeContainer
)

// action is one thing to do next.
type action struct {
	verb      verb
	container *corev1.Container
	init      bool
	instance  *instance
	sandbox   string
	attempt   int
	reason    string // for the Killing event
}

// decision is the outcome of planning: actions that may go on at the same
// time, and when to look again although nothing happened.
type decision struct {
	actions []action
	wakeAt  time.Time
}

func (d *decision) add(a action) { d.actions = append(d.actions, a) }

func (d *decision) wake(t time.Time) {
	if d.wakeAt.IsZero() || t.Before(d.wakeAt) {
		d.wakeAt = t
	}
}

// backOff is what is remembered of a container's last ends.
type backOff struct {
	delay    time.Duration
	until    time.Time
	instance string // the end it was computed for
}

// waiting is why a container does not run.
type waiting struct{ reason, message string }

// memory is what an actor knows beside Pod and observation.
type memory struct {
	prepared bool
	retryAt  time.Time // next try of preparing or the sandbox
	retries  time.Duration
	backOffs map[string]*backOff
	pulls    map[string]*backOff // by container
	waiting  map[string]waiting
	results  map[string]probeResult // by instance ID
	failed   map[string]string      // instances to kill, with the reason
	start    func(func())
	messages map[string]string // termination messages by instance
	problem  string            // why the sandbox is not there yet
	outcome  *outcome
	reported *corev1.PodStatus
	told     map[string]bool // back-offs that were made an event
	deadline *time.Timer     // rings when the Pod's active time is up
}

func newMemory() memory {
	return memory{
		backOffs: map[string]*backOff{}, pulls: map[string]*backOff{}, waiting: map[string]waiting{},
		results: map[string]probeResult{}, failed: map[string]string{}, messages: map[string]string{},
	}
}

// plan says what to do next for a Pod that shall run. It changes nothing but
// the back-offs in m.
func plan(p *corev1.Pod, have *observed, m *memory, now time.Time) decision {
	var d decision
	for i, s := range have.sandboxes {
		if i > 0 || !s.ready {
			d.add(action{verb: removeSandbox, sandbox: s.id})
		}
	}
	if len(d.actions) > 0 {
		return d
	}
	if now.Before(m.retryAt) {
		d.wake(m.retryAt)
		return d
	}
	if !m.prepared {
		d.add(action{verb: prepare})
		return d
	}
	if have.sandbox() == nil {
		d.add(action{verb: makeSandbox, attempt: nextSandbox(have)})
		return d
	}
	d.planContainers(p, have, m, now)
	d.collect(p, have)
	return d
}

func nextSandbox(have *observed) int {
	if len(have.sandboxes) == 0 {
		return 0
	}
	return have.sandboxes[0].attempt + 1
}

// planContainers goes through the init containers in order, and when they are
// done starts the main ones together.
func (d *decision) planContainers(p *corev1.Pod, have *observed, m *memory, now time.Time) {
	begun := mainsBegun(p, have)
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		at := have.latest(c.Name)
		if pod.Sidecar(c) {
			d.tend(p, c, true, at, corev1.RestartPolicyAlways, m, now)
			if !begun && (at == nil || !at.running() || !m.hasStarted(c, at)) {
				return
			}
			continue
		}
		if begun || at != nil && at.exited() && at.exitCode == 0 {
			continue
		}
		policy := corev1.RestartPolicyOnFailure
		if p.Spec.RestartPolicy == corev1.RestartPolicyNever {
			policy = corev1.RestartPolicyNever
		}
		d.tend(p, c, true, at, policy, m, now)
		return
	}
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		policy := p.Spec.RestartPolicy
		if c.RestartPolicy != nil {
			policy = corev1.RestartPolicy(*c.RestartPolicy)
		}
		d.tend(p, c, false, have.latest(c.Name), policy, m, now)
	}
}

// mainsBegun: once a main container was made, the init containers are over.
func mainsBegun(p *corev1.Pod, have *observed) bool {
	for _, c := range p.Spec.Containers {
		if have.latest(c.Name) != nil {
			return true
		}
	}
	return false
}

// hasStarted says whether a container counts as started: it runs, and its
// startup probe has succeeded if it has one.
func (m *memory) hasStarted(c *corev1.Container, i *instance) bool {
	if i == nil || !i.running() {
		return false
	}
	return c.StartupProbe == nil || m.results[i.id].started
}

// tend decides about one container.
func (d *decision) tend(p *corev1.Pod, c *corev1.Container, init bool, at *instance, policy corev1.RestartPolicy, m *memory, now time.Time) {
	switch {
	case at == nil:
		d.begin(c, init, 0, m, now)
	case at.running():
		if reason, bad := m.failed[at.id]; bad {
			d.add(action{verb: killContainer, container: c, instance: at, reason: reason})
		} else if at.hash != "" && at.hash != hashOf(c) && !init {
			d.add(action{verb: killContainer, container: c, instance: at, reason: fmt.Sprintf("Container %s definition changed", c.Name)})
		}
	case !at.exited():
		// Created and never started: the agent or runtime died in between.
		d.begin(c, init, at.attempt, m, now)
	case at.hash != "" && at.hash != hashOf(c) && !init:
		d.begin(c, init, at.attempt+1, m, now)
	case policy == corev1.RestartPolicyNever, policy == corev1.RestartPolicyOnFailure && at.exitCode == 0:
	default:
		until := m.backOffOf(c.Name, at)
		if now.Before(until) {
			d.wake(until)
			return
		}
		d.begin(c, init, at.attempt+1, m, now)
	}
}

// begin starts a container unless its image is being held back.
func (d *decision) begin(c *corev1.Container, init bool, attempt int, m *memory, now time.Time) {
	if b := m.pulls[c.Name]; b != nil && now.Before(b.until) {
		d.wake(b.until)
		return
	}
	d.add(action{verb: startContainer, container: c, init: init, attempt: attempt})
}

// backOffOf is when a container that ended may start again.
func (m *memory) backOffOf(name string, at *instance) time.Time {
	b := m.backOffs[name]
	if b == nil {
		b = &backOff{}
		m.backOffs[name] = b
	}
	if b.instance == at.id {
		return b.until
	}
	switch {
	case b.instance == "" && at.attempt == 0:
		// The first end restarts at once.
		b.delay, b.until = 0, at.finished
	case at.finished.Sub(at.started) >= resetBackOff:
		b.delay, b.until = 0, at.finished
	case b.delay == 0:
		b.delay = firstBackOff
		b.until = at.finished.Add(b.delay)
	default:
		b.delay = min(2*b.delay, mostBackOff)
		b.until = at.finished.Add(b.delay)
	}
	b.instance = at.id
	return b.until
}

// collect removes all but the last two instances of each container, so that
// `kubectl logs --previous` has one to read.
func (d *decision) collect(_ *corev1.Pod, have *observed) {
	for _, list := range have.containers {
		for i, c := range list {
			if i >= 2 && !c.running() {
				d.add(action{verb: removeContainer, instance: c})
			}
		}
	}
}

// hashOf changes when a container must be made anew: its name or its image.
func hashOf(c *corev1.Container) string {
	h := fnv.New32a()
	h.Write([]byte(strings.Join([]string{c.Name, c.Image}, "\x00")))
	return fmt.Sprintf("%08x", h.Sum32())
}
