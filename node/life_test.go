// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/pod"
)

func (w *world) setCRI(change func(f *fakeCRI)) {
	w.cri.mu.Lock()
	defer w.cri.mu.Unlock()
	change(w.cri)
}

// wantStates compares the states that were written to the API.
func (w *world) wantStates(want ...string) {
	w.t.Helper()
	w.mu.Lock()
	got := slices.Clone(w.states)
	w.mu.Unlock()
	w.want(got, want...)
}

// TestBackOff: at once, 10 s, doubled to 300 s, forgotten after a run of more
// than ten minutes; an agent that starts anew goes on where the last one was.
func TestBackOff(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cri.programs = map[string]program{"a": {runs: time.Second, code: 3}}
		w.create(podOf("p", 30, corev1.Container{Name: "a"}))
		w.pass(90 * time.Second)
		w.restart() // in the middle of 80 s
		w.pass(21 * time.Minute)
		w.want(w.about("start a"), "0 start a #0", "1000 start a #1", "12000 start a #2", "33000 start a #3", "74000 start a #4",
			"155000 start a #5", "316000 start a #6", "617000 start a #7", "918000 start a #8", "1219000 start a #9")
		if s := w.get("uid-p").Status.ContainerStatuses[0]; s.RestartCount != 9 || s.State.Waiting.Reason != "CrashLoopBackOff" || s.LastTerminationState.Terminated.ExitCode != 3 ||
			s.State.Waiting.Message != "back-off 5m0s restarting failed container=a pod=p_default(uid-p)" {
			t.Errorf("status is %+v", s)
		}
		w.setCRI(func(f *fakeCRI) { f.programs["a"] = program{runs: 11 * time.Minute, code: 1} })
		w.pass(20 * time.Minute)
		w.setCRI(func(f *fakeCRI) { f.programs["a"] = program{runs: time.Second, code: 1} })
		starts := len(w.about("start a"))
		w.pass(time.Hour)
		var last []string
		for _, l := range w.about("start a")[starts:] {
			last = append(last, strings.Fields(l)[0])
		}
		// It ended by itself after 11 minutes: at once, then 10 s again.
		if len(last) < 4 || last[0] == "" {
			t.Fatalf("starts %v", last)
		}
		w.wantGaps(last[:4], 11*time.Second, 21*time.Second, 41*time.Second)
	})
}

func (w *world) wantGaps(at []string, want ...time.Duration) {
	w.t.Helper()
	for i, d := range want {
		var a, b int64
		fmt.Sscan(at[i], &a)
		fmt.Sscan(at[i+1], &b)
		if got := time.Duration(b-a) * time.Millisecond; got != d {
			w.t.Errorf("gap %d is %v, want %v (%v)", i, got, d, at)
		}
	}
}

// TestBackOffEvents: each end that has to wait is told once.
func TestBackOffEvents(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cri.programs = map[string]program{"a": {runs: time.Second, code: 3}}
		w.create(podOf("p", 30, corev1.Container{Name: "a"}))
		w.pass(20 * time.Second)
		w.want(w.about("event"),
			`0 event Normal Pulled: Container image "peapod.dev/test:1" already present on machine and can be accessed by the pod`, "0 event Normal Created: Container created", "0 event Normal Started: Container started",
			`1000 event Normal Pulled: Container image "peapod.dev/test:1" already present on machine and can be accessed by the pod`, "1000 event Normal Created: Container created", "1000 event Normal Started: Container started",
			"2000 event Warning BackOff: Back-off restarting failed container a in pod p_default(uid-p)",
			`12000 event Normal Pulled: Container image "peapod.dev/test:1" already present on machine and can be accessed by the pod`, "12000 event Normal Created: Container created", "12000 event Normal Started: Container started",
			"13000 event Warning BackOff: Back-off restarting failed container a in pod p_default(uid-p)")
		w.wantStates("Pending a=ContainerCreating", "Running a=Running+", "Running a=Error(3)", "Running a=Running+", "Running a=CrashLoopBackOff", "Running a=Running+", "Running a=CrashLoopBackOff")
	})
}

