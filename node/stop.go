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

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/api/pod"
)

// minimumGrace is how long a container always has between the stop signal and
// the kill, also when its hook used up all the time or the Pod was forced.
const minimumGrace = 2 * time.Second

// drainPatience bounds the wait for the Pod's address to leave the Services: a
// slice of somebody else's may name the Pod for ever.
const drainPatience = 2 * time.Second

// stopper carries the end of a Pod's containers. Its deadline is data: each
// change is felt by every container at once.
type stopper struct {
	mu       sync.Mutex // guards the fields below
	begun    time.Time
	deadline time.Time     // when what still runs is killed, hooks permitting
	forced   bool          // no time for hooks or turns
	changed  chan struct{} // closed and replaced at each change

	// ended is used by one goroutine alone: closed per instance.
	ended map[string]chan struct{}
}

func newStopper(begun time.Time, e *ending) *stopper {
	s := &stopper{begun: begun, deadline: begun.Add(e.grace), forced: e.forced, changed: make(chan struct{}), ended: map[string]chan struct{}{}}
	if e.forced {
		s.deadline = begun
	}
	return s
}

// shorten moves the deadline forward, never back, and says whether it moved.
func (s *stopper) shorten(e *ending, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	deadline := s.begun.Add(e.grace)
	if e.forced && !s.forced {
		s.forced, deadline = true, now
	} else if e.forced || !deadline.Before(s.deadline) {
		return false
	}
	s.deadline = deadline
	close(s.changed)
	s.changed = make(chan struct{})
	return true
}

func (s *stopper) look() (deadline time.Time, forced bool, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deadline, s.forced, s.changed
}

// end is the channel that tells of a container's end.
func (s *stopper) end(id string) chan struct{} {
	if s.ended[id] == nil {
		s.ended[id] = make(chan struct{})
	}
	return s.ended[id]
}

// before are the ends that the stop signal of an instance waits for: of those
// that run and rank lower.
func (s *stopper) before(i *instance, have *observed, order map[string]int) (out []<-chan struct{}) {
	for other := range have.live() {
		if order[other.name] < order[i.name] {
			out = append(out, s.end(other.id))
		}
	}
	return out
}

// stopContainers ends every running container beside the others; sidecars wait
// for those they serve. next is when to try again what did not work.
func (x *actor) stopContainers(ctx context.Context, p *corev1.Pod, have *observed, now time.Time) (next time.Time) {
	for i := range have.live() {
		if x.mem.stopped[i.id] {
			delete(x.mem.stopped, i.id)
			x.agent.cfg.Log.Warn("container runs although it was stopped", "pod", key(p), "uid", p.UID, "container", i.name)
			x.holdOff()
		}
	}
	if now.Before(x.mem.retryAt) {
		return x.mem.retryAt
	}
	s, order := x.stopper, stopOrder(p)
	for i := range have.live() {
		ended := s.end(i.id)
		x.stop(ctx, p, i, s, s.before(i, have, order), "Stopping container "+i.name, func() {
			select {
			case <-ended:
			default:
				close(ended)
			}
		})
	}
	return time.Time{}
}

// stop ends one container in a job; done is called when it has ended.
func (x *actor) stop(ctx context.Context, p *corev1.Pod, i *instance, s *stopper, before []<-chan struct{}, why string, done func()) {
	say := func(kind, reason, message string) {
		x.containerEvent(p, &corev1.Container{Name: i.name}, kind, reason, "%s", message)
	}
	x.job(ctx, stopJob+i.id, func(ctx context.Context) error {
		return x.agent.stopContainer(ctx, p, i, s, before, why, say)
	}, func(err error) {
		switch {
		case err == nil:
			x.mem.stopped[i.id] = true
			done()
		case !errors.Is(err, context.Canceled):
			x.agent.cfg.Log.Warn("cannot stop container", "pod", key(p), "uid", p.UID, "container", i.name, "err", err)
			x.event(p, corev1.EventTypeWarning, "FailedKillPod", "error killing pod: %v", err)
			x.holdOff()
		}
	})
}

