// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// noon is when pure tests take place.
func noon() time.Time { return time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC) }

func (a action) String() string {
	name := ""
	if a.container != nil {
		name = " " + a.container.Name
	}
	switch a.verb {
	case prepare:
		return "prepare"
	case makeSandbox:
		return fmt.Sprintf("sandbox#%d", a.attempt)
	case stopSandbox:
		return "stop " + a.sandbox
	case removeSandbox:
		return "remove " + a.sandbox
	case startContainer:
		if a.instance != nil {
			return fmt.Sprintf("start%s as made", name)
		}
		return fmt.Sprintf("start%s#%d", name, a.attempt)
	case killContainer:
		return "kill " + a.instance.id + ": " + a.reason
	case removeContainer:
		return "remove " + a.instance.id
	case tellBackOff:
		return "back-off" + name
	case tellPullBackOff:
		return "pull back-off" + name
	}
	return "?"
}

// seen builds an observation from words: "s0" and "s0!" are a sandbox that is
// ready and one that is not; "a1:run", "a1:made", "a1:unknown" and "a1:3@5" an
// instance of a with attempt 1 that runs, was created, or ended with code 3
// five seconds ago. Instances belong to the last sandbox named before them.
func seen(t *testing.T, p *corev1.Pod, text string) *observed {
	t.Helper()
	o := &observed{containers: map[string][]*instance{}}
	sandbox := ""
	for _, w := range strings.Fields(text) {
		name, state, ok := strings.Cut(w, ":")
		attempt := int(name[len(name)-1] - '0')
		if !ok {
			if down := strings.TrimSuffix(w, "!"); down != w {
				attempt = int(down[len(down)-1] - '0')
			}
			sandbox = strings.TrimSuffix(w, "!")
			o.sandboxes = append(o.sandboxes, podSandbox{id: sandbox, attempt: attempt, ready: !strings.HasSuffix(w, "!"), ips: []string{"10.0.0.7"}})
			continue
		}
		i := &instance{id: name, name: name[:len(name)-1], sandbox: sandbox, attempt: attempt, started: noon().Add(-time.Minute), imageID: "sha256:1"}
		i.hash = hashOf(containerOf(p, i.name))
		switch state {
		case "run":
			i.state = runtimeapi.ContainerState_CONTAINER_RUNNING
		case "made":
			i.state, i.started = runtimeapi.ContainerState_CONTAINER_CREATED, time.Time{}
		case "unknown":
			i.state = runtimeapi.ContainerState_CONTAINER_UNKNOWN
		default:
			var ago int
			if _, err := fmt.Sscanf(state, "%d@%d", &i.exitCode, &ago); err != nil {
				t.Fatalf("%s: %v", w, err)
			}
			i.state, i.finished, i.reason = runtimeapi.ContainerState_CONTAINER_EXITED, noon().Add(-time.Duration(ago)*time.Second), "Error"
			i.started = i.finished.Add(-time.Second)
			if i.exitCode == 0 {
				i.reason = "Completed"
			}
		}
		o.containers[i.name] = append(o.containers[i.name], i)
	}
	slices.SortFunc(o.sandboxes, func(a, b podSandbox) int { return b.attempt - a.attempt })
	for _, l := range o.containers {
		slices.SortFunc(l, func(a, b *instance) int { return b.attempt - a.attempt })
	}
	return o
}

// planPod has an init container i, a sidecar s and main containers a and b, as
// far as they are named.
func planPod(names string, policy corev1.RestartPolicy) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Generation: 1}, Spec: corev1.PodSpec{RestartPolicy: policy}, Status: corev1.PodStatus{Phase: corev1.PodPending}}
	for _, n := range strings.Fields(names) {
		c := corev1.Container{Name: n, Image: "img"}
		switch n[0] {
		case 'i':
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		case 's':
			c = sidecar(n)
			c.Image = "img"
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		default:
			p.Spec.Containers = append(p.Spec.Containers, c)
		}
	}
	return p
}

