// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/peapod/peapod/api/pod"
	"github.com/peapod/peapod/controller/world"
)

func newPodGC(objects ...client.Object) *podGC {
	c := fake.NewClientBuilder().WithScheme(clientscheme.Scheme).WithObjects(objects...).WithStatusSubresource(&corev1.Pod{}).
		WithIndex(&corev1.Pod{}, byNode, nodeOf).Build()
	return &podGC{client: c, live: c, missing: map[string]time.Time{}}
}

// TestOrphanedPods: the Pods of a node that is gone go after the quarantine,
// and only if the API has not seen the node either.
func TestOrphanedPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		orphan := world.NewPod("ns", "orphan", "lost")
		orphan.Finalizers, orphan.UID, orphan.Generation, orphan.Status.Phase = []string{"example.com/hold"}, "u", 3, corev1.PodRunning
		other := world.NewPod("ns", "other", "found")
		g := newPodGC(orphan, other, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "found"}})
		look := func(want time.Duration) {
			t.Helper()
			for _, node := range []string{"lost", "found"} {
				r, err := g.node(t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Name: node}})
				if err != nil || node == "lost" && r.RequeueAfter != want || node == "found" && r.RequeueAfter != 0 {
					t.Fatalf("%s: again after %v, want %v, %v", node, r.RequeueAfter, want, err)
				}
			}
		}
		there := func() *corev1.Pod {
			t.Helper()
			var p corev1.Pod
			if err := g.client.Get(t.Context(), client.ObjectKeyFromObject(orphan), &p); err != nil {
				t.Fatal(err)
			}
			return &p
		}
		wait := func(d time.Duration) {
			time.Sleep(d) // polls: the clock is the test's own
		}
		look(40 * time.Second)
		wait(39 * time.Second)
		look(time.Second)
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "lost"}}
		if err := g.client.Create(t.Context(), node); err != nil {
			t.Fatal(err)
		}
		look(0) // it has come back
		if err := g.client.Delete(t.Context(), node); err != nil {
			t.Fatal(err)
		}
		wait(time.Hour)
		look(40 * time.Second)
		wait(40 * time.Second)
		none := g.live
		g.live = fake.NewClientBuilder().WithScheme(clientscheme.Scheme).WithObjects(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "lost"}}).Build()
		look(0)
		if p := there(); p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodRunning {
			t.Errorf("a Pod goes whose node the API knows: %+v", p.Status)
		}
		g.live = none
		look(0)
		p := there()
		c := pod.Condition(&p.Status, corev1.DisruptionTarget)
		if p.DeletionTimestamp == nil || p.Status.Phase != corev1.PodFailed || p.Status.ObservedGeneration != 3 || c == nil || c.Status != corev1.ConditionTrue ||
			c.Reason != "DeletionByPodGC" || c.Message != "PodGC: node no longer exists" || c.ObservedGeneration != 3 {
			t.Errorf("the orphan: %v %+v", p.DeletionTimestamp, p.Status)
		}
	})
}

// TestTerminatedPods: evicted ones go first, then the oldest; the running stay.
func TestTerminatedPods(t *testing.T) {
	is := func(name string, age time.Duration, phase corev1.PodPhase, reason string) client.Object {
		p := world.NewPod("ns", name, "n")
		p.CreationTimestamp, p.Status.Phase, p.Status.Reason = metav1.NewTime(world.Noon.Add(-age)), phase, reason
		return p
	}
	pods := []client.Object{
		is("old", 9*time.Hour, corev1.PodSucceeded, ""), is("oldest-b", 10*time.Hour, corev1.PodFailed, ""), is("oldest-a", 10*time.Hour, corev1.PodFailed, ""),
		is("evicted", time.Hour, corev1.PodFailed, "Evicted"), is("young", time.Hour, corev1.PodSucceeded, ""), is("runs", 100*time.Hour, corev1.PodRunning, ""),
	}
	g := newPodGC(pods...)
	for _, x := range []struct {
		keep int
		want string
	}{{5, "evicted old oldest-a oldest-b runs young"}, {3, "old oldest-b runs young"}, {1, "runs young"}} {
		var list corev1.PodList
		if err := g.client.List(t.Context(), &list); err != nil {
			t.Fatal(err)
		}
		var over []any
		for i := range list.Items {
			if keys, _ := terminatedIndex(&list.Items[i]); slices.Contains(keys, terminated) {
				over = append(over, &list.Items[i])
			}
		}
		if err := g.terminated(t.Context(), over, x.keep); err != nil {
			t.Fatal(err)
		}
		if err := g.client.List(t.Context(), &list); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, p := range list.Items {
			names = append(names, p.Name)
		}
		if got := strings.Join(names, " "); got != x.want {
			t.Errorf("of those over %d are kept: %s, want %s", x.keep, got, x.want)
		}
	}
}

// TestEndingNowhere: Pods that are to end where nobody ends them.
func TestEndingNowhere(t *testing.T) {
	ns, node := world.Space(t), world.NewNode(t)
	unscheduled, given, cared := world.NewPod(ns, "unscheduled", ""), world.NewPod(ns, "given-up", node), world.NewPod(ns, "cared-for", world.NewNode(t))
	unscheduled.Finalizers = []string{"example.com/hold"}
	world.Put(t, unscheduled, given, cared)
	for _, o := range []client.Object{unscheduled, given, cared} {
		if err := world.Client.Delete(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	var list corev1.PodList
	world.Until(t, "the unscheduled one has failed", &list, func() bool {
		return slices.ContainsFunc(list.Items, func(p corev1.Pod) bool { return p.Name == "unscheduled" && p.Status.Phase == corev1.PodFailed })
	}, client.InNamespace(ns))
	world.Drop(t, unscheduled)
	var n corev1.Node
	if err := world.Client.Get(t.Context(), client.ObjectKey{Name: node}, &n); err != nil {
		t.Fatal(err)
	}
	n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute})
	if err := world.Client.Update(t.Context(), &n); err != nil {
		t.Fatal(err)
	}
	world.Until(t, "only the Pod of the node in service is left", &list, func() bool { return len(list.Items) == 1 && list.Items[0].Name == "cared-for" }, client.InNamespace(ns))
	if p := list.Items[0]; p.Status.Phase == corev1.PodFailed {
		t.Errorf("a node's Pod has failed: %+v", p.Status)
	}
}