// killOne ends one container of a Pod that goes on.
func (x *actor) killOne(ctx context.Context, p *corev1.Pod, a action) {
	id := a.instance.id
	if x.mem.stopped[id] { // and yet the runtime says it runs
		delete(x.mem.stopped, id)
		x.holdOff()
		return
	}
	grace := podGrace(p)
	if g := x.mem.results[id].grace; g != nil {
		grace = time.Duration(*g) * time.Second
	}
	x.stop(ctx, p, a.instance, newStopper(x.agent.cfg.Now(), &ending{grace: grace}), nil, a.reason, func() {})
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
// the deadline allows and as early as it comes to. The signal is sent once the
// channels in before are closed, or at the deadline.
func (a *Agent) stopContainer(ctx context.Context, p *corev1.Pod, i *instance, s *stopper, before []<-chan struct{}, why string, say func(kind, reason, message string)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // a hook that overran lives as long as its container
	say(corev1.EventTypeNormal, "Killing", why)
	if hook := i.preStop(); hook != nil && a.timeLeft(s) {
		done := make(chan struct{})
		var err error
		a.work.Go(func() {
			defer close(done)
			ctx, cancel := a.whileItRuns(ctx, i)
			defer cancel()
			_, err = a.runHook(ctx, p, i.definition(), i.id, hook)
		})
		if over := a.untilDeadline(ctx, s, done); ctx.Err() == nil && (!over || err != nil) {
			say(corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
		}
	}
	for _, b := range before {
		a.untilDeadline(ctx, s, b)
	}
	a.untilDrained(ctx, p, s)
	return a.signalAndKill(ctx, i, s)
}

// untilDrained waits until no new connection comes to a Pod that is being
// deleted. Other Pods that end, or begin a container anew, leave their Services
// by what their status says of it.
func (a *Agent) untilDrained(ctx context.Context, p *corev1.Pod, s *stopper) {
	if a.cfg.Drained == nil || p.DeletionTimestamp == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, drainPatience)
	defer cancel()
	done := make(chan struct{})
	a.work.Go(func() {
		defer close(done)
		if err := a.cfg.Drained(ctx, p.UID); err != nil {
			a.cfg.Log.Debug("pod was not drained in time", "pod", key(p), "uid", p.UID, "err", err)
		}
	})
	a.untilDeadline(ctx, s, done)
}

// whileItRuns gives a context that ends when the container does, as far as the
// agent follows the runtime.
func (a *Agent) whileItRuns(ctx context.Context, i *instance) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	bell := make(chan struct{}, 1)
	bell <- struct{}{} // it may have ended before
	forget := a.whenEnded(i.id, func() {
		select {
		case bell <- struct{}{}:
		default:
		}
	})
	a.work.Go(func() {
		defer forget()
		for {
			select {
			case <-bell:
				// A runtime that does not answer says nothing about it.
				st, err := a.cfg.CRI.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: i.id})
				if grpcstatus.Code(err) == codes.NotFound || st.GetStatus().GetState() == runtimeapi.ContainerState_CONTAINER_EXITED {
					cancel()
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	return ctx, cancel
}

func (a *Agent) timeLeft(s *stopper) bool {
	deadline, forced, _ := s.look()
	return !forced && deadline.After(a.cfg.Now())
}

// untilDeadline waits for done, but no longer than the container's time lasts.
// It says whether done was closed.
func (a *Agent) untilDeadline(ctx context.Context, s *stopper, done <-chan struct{}) bool {
	for {
		deadline, forced, changed := s.look()
		left := deadline.Sub(a.cfg.Now())
		if forced || left <= 0 {
			return false
		}
		clock := time.NewTimer(left)
		select {
		case <-done:
			clock.Stop()
			return true
		case <-clock.C:
			return false
		case <-changed:
			clock.Stop()
		case <-ctx.Done():
			clock.Stop()
			return false
		}
	}
}

// signalAndKill sends the stop signal now and the kill at the deadline, but
// never within the minimum grace. The runtime is given a longer time than the
// container has: its own is exact to the second only, and cannot be shortened.
func (a *Agent) signalAndKill(ctx context.Context, i *instance, s *stopper) error {
	signalled := a.cfg.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopped := make(chan error, 2)
	stop := func(left time.Duration) {
		a.work.Go(func() {
			seconds := int64((left + time.Second - time.Nanosecond) / time.Second)
			_, err := a.cfg.CRI.Runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: i.id, Timeout: seconds})
			if grpcstatus.Code(err) == codes.NotFound {
				err = nil
			}
			stopped <- err
		})
	}
	for first := true; ; first = false {
		deadline, forced, changed := s.look()
		end := signalled.Add(minimumGrace)
		if !forced && deadline.After(end) {
			end = deadline
		}
		left := end.Sub(a.cfg.Now())
		if first {
			stop(left + time.Second)
		}
		clock := time.NewTimer(max(left, 0))
		select {
		case err := <-stopped:
			clock.Stop()
			return err
		case <-clock.C:
			stop(0)
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

// definition is as much of its container as its hook needs.
func (i *instance) definition() *corev1.Container {
	c := &corev1.Container{Name: i.name}
	if json.Unmarshal([]byte(i.annotations[annotationPorts]), &c.Ports) != nil {
		c.Ports = nil // it has none
	}
	return c
}

// grace is the time its Pod gave it when it was made.
func (i *instance) grace() time.Duration {
	n, err := strconv.ParseInt(i.annotations[annotationGrace], 10, 64)
	if err != nil {
		return defaultGrace
	}
	return time.Duration(n) * time.Second
}

// rank is its place among those that are stopped (stopOrder); none is zero.
func (i *instance) rank() int {
	n, err := strconv.Atoi(i.annotations[annotationOrder])
	if err != nil {
		return 0
	}
	return n
}

// endSandbox ends one Pod without the API, by the same law, from what its
// containers' own annotations say.
func (a *Agent) endSandbox(ctx context.Context, sb *runtimeapi.PodSandbox, limit time.Duration) error {
	p := podOfSandbox(sb)
	have, err := a.observe(ctx, p.UID)
	if err != nil {
		return err
	}
	var grace time.Duration
	order := map[string]int{}
	for i := range have.live() {
		grace, order[i.name] = max(grace, i.grace()), i.rank()
	}
	if limit > 0 {
		grace = min(grace, limit)
	}
	s := newStopper(a.cfg.Now(), &ending{grace: grace})
	var all sync.WaitGroup
	var mu sync.Mutex // guards errs
	var errs []error
	for i := range have.live() {
		if i.sandbox != sb.Id {
			continue
		}
		before, ended := s.before(i, have, order), s.end(i.id)
		all.Go(func() {
			if err := a.stopContainer(ctx, p, i, s, before, "", func(string, string, string) {}); err != nil {
				mu.Lock()
				errs = append(errs, fmt.Errorf("cannot end container %s of pod %s: %w", i.name, key(p), err))
				mu.Unlock()
				return
			}
			close(ended)
		})
	}
	all.Wait()
	errs = append(errs, a.removeSandbox(ctx, sb.Id), a.volumes.Unmount(types.UID(sb.Labels[labelPodUID])), a.cgroups.remove(p))
	return errors.Join(errs...)
}