func TestPlan(t *testing.T) {
	const always, onFailure, never = corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever
	tests := []struct {
		name   string
		pod    string
		policy corev1.RestartPolicy
		have   string
		with   func(p *corev1.Pod, m *memory)
		want   string
		wake   time.Duration // after noon
	}{
		{"nothing yet", "a", always, "", func(_ *corev1.Pod, m *memory) { m.prepared = false }, "prepare", 0},
		{"held off", "a", always, "", func(_ *corev1.Pod, m *memory) { m.retryAt = noon().Add(time.Second) }, "", time.Second},
		{"prepared", "a", always, "", nil, "sandbox#0", 0},
		{"sandbox", "a b", always, "s0", nil, "start a#0; start b#0", 0},
		{"one runs", "a b", always, "s0 a0:run", nil, "start b#0", 0},
		{"all run", "a b", always, "s0 a0:run b0:run", nil, "", 0},
		{"made, not started", "a", always, "s0 a2:made", nil, "start a as made", 0},
		{"first end", "a", always, "s0 a0:1@5", nil, "start a#1", 0},
		{"second end", "a", always, "s0 a0:1@7 a1:1@5", nil, "back-off a", 5 * time.Second},
		{"second end, waited", "a", always, "s0 a0:1@12 a1:1@10", nil, "start a#2", 0},
		{"the agent forgot 20 s", "a", always, "s0 a3:1@30 a4:1@5", nil, "back-off a", 35 * time.Second},
		{"all before is gone", "a", always, "s0 a4:1@5", nil, "back-off a", 5 * time.Second},
		{"ended well, always", "a", always, "s0 a0:0@5", nil, "start a#1", 0},
		{"ended well, on failure", "a b", onFailure, "s0 a0:0@5 b0:run", nil, "", 0},
		{"ended badly, never", "a b", never, "s0 a0:1@5 b0:run", nil, "", 0},
		{"init first", "i s a", always, "s0", nil, "start i#0", 0},
		{"init runs", "i s a", always, "s0 i0:run", nil, "", 0},
		{"init failed", "i s a", always, "s0 i0:1@5", nil, "start i#1", 0},
		{"init done, sidecar", "i s a", always, "s0 i0:0@5", nil, "start s#0", 0},
		{"sidecar runs", "i s a", always, "s0 i0:0@5 s0:run", nil, "start a#0", 0},
		{"sidecar not started", "i s a", always, "s0 i0:0@5 s0:run", func(p *corev1.Pod, _ *memory) { p.Spec.InitContainers[1].StartupProbe = &corev1.Probe{} }, "", 0},
		{"sidecar ended, mains run", "i s a", onFailure, "s0 i0:0@9 s0:0@5 a0:run", nil, "start s#1", 0},
		{"init gone, mains run", "i s a", always, "s0 s0:run a0:run", nil, "", 0},
		{"sandbox died", "i a", always, "s0! i0:0@9 a0:137@5", nil, "sandbox#1", 0},
		{"sandbox died, one runs on", "a", always, "s0! a0:run", nil, "stop s0", 0},
		{"two sandboxes are ready", "a", always, "s0 a0:run s1", nil, "stop s0", 0},
		{"new sandbox: init again", "i a", always, "s0! i0:0@9 a0:137@5 s1", nil, "start i#1", 0},
		{"new sandbox: init done", "i a", always, "s0! i0:0@9 a0:137@5 s1 i1:0@1", nil, "start a#1", 0},
		{"new sandbox: on failure, ended well", "a b", onFailure, "s0! a0:0@9 b0:137@5 s1", nil, "start b#1", 0},
		{"old sandbox is empty", "a", always, "s0! s1 a0:run", nil, "remove s0", 0},
		{"old instances", "a", always, "s0 a0:1@50 a1:1@40 a2:1@30 a3:run", nil, "remove a1; remove a0", 0},
		{"unknown", "a", always, "s0 a0:unknown", nil, "kill a0: Stopping container a", 0},
		{"an older one runs", "a", always, "s0 a0:run a1:1@5", nil, "kill a0: Stopping container a", 0},
		{"liveness", "a", always, "s0 a0:run", func(_ *corev1.Pod, m *memory) { m.failed["a0"] = failedLiveness }, "kill a0: Container a failed liveness probe, will be restarted", 0},
		{"liveness, never", "a", never, "s0 a0:run", func(_ *corev1.Pod, m *memory) { m.failed["a0"] = failedLiveness }, "kill a0: Container a failed liveness probe", 0},
		{"startup of a sidecar", "s a", always, "s0 s0:run a0:run", func(_ *corev1.Pod, m *memory) { m.failed["s0"] = failedStartup }, "kill s0: Init container s failed startup probe", 0},
		{"image changed", "a", never, "s0 a0:run", func(p *corev1.Pod, _ *memory) { p.Spec.Containers[0].Image = "new" }, "kill a0: Container a definition changed, will be restarted", 0},
		{"image changed, ended", "a", never, "s0 a0:0@5", func(p *corev1.Pod, _ *memory) { p.Spec.Containers[0].Image = "new" }, "start a#1", 0},
		{"image of an init container changed", "i a", always, "s0 i0:run", func(p *corev1.Pod, _ *memory) { p.Spec.InitContainers[0].Image = "new" }, "", 0},
		{"pull held back", "a b", always, "s0", func(_ *corev1.Pod, m *memory) {
			m.holds["a"], m.waiting["a"] = &hold{kind: holdPull, until: noon().Add(time.Second)}, waiting{reason: "ErrImagePull", message: "x"}
		}, "pull back-off a; start b#0", time.Second},
		{"start failed, created", "a", always, "s0", func(_ *corev1.Pod, m *memory) { m.holds["a"] = &hold{kind: holdStart, until: noon().Add(time.Second)} }, "", time.Second},
		{"start failed, ended", "a", always, "s0 a0:128@0", func(_ *corev1.Pod, m *memory) { m.holds["a"] = &hold{kind: holdStart, until: noon().Add(time.Second)} }, "start a#1", 0},
		{"rule restarts", "a", never, "s0 a0:42@5", rules(corev1.ContainerRestartRuleOnExitCodesOpIn), "start a#1", 0},
		{"rule does not", "a", never, "s0 a0:42@5", rules(corev1.ContainerRestartRuleOnExitCodesOpNotIn), "", 0},
		{"the API remembers more restarts", "a", always, "s0", func(p *corev1.Pod, _ *memory) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "a", ContainerID: "x://y", RestartCount: 6}}
		}, "start a#7", 0},
		{"the next waits for a hook", "a b", always, "s0", func(p *corev1.Pod, _ *memory) {
			p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{}}
		}, "start a#0", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, m := planPod(tt.pod, tt.policy), newMemory()
			have := seen(t, p, tt.have)
			m.prepared = true
			if tt.with != nil {
				tt.with(p, &m)
			}
			d := plan(p, have, &m, noon())
			var got []string
			for _, a := range d.actions {
				got = append(got, a.String())
			}
			if s := strings.Join(got, "; "); s != tt.want {
				t.Errorf("plan is %q, want %q", s, tt.want)
			}
			var wake time.Duration
			if !d.wakeAt.IsZero() {
				wake = d.wakeAt.Sub(noon())
			}
			if wake != tt.wake {
				t.Errorf("wakes after %v, want %v", wake, tt.wake)
			}
		})
	}
}

