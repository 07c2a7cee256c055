// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of the condition Progressing.
const (
	setCreated   = "NewReplicaSetCreated"
	setFound     = "FoundNewReplicaSet"
	setUpdated   = "ReplicaSetUpdated"
	setAvailable = "NewReplicaSetAvailable"
	setFailed    = "ReplicaSetCreateError"
	timedOut     = "ProgressDeadlineExceeded"
	isPaused     = "DeploymentPaused"
	isResumed    = "DeploymentResumed"
)

// hasDeadline: the largest number is none.
func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

func deploymentCondition(s *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == kind {
			return &s.Conditions[i]
		}
	}
	return nil
}

func dropCondition(s *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType) {
	s.Conditions = slices.DeleteFunc(s.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == kind })
}

// putCondition puts a condition last, unless it is there with the same status
// and reason.
func putCondition(s *appsv1.DeploymentStatus, c appsv1.DeploymentCondition) {
	if have := deploymentCondition(s, c.Type); have != nil {
		if have.Status == c.Status && have.Reason == c.Reason {
			return
		}
		if have.Status == c.Status {
			c.LastTransitionTime = have.LastTransitionTime
		}
	}
	dropCondition(s, c.Type)
	s.Conditions = append(s.Conditions, c)
}

func freshCondition(kind appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) appsv1.DeploymentCondition {
	now := metav1.Now().Rfc3339Copy()
	return appsv1.DeploymentCondition{Type: kind, Status: status, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now}
}

// progressing sets the condition of that name.
func (o *rollout) progressing(status corev1.ConditionStatus, reason, message string) {
	putCondition(&o.d.Status, freshCondition(appsv1.DeploymentProgressing, status, reason, message))
}

// pauseOrResume notes a pause, so that its time does not count for the
// deadline.
func (o *rollout) pauseOrResume() {
	c := deploymentCondition(&o.d.Status, appsv1.DeploymentProgressing)
	if !hasDeadline(o.d) || c != nil && c.Reason == timedOut {
		return
	}
	noted := c != nil && c.Reason == isPaused
	switch {
	case o.d.Spec.Paused && !noted:
		o.progressing(corev1.ConditionUnknown, isPaused, "Deployment is paused")
	case !o.d.Spec.Paused && noted:
		o.progressing(corev1.ConditionUnknown, isResumed, "Deployment is resumed")
	}
}

// count sums up the ReplicaSets. The conditions stay but for the availability.
func (o *rollout) count() {
	all := o.all()
	s := appsv1.DeploymentStatus{
		ObservedGeneration: o.d.Generation, AvailableReplicas: available(all), UnavailableReplicas: max(wanted(all)-available(all), 0),
		CollisionCount: o.d.Status.CollisionCount, Conditions: slices.Clone(o.d.Status.Conditions), TerminatingReplicas: terminating(all),
	}
	for _, set := range all {
		s.Replicas += set.Status.Replicas
		s.ReadyReplicas += set.Status.ReadyReplicas
	}
	if o.current != nil {
		s.UpdatedReplicas = o.current.Status.Replicas
	}
	status, reason, message := corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability."
	if s.AvailableReplicas >= *o.d.Spec.Replicas-maxUnavailable(o.d) {
		status, reason, message = corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability."
	}
	putCondition(&s, freshCondition(appsv1.DeploymentAvailable, status, reason, message))
	o.d.Status = s
}

// terminating is unknown while one ReplicaSet does not tell.
func terminating(all []*appsv1.ReplicaSet) *int32 {
	n := int32(0)
	for _, s := range all {
		switch {
		case s.Status.TerminatingReplicas != nil:
			n += *s.Status.TerminatingReplicas
		case s.Status.ObservedGeneration != 0:
			return nil
		}
	}
	return &n
}

// complete: all that is wanted is there, new and available, and nothing else.
func complete(d *appsv1.Deployment, s *appsv1.DeploymentStatus) bool {
	n := *d.Spec.Replicas
	return s.UpdatedReplicas == n && s.Replicas == n && s.AvailableReplicas == n && s.ObservedGeneration >= d.Generation
}

// progress judges the rollout by what has changed since the last status, and
// takes over what the ReplicaSets failed at.
func (o *rollout) progress(now time.Time) {
	s, was := &o.d.Status, &o.was.Status
	// What this look has done itself is judged against, too.
	c := deploymentCondition(s, appsv1.DeploymentProgressing)
	if !hasDeadline(o.d) {
		dropCondition(s, appsv1.DeploymentProgressing)
	} else if c == nil || c.Reason != setAvailable || s.Replicas != s.UpdatedReplicas {
		name := fmt.Sprintf("Deployment %q", o.d.Name)
		if o.current != nil {
			name = fmt.Sprintf("ReplicaSet %q", o.current.Name)
		}
		switch {
		case complete(o.d, s):
			o.progressing(corev1.ConditionTrue, setAvailable, name+" has successfully progressed.")
		case s.UpdatedReplicas > was.UpdatedReplicas, s.Replicas-s.UpdatedReplicas < was.Replicas-was.UpdatedReplicas,
			s.ReadyReplicas > was.ReadyReplicas, s.AvailableReplicas > was.AvailableReplicas:
			next := freshCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, setUpdated, name+" is progressing.")
			if c != nil && c.Status == corev1.ConditionTrue {
				next.LastTransitionTime = c.LastTransitionTime
			}
			// Also with the same reason: the time of the last progress is new.
			dropCondition(s, appsv1.DeploymentProgressing)
			putCondition(s, next)
		case o.late(c, now):
			o.progressing(corev1.ConditionFalse, timedOut, name+" has timed out progressing.")
		}
	}
	if f := o.failure(); f != nil {
		putCondition(s, *f)
	} else {
		dropCondition(s, appsv1.DeploymentReplicaFailure)
	}
}

// late: nothing has moved for longer than the deadline.
func (o *rollout) late(c *appsv1.DeploymentCondition, now time.Time) bool {
	switch {
	case c == nil, c.Reason == setAvailable:
		return false
	case c.Reason == timedOut:
		return true
	}
	return c.LastUpdateTime.Add(time.Duration(*o.d.Spec.ProgressDeadlineSeconds) * time.Second).Before(now)
}

// failure is that of the current ReplicaSet, or of any.
func (o *rollout) failure() *appsv1.DeploymentCondition {
	sets := o.old
	if o.current != nil {
		sets = append([]*appsv1.ReplicaSet{o.current}, sets...)
	}
	for _, s := range sets {
		for _, c := range s.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				return &appsv1.DeploymentCondition{
					Type: appsv1.DeploymentReplicaFailure, Status: c.Status, Reason: c.Reason, Message: c.Message,
					LastTransitionTime: c.LastTransitionTime, LastUpdateTime: c.LastTransitionTime,
				}
			}
		}
	}
	return nil
}

// deadline is when to look again if nothing moves until then; 0 is never.
func (o *rollout) deadline(now time.Time) time.Duration {
	c := deploymentCondition(&o.d.Status, appsv1.DeploymentProgressing)
	if !hasDeadline(o.d) || c == nil || o.d.Spec.Paused || c.Reason == timedOut || c.Reason == setAvailable && o.d.Status.Replicas == o.d.Status.UpdatedReplicas || complete(o.d, &o.d.Status) {
		return 0
	}
	left := c.LastUpdateTime.Add(time.Duration(*o.d.Spec.ProgressDeadlineSeconds) * time.Second).Sub(now)
	return max(left, 0) + time.Second // times are written in whole seconds
}