// TestPull: ErrImagePull and ImagePullBackOff take turns; 10 s, doubled to 5
// minutes; at last the image is there.
func TestPull(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cri.pullErr = grpcstatus.Error(codes.NotFound, "no such image")
		w.create(podOf("p", 30, corev1.Container{Name: "a", Image: "example.com/x"}))
		w.pass(25 * time.Second)
		w.want(w.about("event", "pull"),
			`0 event Normal Pulling: Pulling image "example.com/x"`, "0 pull example.com/x:latest", `0 event Warning Failed: Failed to pull image "example.com/x": no such image`, "0 event Warning Failed: Error: ErrImagePull",
			`0 event Normal BackOff: Back-off pulling image "example.com/x"`, "0 event Warning Failed: Error: ImagePullBackOff",
			`10000 event Normal Pulling: Pulling image "example.com/x"`, "10000 pull example.com/x:latest", `10000 event Warning Failed: Failed to pull image "example.com/x": no such image`, "10000 event Warning Failed: Error: ErrImagePull",
			`10000 event Normal BackOff: Back-off pulling image "example.com/x"`, "10000 event Warning Failed: Error: ImagePullBackOff")
		w.wantStates("Pending a=ContainerCreating", "Pending a=ErrImagePull", "Pending a=ImagePullBackOff", "Pending a=ErrImagePull", "Pending a=ImagePullBackOff")
		if got := w.get("uid-p").Status.ContainerStatuses[0].State.Waiting.Message; got != `Back-off pulling image "example.com/x": ErrImagePull: no such image` {
			t.Errorf("message is %q", got)
		}
		w.pass(time.Hour)
		w.setCRI(func(f *fakeCRI) { f.pullErr = nil })
		w.pass(5 * time.Minute)
		var at []string
		for _, l := range w.about("pull example") {
			at = append(at, strings.Fields(l)[0])
		}
		w.wantGaps(at, 10*time.Second, 20*time.Second, 40*time.Second, 80*time.Second, 160*time.Second, 300*time.Second, 300*time.Second)
		if p := w.get("uid-p"); p.Status.Phase != corev1.PodRunning {
			t.Errorf("phase is %s", p.Status.Phase)
		}
		if got := w.about("Successfully"); len(got) != 1 || !strings.HasSuffix(got[0], `Successfully pulled image "example.com/x" in 0s (0s including waiting). Image size: 42 bytes.`) {
			t.Errorf("events %v", got)
		}
	})
}

// TestImageVolumes: the images that a container mounts are pulled before its
// own, by the same rules, and it waits for them.
func TestImageVolumes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cri.pullErr = grpcstatus.Error(codes.NotFound, "no such image")
		a := corev1.Container{Name: "a", VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}}
		p := podOf("p", 30, a, corev1.Container{Name: "b"})
		p.Spec.Volumes = []corev1.Volume{
			{Name: "data", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "example.com/data:1", PullPolicy: corev1.PullIfNotPresent}}},
			{Name: "unused", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "example.com/unused:1", PullPolicy: corev1.PullAlways}}},
		}
		w.create(p)
		w.pass(5 * time.Second)
		w.wantTimes(w.about("start b", "pull example", "Back-off"), "0 start b #0", "0 pull example.com/data:1", `0 event Normal BackOff: Back-off pulling image "example.com/data:1"`)
		if got := w.get("uid-p").Status.ContainerStatuses[0].State.Waiting; got.Reason != "ImagePullBackOff" || got.Message != `Back-off pulling image "example.com/data:1": ErrImagePull: no such image` {
			t.Errorf("a waits for %+v", got)
		}
		w.setCRI(func(f *fakeCRI) { f.pullErr = nil })
		w.pass(10 * time.Second)
		w.want(w.about("start a"), "10000 start a #0")
		if got := w.about("pull example.com/unused"); len(got) > 0 {
			t.Errorf("what nobody mounts was pulled: %s", got)
		}
	})
}

// TestNoImage: what is said of images that are not pulled.
func TestNoImage(t *testing.T) {
	for name, tt := range map[string]struct {
		image  string
		policy corev1.PullPolicy
		state  string
		events []string
	}{
		"never": {"example.com/x:1", corev1.PullNever, `ErrImageNeverPull: Container image "example.com/x:1" is not present with pull policy of Never`,
			[]string{`0 event Warning ErrImageNeverPull: Container image "example.com/x:1" is not present with pull policy of Never`, "0 event Warning Failed: Error: ErrImageNeverPull"}},
		"invalid": {"UPPER", corev1.PullAlways, `InvalidImageName: Failed to apply default image tag "UPPER": couldn't parse image name "UPPER": invalid reference format: repository name (library/UPPER) must be lowercase`,
			[]string{`0 event Warning InspectFailed: Failed to apply default image tag "UPPER": couldn't parse image name "UPPER": invalid reference format: repository name (library/UPPER) must be lowercase`, "0 event Warning Failed: Error: InvalidImageName"}},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.create(podOf("p", 30, corev1.Container{Name: "a", Image: tt.image, ImagePullPolicy: tt.policy}))
				w.pass(5 * time.Second)
				w.want(w.about("event"), tt.events...)
				st := w.get("uid-p").Status.ContainerStatuses[0].State.Waiting
				if got := st.Reason + ": " + st.Message; got != tt.state {
					t.Errorf("state is %s", got)
				}
			})
		})
	}
}

