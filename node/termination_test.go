// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func podOf(name string, grace int64, containers ...corev1.Container) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{TerminationGracePeriodSeconds: &grace, Containers: containers}}
}

func withPreStop(c corev1.Container, command ...string) corev1.Container {
	c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: command}}}
	return c
}

func sidecar(name string) corev1.Container {
	always := corev1.ContainerRestartPolicyAlways
	return corev1.Container{Name: name, RestartPolicy: &always}
}

// takes is an exec that lasts.
func takes(d time.Duration, code int32) func(context.Context, []string) (time.Duration, int32) {
	return func(context.Context, []string) (time.Duration, int32) { return d, code }
}

// signals are the moments that the law of termination is about.
var signals = []string{"exec", "TERM", "KILL", "end", "gone", "DELETE", "FailedPreStopHook"}

// TestTermination has a line for each rule of termination; each Pod is deleted
// 1 s after its creation.
func TestTermination(t *testing.T) {
	stubborn := program{onTerm: -1}
	main := corev1.Container{Name: "a"}
	tests := map[string]struct {
		pod      *corev1.Pod
		programs map[string]program
		then     func(w *world)
		want     []string
	}{
		"obeys": {
			pod: podOf("p", 30, main), programs: map[string]program{"a": {onTerm: 500 * time.Millisecond, code: 3}},
			want: []string{"1000 DELETE grace=30", "1000 TERM a", "1500 end a 3", "1500 gone p"},
		},
		"ignores TERM": {
			pod: podOf("p", 5, main), programs: map[string]program{"a": stubborn},
			want: []string{"1000 DELETE grace=5", "1000 TERM a", "6000 KILL a", "6000 end a 137", "6000 gone p"},
		},
		"at least two seconds": {
			pod: podOf("p", 1, main), programs: map[string]program{"a": stubborn},
			want: []string{"1000 DELETE grace=1", "1000 TERM a", "3000 KILL a", "3000 end a 137", "3000 gone p"},
		},
		"hook first, its time counts": {
			pod: podOf("p", 10, withPreStop(main, "bye")), programs: map[string]program{"a": {onTerm: -1, exec: takes(3500*time.Millisecond, 0)}},
			want: []string{"1000 DELETE grace=10", "1000 exec a bye", "4500 TERM a", "11000 KILL a", "11000 end a 137", "11000 gone p"},
		},
		"hook fails, the rest goes on": {
			pod: podOf("p", 10, withPreStop(main, "bye")), programs: map[string]program{"a": {exec: takes(time.Second, 1)}},
			want: []string{"1000 DELETE grace=10", "1000 exec a bye", "2000 event Warning FailedPreStopHook: PreStopHook failed", "2000 TERM a", "2000 end a 0", "2000 gone p"},
		},
		"hook overruns: TERM at G, KILL at G+2": {
			pod: podOf("p", 5, withPreStop(main, "bye")), programs: map[string]program{"a": {onTerm: -1, exec: takes(time.Hour, 0)}},
			want: []string{"1000 DELETE grace=5", "1000 exec a bye", "6000 event Warning FailedPreStopHook: PreStopHook failed", "6000 TERM a", "8000 KILL a", "8000 end a 137", "8000 gone p"},
		},
		"containers in parallel, one's hook delays it alone": {
			pod: podOf("p", 10, withPreStop(main, "bye"), corev1.Container{Name: "b"}), programs: map[string]program{"a": {exec: takes(4*time.Second, 0)}, "b": {}},
			want: []string{"1000 DELETE grace=10", "1000 TERM b", "1000 end b 0", "1000 exec a bye", "5000 TERM a", "5000 end a 0", "5000 gone p"},
		},
		"sidecars in reverse after the main ones": {
			pod: func() *corev1.Pod {
				p := podOf("p", 20, main)
				p.Spec.InitContainers = []corev1.Container{sidecar("s1"), sidecar("s2")}
				return p
			}(),
			programs: map[string]program{"a": {onTerm: 3 * time.Second}, "s1": {onTerm: time.Second}, "s2": {onTerm: 2 * time.Second}},
			want:     []string{"1000 DELETE grace=20", "1000 TERM a", "4000 end a 0", "4000 TERM s2", "6000 end s2 0", "6000 TERM s1", "7000 end s1 0", "7000 gone p"},
		},
		"sidecars wait no longer than the grace": {
			pod: func() *corev1.Pod {
				p := podOf("p", 5, main)
				p.Spec.InitContainers = []corev1.Container{sidecar("s")}
				return p
			}(),
			programs: map[string]program{"a": stubborn, "s": stubborn},
			want:     []string{"1000 DELETE grace=5", "1000 TERM a", "6000 KILL a", "6000 end a 137", "6000 TERM s", "8000 KILL s", "8000 end s 137", "8000 gone p"},
		},
		"a sidecar's hook runs at once, its signal waits": {
			pod: func() *corev1.Pod {
				p := podOf("p", 20, main)
				p.Spec.InitContainers = []corev1.Container{withPreStop(sidecar("s"), "bye")}
				return p
			}(),
			programs: map[string]program{"a": {onTerm: 3 * time.Second}, "s": {exec: takes(time.Second, 0)}},
			want:     []string{"1000 DELETE grace=20", "1000 TERM a", "1000 exec s bye", "4000 end a 0", "4000 TERM s", "4000 end s 0", "4000 gone p"},
		},
		"a container that ends ends its hook": {
			pod: func() *corev1.Pod {
				p := podOf("p", 30, main)
				p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 20}}}
				return p
			}(),
			programs: map[string]program{"a": {runs: 3 * time.Second}},
			want:     []string{"1000 DELETE grace=30", "3000 end a 0", "3000 event Warning FailedPreStopHook: PreStopHook failed", "3000 gone p"},
		},
		"a broken stream of events ends no hook": {
			pod: func() *corev1.Pod {
				p := podOf("p", 30, main)
				p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 20}}}
				return p
			}(),
			programs: map[string]program{"a": {}},
			then:     func(w *world) { w.pass(time.Second); w.agent.wakeAll() },
			want:     []string{"1000 DELETE grace=30", "21000 TERM a", "21000 end a 0", "21000 gone p"},
		},
		"in an init container": {
			pod: func() *corev1.Pod {
				p := podOf("p", 5, main)
				p.Spec.InitContainers = []corev1.Container{{Name: "i"}}
				return p
			}(),
			programs: map[string]program{"i": {onTerm: time.Second, code: 143}},
			want:     []string{"1000 DELETE grace=5", "1000 TERM i", "2000 end i 143", "2000 gone p"},
		},
		"in a back-off": {
			pod: podOf("p", 30, main), programs: map[string]program{"a": {runs: 100 * time.Millisecond, code: 1}},
			want: []string{"100 end a 1", "200 end a 1", "1000 DELETE grace=30", "1000 gone p"},
		},
		"what ends by itself is not restarted": {
			pod: podOf("p", 30, main, corev1.Container{Name: "b"}), programs: map[string]program{"a": {onTerm: 4 * time.Second}, "b": {runs: 2 * time.Second, onTerm: -1, code: 1}},
			want: []string{"1000 DELETE grace=30", "1000 TERM a", "1000 TERM b", "2000 end b 1", "5000 end a 0", "5000 gone p"},
		},
		"a postStart is called off": {
			pod: func() *corev1.Pod {
				p := podOf("p", 30, main)
				p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"hello"}}}}
				return p
			}(),
			programs: map[string]program{"a": {exec: takes(time.Hour, 0)}},
			want:     []string{"0 exec a hello", "1000 DELETE grace=30", "1000 TERM a", "1000 end a 0", "1000 gone p"},
		},
		"shortened": {
			pod: podOf("p", 30, main), programs: map[string]program{"a": stubborn},
			then: func(w *world) { w.pass(3 * time.Second); w.deletePod("uid-p", 5) },
			want: []string{"1000 DELETE grace=30", "1000 TERM a", "4000 DELETE grace=5", "6000 KILL a", "6000 end a 137", "6000 gone p"},
		},
		"shortened to the past": {
			pod: podOf("p", 30, main), programs: map[string]program{"a": stubborn},
			then: func(w *world) { w.pass(9 * time.Second); w.deletePod("uid-p", 1) },
			want: []string{"1000 DELETE grace=30", "1000 TERM a", "10000 DELETE grace=1", "10000 KILL a", "10000 end a 137", "10000 gone p"},
		},
		"shortened within a hook": {
			pod: podOf("p", 30, withPreStop(main, "bye")), programs: map[string]program{"a": {onTerm: -1, exec: takes(time.Hour, 0)}},
			then: func(w *world) { w.pass(time.Second); w.deletePod("uid-p", 4) },
			want: []string{"1000 DELETE grace=30", "1000 exec a bye", "2000 DELETE grace=4", "5000 event Warning FailedPreStopHook: PreStopHook failed", "5000 TERM a", "7000 KILL a", "7000 end a 137", "7000 gone p"},
		},
		"a longer grace changes nothing": {
			pod: podOf("p", 3, main), programs: map[string]program{"a": stubborn},
			then: func(w *world) {
				w.pass(time.Second)
				w.update("uid-p", func(p *corev1.Pod) { *p.DeletionGracePeriodSeconds = 60 })
			},
			want: []string{"1000 DELETE grace=3", "1000 TERM a", "4000 KILL a", "4000 end a 137", "4000 gone p"},
		},
		"forced while it ends": {
			pod: podOf("p", 30, main), programs: map[string]program{"a": stubborn},
			then: func(w *world) { w.pass(500 * time.Millisecond); w.deletePod("uid-p", 0) },
			want: []string{"1000 DELETE grace=30", "1000 TERM a", "1500 DELETE grace=0", "3000 KILL a", "3000 end a 137"},
		},
		"forced long after TERM": {
			pod: podOf("p", 30, main), programs: map[string]program{"a": stubborn},
			then: func(w *world) { w.pass(7 * time.Second); w.deletePod("uid-p", 0) },
			want: []string{"1000 DELETE grace=30", "1000 TERM a", "8000 DELETE grace=0", "8000 KILL a", "8000 end a 137"},
		},
		"forced within a hook": {
			pod: podOf("p", 30, withPreStop(main, "bye")), programs: map[string]program{"a": {onTerm: -1, exec: takes(time.Hour, 0)}},
			then: func(w *world) { w.pass(time.Second); w.deletePod("uid-p", 0) },
			want: []string{"1000 DELETE grace=30", "1000 exec a bye", "2000 DELETE grace=0", "2000 event Warning FailedPreStopHook: PreStopHook failed", "2000 TERM a", "4000 KILL a", "4000 end a 137"},
		},
		"the agent starts anew: full grace and hook again": {
			pod: podOf("p", 10, withPreStop(main, "bye")), programs: map[string]program{"a": {onTerm: -1, exec: takes(time.Second, 0)}},
			then: func(w *world) { w.pass(6 * time.Second); w.restart() },
			want: []string{"1000 DELETE grace=10", "1000 exec a bye", "2000 TERM a", "7000 exec a bye", "8000 TERM a", "17000 KILL a", "17000 end a 137", "17000 gone p"},
		},
		"the API is away at the end": {
			pod: podOf("p", 10, main), programs: map[string]program{"a": {onTerm: time.Second}},
			then: func(w *world) { w.setAPI(false); w.pass(9500 * time.Millisecond); w.setAPI(true) },
			want: []string{"1000 DELETE grace=10", "1000 TERM a", "2000 end a 0", "11000 gone p"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.cri.programs = tt.programs
				w.create(tt.pod)
				w.pass(time.Second)
				w.deletePod("uid-p", *tt.pod.Spec.TerminationGracePeriodSeconds)
				if tt.then != nil {
					tt.then(w)
				}
				w.pass(time.Minute)
				w.wantTimes(w.about(signals...), tt.want...)
				w.empty()
			})
		})
	}
}

