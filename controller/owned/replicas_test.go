// SPDX-License-Identifier: Apache-2.0

package owned

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/controller/world"
)

// TestRank: the order in which Pods are given up, each before all below it.
func TestRank(t *testing.T) {
	unready := func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
	costs := func(n string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: n} }
	}
	sidecar := func(n int32) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			always := corev1.ContainerRestartPolicyAlways
			p.Spec.InitContainers = []corev1.Container{{Name: "beside", RestartPolicy: &always}, {Name: "before"}}
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "beside", RestartCount: n}, {Name: "before", RestartCount: 9}}
		}
	}
	want := []*corev1.Pod{
		world.Replica("unassigned", unready, func(p *corev1.Pod) { p.Spec.NodeName, p.Status.Phase = "", corev1.PodPending }),
		world.Replica("pending", unready, func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }),
		world.Replica("unknown", func(p *corev1.Pod) { p.Status.Phase = corev1.PodUnknown }),
		world.Replica("unready", unready),
		world.Replica("cheap", costs("-5")),
		world.Replica("crowded1", func(p *corev1.Pod) { p.Spec.NodeName = "crowd" }),
		world.Replica("crowded2", func(p *corev1.Pod) { p.Spec.NodeName = "crowd" }),
		world.Replica("lately ready", func(p *corev1.Pod) {
			p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(world.Noon.Add(-time.Minute))
		}),
		world.Replica("restless", func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 3}} }),
		world.Replica("restless beside", sidecar(2)),
		world.Replica("z plain"),
		world.Replica("a older", func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(world.Noon.Add(-24 * time.Hour)) }),
		world.Replica("dear", costs("5")),
	}
	// What a sibling has on a node counts, unless it is over.
	kin := append(slices.Clone(want), world.Replica("sibling", func(p *corev1.Pod) { p.Spec.NodeName = "crowd" }), world.Replica("over", func(p *corev1.Pod) {
		p.Spec.NodeName, p.Status.Phase = "node-of-z plain", corev1.PodFailed
	}))
	for i := range 50 {
		got := slices.Clone(want)
		r := rand.New(rand.NewPCG(uint64(i), 1))
		r.Shuffle(len(got), func(a, b int) { got[a], got[b] = got[b], got[a] })
		rank(got, kin, world.Noon)
		for k := range want {
			if got[k] != want[k] {
				t.Fatalf("shuffle %d, place %d: %s, want %s", i, k, got[k].Name, want[k].Name)
			}
		}
	}
}

// TestSlowStart: batches of 1, 2, 4; none after one that failed, and none twice.
func TestSlowStart(t *testing.T) {
	for _, x := range []struct{ n, failFrom, calls int }{{0, 100, 0}, {1, 100, 1}, {10, 100, 10}, {100, 1, 1}, {100, 3, 3}, {100, 4, 7}} {
		var calls atomic.Int32
		called := make([]atomic.Bool, x.n)
		err := SlowStart(x.n, func(i int) error {
			if called[i].Swap(true) {
				t.Errorf("%d wanted: %d twice", x.n, i)
			}
			if n := calls.Add(1); int(n) >= x.failFrom {
				return errors.New("no")
			}
			return nil
		})
		if int(calls.Load()) != x.calls || (err != nil) != (x.failFrom <= x.n) {
			t.Errorf("%d wanted, failing from %d: %d calls, %v", x.n, x.failFrom, calls.Load(), err)
		}
	}
}

// TestExpectations: nothing is settled until the cache shows what was done.
func TestExpectations(t *testing.T) {
	var e Expectations
	owner := &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "rc", UID: "1"}}
	made := func(rv string) *corev1.Pod {
		return world.Replica("p"+rv, func(p *corev1.Pod) { p.ResourceVersion = rv })
	}
	if !e.Fulfilled(owner, "1", nil) {
		t.Error("nothing done is not settled")
	}
	e.Wrote(owner, made("100"))
	e.Wrote(owner, made("99"))
	for seen, want := range map[string]bool{"": false, "20": false, "99": false} {
		if e.Fulfilled(owner, seen, nil) != want {
			t.Errorf("settled at %q is %v", seen, !want)
		}
	}
	if !e.Fulfilled(owner, "101", nil) {
		t.Error("a Pod that came and went is awaited for ever")
	}
	a, b := world.Replica("a"), world.Replica("b")
	e.Removed(owner, a)
	e.Removed(owner, b)
	e.Kept(owner, b)
	if e.Fulfilled(owner, "101", []*corev1.Pod{a, b}) {
		t.Error("settled while a removed Pod looks alive")
	}
	other := owner.DeepCopy()
	other.UID = "2"
	if !e.Fulfilled(other, "101", []*corev1.Pod{a, b}) {
		t.Error("a namesake waits for what another did")
	}
	a.DeletionTimestamp = &metav1.Time{Time: world.Noon}
	if !e.Fulfilled(owner, "101", []*corev1.Pod{a, b}) || len(e.done) > 0 {
		t.Error("a Pod that is ending is still awaited")
	}
	e.Removed(owner, b)
	e.Forget(types.NamespacedName{Namespace: "ns", Name: "rc"})
	if len(e.done) > 0 {
		t.Error("what was forgotten is awaited")
	}
}

func TestCount(t *testing.T) {
	var c Counts
	now := time.Now()
	since := func(d time.Duration) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Labels = map[string]string{"app": "web", "extra": "x"}
			p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-d))
		}
	}
	template := &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}}
	after := (&Replicas{}).count(&c, []*corev1.Pod{
		world.Replica("long", since(time.Hour)), world.Replica("lately", since(10*time.Second)),
		world.Replica("not", since(time.Hour), func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }),
		world.Replica("relabelled", since(time.Hour), func(p *corev1.Pod) { p.Labels = nil }),
	}, template, 30)
	if got := fmt.Sprint(c.Total, c.Labeled, c.Ready, c.Available); got != "4 3 3 2" {
		t.Errorf("total, labelled, ready, available: %s", got)
	}
	if after <= 15*time.Second || after > 20*time.Second {
		t.Errorf("the next is available after %v, want just below 20 s", after)
	}
}