// TestStartFails: a container that never becomes a process backs off like one
// that ends; one the runtime keeps as created is made anew, not piled up.
func TestStartFails(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cri.programs = map[string]program{"a": {startErr: errors.New("no such file")}}
		w.create(podOf("p", 30, corev1.Container{Name: "a"}))
		w.pass(35 * time.Second)
		w.want(w.about("start of"), "0 start of a fails", "0 start of a fails", "10000 start of a fails", "30000 start of a fails")
		w.wantStates("Pending a=ContainerCreating", "Running a=RunContainerError", "Running a=CrashLoopBackOff")
	})
	inWorld(t, func(w *world) {
		w.cri.programs = map[string]program{"a": {startErr: grpcstatus.Error(codes.Unavailable, "keeper is gone")}}
		w.create(podOf("p", 30, corev1.Container{Name: "a"}))
		w.pass(35 * time.Second)
		w.want(w.about("start of"), "0 start of a fails", "10000 start of a fails", "30000 start of a fails")
		w.setCRI(func(f *fakeCRI) { f.programs["a"] = program{} })
		w.pass(time.Minute)
		if s := w.get("uid-p").Status.ContainerStatuses[0]; s.State.Running == nil || s.RestartCount != 0 {
			t.Errorf("status is %+v", s)
		}
	})
}

// TestNeverTwice: a Pod that runs once does not run again when its sandbox has
// died, nor when the runtime has lost its container; one that restarts does.
func TestNeverTwice(t *testing.T) {
	die := func(w *world) {
		w.setCRI(func(f *fakeCRI) {
			for _, c := range f.containers {
				f.end(c, 255)
			}
			f.sandboxes[0].ready = false
		})
		w.agent.wakeAll()
	}
	for policy, want := range map[corev1.RestartPolicy][]string{
		corev1.RestartPolicyNever:     {"0 start a #0"},
		corev1.RestartPolicyOnFailure: {"0 start a #0", "1000 start a #1"},
		corev1.RestartPolicyAlways:    {"0 start a #0", "1000 start a #1"},
	} {
		t.Run(string(policy), func(t *testing.T) {
			inWorld(t, func(w *world) {
				p := podOf("p", 30, corev1.Container{Name: "a"})
				p.Spec.RestartPolicy = policy
				w.create(p)
				w.pass(time.Second)
				die(w)
				w.pass(time.Minute)
				w.want(w.about("start a"), want...)
				s := w.get("uid-p").Status
				if policy == corev1.RestartPolicyNever && (s.Phase != corev1.PodFailed || s.ContainerStatuses[0].State.Terminated.ExitCode != 255) {
					t.Errorf("status is %+v", s)
				}
				if policy != corev1.RestartPolicyNever && (s.ContainerStatuses[0].RestartCount != 1 || s.ContainerStatuses[0].LastTerminationState.Terminated.ExitCode != 255 || s.PodIP != "10.0.0.3") {
					t.Errorf("status is %+v", s)
				}
			})
		})
	}
	inWorld(t, func(w *world) {
		w.cri.programs = map[string]program{"a": {runs: time.Second, code: 7}}
		p := podOf("p", 30, corev1.Container{Name: "a"}, corev1.Container{Name: "b"})
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		w.create(p)
		w.pass(5 * time.Second)
		w.setCRI(func(f *fakeCRI) {
			f.containers = slices.DeleteFunc(f.containers, func(c *fakeContainer) bool { return c.config.Metadata.Name == "a" })
		})
		w.restart()
		w.pass(time.Minute)
		w.want(w.about("start a"), "0 start a #0")
		if s := w.get("uid-p").Status.ContainerStatuses[0]; s.State.Terminated == nil || s.State.Terminated.ExitCode != 7 {
			t.Errorf("status is %+v", s)
		}
	})
}

