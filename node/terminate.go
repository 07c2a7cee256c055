// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/api/pod"
)

// minimumGrace is how long a container always has between the stop signal and
// the kill, also when its hook used up all the time or the Pod was forced.
const minimumGrace = 2 * time.Second

// drainPatience bounds the wait for the Pod's address to leave the Services.
const drainPatience = 2 * time.Second

// outcome is a phase the node decides by itself.
type outcome struct {
	phase           corev1.PodPhase
	reason, message string
}

// ending is why and how fast a Pod must end.
type ending struct {
	grace   time.Duration // from when the node first saw it
	forced  bool          // the API has let go, or grace 0
	outcome *outcome
	delete  bool // the object waits to be deleted
}

// ending decides whether the Pod must end: deleted, past its deadline, or all
// its containers are done.
func (x *actor) ending(p *corev1.Pod, have *observed, now time.Time) *ending {
	grace := 30 * time.Second
	if g := p.Spec.TerminationGracePeriodSeconds; g != nil {
		grace = time.Duration(*g) * time.Second
	}
	switch {
	case x.isGone():
		return &ending{forced: true}
	case p.DeletionTimestamp != nil:
		if g := p.DeletionGracePeriodSeconds; g != nil {
			grace = time.Duration(*g) * time.Second
		}
		return &ending{grace: grace, forced: grace == 0, outcome: x.mem.outcome, delete: true}
	case x.mem.outcome != nil:
		return &ending{grace: grace, outcome: x.mem.outcome}
	case pod.Terminal(p):
		return &ending{grace: grace}
	}
	if d := p.Spec.ActiveDeadlineSeconds; d != nil && p.Status.StartTime != nil {
		if end := p.Status.StartTime.Add(time.Duration(*d) * time.Second); !now.Before(end) {
			x.mem.outcome = &outcome{corev1.PodFailed, "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"}
			x.event(p, corev1.EventTypeNormal, "DeadlineExceeded", "%s", x.mem.outcome.message)
			return &ending{grace: grace, outcome: x.mem.outcome}
		} else {
			x.wakeAt(end)
		}
	}
	if ph := phaseOf(p, have, false); ph == corev1.PodSucceeded || ph == corev1.PodFailed {
		return &ending{grace: grace}
	}
	return nil
}

// wakeAt rings at a moment, beside the plan's own timer.
func (x *actor) wakeAt(t time.Time) {
	if x.mem.deadline != nil {
		x.mem.deadline.Stop()
	}
	x.mem.deadline = time.AfterFunc(t.Sub(x.agent.cfg.Now()), x.wake)
}

// stopper carries the end of a Pod's containers. Its deadline is data: each
// change is felt by every container at once.
type stopper struct {
	mu       sync.Mutex // guards the fields below
	begun    time.Time
	deadline time.Time     // when what still runs is killed, hooks permitting
	forced   time.Time     // when the Pod was forced, zero if not
	changed  chan struct{} // closed and replaced at each change

	// ended is used by the actor's goroutine alone: closed per container.
	ended map[string]chan struct{}
}

func newStopper(begun time.Time, e *ending) *stopper {
	s := &stopper{begun: begun, deadline: begun.Add(e.grace), changed: make(chan struct{})}
	if e.forced {
		s.forced, s.deadline = begun, begun
	}
	return s
}

// shorten moves the deadline forward, never back.
func (s *stopper) shorten(e *ending, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	deadline := s.begun.Add(e.grace)
	forced := e.forced && s.forced.IsZero()
	if !forced && !deadline.Before(s.deadline) {
		return
	}
	if forced {
		s.forced, deadline = now, now
	}
	s.deadline = deadline
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *stopper) look() (deadline time.Time, forced bool, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deadline, !s.forced.IsZero(), s.changed
}

// terminate is one step of a Pod that must end. It is over when nothing of it
// is left, here and, if it was deleted, in the API.
func (x *actor) terminate(ctx context.Context, p *corev1.Pod, have *observed, e *ending) (over bool, next time.Time) {
	now := x.agent.cfg.Now()
	if x.stopper == nil {
		x.stopper = newStopper(now, e)
		x.cancelJobs(func(string) bool { return false })
		x.agent.cfg.Log.Info("pod ends", "pod", key(p), "uid", p.UID, "grace", e.grace)
	}
	x.stopper.shorten(e, now)
	if x.preparing() {
		return false, now.Add(100 * time.Millisecond) // a cancelled job is about to report
	}
	if have.runningAny() {
		x.stopContainers(ctx, p, have)
		x.tendProbes(p, have)
		x.report(ctx, p, have, e)
		return false, time.Time{}
	}
	x.stopProbes()
	if !x.report(ctx, p, have, e) {
		return false, now.Add(time.Second)
	}
	if !x.cleanUp(ctx, p, have, e) {
		return false, now.Add(time.Second)
	}
	return x.finish(ctx, p, e)
}