func rules(op corev1.ContainerRestartRuleOnExitCodesOperator) func(*corev1.Pod, *memory) {
	return func(p *corev1.Pod, _ *memory) {
		never := corev1.ContainerRestartPolicyNever
		p.Spec.Containers[0].RestartPolicy = &never
		p.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{{
			Action: corev1.ContainerRestartRuleActionRestart, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: op, Values: []int32{42}},
		}}
	}
}

func TestFinished(t *testing.T) {
	const always, onFailure, never = corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever
	for _, tt := range []struct {
		pod    string
		policy corev1.RestartPolicy
		have   string
		want   bool
	}{
		{"a", never, "", false}, {"a", never, "s0", false}, {"a", never, "s0 a0:made", false}, {"a", never, "s0 a0:run", false},
		{"a", never, "s0 a0:0@1", true}, {"a", never, "s0 a0:1@1", true}, {"a b", never, "s0 a0:1@1", false}, {"a b", never, "s0 a0:1@1 b0:0@1", true},
		{"a", onFailure, "s0 a0:0@1", true}, {"a", onFailure, "s0 a0:1@1", false}, {"a", always, "s0 a0:0@1", false},
		{"i a", never, "s0 i0:1@1", true}, {"i a", onFailure, "s0 i0:1@1", false}, {"i a", never, "s0 i0:0@1", false},
		{"s a", never, "s0 s0:1@1", false}, {"s a", never, "s0 s0:run a0:0@1", true},
		{"a", never, "s0! a0:run", true}, {"a b", never, "s0! a0:0@1", true}, {"a", never, "s0!", false}, {"a b", onFailure, "s0! a0:0@1", false},
	} {
		p := planPod(tt.pod, tt.policy)
		if got := finished(p, seen(t, p, tt.have), &memory{}); got != tt.want {
			t.Errorf("%s of %q with %q: finished is %v", tt.policy, tt.pod, tt.have, got)
		}
	}
}