// TestInitContainers: in order, a failed one again, sidecars before what comes
// after them, and all anew in a new sandbox.
func TestInitContainers(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cri.programs = map[string]program{"i": {runs: time.Second}, "j": {runs: 2 * time.Second}}
		s := sidecar("s")
		s.StartupProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"up"}}}, PeriodSeconds: 1, FailureThreshold: 30}
		begun := time.Now()
		w.cri.programs["s"] = program{exec: func(context.Context, []string) (time.Duration, int32) {
			if time.Since(begun) < 4*time.Second {
				return 0, 1
			}
			return 0, 0
		}}
		p := podOf("p", 30, corev1.Container{Name: "a"})
		p.Spec.InitContainers = []corev1.Container{{Name: "i"}, s, {Name: "j"}}
		w.create(p)
		w.pass(10 * time.Second)
		w.want(w.about("start "), "0 start i #0", "1000 start s #0", "4000 start j #0", "6000 start a #0")
		w.wantStates("Pending i=PodInitializing s=PodInitializing j=PodInitializing a=PodInitializing",
			"Pending i=Running s=PodInitializing j=PodInitializing a=PodInitializing",
			"Pending i=Completed(0)+ s=PodInitializing j=PodInitializing a=PodInitializing",
			"Pending i=Completed(0)+ s=Running j=PodInitializing a=PodInitializing",
			"Pending i=Completed(0)+ s=Running+ j=PodInitializing a=PodInitializing",
			"Pending i=Completed(0)+ s=Running+ j=Running a=PodInitializing",
			"Pending i=Completed(0)+ s=Running+ j=Completed(0)+ a=PodInitializing",
			"Running i=Completed(0)+ s=Running+ j=Completed(0)+ a=Running+")
		w.cri.crash("a", 1)
		w.pass(time.Second)
		w.want(w.about("start "), "0 start i #0", "1000 start s #0", "4000 start j #0", "6000 start a #0", "10000 start a #1")
		w.setCRI(func(f *fakeCRI) { f.sandboxes[0].ready = false })
		w.agent.wakeAll()
		w.pass(time.Minute)
		got := w.about("start i #1", "start s #1", "start j #1", "start a #2")
		if len(got) != 4 || !strings.Contains(got[0], "start i") || !strings.Contains(got[1], "start s") || !strings.Contains(got[2], "start j") {
			t.Errorf("after the sandbox died: %v", got)
		}
	})
}

// TestPostStart: until the hook is over the container does not count as
// running and the next one waits; one whose hook fails is killed.
func TestPostStart(t *testing.T) {
	hooked := corev1.Container{Name: "a", Lifecycle: &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"hello"}}}}}
	inWorld(t, func(w *world) {
		w.cri.programs = map[string]program{"a": {exec: takes(3*time.Second, 0)}}
		w.create(podOf("p", 30, hooked, corev1.Container{Name: "b"}))
		w.pass(10 * time.Second)
		w.want(w.about("start ", "exec"), "0 start a #0", "0 exec a hello", "3000 start b #0")
		w.wantStates("Pending a=ContainerCreating b=ContainerCreating", "Pending a=Running+ b=ContainerCreating", "Running a=Running+ b=Running+")
	})
	inWorld(t, func(w *world) {
		w.cri.programs = map[string]program{"a": {code: 5, exec: takes(time.Second, 1)}}
		w.create(podOf("p", 30, hooked))
		w.pass(1500 * time.Millisecond)
		w.want(w.about("start ", "TERM", "end", "Hook"), "0 start a #0", "1000 event Warning FailedPostStartHook: PostStartHook failed", "1000 event Normal Killing: FailedPostStartHook", "1000 TERM a", "1000 end a 5", "1000 start a #1")
	})
	inWorld(t, func(w *world) { // a hook that hangs does not hold up the end
		w.cri.programs = map[string]program{"a": {exec: takes(time.Hour, 0)}}
		w.create(podOf("p", 30, hooked))
		w.pass(time.Second)
		w.deletePod("uid-p", 30)
		w.pass(time.Second)
		w.want(w.about(signals...), "0 exec a hello", "1000 DELETE grace=30", "1000 TERM a", "1000 end a 0", "1000 gone p")
		w.empty()
	})
}