// TestTerminationIsTold: each container is told of once, before its hook; a
// Pod that ends is not asked by liveness or startup probes any more, and by
// readiness until its last container has ended.
func TestTerminationIsTold(t *testing.T) {
	inWorld(t, func(w *world) {
		probe := func(command string) *corev1.Probe {
			return &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{command}}}}
		}
		a := withPreStop(corev1.Container{Name: "a", LivenessProbe: probe("live"), ReadinessProbe: probe("ready")}, "bye")
		w.cri.programs = map[string]program{"a": {onTerm: 1700 * time.Millisecond}, "b": {}}
		w.create(podOf("p", 30, a, corev1.Container{Name: "b"}))
		w.pass(1500 * time.Millisecond)
		w.deletePod("uid-p", 30)
		w.pass(time.Minute)
		w.wantTimes(w.about("Killing", "exec", "TERM", "end", "gone"),
			"0 exec a live", "0 exec a ready", "1000 exec a live", "1000 exec a ready", "1500 event Normal Killing: Stopping container a", "1500 event Normal Killing: Stopping container b",
			"1500 exec a bye", "1500 TERM a", "1500 TERM b", "1500 end b 0", "2000 exec a ready", "3000 exec a ready", "3200 end a 0", "3200 gone p")
		w.empty()
	})
}

