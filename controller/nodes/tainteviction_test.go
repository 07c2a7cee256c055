// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/api/pod"
	"github.com/peapod/peapod/controller/world"
)

// tolerate tolerates a key's NoExecute taints, for seconds unless negative.
func tolerate(key string, seconds int64) corev1.Toleration {
	t := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
	if seconds >= 0 {
		t.TolerationSeconds = &seconds
	}
	return t
}

func (e *era) setTaints(node string, keys ...string) {
	e.Helper()
	n := e.get(node)
	n.Spec.Taints = nil
	for _, k := range keys {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: k, Effect: corev1.TaintEffectNoExecute})
	}
	e.try(e.client.Update(e.Context(), n))
	e.look()
}

func TestEndurance(t *testing.T) {
	for name, x := range map[string]struct {
		taints      []string
		tolerations []corev1.Toleration
		stay        time.Duration
		forever     bool
	}{
		"no taint":                 {nil, nil, 0, true},
		"nothing tolerated":        {[]string{"a"}, nil, 0, false},
		"another tolerated":        {[]string{"a"}, []corev1.Toleration{tolerate("b", 9)}, 0, false},
		"for a time":               {[]string{"a"}, []corev1.Toleration{tolerate("a", 9)}, 9 * time.Second, false},
		"for ever":                 {[]string{"a"}, []corev1.Toleration{tolerate("a", -1)}, 0, true},
		"no time at all":           {[]string{"a"}, []corev1.Toleration{{Key: "a", Operator: corev1.TolerationOpExists, TolerationSeconds: new(int64(-5))}}, 0, false},
		"the first that matches":   {[]string{"a"}, []corev1.Toleration{tolerate("a", 9), tolerate("a", 3)}, 9 * time.Second, false},
		"the shortest of two":      {[]string{"a", "b"}, []corev1.Toleration{tolerate("a", 9), tolerate("b", 3)}, 3 * time.Second, false},
		"for ever and for a time":  {[]string{"a", "b"}, []corev1.Toleration{tolerate("a", -1), tolerate("b", 3)}, 3 * time.Second, false},
		"one of two not tolerated": {[]string{"a", "b"}, []corev1.Toleration{tolerate("a", -1)}, 0, false},
		"everything":               {[]string{"a", "b"}, []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, 0, true},
		"a DaemonSet's Pod": {[]string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable}, []corev1.Toleration{
			tolerate(corev1.TaintNodeNotReady, -1), tolerate(corev1.TaintNodeUnreachable, -1),
		}, 0, true},
	} {
		var taints []corev1.Taint
		for _, k := range x.taints {
			taints = append(taints, corev1.Taint{Key: k, Effect: corev1.TaintEffectNoExecute})
		}
		if stay, forever := endurance(taints, x.tolerations); stay != x.stay || forever != x.forever {
			t.Errorf("%s: %v, for ever %v", name, stay, forever)
		}
	}
}

// TestTaintEviction: K37. A Pod leaves when the shortest time it tolerates its
// node's taints is over, is told why, and other Pods stay.
func TestTaintEviction(t *testing.T) {
	live(t, func(e *era) {
		e.beside("n")
		e.pod("patient", "n", tolerate("a", 2), tolerate("b", 300))
		e.pod("endless", "n", tolerate("a", -1), tolerate("b", -1))
		e.pod("hasty", "n")
		e.pod("elsewhere", "other")
		e.setTaints("n", "a", "b")
		if !e.deleted("hasty") {
			t.Error("what tolerates nothing stays")
		}
		e.pass(2*time.Second - time.Millisecond)
		if e.deleted("patient") {
			t.Error("deleted before two seconds")
		}
		e.pass(time.Millisecond)
		if !e.deleted("patient") {
			t.Error("not deleted after two seconds")
		}
		c := pod.Condition(&e.getPod("patient").Status, corev1.DisruptionTarget)
		if c == nil || c.Status != corev1.ConditionTrue || c.Reason != "DeletionByTaintManager" || c.Message != "Taint manager: deleting due to NoExecute taint" {
			t.Errorf("condition %+v", c)
		}
		e.setTaints("n", "a", "b", "c")
		e.pass(time.Hour)
		if !e.deleted("endless") || e.deleted("elsewhere") {
			t.Error("a third taint is not heard of, or elsewhere")
		}
		e.setTaints("n")
		e.told() // of nodes
		e.setTaints("n", "a")
		if got := e.told(); len(got) > 0 {
			t.Errorf("what ends already is deleted again: %q", got)
		}
	})
}

