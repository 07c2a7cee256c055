// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/api/pod"
)

// defaultGrace is a Pod's that names none.
const defaultGrace = 30 * time.Second

// outcome is a phase the node decides by itself.
type outcome struct {
	phase           corev1.PodPhase
	reason, message string
	refused         bool // before anything of it was made
}

// ending is why and how fast a Pod must end.
type ending struct {
	grace   time.Duration // from when the node first saw it
	forced  bool          // the API has let go, or grace 0
	outcome *outcome
	delete  bool // the object waits to be deleted, or is gone
}

// remains is how far a Pod's end has come.
type remains int

const (
	everything     remains = iota
	itsRecords             // containers to read the logs of
	nothingRemains         // not even these
)

func podGrace(p *corev1.Pod) time.Duration {
	if g := p.Spec.TerminationGracePeriodSeconds; g != nil {
		return time.Duration(*g) * time.Second
	}
	return defaultGrace
}

// ending decides whether the Pod must end: deleted, refused by this node, past
// its deadline, or all its containers are done. wakeAt is when its deadline comes.
func (x *actor) ending(p *corev1.Pod, have *observed, now time.Time) (e *ending, wakeAt time.Time) {
	switch {
	case x.isGone():
		return &ending{forced: true, delete: true}, wakeAt
	case p.DeletionTimestamp != nil:
		grace := podGrace(p)
		if g := p.DeletionGracePeriodSeconds; g != nil {
			grace = time.Duration(*g) * time.Second
		}
		return &ending{grace: grace, forced: grace == 0, outcome: x.mem.outcome, delete: true}, wakeAt
	case x.mem.outcome != nil:
		return &ending{grace: podGrace(p), outcome: x.mem.outcome}, wakeAt
	case pod.Terminal(p):
		return &ending{grace: podGrace(p)}, wakeAt
	case !x.admitted(p, have):
		return &ending{grace: podGrace(p), outcome: x.mem.outcome}, wakeAt
	}
	if d := p.Spec.ActiveDeadlineSeconds; d != nil && p.Status.StartTime != nil {
		wakeAt = p.Status.StartTime.Add(time.Duration(*d) * time.Second)
		if !now.Before(wakeAt) {
			x.mem.outcome = &outcome{phase: corev1.PodFailed, reason: "DeadlineExceeded", message: "Pod was active on the node longer than the specified deadline"}
			x.event(p, corev1.EventTypeNormal, "DeadlineExceeded", "%s", x.mem.outcome.message)
			return &ending{grace: podGrace(p), outcome: x.mem.outcome}, time.Time{}
		}
	}
	if finished(p, have, &x.mem) {
		return &ending{grace: podGrace(p)}, time.Time{}
	}
	return nil, wakeAt
}

// terminate is one step of a Pod that must end. It is over when nothing of it
// is left, here and, if it was deleted, in the API.
func (x *actor) terminate(ctx context.Context, p *corev1.Pod, have *observed, e *ending) (over bool, next time.Time) {
	now := x.agent.cfg.Now()
	if x.stopper == nil {
		x.stopper = newStopper(now, e)
		x.callOff()
		x.goOn()
		x.agent.cfg.Log.Info("pod ends", "pod", key(p), "uid", p.UID, "grace", e.grace)
	}
	if x.stopper.shorten(e, now) {
		x.goOn()
	}
	if have.runningAny() {
		next = x.stopContainers(ctx, p, have, now)
		x.tendProbes(ctx, p, have, true)
		if !x.report(ctx, p, have, e) {
			next = sooner(next, now.Add(reportRetry))
		}
		return false, next
	}
	x.stopProbes()
	if len(x.jobs) > 0 {
		return false, time.Time{} // each rings when it has come back
	}
	if !x.report(ctx, p, have, e) {
		return false, now.Add(reportRetry)
	}
	if now.Before(x.mem.retryAt) {
		return false, x.mem.retryAt
	}
	if !x.cleanUp(ctx, p, have, e) {
		x.holdOff()
		return false, x.mem.retryAt
	}
	return x.finish(ctx, p, e)
}

// cleanUp gives back what the Pod held, keeping containers of a finished Pod
// for their logs until the object goes.
func (x *actor) cleanUp(ctx context.Context, p *corev1.Pod, have *observed, e *ending) bool {
	a, goal := x.agent, itsRecords
	if e.delete {
		goal = nothingRemains
	}
	if x.left >= goal {
		return true
	}
	var err error
	for _, s := range have.sandboxes {
		if e.delete {
			err = errors.Join(err, a.removeSandbox(ctx, s.id))
		} else if s.ready {
			err = errors.Join(err, a.stopSandbox(ctx, s.id))
		}
	}
	if err == nil && e.delete {
		// Before the folder and the cgroup: by these a Pod is found again.
		err = os.RemoveAll(a.logDir(p))
	}
	if err == nil {
		a.objects.unfollow(x)
		err = errors.Join(a.volumes.Unmount(p.UID), a.cgroups.remove(p))
	}
	if err != nil {
		if ctx.Err() == nil {
			a.cfg.Log.Warn("cannot clean up after pod", "pod", key(p), "uid", p.UID, "err", err)
			x.event(p, corev1.EventTypeWarning, "FailedKillPod", "error killing pod: %v", err)
		}
		return false
	}
	x.left = goal
	a.retryResizes()
	return true
}

// finish deletes the object that waited for this, exactly that one.
func (x *actor) finish(ctx context.Context, p *corev1.Pod, e *ending) (over bool, next time.Time) {
	if x.isGone() {
		return true, time.Time{}
	}
	if !e.delete || x.asked {
		return false, time.Time{} // finished, its containers stay to be read; or held by finalizers
	}
	zero, uid := int64(0), p.UID
	ctx, cancel := context.WithTimeout(ctx, writePatience)
	defer cancel()
	err := x.agent.cfg.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &uid},
	})
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		x.asked = true
		return false, time.Time{} // the watch tells when it is gone
	}
	if ctx.Err() == nil {
		x.agent.cfg.Log.Warn("cannot delete pod", "pod", key(p), "uid", p.UID, "err", err)
	}
	return false, x.agent.cfg.Now().Add(reportRetry)
}