// empty checks that nothing is left of any Pod.
func (w *world) empty() {
	w.t.Helper()
	w.cri.mu.Lock()
	defer w.cri.mu.Unlock()
	if n := len(w.cri.sandboxes) + len(w.cri.containers); n > 0 {
		w.t.Errorf("%d sandboxes and containers are left", n)
	}
	w.agent.mu.Lock()
	defer w.agent.mu.Unlock()
	if n := len(w.agent.actors); n > 0 {
		w.t.Errorf("%d actors are left", n)
	}
}

func (w *world) setAPI(up bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.apiDown = !up
}

// TestForced: a running Pod that is forced gets TERM and two seconds, no hook.
func TestForced(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cri.programs = map[string]program{"a": {onTerm: -1, exec: takes(time.Hour, 0)}}
		w.create(podOf("p", 30, withPreStop(corev1.Container{Name: "a"}, "bye")))
		w.pass(time.Second)
		w.deletePod("uid-p", 0)
		w.pass(10 * time.Second)
		w.want(w.about(signals...), "1000 DELETE grace=0", "1000 TERM a", "3000 KILL a", "3000 end a 137")
		w.empty()
	})
}

// TestOrphan: a Pod that was forced while the agent was away is ended when it
// comes back.
func TestOrphan(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cri.programs = map[string]program{"a": {onTerm: -1}}
		p := w.create(podOf("p", 30, withPreStop(corev1.Container{Name: "a"}, "bye")))
		w.pass(time.Second)
		w.kill()
		w.mu.Lock()
		delete(w.pods, p.UID)
		w.mu.Unlock()
		w.pass(time.Second)
		w.start()
		w.pass(10 * time.Second)
		w.want(w.about(signals...), "2000 TERM a", "4000 KILL a", "4000 end a 137")
		w.empty()
	})
}