// preparing: a job that makes something is still under way.
func (x *actor) preparing() bool {
	for name := range x.jobs {
		if name == "setup" || len(name) > 10 && name[:10] == "container " {
			return true
		}
	}
	return false
}

// cleanUp gives back what the Pod held, keeping containers of a finished Pod
// for their logs until the object goes.
func (x *actor) cleanUp(ctx context.Context, p *corev1.Pod, have *observed, e *ending) bool {
	a := x.agent
	var err error
	for _, s := range have.sandboxes {
		if e.delete || x.isGone() {
			err = errors.Join(err, a.removeSandbox(ctx, s.id))
		} else if s.ready {
			_, stopErr := a.cfg.CRI.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: s.id})
			err = errors.Join(err, stopErr)
		}
	}
	if err == nil {
		a.objects.unfollow(x)
		err = errors.Join(a.volumes.Unmount(p.UID), a.cgroups.remove(p))
	}
	if err == nil && (e.delete || x.isGone()) {
		err = removeAll(a.logDir(p))
	}
	if err != nil && ctx.Err() == nil {
		a.cfg.Log.Warn("cannot clean up after pod", "pod", key(p), "uid", p.UID, "err", err)
		x.event(p, corev1.EventTypeWarning, "FailedKillPod", "error killing pod: %v", err)
	}
	return err == nil
}

// finish deletes the object that waited for this, exactly that one.
func (x *actor) finish(ctx context.Context, p *corev1.Pod, e *ending) (over bool, next time.Time) {
	if x.isGone() {
		return true, time.Time{}
	}
	if !e.delete {
		return false, time.Time{} // finished; its containers stay to be read
	}
	zero := int64(0)
	uid := p.UID
	err := x.agent.cfg.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &uid},
	})
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return false, time.Time{} // the watch tells when it is gone
	}
	if ctx.Err() == nil {
		x.agent.cfg.Log.Warn("cannot delete pod", "pod", key(p), "err", err)
	}
	return false, x.agent.cfg.Now().Add(time.Second)
}

// stopContainers ends every running container beside the others; sidecars wait
// for those they serve.
func (x *actor) stopContainers(ctx context.Context, p *corev1.Pod, have *observed) {
	s := x.stopper
	if s.ended == nil {
		s.ended = map[string]chan struct{}{}
	}
	order := stopOrder(p)
	for name, list := range have.containers {
		i := list[0]
		if !i.running() {
			continue
		}
		if s.ended[name] == nil {
			s.ended[name] = make(chan struct{})
		}
		ended := s.ended[name]
		var before []<-chan struct{}
		for other, rank := range order {
			if l := have.latest(other); rank < order[name] && l != nil && l.running() {
				if s.ended[other] == nil {
					s.ended[other] = make(chan struct{})
				}
				before = append(before, s.ended[other])
			}
		}
		x.job(ctx, "stop "+i.id, func(ctx context.Context) error {
			err := x.agent.stopContainer(ctx, x, p, i, s, before, "Stopping container "+i.name)
			if err == nil {
				close(ended)
			}
			return err
		}, func(err error) {
			if err != nil && !errors.Is(err, context.Canceled) {
				x.agent.cfg.Log.Warn("cannot stop container", "pod", key(p), "container", i.name, "err", err)
			}
		})
	}
}

// stopOrder ranks containers: main ones first and together, then sidecars from
// the last to the first.
func stopOrder(p *corev1.Pod) map[string]int {
	rank := map[string]int{}
	n := len(p.Spec.InitContainers)
	for i := range p.Spec.InitContainers {
		if pod.Sidecar(&p.Spec.InitContainers[i]) {
			rank[p.Spec.InitContainers[i].Name] = n - i
		}
	}
	for _, c := range p.Spec.Containers {
		rank[c.Name] = 0
	}
	return rank
}

