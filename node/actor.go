// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// actor is the life of one Pod on this node.
//
//	         ┌──────────────── new Pod, event, job, probe, timer ───────────────┐
//	         ▼                                                                  │
//	syncing ──(deleted, deadline passed, finished)──▶ terminating ──(nothing    │
//	  │  ▲      termination is shortened or forced      │  ▲        runs)       │
//	  └──┘      by each newer Pod, at any moment        └──┘         │          │
//	                                                                 ▼          │
//	                                     terminated: final status, sandbox,     │
//	                                     volumes and cgroup gone, object deleted
//
// Only run's goroutine touches the fields below the line; jobs and probes run
// beside it and come back through tell.
type actor struct {
	agent *Agent
	bell  chan struct{} // a mailbox of one: somebody has news

	// The agent's admission guards these.
	accepted bool        // this node has taken the Pod
	grant    *allocation // what it was granted, or nil: not looked at yet
	deferred time.Time   // since when a resize waits for room, or zero

	mu      sync.Mutex // guards the fields up to the line
	latest  *corev1.Pod
	deleted bool // the API has let go of the Pod
	stale   bool // what its volumes are made of has changed
	news    []func()
	// ----
	mem     memory
	jobs    map[string]context.CancelFunc
	probes  map[string]*prober // by instance ID
	stopper *stopper
	left    remains
	asked   bool           // the API to let go of the Pod
	work    sync.WaitGroup // jobs and probes
}

func newActor(a *Agent, p *corev1.Pod, gone bool) *actor {
	x := &actor{agent: a, bell: make(chan struct{}, 1), latest: p, deleted: gone, jobs: map[string]context.CancelFunc{}, probes: map[string]*prober{}}
	x.mem = newMemory()
	x.mem.runtime = a.node.runtimeName()
	x.wake()
	return x
}

// want replaces the Pod; one that was not looked at yet is lost. What this
// actor has written itself comes back as old news.
func (x *actor) want(p *corev1.Pod) {
	x.mu.Lock()
	isNew := x.take(p)
	x.mu.Unlock()
	if isNew {
		x.wake()
	}
}

// written takes over what the API answered to a write of this actor.
func (x *actor) written(p *corev1.Pod) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.take(p) && x.stale {
		x.wake()
	}
}

// take keeps a Pod that is newer, and says whether it is. Its labels and
// annotations are what a downwardAPI volume may show. The caller holds mu.
func (x *actor) take(p *corev1.Pod) bool {
	if !newer(p, x.latest) {
		return false
	}
	x.stale = x.stale || !maps.Equal(p.Labels, x.latest.Labels) || !maps.Equal(p.Annotations, x.latest.Annotations)
	x.latest = p
	return true
}

func newer(p, than *corev1.Pod) bool {
	order, err := resourceversion.CompareResourceVersion(p.ResourceVersion, than.ResourceVersion)
	return err != nil || order > 0 // not comparable: the later one counts
}

func (x *actor) gone() {
	x.mu.Lock()
	x.deleted = true
	x.mu.Unlock()
	x.wake()
}

func (x *actor) isGone() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.deleted
}

func (x *actor) pod() *corev1.Pod {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.latest
}

func (x *actor) wake() {
	select {
	case x.bell <- struct{}{}:
	default:
	}
}

// refresh says that an object the Pod refers to has changed.
func (x *actor) refresh() {
	x.mu.Lock()
	x.stale = true
	x.mu.Unlock()
	x.wake()
}

// tell runs f on the actor's own goroutine, before its next step.
func (x *actor) tell(f func()) {
	x.mu.Lock()
	x.news = append(x.news, f)
	x.mu.Unlock()
	x.wake()
}

// hear runs what was told, and says whether an object has changed.
func (x *actor) hear() (stale bool) {
	x.mu.Lock()
	news := x.news
	x.news = nil
	stale, x.stale = x.stale, false
	x.mu.Unlock()
	for _, f := range news {
		f()
	}
	return stale
}

// run steps until the Pod is over for this node, or ctx ends.
func (x *actor) run(ctx context.Context) {
	defer x.agent.objects.unfollow(x)
	defer x.agent.rotator.follow(x.pod().UID, nil)
	defer x.work.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-x.bell:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		stale := x.hear()
		over, next := x.step(ctx, stale)
		if over {
			x.agent.remove(x.pod().UID)
			return
		}
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(max(next.Sub(x.agent.cfg.Now()), 0))
		}
	}
}

// reportRetry is the pause after the API or the runtime did not answer.
const reportRetry = time.Second

// step observes, plans, acts and reports once. next is when to step again
// although nothing happens; zero is never.
func (x *actor) step(ctx context.Context, stale bool) (over bool, next time.Time) {
	p, now := x.pod(), x.agent.cfg.Now()
	have, err := x.agent.observe(ctx, p.UID)
	if err != nil {
		if ctx.Err() == nil {
			x.agent.cfg.Log.Error("cannot observe pod", "pod", key(p), "uid", p.UID, "err", err)
		}
		return false, now.Add(reportRetry)
	}
	x.learn(p, have)
	x.followLogs(p, have)
	e, deadline := x.ending(p, have, now)
	if e != nil {
		return x.terminate(ctx, x.granted(p), have, e)
	}
	p = x.negotiate(p)
	if stale {
		x.tryAgain(ctx, p)
	}
	d := plan(p, have, &x.mem, now)
	x.act(ctx, p, have, d)
	x.tendProbes(ctx, p, have, false)
	x.settle(p, have)
	next = sooner(d.wakeAt, deadline)
	if !x.swaps(have) && !x.report(ctx, p, have, nil) {
		next = sooner(next, now.Add(reportRetry))
	}
	return false, next
}

// job starts f beside the actor unless one of that name runs. f's result is
// taken in on the actor's goroutine by done; context.Canceled is a job that
// was called off.
func (x *actor) job(ctx context.Context, name string, f func(context.Context) error, done func(error)) {
	if _, running := x.jobs[name]; running {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	x.jobs[name] = cancel
	x.work.Go(func() {
		err := f(ctx)
		if err != nil && ctx.Err() != nil {
			err = context.Canceled
		}
		x.tell(func() {
			cancel()
			delete(x.jobs, name)
			if done != nil {
				done(err)
			}
		})
	})
}

const stopJob = "stop "

// callOff ends the jobs that are for a Pod that shall run.
func (x *actor) callOff() {
	for _, cancel := range x.jobs {
		cancel()
	}
}

func key(p *corev1.Pod) string { return p.Namespace + "/" + p.Name }