// TestStopFails: a runtime that cannot stop is asked again, not all the time.
func TestStopFails(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(podOf("p", 30, corev1.Container{Name: "a"}))
		w.pass(time.Second)
		w.cri.mu.Lock()
		w.cri.stopErr, w.cri.calls = errors.New("keeper is gone"), 0
		w.cri.mu.Unlock()
		w.deletePod("uid-p", 30)
		w.pass(10 * time.Second)
		w.cri.mu.Lock()
		if n := w.cri.calls; n > 30 {
			t.Errorf("the runtime was asked %d times in 10 s", n)
		}
		w.cri.stopErr = nil
		w.cri.mu.Unlock()
		w.pass(2 * time.Minute)
		if got := w.about("gone p"); len(got) != 1 {
			t.Errorf("the pod did not go: %v", w.diary)
		}
		w.empty()
	})
}

// TestFinalizer: a Pod that finalizers hold is asked to go once.
func TestFinalizer(t *testing.T) {
	inWorld(t, func(w *world) {
		p := podOf("p", 30, corev1.Container{Name: "a"})
		p.Finalizers = []string{"example.com/x"}
		w.create(p)
		w.pass(time.Second)
		w.deletePod("uid-p", 30)
		w.pass(time.Hour)
		if got := w.get("uid-p"); got.Status.Phase != corev1.PodSucceeded || got.Status.ContainerStatuses[0].State.Terminated == nil {
			t.Errorf("status is %+v", got.Status)
		}
		w.cri.mu.Lock()
		calls := w.cri.calls
		w.cri.mu.Unlock()
		w.pass(time.Hour)
		w.cri.mu.Lock()
		if w.cri.calls != calls {
			t.Errorf("the runtime was asked %d times for a pod that is over", w.cri.calls-calls)
		}
		w.cri.mu.Unlock()
		w.remove(w.get("uid-p"))
		w.pass(time.Second)
		w.empty()
	})
}