// stopContainer ends one container: hook, stop signal, kill, each as late as
// the deadline allows and as early as it comes to.
func (a *Agent) stopContainer(ctx context.Context, x *actor, p *corev1.Pod, i *instance, s *stopper, before []<-chan struct{}, why string) error {
	if x != nil {
		c := &corev1.Container{Name: i.name}
		x.containerEvent(p, c, corev1.EventTypeNormal, "Killing", "%s", why)
	}
	if a.cfg.Drained != nil {
		drain, cancel := context.WithTimeout(ctx, drainPatience)
		err := a.cfg.Drained(drain, p.UID)
		cancel()
		if err != nil && ctx.Err() == nil {
			a.cfg.Log.Debug("pod was not drained in time", "pod", key(p), "err", err)
		}
	}
	if hook := i.preStop(); hook != nil {
		a.untilDeadline(ctx, s, func(ctx context.Context) {
			if err := a.runHook(ctx, p, i, hook); err != nil && x != nil && ctx.Err() == nil {
				x.containerEvent(p, &corev1.Container{Name: i.name}, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
			}
		})
	}
	for _, b := range before {
		a.untilDeadline(ctx, s, func(ctx context.Context) {
			select {
			case <-b:
			case <-ctx.Done():
			}
		})
	}
	return a.signalAndKill(ctx, i, s)
}

// untilDeadline runs f until it returns, or its time is up or taken away.
func (a *Agent) untilDeadline(ctx context.Context, s *stopper, f func(context.Context)) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() { defer close(done); f(ctx) }()
	for {
		deadline, forced, changed := s.look()
		left := deadline.Sub(a.cfg.Now())
		if forced || left <= 0 {
			return // cancel ends f
		}
		clock := time.NewTimer(left)
		select {
		case <-done:
			clock.Stop()
			return
		case <-clock.C:
			return
		case <-changed:
			clock.Stop()
		case <-ctx.Done():
			clock.Stop()
			return
		}
	}
}

// signalAndKill sends the stop signal now and the kill at the deadline, but
// never within the minimum grace. A deadline that moves forward is handed to
// the runtime as a further, shorter stop.
func (a *Agent) signalAndKill(ctx context.Context, i *instance, s *stopper) error {
	signalled := a.cfg.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan error, 1)
	stop := func(left time.Duration) {
		seconds := int64((left + time.Second - time.Nanosecond) / time.Second)
		_, err := a.cfg.CRI.Runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: i.id, Timeout: seconds})
		select {
		case stopped <- err:
		default:
		}
	}
	first := true
	for {
		deadline, forced, changed := s.look()
		left := max(deadline.Sub(a.cfg.Now()), minimumGrace-a.cfg.Now().Sub(signalled))
		if forced {
			left = max(minimumGrace-a.cfg.Now().Sub(signalled), 0)
		}
		if first {
			first = false
			// Longer than the deadline: the kill below is exact to the
			// millisecond, the runtime's own to the second.
			go stop(left + time.Second)
		}
		clock := time.NewTimer(left)
		select {
		case err := <-stopped:
			clock.Stop()
			return err
		case <-clock.C:
			go stop(0)
			select {
			case err := <-stopped:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		case <-changed:
			clock.Stop()
		case <-ctx.Done():
			clock.Stop()
			return ctx.Err()
		}
	}
}

// preStop is the hook written down when the container was made.
func (i *instance) preStop() *corev1.LifecycleHandler {
	text := i.annotations[annotationPreStop]
	if text == "" {
		return nil
	}
	h := &corev1.LifecycleHandler{}
	if json.Unmarshal([]byte(text), h) != nil {
		return nil
	}
	return h
}

// killOne ends one container of a Pod that goes on.
func (x *actor) killOne(ctx context.Context, p *corev1.Pod, a action) {
	grace := 30 * time.Second
	if g := p.Spec.TerminationGracePeriodSeconds; g != nil {
		grace = time.Duration(*g) * time.Second
	}
	if g := x.mem.results[a.instance.id].grace; g != nil {
		grace = time.Duration(*g) * time.Second
	}
	s := newStopper(x.agent.cfg.Now(), &ending{grace: grace})
	x.job(ctx, "stop "+a.instance.id, func(ctx context.Context) error {
		return x.agent.stopContainer(ctx, x, p, a.instance, s, nil, a.reason)
	}, func(error) { delete(x.mem.failed, a.instance.id) })
}

// endSandbox ends one Pod without the API, from what its containers' own
// annotations say.
func (a *Agent) endSandbox(ctx context.Context, sb *runtimeapi.PodSandbox, limit time.Duration) error {
	p := podOfSandbox(sb)
	have, err := a.observe(ctx, p.UID)
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for _, list := range have.containers {
		for _, i := range list {
			if !i.running() || i.sandbox != sb.Id {
				continue
			}
			grace := 30 * time.Second
			if n, err := strconv.ParseInt(i.annotations[annotationGrace], 10, 64); err == nil {
				grace = time.Duration(n) * time.Second
			}
			if limit > 0 {
				grace = min(grace, limit)
			}
			all.Go(func() {
				if err := a.stopContainer(ctx, nil, p, i, newStopper(a.cfg.Now(), &ending{grace: grace}), nil, ""); err != nil {
					mu.Lock()
					errs = append(errs, fmt.Errorf("cannot end container %s of pod %s: %w", i.name, key(p), err))
					mu.Unlock()
				}
			})
		}
	}
	all.Wait()
	errs = append(errs, a.removeSandbox(ctx, sb.Id), a.volumes.Unmount(types.UID(sb.Labels[labelPodUID])), a.cgroups.remove(p))
	return errors.Join(errs...)
}
