// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/api/pod"
)

// guaranteed is a container that asks for what it is limited to.
func guaranteed(name, cpu, memory string) corev1.Container {
	list := amounts("cpu="+cpu, "memory="+memory)
	return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: list, Limits: list.DeepCopy()}}
}

// ask changes what the first container asks for, as pods/resize does.
func (w *world) ask(uid types.UID, cpu, memory string) {
	w.update(uid, func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources = guaranteed("", cpu, memory).Resources
		p.Generation++
	})
	w.pass(time.Second)
}

func (w *world) wantResize(uid types.UID, kind corev1.PodConditionType, want string) {
	w.t.Helper()
	got := ""
	if c := pod.Condition(&w.get(uid).Status, kind); c != nil {
		got = strings.TrimSpace(c.Reason + " " + c.Message)
		if got == "" {
			got = string(c.Status)
		}
	}
	if got != want {
		w.t.Errorf("%s of %s is %q, want %q", kind, uid, got, want)
	}
}

// wantSizes: what the first container is allowed, and what it runs with.
func (w *world) wantSizes(uid types.UID, allocated, runs string) {
	w.t.Helper()
	s := w.get(uid).Status.ContainerStatuses[0]
	if got := s.AllocatedResources.Cpu().String() + " " + s.AllocatedResources.Memory().String(); got != allocated {
		w.t.Errorf("%s is allowed %s, want %s", uid, got, allocated)
	}
	if got := s.Resources.Limits.Cpu().String() + " " + s.Resources.Limits.Memory().String(); got != runs {
		w.t.Errorf("%s runs with %s, want %s", uid, got, runs)
	}
}

// TestResize: a Pod that asks for more or less gets it while it runs.
func TestResize(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(podOf("p", 30, guaranteed("a", "100m", "64Mi"), guaranteed("b", "1", "64Mi")))
		w.pass(time.Second)
		w.wantSizes("uid-p", "100m 64Mi", "100m 64Mi")
		w.ask("uid-p", "200m", "128Mi")
		w.want(w.about("update", "Resize", "end"),
			`1000 event Normal ResizeStarted: Pod resize started: {"containers":[{"name":"a","resources":{"limits":{"cpu":"200m","memory":"128Mi"},"requests":{"cpu":"200m","memory":"128Mi"}}},{"name":"b","resources":{"limits":{"cpu":"1","memory":"64Mi"},"requests":{"cpu":"1","memory":"64Mi"}}}],"generation":2}`,
			"1000 update a shares=204 quota=20000 memory=134217728",
			`1000 event Normal ResizeCompleted: Pod resize completed: {"containers":[{"name":"a","resources":{"limits":{"cpu":"200m","memory":"128Mi"},"requests":{"cpu":"200m","memory":"128Mi"}}},{"name":"b","resources":{"limits":{"cpu":"1","memory":"64Mi"},"requests":{"cpu":"1","memory":"64Mi"}}}],"generation":2}`)
		w.wantSizes("uid-p", "200m 128Mi", "200m 128Mi")
		w.wantResize("uid-p", corev1.PodResizeInProgress, "")
		p := w.get("uid-p")
		if got := p.Status.Resources.Limits.Memory().String() + " " + p.Status.AllocatedResources.Cpu().String(); got != "192Mi 1200m" || p.Status.ObservedGeneration != 2 {
			t.Errorf("the whole Pod has %s, generation %d", got, p.Status.ObservedGeneration)
		}
		w.restart()
		w.pass(time.Minute)
		if got := w.about("update", "end a"); len(got) != 1 {
			t.Errorf("a new agent has done it again: %s", got)
		}
	})
}

// TestResizeOfTheWholePod: its own limits are those of containers without any.
func TestResizeOfTheWholePod(t *testing.T) {
	inWorld(t, func(w *world) {
		p := podOf("p", 30, corev1.Container{Name: "a"})
		whole := guaranteed("", "1", "64Mi").Resources
		p.Spec.Resources = &whole
		w.create(p)
		w.pass(time.Second)
		w.update("uid-p", func(p *corev1.Pod) {
			whole := guaranteed("", "2", "128Mi").Resources
			p.Spec.Resources, p.Generation = &whole, 2
		})
		w.pass(time.Second)
		w.want(w.about("update"), "1000 update a shares=2048 quota=200000 memory=134217728")
		if r := w.get("uid-p").Status.Resources; r.Limits.Memory().String() != "128Mi" || r.Requests.Cpu().String() != "2" {
			t.Errorf("the Pod has %+v", r)
		}
	})
}

// TestResizeByRestart: who asked for it is restarted, whatever the Pod's policy.
func TestResizeByRestart(t *testing.T) {
	inWorld(t, func(w *world) {
		c := guaranteed("a", "100m", "64Mi")
		c.ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceCPU, RestartPolicy: corev1.NotRequired}, {ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.RestartContainer}}
		p := podOf("p", 30, c)
		p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
		w.create(p)
		w.pass(time.Second)
		w.ask("uid-p", "200m", "64Mi")
		w.ask("uid-p", "200m", "128Mi")
		w.pass(time.Second)
		w.wantTimes(w.about("update", "start a", "Killing", "end a", "ResizeC"),
			"0 start a #0", "1000 update a shares=204 quota=20000 memory=67108864",
			`1000 event Normal ResizeCompleted: Pod resize completed: {"containers":[{"name":"a","resources":{"limits":{"cpu":"200m","memory":"64Mi"},"requests":{"cpu":"200m","memory":"64Mi"}}}],"generation":2}`,
			"2000 event Normal Killing: Container a resize requires restart", "2000 end a 0", "2000 start a #1",
			`2000 event Normal ResizeCompleted: Pod resize completed: {"containers":[{"name":"a","resources":{"limits":{"cpu":"200m","memory":"128Mi"},"requests":{"cpu":"200m","memory":"128Mi"}}}],"generation":3}`)
		w.wantSizes("uid-p", "200m 128Mi", "200m 128Mi")
		w.wantResize("uid-p", corev1.PodResizeInProgress, "")
	})
}