// TestTerminateAll: without an API it is the same law: hooks, sidecars in
// reverse after the main containers, one grace for all, and a limit to it.
func TestTerminateAll(t *testing.T) {
	with := func(p *corev1.Pod, list ...corev1.Container) *corev1.Pod {
		p.Spec.InitContainers = list
		return p
	}
	stubborn, main := program{onTerm: -1}, corev1.Container{Name: "a"}
	for name, tt := range map[string]struct {
		pod      *corev1.Pod
		programs map[string]program
		limit    time.Duration
		want     []string
	}{
		"sidecars in reverse after the main ones": {
			pod:      with(podOf("p", 20, withPreStop(main, "bye")), sidecar("s1"), sidecar("s2")),
			programs: map[string]program{"a": {onTerm: 3 * time.Second, exec: takes(time.Second, 0)}, "s1": {onTerm: time.Second}, "s2": {onTerm: 2 * time.Second}},
			want:     []string{"1000 exec a bye", "2000 TERM a", "5000 end a 0", "5000 TERM s2", "7000 end s2 0", "7000 TERM s1", "8000 end s1 0"},
		},
		"the grace is shared": {
			pod:      with(podOf("p", 5, main), sidecar("s")),
			programs: map[string]program{"a": stubborn, "s": stubborn},
			want:     []string{"1000 TERM a", "6000 KILL a", "6000 end a 137", "6000 TERM s", "8000 KILL s", "8000 end s 137"},
		},
		"a limit": {
			pod:      with(podOf("p", 60, withPreStop(main, "bye")), sidecar("s")),
			programs: map[string]program{"a": {onTerm: -1, exec: takes(time.Hour, 0)}, "s": {}}, limit: 3 * time.Second,
			want: []string{"1000 exec a bye", "4000 TERM a", "4000 TERM s", "4000 end s 0", "6000 KILL a", "6000 end a 137"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.cri.programs = tt.programs
				w.create(tt.pod)
				w.pass(time.Second)
				w.kill()
				if err := w.agent.TerminateAll(context.Background(), tt.limit); err != nil {
					t.Error(err)
				}
				w.wantTimes(w.about(signals...), tt.want...)
				if n := len(w.cri.sandboxes) + len(w.cri.containers); n > 0 {
					t.Errorf("%d sandboxes and containers are left", n)
				}
			})
		})
	}
}
