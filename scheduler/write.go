// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/peapod/peapod/api/pod"
)

// written is what is to be written of one Pod.
type written struct {
	todo  func(context.Context) error // the newest wish; nil: nothing is left
	busy  bool                        // somebody writes
	newer chan struct{}               // todo was replaced
	told  *corev1.Pod                 // the API's answer to the last condition
}

// write lets todo be done beside the scheduling. Of one Pod one thing after
// another is written, so that a condition never comes after the binding that
// made it untrue, and of what waits only the newest. What fails is done again.
func (s *Scheduler) write(ctx context.Context, e *entry, todo func(context.Context) error) {
	e.todo = todo
	if e.busy {
		select {
		case e.newer <- struct{}{}:
		default:
		}
		return
	}
	e.busy, e.newer = true, make(chan struct{}, 1)
	s.writers.Go(func() { s.writeAll(ctx, e) })
}

func (s *Scheduler) writeAll(ctx context.Context, e *entry) {
	for failures := 0; ; {
		todo := s.take(e)
		if todo == nil {
			return
		}
		s.slots <- struct{}{}
		err := todo(ctx)
		<-s.slots
		if err == nil {
			failures = 0
			continue
		}
		if ctx.Err() != nil {
			return
		}
		s.cfg.Log.Warn("cannot write pod", "err", err)
		failures++
		if s.again(e, todo) {
			continue
		}
		t := time.NewTimer(backOff(failures))
		select {
		case <-t.C:
		case <-e.newer:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// take takes what is to be done next; nil ends the writing.
func (s *Scheduler) take(e *entry) func(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	todo := e.todo
	e.todo, e.busy = nil, todo != nil
	select {
	case <-e.newer:
	default:
	}
	return todo
}

// again puts back what failed; true if something newer has taken its place.
func (s *Scheduler) again(e *entry, todo func(context.Context) error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.todo != nil {
		return true
	}
	e.todo = todo
	return false
}

// bind writes the node that was chosen. When the API refuses, the room is given
// back and the Pod tried anew after a while.
func (s *Scheduler) bind(ctx context.Context, e *entry) {
	p, node := e.pod, e.node
	s.write(ctx, e, func(ctx context.Context) error {
		if !s.stillAssumed(e, node) {
			return nil
		}
		err := s.cfg.Client.CoreV1().Pods(p.Namespace).Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace, UID: p.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: node},
		}, metav1.CreateOptions{})
		if err == nil {
			s.events.Eventf(p, nil, corev1.EventTypeNormal, "Scheduled", "Binding", "Successfully assigned %v/%v to %v", p.Namespace, p.Name, node)
			return nil
		}
		if ctx.Err() == nil {
			s.unbound(ctx, e, node, fmt.Errorf("running Bind plugin %q: %w", "DefaultBinder", err))
		}
		return nil
	})
}

func (s *Scheduler) stillAssumed(e *entry, node string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pods[e.pod.UID] == e && e.assumed && e.node == node
}

// unbound takes a choice back that the API refused, unless the Pod has meanwhile
// gone or is seen bound.
func (s *Scheduler) unbound(ctx context.Context, e *entry, node string, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pods[e.pod.UID] != e || !e.assumed || e.node != node {
		return
	}
	s.cfg.Log.Warn("cannot bind pod", "pod", e.pod.Namespace+"/"+e.pod.Name, "op", "bind", "err", why)
	s.free(e)
	s.queue.fail(e)
	s.ring()
	s.failed(ctx, e, corev1.PodReasonSchedulerError, why.Error())
}

// maxNote is the longest text of an event (events.k8s.io).
const maxNote = 1024

// failed says that a Pod has no node, in an event and in its condition.
func (s *Scheduler) failed(ctx context.Context, e *entry, reason, message string) {
	note := message
	if more := " ..."; len(note) > maxNote {
		note = note[:maxNote-len(more)] + more
	}
	s.events.Eventf(e.pod, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s", note)
	s.write(ctx, e, func(ctx context.Context) error {
		return s.tell(ctx, e, &corev1.PodCondition{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: message,
		})
	})
}

// tell writes a condition, if there is one, and the node that is promised, if
// the Pod has not both already, and waits yet.
func (s *Scheduler) tell(ctx context.Context, e *entry, c *corev1.PodCondition) error {
	s.mu.Lock()
	p, waits, node := e.newest().DeepCopy(), s.pods[e.pod.UID] == e && e.node == "", e.promised
	s.mu.Unlock()
	status := map[string]any{}
	if c != nil {
		c.ObservedGeneration = p.Generation
		if pod.SetCondition(&p.Status, *c) {
			status["conditions"] = []corev1.PodCondition{*pod.Condition(&p.Status, c.Type)}
		}
	}
	if p.Status.NominatedNodeName != node {
		status["nominatedNodeName"] = node
	}
	if !waits || len(status) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.UID}, "status": status})
	if err != nil {
		return fmt.Errorf("cannot tell why pod %s/%s waits: %w", p.Namespace, p.Name, err)
	}
	answer, err := s.cfg.Client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot tell why pod %s/%s waits: %w", p.Namespace, p.Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e.told = answer
	return nil
}

// newest is the last version of the Pod that is known: the informer's can be
// older than the answer to what was written last.
func (e *entry) newest() *corev1.Pod {
	if e.told != nil {
		if n, err := resourceversion.CompareResourceVersion(e.told.ResourceVersion, e.pod.ResourceVersion); err == nil && n > 0 {
			return e.told
		}
	}
	return e.pod
}