// TestResizeWaits: without room it waits, keeps what it has, also over a restart of the
// agent, and gets it when somebody else has ended: the more important one first.
func TestResizeWaits(t *testing.T) {
	inWorld(t, func(w *world) {
		node := smallNode()
		node.Status.Allocatable["pods"] = amounts("pods=10")["pods"]
		w.node = node
		w.restart()
		for name, priority := range map[string]int32{"high": 10, "low": 1, "other": 0} {
			p := podOf(name, 30, guaranteed(name, "600m", "64Mi"))
			p.Spec.Priority = &priority
			w.create(p)
		}
		w.pass(time.Second)
		w.ask("uid-low", "1200m", "64Mi")
		w.ask("uid-high", "1200m", "64Mi")
		const words = "Deferred Node didn't have enough resource: cpu, requested: 1200, used: 1200, capacity: 2000"
		w.wantResize("uid-low", corev1.PodResizePending, words)
		w.wantResize("uid-high", corev1.PodResizePending, words)
		w.wantSizes("uid-low", "600m 64Mi", "600m 64Mi")
		w.want(w.about("ResizeDeferred")[:1], `1000 event Warning ResizeDeferred: Pod resize Deferred: {"containers":[{"name":"low","resources":{"limits":{"cpu":"1200m","memory":"64Mi"},"requests":{"cpu":"1200m","memory":"64Mi"}}}],"generation":2,"error":"Node didn't have enough resource: cpu, requested: 1200, used: 1200, capacity: 2000"}`)
		w.restart()
		w.pass(time.Second)
		w.wantSizes("uid-low", "600m 64Mi", "600m 64Mi")
		w.deletePod("uid-other", 30)
		w.pass(time.Second)
		w.want(w.about("update"), "4000 update high shares=1228 quota=120000 memory=67108864")
		w.wantResize("uid-high", corev1.PodResizePending, "")
		w.wantResize("uid-low", corev1.PodResizePending, words)
		w.ask("uid-high", "100m", "64Mi") // and who gives back makes room
		w.want(w.about("update low"), "5000 update low shares=1228 quota=120000 memory=67108864")
		w.wantResize("uid-low", corev1.PodResizePending, "")
	})
}

// TestResizeTakenBack: who asks no longer does not wait any longer.
func TestResizeTakenBack(t *testing.T) {
	inWorld(t, func(w *world) {
		w.agent.node.learn(smallNode())
		w.create(podOf("p", 30, guaranteed("a", "1", "64Mi")))
		w.pass(time.Second)
		w.ask("uid-p", "3", "64Mi")
		w.wantResize("uid-p", corev1.PodResizePending, "Deferred Node didn't have enough resource: cpu, requested: 3000, used: 0, capacity: 2000")
		w.ask("uid-p", "1", "64Mi")
		w.wantResize("uid-p", corev1.PodResizePending, "")
		if got := w.about("update", "ResizeStarted"); len(got) > 0 {
			t.Errorf("something was done: %s", got)
		}
	})
}

// TestResizeBelowUse: nobody is told to live in less memory than it uses; it is
// tried again until it fits.
func TestResizeBelowUse(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(podOf("p", 30, guaranteed("a", "100m", "64Mi")))
		w.pass(time.Second)
		w.setCRI(func(f *fakeCRI) { f.memory = 40 << 20 })
		w.ask("uid-p", "100m", "32Mi")
		w.pass(10 * time.Minute)
		w.wantResize("uid-p", corev1.PodResizeInProgress, `Error cannot decrease memory limits: attempting to set container "a" memory limit (33554432) below current usage (41943040)`)
		w.wantSizes("uid-p", "100m 32Mi", "100m 64Mi")
		if got := w.about("ResizeError"); len(got) != 1 {
			t.Errorf("it was told %d times", len(got))
		}
		w.setCRI(func(f *fakeCRI) { f.memory = 10 << 20 })
		w.pass(mostRetry)
		w.wantSizes("uid-p", "100m 32Mi", "100m 32Mi")
		w.wantResize("uid-p", corev1.PodResizeInProgress, "")
	})
}

// TestResizeIsInterrupted: what was granted and not carried out is carried out
// by the next agent.
func TestResizeIsInterrupted(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(podOf("p", 30, guaranteed("a", "100m", "64Mi")))
		w.pass(time.Second)
		w.setCRI(func(f *fakeCRI) { f.updateErr = errors.New("not now") })
		w.ask("uid-p", "200m", "64Mi")
		w.wantResize("uid-p", corev1.PodResizeInProgress, "Error not now")
		w.kill()
		w.setCRI(func(f *fakeCRI) { f.updateErr = nil })
		w.start()
		w.pass(time.Second)
		w.want(w.about("update", "start a"), "0 start a #0", "2000 update a shares=204 quota=20000 memory=67108864")
		w.wantSizes("uid-p", "200m 64Mi", "200m 64Mi")
		w.wantResize("uid-p", corev1.PodResizeInProgress, "")
		if got := w.about("ResizeCompleted"); len(got) != 1 || !slices.Equal(got, w.about(`"generation":2`)[len(w.about(`"generation":2`))-1:]) {
			t.Errorf("the end is told: %s", got)
		}
	})
}
