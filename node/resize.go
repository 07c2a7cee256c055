// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/peapod/peapod/api/pod"
)

// resizing is how far a change of the Pod's resources has come (KEP-1287):
//
//	asked ──(no room)──▶ pending ──(room)──▶ granted ──(limits set)──▶ done
//
// What was granted is the allocation, what the limits of an instance are it
// tells itself; this is what is said of both.
type resizing struct {
	pending *corev1.PodCondition // why it waits, or nil
	// progress says that limits are not yet what was granted, since when, and what
	// went wrong; or nil.
	progress *corev1.PodCondition
	// granted is the generation of the last grant that was told, covered that of
	// a Pod that has all it asks for.
	granted, covered int64
	// retryAt is the next try after a failure; retries the pause before it.
	retryAt time.Time
	retries time.Duration
}

// negotiate has a changed Pod granted, if there is room for it, and gives the
// Pod as it was granted, which is the one to make true.
func (x *actor) negotiate(p *corev1.Pod) *corev1.Pod {
	a, m := x.agent, &x.mem.resize
	if m.covered != 0 && m.covered == p.Generation {
		return p
	}
	a.admission.Lock()
	was := x.allocated()
	known := x.grant.Generation
	var r *refusal
	var err error
	waits := !x.deferred.IsZero() && m.pending != nil && m.pending.ObservedGeneration == p.Generation
	if !waits { // else it has its turn in retryResizes
		r, err = x.resize()
	}
	grant, q := x.grant, x.grant.of(p)
	a.admission.Unlock()
	if err != nil {
		r = &refusal{message: err.Error()}
	}
	x.mem.limits, x.mem.updated, m.covered = grant.Limits, grant.Updated, 0
	if q == p {
		m.covered = p.Generation
	}
	if !waits {
		x.tellPending(p, r)
	}
	if grant.Generation > known && !asksMore(q, was) {
		a.retryResizes() // it has given something back
	}
	if grant.Generation != m.granted && x.mem.prepared {
		m.progress, m.retryAt, m.retries = x.resizeCondition(corev1.PodResizeInProgress, nil, "", "", grant.Generation), time.Time{}, 0
		x.event(p, corev1.EventTypeNormal, "ResizeStarted", "%s", resizeText("Pod resize started", q, grant.Generation, ""))
		x.refresh() // volumes may show resources
	}
	m.granted = grant.Generation
	return q
}

// granted is the Pod as it was granted.
func (x *actor) granted(p *corev1.Pod) *corev1.Pod {
	x.agent.admission.Lock()
	defer x.agent.admission.Unlock()
	x.allocated()
	return x.grant.of(p)
}

// tellPending says why a resize waits, if it does.
func (x *actor) tellPending(p *corev1.Pod, r *refusal) {
	m := &x.mem.resize
	if r == nil {
		m.pending = nil
		return
	}
	was := m.pending
	if was != nil && was.ObservedGeneration == p.Generation && was.Message == r.message {
		return
	}
	m.pending = x.resizeCondition(corev1.PodResizePending, was, corev1.PodReasonDeferred, r.message, p.Generation)
	if was == nil || was.ObservedGeneration != p.Generation {
		x.event(p, corev1.EventTypeWarning, "ResizeDeferred", "%s", resizeText("Pod resize "+corev1.PodReasonDeferred, p, p.Generation, r.message))
	}
}

func (x *actor) resizeCondition(t corev1.PodConditionType, was *corev1.PodCondition, reason, message string, generation int64) *corev1.PodCondition {
	now := *seconds(x.agent.cfg.Now())
	c := &corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, Reason: reason, Message: message, ObservedGeneration: generation, LastProbeTime: now, LastTransitionTime: now}
	if was != nil && was.Reason == reason {
		c.LastTransitionTime = was.LastTransitionTime
	}
	return c
}

// resizeText is the message of a resize's event, which has the resources in it.
func resizeText(what string, p *corev1.Pod, generation int64, problem string) string {
	// As in Kubernetes; omitempty leaves out no struct.
	type container struct {
		Name      string                      `json:"name"`
		Resources corev1.ResourceRequirements `json:"resources,omitempty"`
	}
	summary := struct {
		InitContainers []container `json:"initContainers,omitempty"`
		Containers     []container `json:"containers,omitempty"`
		Generation     int64       `json:"generation"`
		Error          string      `json:"error,omitempty"`
	}{Generation: generation, Error: problem}
	for _, c := range p.Spec.InitContainers {
		summary.InitContainers = append(summary.InitContainers, container{c.Name, c.Resources})
	}
	for _, c := range p.Spec.Containers {
		summary.Containers = append(summary.Containers, container{c.Name, c.Resources})
	}
	b, err := json.Marshal(summary)
	if err != nil {
		return what
	}
	return what + ": " + string(b)
}

// settle says of a resize whether it goes on or is done.
func (x *actor) settle(p *corev1.Pod, have *observed) {
	m := &x.mem.resize
	switch open := unsized(p, have, &x.mem); {
	case open && m.progress == nil:
		generation := p.Generation
		if was := pod.Condition(&p.Status, corev1.PodResizeInProgress); was != nil {
			generation = was.ObservedGeneration // an earlier agent began it
		}
		m.progress = x.resizeCondition(corev1.PodResizeInProgress, nil, "", "", generation)
	case !open && m.progress != nil:
		x.event(p, corev1.EventTypeNormal, "ResizeCompleted", "%s", resizeText("Pod resize completed", p, m.progress.ObservedGeneration, ""))
		m.progress = nil
	}
}

// beginResize sets limits beside the actor.
func (x *actor) beginResize(ctx context.Context, p *corev1.Pod, have *observed) {
	ch := x.mem.limitChange(p, have)
	x.job(ctx, "resize", func(ctx context.Context) error { return x.agent.setLimits(ctx, p, ch) }, func(err error) {
		if err == nil {
			given := map[string]corev1.ResourceRequirements{}
			for _, u := range ch.updates {
				given[u.instance.id] = effective(p, u.container)
			}
			err = x.noteLimits(p, have, ch.limits, given)
		}
		if err != nil {
			x.resizeFailed(ctx, p, err)
			return
		}
		x.mem.resize.covered, x.mem.resize.retries, x.mem.resize.retryAt = 0, 0, time.Time{}
	})
}

func (x *actor) resizeFailed(ctx context.Context, p *corev1.Pod, err error) {
	m, text := &x.mem.resize, rpcText(err)
	if ctx.Err() != nil || m.progress == nil {
		return
	}
	m.retries = min(max(2*m.retries, firstRetry), mostRetry)
	m.retryAt = x.agent.cfg.Now().Add(m.retries)
	if m.progress.Reason == corev1.PodReasonError && m.progress.Message == text {
		return
	}
	m.progress = x.resizeCondition(corev1.PodResizeInProgress, m.progress, corev1.PodReasonError, text, m.progress.ObservedGeneration)
	x.event(p, corev1.EventTypeWarning, "ResizeError", "%s", resizeText("Pod resize error", p, m.progress.ObservedGeneration, text))
}

// resizeConditions tell how far a resize has come, as long as the Pod is not over.
func resizeConditions(s *corev1.PodStatus, m *memory) {
	s.Conditions = slices.DeleteFunc(s.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodResizePending || c.Type == corev1.PodResizeInProgress
	})
	if terminal(s.Phase) {
		return
	}
	for _, c := range []*corev1.PodCondition{m.resize.pending, m.resize.progress} {
		if c != nil {
			s.Conditions = append(s.Conditions, *c)
		}
	}
}
