// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
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
// Only run's goroutine touches the fields below the line; jobs run beside it
// and come back through done.
type actor struct {
	agent *Agent
	bell  chan struct{} // a mailbox of one: somebody has news

	mu      sync.Mutex // guards the fields up to the line
	latest  *corev1.Pod
	deleted bool // the API has let go of the Pod
	news    []func()
	probes  map[string]*prober
	// ----
	mem     memory
	jobs    map[string]context.CancelFunc
	stopper *stopper
}

func newActor(a *Agent, p *corev1.Pod) *actor {
	x := &actor{agent: a, bell: make(chan struct{}, 1), latest: p, jobs: map[string]context.CancelFunc{}, probes: map[string]*prober{}}
	x.mem = newMemory()
	x.wake()
	return x
}

// want replaces the Pod; an older one that was not looked at yet is lost.
func (x *actor) want(p *corev1.Pod) {
	x.mu.Lock()
	x.latest = p
	x.mu.Unlock()
	x.wake()
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

// tell runs f on the actor's own goroutine, before its next step.
func (x *actor) tell(f func()) {
	x.mu.Lock()
	x.news = append(x.news, f)
	x.mu.Unlock()
	x.wake()
}

// run steps until the Pod is over for this node, or ctx ends.
func (x *actor) run(ctx context.Context) {
	var jobs sync.WaitGroup
	defer jobs.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	x.mem.start = func(f func()) { jobs.Go(f) }
	for {
		select {
		case <-x.bell:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		x.mu.Lock()
		news := x.news
		x.news = nil
		x.mu.Unlock()
		for _, f := range news {
			f()
		}
		over, next := x.step(ctx)
		if over {
			x.stopProbes()
			x.agent.remove(x.pod().UID)
			return
		}
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(max(next.Sub(x.agent.cfg.Now()), 0))
		}
	}
}

// step observes, plans, acts and reports once.
func (x *actor) step(ctx context.Context) (over bool, next time.Time) {
	p, now := x.pod(), x.agent.cfg.Now()
	have, err := x.agent.observe(ctx, p.UID)
	if err != nil {
		if ctx.Err() == nil {
			x.agent.cfg.Log.Error("cannot observe pod", "pod", key(p), "uid", p.UID, "err", err)
		}
		return false, now.Add(time.Second)
	}
	x.learn(p, have)
	end := x.ending(p, have, now)
	if end == nil {
		d := plan(p, have, &x.mem, now)
		x.act(ctx, p, have, d)
		x.tendProbes(p, have)
		x.report(ctx, p, have, nil)
		return false, d.wakeAt
	}
	over, next = x.terminate(ctx, p, have, end)
	return over, next
}

// job starts f beside the actor unless one of that name runs. f's result is
// taken in on the actor's goroutine by done.
func (x *actor) job(ctx context.Context, name string, f func(context.Context) error, done func(error)) {
	if _, running := x.jobs[name]; running {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	x.jobs[name] = cancel
	x.mem.start(func() {
		err := f(ctx)
		x.tell(func() {
			cancel()
			delete(x.jobs, name)
			if done != nil {
				done(err)
			}
		})
	})
}

// cancelJobs ends what prepares the Pod, when it shall end.
func (x *actor) cancelJobs(keep func(name string) bool) {
	for name, cancel := range x.jobs {
		if !keep(name) {
			cancel()
		}
	}
}

func key(p *corev1.Pod) string { return p.Namespace + "/" + p.Name }