func execProbe(period, failures int32) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"ok"}}}, PeriodSeconds: period, FailureThreshold: failures, SuccessThreshold: 1, TimeoutSeconds: 1}
}

// answers is an exec that fails in the given windows of time.
func answers(bad ...time.Duration) func(context.Context, []string) (time.Duration, int32) {
	begun := time.Now()
	return func(context.Context, []string) (time.Duration, int32) {
		at := time.Since(begun)
		for i := 0; i+1 < len(bad); i += 2 {
			if at >= bad[i] && at < bad[i+1] {
				return 0, 1
			}
		}
		return 0, 0
	}
}

// TestReadiness: at once, then each period; a restart of the agent flaps
// nothing; it goes on while the Pod ends.
func TestReadiness(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cri.programs = map[string]program{"a": {onTerm: 10 * time.Second, says: "not yet", exec: answers(0, 3*time.Second, 100*time.Second, 200*time.Second)}}
		p := podOf("p", 30, corev1.Container{Name: "a", ReadinessProbe: execProbe(2, 2)})
		w.create(p)
		w.pass(50 * time.Second)
		ready := pod.Condition(&w.get("uid-p").Status, corev1.PodReady)
		if ready.Status != corev1.ConditionTrue || !ready.LastTransitionTime.Equal(seconds(w.begun.Add(4*time.Second))) {
			t.Errorf("ready is %+v", ready)
		}
		w.want(w.about("Unhealthy"), "0 event Warning Unhealthy: Readiness probe failed: not yet", "2000 event Warning Unhealthy: Readiness probe failed: not yet")
		patches := w.patches
		w.restart()
		w.pass(10 * time.Second)
		if w.patches != patches {
			t.Errorf("a restart of the agent wrote %d statuses", w.patches-patches)
		}
		w.pass(35 * time.Second) // 95 s
		w.deletePod("uid-p", 30)
		w.pass(9 * time.Second) // 104 s: it has failed twice
		if c := pod.Condition(&w.get("uid-p").Status, corev1.PodReady); c.Status != corev1.ConditionFalse {
			t.Errorf("ready is %+v", c)
		}
	})
}

// TestLiveness: the threshold, the words, the probe's own grace, and silence
// while the Pod ends.
func TestLiveness(t *testing.T) {
	inWorld(t, func(w *world) {
		probe := execProbe(5, 3)
		probe.InitialDelaySeconds, probe.TerminationGracePeriodSeconds = 7, new(int64)
		*probe.TerminationGracePeriodSeconds = 4
		w.cri.programs = map[string]program{"a": {onTerm: -1, says: "dead", exec: answers(10*time.Second, 30*time.Second)}}
		w.create(podOf("p", 30, corev1.Container{Name: "a", LivenessProbe: probe}))
		w.pass(40 * time.Second)
		w.want(w.about("Unhealthy", "Killing", "TERM", "KILL", "start "), "0 start a #0",
			"12000 event Warning Unhealthy: Liveness probe failed: dead", "17000 event Warning Unhealthy: Liveness probe failed: dead", "22000 event Warning Unhealthy: Liveness probe failed: dead",
			"22000 event Normal Killing: Container a failed liveness probe, will be restarted", "22000 TERM a", "26000 KILL a", "26000 start a #1")
		w.setCRI(func(f *fakeCRI) { f.programs["a"] = program{onTerm: -1, exec: takes(0, 1)} })
		w.deletePod("uid-p", 30)
		n := len(w.about("exec a"))
		w.pass(20 * time.Second)
		if got := len(w.about("exec a")); got != n {
			t.Errorf("liveness was asked %d times while the pod ended", got-n)
		}
	})
}

// TestStartup: the other probes wait for it, and its failure kills.
func TestStartup(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cri.programs = map[string]program{"a": {exec: takes(0, 1)}}
		w.create(podOf("p", 30, corev1.Container{Name: "a", StartupProbe: execProbe(1, 3), LivenessProbe: execProbe(1, 1), ReadinessProbe: execProbe(1, 1)}))
		w.pass(2500 * time.Millisecond)
		w.want(w.about("Killing", "exec", "start "), "0 start a #0", "0 exec a ok", "1000 exec a ok", "2000 exec a ok",
			"2000 event Normal Killing: Container a failed startup probe, will be restarted", "2000 start a #1", "2000 exec a ok")
	})
}

