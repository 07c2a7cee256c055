// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/api/pod"
)

// probeResult is what probes have found of one instance.
type probeResult struct {
	started bool
	ready   bool
	grace   *int64 // of the probe that failed, if it has its own
}

// prober asks one instance's probes, one goroutine for all of its life.
type prober struct{ cancel context.CancelFunc }

// tendProbes starts a prober for each running instance that has probes, and
// ends those of instances that are gone. Readiness goes on while a Pod ends;
// liveness and startup do not.
func (x *actor) tendProbes(p *corev1.Pod, have *observed) {
	running := map[string]bool{}
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			c := &list[i]
			at := have.latest(c.Name)
			if at == nil || !at.running() || c.ReadinessProbe == nil && c.LivenessProbe == nil && c.StartupProbe == nil {
				continue
			}
			if len(p.Spec.InitContainers) > 0 && &list[0] == &p.Spec.InitContainers[0] && !pod.Sidecar(c) {
				continue
			}
			running[at.id] = true
			if x.probes[at.id] == nil {
				ctx, cancel := context.WithCancel(context.Background())
				x.probes[at.id] = &prober{cancel}
				x.mem.start(func() { x.probe(ctx, c, at) })
			}
		}
	}
	for id, pr := range x.probes {
		if !running[id] {
			pr.cancel()
			delete(x.probes, id)
		}
	}
}

func (x *actor) stopProbes() {
	for id, pr := range x.probes {
		pr.cancel()
		delete(x.probes, id)
	}
}

// probe runs startup until it succeeds, then liveness and readiness side by
// side.
func (x *actor) probe(ctx context.Context, c *corev1.Container, at *instance) {
	ok := true
	if c.StartupProbe != nil {
		x.rounds(ctx, c, at, c.StartupProbe, "Startup", func(good bool) bool {
			ok = good
			x.tell(func() { r := x.mem.results[at.id]; r.started = good; x.mem.results[at.id] = r })
			return false // one verdict is enough
		})
	}
	if !ok || ctx.Err() != nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c.LivenessProbe != nil {
			x.rounds(ctx, c, at, c.LivenessProbe, "Liveness", func(good bool) bool { return good })
		}
	}()
	if c.ReadinessProbe != nil {
		x.rounds(ctx, c, at, c.ReadinessProbe, "Readiness", func(good bool) bool {
			x.tell(func() { r := x.mem.results[at.id]; r.ready = good; x.mem.results[at.id] = r })
			return true
		})
	}
	<-done
}

// rounds asks a probe each period from its initial delay on, and gives each
// verdict that thresholds allow to say; it ends when say is false.
func (x *actor) rounds(ctx context.Context, c *corev1.Container, at *instance, pr *corev1.Probe, kind string, say func(good bool) bool) {
	wait := time.Duration(pr.InitialDelaySeconds)*time.Second - x.agent.cfg.Now().Sub(at.started)
	good, bad, verdict := int32(0), int32(0), ""
	for {
		clock := time.NewTimer(max(wait, 0))
		select {
		case <-clock.C:
		case <-ctx.Done():
			clock.Stop()
			return
		}
		wait = time.Duration(pr.PeriodSeconds) * time.Second
		if x.isEnding() && kind != "Readiness" {
			return
		}
		began := x.agent.cfg.Now()
		err := x.agent.ask(ctx, x.pod(), c, at, pr)
		if ctx.Err() != nil {
			return
		}
		wait -= x.agent.cfg.Now().Sub(began)
		if err == nil {
			good, bad = good+1, 0
		} else {
			good, bad = 0, bad+1
			x.containerEvent(x.pod(), c, corev1.EventTypeWarning, "Unhealthy", "%s probe failed: %s", kind, err)
		}
		switch {
		case err == nil && good >= pr.SuccessThreshold && verdict != "good":
			verdict = "good"
			if !say(true) {
				return
			}
		case err != nil && bad >= pr.FailureThreshold:
			first := verdict != "bad"
			verdict = "bad"
			if kind == "Readiness" {
				if first {
					say(false)
				}
				continue
			}
			text := fmt.Sprintf("Container %s failed %s probe, will be restarted", c.Name, map[string]string{"Liveness": "liveness", "Startup": "startup"}[kind])
			x.tell(func() {
				r := x.mem.results[at.id]
				r.grace = pr.TerminationGracePeriodSeconds
				x.mem.results[at.id], x.mem.failed[at.id] = r, text
			})
			say(false)
			return
		}
	}
}

func (x *actor) isEnding() bool { return x.isGone() || x.pod().DeletionTimestamp != nil }

// ask carries out one probe; nil is success.
func (a *Agent) ask(ctx context.Context, p *corev1.Pod, c *corev1.Container, at *instance, pr *corev1.Probe) error {
	timeout := time.Duration(max(pr.TimeoutSeconds, 1)) * time.Second
	switch {
	case pr.Exec != nil:
		r, err := a.cfg.CRI.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: at.id, Cmd: pr.Exec.Command, Timeout: int64(timeout.Seconds())})
		switch {
		case grpcstatus.Code(err) == codes.DeadlineExceeded:
			return fmt.Errorf("command timed out: %q timed out after %v", pr.Exec.Command, timeout)
		case err != nil:
			return err
		case r.ExitCode != 0:
			return errors.New(string(append(r.Stdout, r.Stderr...)))
		}
		return nil
	case pr.HTTPGet != nil:
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		code, _, err := a.httpGet(ctx, p, c.Name, pr.HTTPGet)
		if err != nil {
			return err
		}
		if code < 200 || code >= 400 {
			return fmt.Errorf("HTTP probe failed with statuscode: %d", code)
		}
		return nil
	case pr.TCPSocket != nil:
		port, err := portNumber(p, c.Name, pr.TCPSocket.Port)
		if err != nil {
			return err
		}
		host := pr.TCPSocket.Host
		if host == "" {
			host = a.podAddress(ctx, p)
		}
		conn, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			return err
		}
		return conn.Close()
	case pr.GRPC != nil:
		return a.askGRPC(ctx, p, pr.GRPC, timeout)
	}
	return errors.New("missing probe handler")
}