// TestTaintEvictionIsCalledOff: by the end of the taint or of the Pod, or by a
// toleration without end; not by one that is longer, as in Kubernetes.
func TestTaintEvictionIsCalledOff(t *testing.T) {
	live(t, func(e *era) {
		e.beside("n")
		e.told()
		mark, cancel := "Normal TaintManagerEviction Marking for deletion Pod ns/", "Normal TaintManagerEviction Cancelling deletion of Pod ns/"
		tells := func(what string, want ...string) {
			t.Helper()
			if got := e.told(); !slices.Equal(got, want) {
				t.Errorf("%s: events %q, not %q", what, got, want)
			}
		}
		change := func(seconds int64) {
			t.Helper()
			p := e.getPod("p")
			p.Spec.Tolerations = []corev1.Toleration{tolerate("a", seconds)}
			e.try(e.client.Update(e.Context(), p))
			e.look()
		}
		e.pod("p", "n", tolerate("a", 10))
		e.setTaints("n", "a")
		e.pass(9 * time.Second)
		e.setTaints("n")
		tells("the taint is gone", cancel+"p")
		e.pass(time.Minute)
		e.setTaints("n", "a")
		e.pass(9 * time.Second)
		change(-1)
		tells("tolerated for ever", cancel+"p")
		e.pass(time.Minute)
		change(10)
		e.pass(5 * time.Second)
		e.restart() // the time begins anew
		e.look()
		e.told() // of nodes
		e.pass(10*time.Second - time.Millisecond)
		change(100)
		if e.deleted("p") {
			t.Error("deleted too soon after a restart")
		}
		e.pass(time.Millisecond)
		if !e.deleted("p") {
			t.Error("a longer time has called it off")
		}
		tells("the time is over", mark+"p")

		e.pod("q", "n", tolerate("a", 10))
		q := e.getPod("q")
		q.Finalizers = nil
		e.try(e.client.Update(e.Context(), q))
		e.try(e.client.Delete(e.Context(), q))
		e.reconcile(e.taints, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(q)})
		tells("the Pod is gone", cancel+"q")
	})
}

// TestDeadNode: S26 with the times that a Pod has by default: it is deleted
// 300 s after its node is given up, unless that returns in time.
func TestDeadNode(t *testing.T) {
	defaults := []corev1.Toleration{tolerate(corev1.TaintNodeNotReady, 300), tolerate(corev1.TaintNodeUnreachable, 300)}
	live(t, func(e *era) {
		e.beside("other")
		e.node("n")
		e.pod("p", "n", defaults...)
		e.pass(350*time.Second - time.Millisecond)
		if e.deleted("p") {
			t.Error("deleted before 350 seconds")
		}
		e.pass(time.Millisecond)
		if !e.deleted("p") || e.getPod("p").Spec.NodeName != "n" {
			t.Error("not deleted after 350 seconds, or moved")
		}
	})
	live(t, func(e *era) {
		e.beside("other")
		e.node("n")
		e.pod("p", "n", defaults...)
		e.pass(350*time.Second - time.Millisecond)
		e.post("n", corev1.ConditionTrue)
		e.pass(49 * time.Second)
		if e.deleted("p") {
			t.Error("deleted although the node is back")
		}
		e.says("n", corev1.ConditionTrue)
	})
}

// TestTaintEvictionInTheCluster: the watches wake the controller, and the API
// takes what it writes.
func TestTaintEvictionInTheCluster(t *testing.T) {
	ns := world.Space(t)
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{GenerateName: "node-"}}
	world.Put(t, n)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "p"}}
	p.Spec.NodeName, p.Spec.Tolerations = n.Name, []corev1.Toleration{tolerate("k", 1)}
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
	world.Put(t, p)
	patch := client.RawPatch("application/strategic-merge-patch+json", []byte(`{"spec":{"taints":[{"key":"k","effect":"NoExecute"}]}}`))
	if err := world.Client.Patch(t.Context(), n, patch); err != nil {
		t.Fatal(err)
	}
	tainted := time.Now()
	var pods corev1.PodList
	world.Until(t, "the Pod is ending", &pods, func() bool {
		return len(pods.Items) == 1 && pods.Items[0].DeletionTimestamp != nil
	}, client.InNamespace(ns))
	if d := time.Since(tainted); d < time.Second {
		t.Errorf("deleted after %v", d)
	}
	if c := pod.Condition(&pods.Items[0].Status, corev1.DisruptionTarget); c == nil || c.Reason != "DeletionByTaintManager" {
		t.Errorf("condition %+v", c)
	}
}