// TestProbeErrors: a probe that cannot be asked counts for nothing; one that
// takes too long has failed.
func TestProbeErrors(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cri.programs = map[string]program{"a": {exec: takes(time.Hour, 0)}}
		w.create(podOf("p", 30, corev1.Container{Name: "a", ReadinessProbe: execProbe(10, 1),
			LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("nope")}}, PeriodSeconds: 10, FailureThreshold: 1}}))
		w.pass(5 * time.Second)
		got := w.about("Unhealthy")
		slices.Sort(got)
		w.want(got, `0 event Warning Unhealthy: Liveness probe errored and resulted in unknown state: port "nope" not found`, `1000 event Warning Unhealthy: Readiness probe failed: command timed out: "ok" timed out after 1s`)
		w.want(w.about("Killing"))
	})
}

// TestDeadline: a Pod past its active deadline ends with its grace, as Failed
// only when everything is dead.
func TestDeadline(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cri.programs = map[string]program{"a": {onTerm: 2 * time.Second}}
		p := podOf("p", 30, corev1.Container{Name: "a"})
		limit := int64(3)
		p.Spec.ActiveDeadlineSeconds = &limit
		w.create(p)
		w.pass(4 * time.Second)
		if s := w.get("uid-p").Status; s.Phase != corev1.PodRunning {
			t.Errorf("phase is %s while it runs", s.Phase)
		}
		w.pass(time.Minute)
		w.want(w.about("Deadline", "TERM", "end"), "3000 event Normal DeadlineExceeded: Pod was active on the node longer than the specified deadline", "3000 TERM a", "5000 end a 0")
		if s := w.get("uid-p").Status; s.Phase != corev1.PodFailed || s.Reason != "DeadlineExceeded" || s.ContainerStatuses[0].State.Terminated == nil {
			t.Errorf("status is %+v", s)
		}
	})
}

// TestSidecarsEndWithTheMains: the Pod is Succeeded when they have ended, not
// before.
func TestSidecarsEndWithTheMains(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cri.programs = map[string]program{"a": {runs: 2 * time.Second}, "s": {onTerm: time.Second}}
		p := podOf("p", 30, corev1.Container{Name: "a"})
		p.Spec.RestartPolicy, p.Spec.InitContainers = corev1.RestartPolicyNever, []corev1.Container{sidecar("s")}
		w.create(p)
		w.pass(time.Minute)
		w.want(w.about("TERM", "end"), "2000 end a 0", "2000 TERM s", "3000 end s 0")
		w.wantStates("Pending s=PodInitializing a=PodInitializing", "Pending s=Running+ a=PodInitializing", "Running s=Running+ a=Running+", "Running s=Running+ a=Completed(0)", "Succeeded s=Completed(0) a=Completed(0)")
	})
}

// TestImageChange: only the container whose image changed is made anew.
func TestImageChange(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cri.images["peapod.dev/test:2"] = true
		w.create(podOf("p", 30, corev1.Container{Name: "a"}, corev1.Container{Name: "b"}))
		w.pass(time.Second)
		w.update("uid-p", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "peapod.dev/test:2"; p.Generation++ })
		w.pass(time.Second)
		w.want(w.about("Killing", " #1"), "1000 event Normal Killing: Container a definition changed, will be restarted", "1000 start a #1")
		if s := w.get("uid-p").Status; s.ContainerStatuses[0].Image != "peapod.dev/test:2" || s.ContainerStatuses[1].RestartCount != 0 || s.ObservedGeneration != 2 {
			t.Errorf("status is %+v", s)
		}
	})
}

// TestSwap: a container whose image changed is followed by the new one without a
// status in between, unless the image is not there.
func TestSwap(t *testing.T) {
	for there, want := range map[bool][]string{
		true:  {"Pending a=ContainerCreating", "Running a=Running+"},
		false: {"Pending a=ContainerCreating", "Running a=Running+", "Running a=ErrImagePull", "Running a=ImagePullBackOff"},
	} {
		inWorld(t, func(w *world) {
			w.cri.images["peapod.dev/test:2"] = there
			w.cri.pullErr = grpcstatus.Error(codes.NotFound, "no such image")
			w.create(podOf("p", 30, corev1.Container{Name: "a"}))
			w.pass(time.Second)
			w.update("uid-p", func(p *corev1.Pod) { p.Spec.Containers[0].Image = "peapod.dev/test:2"; p.Generation++ })
			w.pass(time.Second)
			w.wantStates(want...)
			if s := w.get("uid-p").Status.ContainerStatuses[0]; there && (s.RestartCount != 1 || s.LastTerminationState.Terminated == nil) {
				t.Errorf("status is %+v", s)
			}
		})
	}
}

