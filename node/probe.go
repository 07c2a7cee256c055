// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/peapod/peapod/api/pod"
)

// probeResult is what probes have found of one instance.
type probeResult struct {
	started bool
	ready   bool
	grace   *int64 // of the probe that failed, if it has its own
}

// prober asks one instance's probes. all ends them, life only those that a
// Pod which ends has no use for.
type prober struct{ all, life context.CancelFunc }

// tendProbes starts probes for each running instance that has some, and ends
// those of instances that are gone. Readiness goes on while a Pod ends;
// liveness and startup do not.
func (x *actor) tendProbes(ctx context.Context, p *corev1.Pod, have *observed, ending bool) {
	running := map[string]bool{}
	for c := range pod.Containers(p) {
		at := have.latest(c.Name)
		if at == nil || !at.running() || x.mem.hooking[at.id] || c.ReadinessProbe == nil && c.LivenessProbe == nil && c.StartupProbe == nil {
			continue
		}
		running[at.id] = true
		if x.probes[at.id] == nil {
			x.probes[at.id] = x.startProbes(ctx, c, at, ending)
		}
		if ending {
			x.probes[at.id].life()
		}
	}
	for id, pr := range x.probes {
		if !running[id] {
			pr.all()
			delete(x.probes, id)
		}
	}
}

func (x *actor) stopProbes() {
	for id, pr := range x.probes {
		pr.all()
		delete(x.probes, id)
	}
}

// startProbes runs startup until it succeeds, then liveness and readiness side
// by side.
func (x *actor) startProbes(ctx context.Context, c *corev1.Container, at *instance, ending bool) *prober {
	all, cancelAll := context.WithCancel(ctx)
	life, cancelLife := context.WithCancel(all)
	started := c.StartupProbe == nil || x.mem.results[at.id].started
	if ending {
		cancelLife()
	}
	x.work.Go(func() {
		if !started && !x.startup(life, c, at) && life.Err() == nil || all.Err() != nil {
			return
		}
		if life.Err() != nil {
			// A Pod that ends while it starts counts as started.
			x.found(at, func(r *probeResult) { r.started = true })
		}
		if c.LivenessProbe != nil && life.Err() == nil {
			x.work.Go(func() {
				x.rounds(life, c, at, c.LivenessProbe, "Liveness", func(good bool) (goOn bool) {
					if !good {
						x.fail(at, failedLiveness, c.LivenessProbe)
					}
					return good
				})
			})
		}
		if c.ReadinessProbe != nil {
			x.rounds(all, c, at, c.ReadinessProbe, "Readiness", func(good bool) bool {
				x.found(at, func(r *probeResult) { r.ready = good })
				return true
			})
		}
	})
	return &prober{all: cancelAll, life: cancelLife}
}

// startup says whether the startup probe has succeeded.
func (x *actor) startup(ctx context.Context, c *corev1.Container, at *instance) (ok bool) {
	x.rounds(ctx, c, at, c.StartupProbe, "Startup", func(good bool) bool {
		ok = good
		if good {
			x.found(at, func(r *probeResult) { r.started = true })
		} else {
			x.fail(at, failedStartup, c.StartupProbe)
		}
		return false // one verdict is enough
	})
	return ok
}

// found changes what is known of an instance.
func (x *actor) found(at *instance, change func(*probeResult)) {
	x.tell(func() {
		r := x.mem.results[at.id]
		change(&r)
		x.mem.results[at.id] = r
	})
}

func (x *actor) fail(at *instance, why failure, pr *corev1.Probe) {
	x.found(at, func(r *probeResult) {
		r.grace = pr.TerminationGracePeriodSeconds
		x.mem.failed[at.id] = why
	})
}

// rounds asks a probe each period from its initial delay on, and gives each
// new verdict that the thresholds allow to say; it ends when say returns false.
func (x *actor) rounds(ctx context.Context, c *corev1.Container, at *instance, pr *corev1.Probe, kind string, say func(good bool) (goOn bool)) {
	next := at.started.Add(time.Duration(pr.InitialDelaySeconds) * time.Second)
	good, bad, told := int32(0), int32(0), probeWarning // no verdict yet
	for {
		clock := time.NewTimer(max(next.Sub(x.agent.cfg.Now()), 0))
		select {
		case <-clock.C:
		case <-ctx.Done():
			clock.Stop()
			return
		}
		next = x.agent.cfg.Now().Add(time.Duration(max(pr.PeriodSeconds, 1)) * time.Second)
		result, text, err := x.agent.probe(ctx, x.pod(), c, at, pr)
		if ctx.Err() != nil {
			return
		}
		switch {
		case err != nil: // the prober's own fault counts for neither
			x.containerEvent(x.pod(), c, corev1.EventTypeWarning, "Unhealthy", "%s probe errored and resulted in %s state: %s", kind, result, err)
			continue
		case result == probeFailure:
			x.containerEvent(x.pod(), c, corev1.EventTypeWarning, "Unhealthy", "%s probe failed: %s", kind, text)
			good, bad = 0, bad+1
			if bad >= max(pr.FailureThreshold, 1) && told != probeFailure {
				if told = probeFailure; !say(false) {
					return
				}
			}
			continue
		case result == probeWarning:
			x.containerEvent(x.pod(), c, corev1.EventTypeWarning, "ProbeWarning", "%s probe warning: %s", kind, text)
		}
		good, bad = good+1, 0
		if good >= max(pr.SuccessThreshold, 1) && told != probeSuccess {
			if told = probeSuccess; !say(true) {
				return
			}
		}
	}
}
