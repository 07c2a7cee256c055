// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Back-off of a container that keeps ending, as Kubernetes: at once after the
// first end, then 10 s, doubled to 300 s, forgotten after it ran for 10
// minutes.
const (
	firstBackOff = 10 * time.Second
	mostBackOff  = 300 * time.Second
	resetBackOff = 10 * time.Minute
)

// mostHold is the longest pause between tries of a start that fails for other
// reasons than a pull: a kubelet looks at such a Pod once a minute.
const mostHold = time.Minute

// memory is what an actor knows beside Pod and observation. Nothing in it has
// to survive the agent: what does is read again from the runtime and the API.
type memory struct {
	runtime  string // the CRI runtime's name, the scheme of container IDs
	prepared bool   // cgroup and volumes are there
	// retryAt is the next try of what failed for the whole Pod; retries the
	// pause before it.
	retryAt time.Time
	retries time.Duration

	// By container name.
	backOffs map[string]*backOff
	holds    map[string]*hold
	waiting  map[string]waiting
	starting map[string]bool // a start is under way, its hook included
	swapping map[string]bool // it follows one that ended to make room for it, at once

	// By instance ID.
	results  map[string]probeResult
	failed   map[string]failure // to be killed
	hooking  map[string]bool    // its postStart runs
	stopped  map[string]bool    // its stop was reported done
	resized  map[string]bool    // it ends to have other limits
	messages map[string]string  // what it left to say

	resize  resizing
	limits  podLimits                              // of the Pod's cgroup
	updated map[string]corev1.ResourceRequirements // allocation.Updated

	told    map[string]bool // reasons of events that are told once
	outcome *outcome
}

// failure is why a running instance must be killed.
type failure string

const (
	failedLiveness  failure = "liveness"
	failedStartup   failure = "startup"
	failedPostStart failure = "postStart"
)

// backOff is the pause before the next start of a container that ended.
type backOff struct {
	next     time.Duration // of the next end
	delay    time.Duration // of the end of instance
	until    time.Time
	instance string
}

// hold is a pause after a start that did not come to a process.
type hold struct {
	kind  holdKind
	delay time.Duration
	until time.Time
}

type holdKind string

const (
	holdPull   holdKind = "pull"
	holdImage  holdKind = "image"  // not there, not to be pulled
	holdConfig holdKind = "config" // an object it refers to is missing
	holdCreate holdKind = "create"
	holdStart  holdKind = "start"
)

// waiting is why a container does not run.
type waiting struct {
	reason, message string
	image           *wish // whose pull has failed, or nil
}

func newMemory() memory {
	return memory{
		backOffs: map[string]*backOff{}, holds: map[string]*hold{}, waiting: map[string]waiting{}, starting: map[string]bool{}, swapping: map[string]bool{},
		results: map[string]probeResult{}, failed: map[string]failure{}, hooking: map[string]bool{}, stopped: map[string]bool{}, resized: map[string]bool{}, messages: map[string]string{}, told: map[string]bool{},
	}
}

// hasStarted says whether a container counts as started: it runs, its
// postStart is over, and its startup probe has succeeded if it has one.
func (m *memory) hasStarted(c *corev1.Container, i *instance) bool {
	if i == nil || !i.running() || m.hooking[i.id] {
		return false
	}
	return c.StartupProbe == nil || m.results[i.id].started
}

// isReady says whether a running container counts as ready.
func (m *memory) isReady(c *corev1.Container, i *instance) bool {
	return m.hasStarted(c, i) && (c.ReadinessProbe == nil || m.results[i.id].ready)
}

// backOffOf is when a container that ended may start again. fresh is true the
// first time it is asked about an end. list is newest first.
func (m *memory) backOffOf(name string, list []*instance) (b *backOff, fresh bool) {
	at := list[0]
	b = m.backOffs[name]
	if b == nil {
		b = &backOff{next: nextAfter(list)}
		m.backOffs[name] = b
	}
	if b.instance == at.id {
		return b, false
	}
	if !at.started.IsZero() && at.finished.Sub(at.started) > resetBackOff {
		b.next = 0
	}
	b.instance, b.delay, b.until = at.id, b.next, at.finished.Add(b.next)
	b.next = doubled(b.delay)
	return b, true
}

func doubled(d time.Duration) time.Duration { return min(max(2*d, firstBackOff), mostBackOff) }

// nextAfter tells from the runtime what an agent that was restarted forgot:
// the pause before the newest instance shows how far the back-off had come.
func nextAfter(list []*instance) time.Duration {
	if list[0].attempt == 0 {
		return 0
	}
	if len(list) < 2 || list[0].started.IsZero() || list[1].finished.IsZero() {
		return firstBackOff
	}
	gap, step := list[0].started.Sub(list[1].finished), time.Duration(0)
	for s := firstBackOff; s <= gap; s = doubled(s) {
		step = s
		if s == mostBackOff {
			break
		}
	}
	return doubled(step)
}

// holdBack delays the next start of a container: 10 s, doubled to 5 minutes
// for pulls and to one for the rest.
func (m *memory) holdBack(name string, kind holdKind, now time.Time) {
	h := m.holds[name]
	if h == nil || h.kind != kind {
		h = &hold{kind: kind}
		m.holds[name] = h
	}
	most := mostHold
	if kind == holdPull {
		most = mostBackOff
	}
	h.delay = min(doubled(h.delay), most)
	h.until = now.Add(h.delay)
}

// forget drops what was known of instances that are gone.
func (m *memory) forget(have *observed) {
	known := map[string]bool{}
	for _, list := range have.containers {
		for _, i := range list {
			known[i.id] = true
		}
	}
	maps.DeleteFunc(m.results, func(id string, _ probeResult) bool { return !known[id] })
	maps.DeleteFunc(m.failed, func(id string, _ failure) bool { return !known[id] })
	maps.DeleteFunc(m.hooking, func(id string, _ bool) bool { return !known[id] })
	maps.DeleteFunc(m.stopped, func(id string, _ bool) bool { return !known[id] })
	maps.DeleteFunc(m.resized, func(id string, _ bool) bool { return !known[id] })
	maps.DeleteFunc(m.messages, func(id string, _ string) bool { return !known[id] })
}

// recall takes over what the API says of instances this agent has not probed
// yet: unknown means as before, so that a restart of the agent flaps nothing.
func (m *memory) recall(p *corev1.Pod, have *observed) {
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, s := range list {
			at := have.latest(s.Name)
			if at == nil || !at.running() || s.ContainerID != m.containerID(at) {
				continue
			}
			if _, known := m.results[at.id]; !known {
				m.results[at.id] = probeResult{started: s.Started != nil && *s.Started, ready: s.Ready}
			}
		}
	}
}

func (m *memory) containerID(i *instance) string { return m.runtime + "://" + i.id }

func backOffText(p *corev1.Pod, c *corev1.Container, delay time.Duration) string {
	return fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", delay, c.Name, fullName(p))
}

// fullName names a Pod in messages, as kubelets do.
func fullName(p *corev1.Pod) string { return fmt.Sprintf("%s_%s(%s)", p.Name, p.Namespace, p.UID) }