// FuzzPlan gives the planner what a runtime may show, however odd, and checks
// what must hold always.
func FuzzPlan(f *testing.F) {
	for seed := range uint64(64) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := planPod([]string{"a", "a b", "i a", "i s a", "s t i a b", "i j s a b"}[r.IntN(6)], []corev1.RestartPolicy{"Always", "OnFailure", "Never"}[r.IntN(3)])
		m := newMemory()
		m.prepared = r.IntN(4) > 0
		var words []string
		for s := range r.IntN(4) {
			words = append(words, fmt.Sprintf("s%d%s", s, []string{"", "", "!"}[r.IntN(3)]))
			for _, n := range []string{"a", "b", "i", "j", "s", "t"} {
				if r.IntN(2) == 0 {
					words = append(words, fmt.Sprintf("%s%d:%s", n, s, []string{"run", "made", "unknown", "0@5", "1@5", "137@900"}[r.IntN(6)]))
				}
			}
		}
		have := seen(t, p, strings.Join(words, " "))
		for _, n := range []string{"a", "b", "i", "s"} {
			if r.IntN(4) == 0 {
				m.holds[n] = &hold{kind: []holdKind{holdPull, holdConfig, holdStart}[r.IntN(3)], until: noon().Add(time.Duration(r.IntN(20)-10) * time.Second)}
			}
			if at := have.latest(n); at != nil && r.IntN(4) == 0 {
				m.failed[at.id] = failedLiveness
			}
		}
		d := plan(p, have, &m, noon())
		checkPlan(t, p, have, &m, d, strings.Join(words, " "))
	})
}

func checkPlan(t *testing.T, p *corev1.Pod, have *observed, m *memory, d decision, words string) {
	started := map[string]bool{}
	for _, a := range d.actions {
		switch a.verb {
		case startContainer:
			if started[a.container.Name] {
				t.Errorf("%s: %s is started twice", words, a.container.Name)
			}
			started[a.container.Name] = true
			for _, i := range have.containers[a.container.Name] {
				if i.running() || i.state == runtimeapi.ContainerState_CONTAINER_UNKNOWN {
					t.Errorf("%s: %s is started although %s may run", words, a.container.Name, i.id)
				}
				if a.instance == nil && i.attempt >= a.attempt && i.sandbox == have.sandboxes[0].id {
					t.Errorf("%s: attempt %d of %s is taken", words, a.attempt, a.container.Name)
				}
			}
			if !initsDone(p, have, m, a.container.Name) {
				t.Errorf("%s: %s is started before those it waits for", words, a.container.Name)
			}
		case killContainer:
			if a.instance.exited() {
				t.Errorf("%s: %s is killed and has ended", words, a.instance.id)
			}
		case removeContainer:
			if !a.instance.exited() {
				t.Errorf("%s: %s is removed and has not ended", words, a.instance.id)
			}
		case makeSandbox:
			for i := range have.live() {
				t.Errorf("%s: a sandbox is made while %s runs", words, i.id)
			}
		case removeSandbox:
			for _, l := range have.containers {
				for _, i := range l {
					if i.sandbox == a.sandbox {
						t.Errorf("%s: sandbox %s is removed with %s", words, a.sandbox, i.id)
					}
				}
			}
		}
	}
	if len(d.actions) > 0 || !d.wakeAt.IsZero() || finished(p, have, m) {
		return
	}
	// Nothing to do: then something runs that will ring, and every main
	// container runs, or waits for one that runs.
	if !have.runningAny() {
		t.Errorf("%s: nothing is done, nothing will ring", words)
	}
}

// initsDone: a main container starts when the init containers are done, or
// were before it was begun; an init container when those before it are.
func initsDone(p *corev1.Pod, have *observed, m *memory, name string) bool {
	if mainsBegun(p, have) {
		return true
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if c.Name == name {
			return true
		}
		at := have.current(c.Name)
		if c.RestartPolicy != nil && !m.hasStarted(c, at) || c.RestartPolicy == nil && (at == nil || !at.exited() || at.exitCode != 0) {
			return false
		}
	}
	return true
}