// TestNoDevices: a Pod that claims devices does not run without them, and says
// why.
func TestNoDevices(t *testing.T) {
	inWorld(t, func(w *world) {
		p := podOf("p", 30, corev1.Container{Name: "a"})
		p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimName: ptr.To("gpu")}}
		w.create(p)
		w.pass(time.Second)
		w.wantStates("Pending a=ContainerCreating")
		if got := w.about("FailedPrepareDynamicResources"); len(got) == 0 || !strings.HasSuffix(got[0], "event Warning FailedPrepareDynamicResources: Failed to prepare dynamic resources: this node has no drivers of devices") {
			t.Errorf("events %v", got)
		}
		w.want(w.about("start a", "sandbox"))
	})
}

// TestRuntimeAway: while the runtime does not answer nothing is taken for
// gone, and nothing spins.
func TestRuntimeAway(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(podOf("p", 30, corev1.Container{Name: "a"}))
		w.pass(time.Second)
		w.setCRI(func(f *fakeCRI) { f.statusErr, f.calls = grpcstatus.Error(codes.Unavailable, "away"), 0 })
		w.agent.wakeAll()
		w.pass(time.Minute)
		w.setCRI(func(f *fakeCRI) {
			if f.calls > 70 {
				t.Errorf("the runtime was asked %d times in a minute", f.calls)
			}
			f.statusErr = nil
		})
		w.pass(time.Minute)
		w.want(w.about("start a"), "0 start a #0")
		w.setCRI(func(f *fakeCRI) { f.sandboxErr = errors.New("no address left") })
		w.create(podOf("q", 30, corev1.Container{Name: "b"}))
		w.pass(30 * time.Second)
		if got := w.about("FailedCreatePodSandBox"); len(got) < 5 || len(got) > 8 || !strings.HasSuffix(got[0], "Failed to create pod sandbox: no address left") {
			t.Errorf("events %v", got)
		}
		w.setCRI(func(f *fakeCRI) { f.sandboxErr = nil })
		w.pass(time.Minute)
		if p := w.get("uid-q"); p.Status.Phase != corev1.PodRunning {
			t.Errorf("phase is %s", p.Status.Phase)
		}
	})
}

// TestIdle: a Pod that runs costs nothing.
func TestIdle(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cri.programs = map[string]program{"a": {}}
		w.create(podOf("p", 30, corev1.Container{Name: "a", ReadinessProbe: execProbe(10, 1)}))
		w.pass(time.Minute)
		var calls int
		w.setCRI(func(f *fakeCRI) { calls = f.calls })
		patches := w.patches
		w.pass(24 * time.Hour)
		w.setCRI(func(f *fakeCRI) {
			if f.calls != calls || w.patches != patches {
				t.Errorf("in a day: %d lists, %d patches", f.calls-calls, w.patches-patches)
			}
		})
	})
}

// TestToldOnce: what no status has room for is an event, once for each Pod: that
// output may be lost, that nobody knows how containers ended.
func TestToldOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(podOf("p", 30, corev1.Container{Name: "a"}, corev1.Container{Name: "b"}))
		w.pass(time.Second)
		w.setCRI(func(f *fakeCRI) {
			for _, c := range f.containers {
				c.status.Reason, c.status.Message = "OutputMayBeLost", "the keeper was killed"
			}
		})
		w.agent.wakeAll()
		w.pass(time.Second)
		w.setCRI(func(f *fakeCRI) {
			for _, c := range f.containers {
				f.end(c, 255)
				c.status.Reason, c.status.Message = "Unknown", "nobody saw it"
			}
		})
		w.pass(time.Second)
		w.restart()
		w.pass(time.Minute)
		w.want(w.about("event Warning"), "1000 event Warning OutputMayBeLost: the keeper was killed", "2000 event Warning ContainerStatusUnknown: It is not known how containers [a b] ended: nobody saw it")
		if s := w.get("uid-p").Status.ContainerStatuses; len(s) != 2 || s[0].RestartCount != 1 || s[0].LastTerminationState.Terminated.Reason != "Unknown" || s[0].LastTerminationState.Terminated.Message != "nobody saw it" {
			t.Errorf("status is %+v", s)
		}
	})
}
