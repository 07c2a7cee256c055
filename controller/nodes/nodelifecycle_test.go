// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// era is the controllers of nodes and taints in virtual time, in front of an
// API in memory. It does what their queues do.
type era struct {
	*testing.T
	client client.WithWatch
	events *record.FakeRecorder
	nodes  *nodeLifecycle
	taints *taintEviction
	due    map[reconcile.Request]time.Time // of Pods, and of nodes: without a namespace
}

// live runs a test in virtual time.
func live(t *testing.T, f func(e *era)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := &era{T: t, client: fake.NewClientBuilder().WithScheme(clientscheme.Scheme).WithStatusSubresource(&corev1.Node{}, &corev1.Pod{}).
			WithIndex(&corev1.Pod{}, byNode, nodeOf).Build()}
		e.restart()
		f(e)
	})
}

// restart starts the controllers anew: what they knew is gone.
func (e *era) restart() {
	e.events, e.due = record.NewFakeRecorder(1000), map[reconcile.Request]time.Time{}
	e.nodes = newNodeLifecycle(e.client, e.client, e.events)
	e.taints = newTaintEviction(e.client, e.client, e.events)
}

// look lets all events arrive: everybody is looked at until that has no more
// consequences.
func (e *era) look() {
	e.Helper()
	for before := ""; ; {
		var nodes corev1.NodeList
		var pods corev1.PodList
		e.try(e.client.List(e.Context(), &nodes))
		e.try(e.client.List(e.Context(), &pods))
		now := ""
		for _, n := range nodes.Items {
			now += n.Name + n.ResourceVersion + " "
		}
		for _, p := range pods.Items {
			now += p.Name + p.ResourceVersion + " "
		}
		if now == before {
			return
		}
		before = now
		for _, n := range nodes.Items {
			e.reconcile(e.nodes, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&n)})
		}
		for _, p := range pods.Items {
			e.reconcile(e.taints, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&p)})
		}
	}
}

func (e *era) reconcile(r reconcile.Reconciler, q reconcile.Request) {
	e.Helper()
	result, err := r.Reconcile(e.Context(), q)
	e.try(err)
	delete(e.due, q)
	if result.RequeueAfter > 0 {
		e.due[q] = time.Now().Add(result.RequeueAfter)
	}
}

// pass lets time pass. Who has asked for it is looked at in time.
func (e *era) pass(d time.Duration) {
	e.Helper()
	for end := time.Now().Add(d); ; {
		next := end
		for _, at := range e.due {
			if at.Before(next) {
				next = at
			}
		}
		<-time.After(time.Until(next))
		for q, at := range e.due {
			if at.After(time.Now()) {
				continue
			}
			if q.Namespace == "" {
				e.reconcile(e.nodes, q)
			} else {
				e.reconcile(e.taints, q)
			}
		}
		e.look()
		if !time.Now().Before(end) {
			return
		}
	}
}

func (e *era) try(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

// node makes a node that is ready and has a lease.
func (e *era) node(name string) *corev1.Node {
	e.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name + "-uid"), CreationTimestamp: metav1.Now()}}
	for _, t := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeReady} {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: t, Status: corev1.ConditionFalse, LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()})
	}
	n.Status.Conditions[3].Status = corev1.ConditionTrue
	e.try(e.client.Create(e.Context(), n))
	e.renew(name)
	return n
}

func (e *era) renew(name string) {
	e.Helper()
	now := metav1.NowMicro()
	l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name}}
	if e.client.Get(e.Context(), client.ObjectKeyFromObject(l), l) != nil {
		e.try(e.client.Create(e.Context(), l))
	}
	l.Spec.RenewTime = &now
	e.try(e.client.Update(e.Context(), l))
	e.look()
}

// post is a status that the node tells itself.
func (e *era) post(name string, ready corev1.ConditionStatus) {
	e.Helper()
	n := e.get(name)
	for i := range n.Status.Conditions {
		c := &n.Status.Conditions[i]
		if c.LastHeartbeatTime = metav1.Now(); c.Type == corev1.NodeReady {
			c.Status, c.Reason, c.Message = ready, "KubeletReady", "kubelet is posting ready status"
		}
	}
	e.try(e.client.Status().Update(e.Context(), n))
	e.look()
}

func (e *era) get(name string) *corev1.Node {
	e.Helper()
	n := &corev1.Node{}
	e.try(e.client.Get(e.Context(), client.ObjectKey{Name: name}, n))
	return n
}

// pod makes a ready Pod on a node. It has a finalizer, so that its end is seen.
func (e *era) pod(name, node string, tolerations ...corev1.Toleration) {
	e.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name + "-uid"), Finalizers: []string{"test/stays"}}}
	p.Spec.NodeName, p.Spec.Tolerations = node, tolerations
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	e.try(e.client.Create(e.Context(), p))
	e.look()
}

func (e *era) getPod(name string) *corev1.Pod {
	e.Helper()
	p := &corev1.Pod{}
	e.try(e.client.Get(e.Context(), client.ObjectKey{Namespace: "ns", Name: name}, p))
	return p
}

func (e *era) deleted(name string) bool {
	e.Helper()
	return e.getPod(name).DeletionTimestamp != nil
}

// says checks what a node's Ready is and which taints it has.
func (e *era) says(name string, ready corev1.ConditionStatus, taints ...string) {
	e.Helper()
	n := e.get(name)
	if got := nodeReady(n); got != ready {
		e.Errorf("%v: %s is %q and not %q", time.Now(), name, got, ready)
	}
	var have []string
	for _, t := range n.Spec.Taints {
		have = append(have, t.ToString())
	}
	slices.Sort(have)
	slices.Sort(taints)
	if !slices.Equal(have, taints) {
		e.Errorf("%v: %s has the taints %q and not %q", time.Now(), name, have, taints)
	}
}

// told are the events since the last look at them.
func (e *era) told() (out []string) {
	for {
		select {
		case x := <-e.events.Events:
			out = append(out, x)
		default:
			return out
		}
	}
}

const (
	unreachable       = "node.kubernetes.io/unreachable:NoSchedule"
	unreachableLeave  = "node.kubernetes.io/unreachable:NoExecute"
	notReady          = "node.kubernetes.io/not-ready:NoSchedule"
	notReadyLeave     = "node.kubernetes.io/not-ready:NoExecute"
	beforeTheDeadline = 50*time.Second - time.Millisecond
)

// beside keeps another node ready, so that not all are silent.
func (e *era) beside(name string) {
	e.Helper()
	e.node(name)
	e.try(e.client.Delete(e.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name}}))
	forever := metav1.NewMicroTime(time.Now().Add(1000 * time.Hour))
	e.try(e.client.Create(e.Context(), &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name}, Spec: coordinationv1.LeaseSpec{RenewTime: &forever},
	}))
	e.look()
	e.nodes.nodes[name].seen = time.Now().Add(1000 * time.Hour)
	e.look()
}

// TestSilence: S26. Fifty seconds after the last sign of life, and not before,
// nothing is known of a node, its Pods are not ready, and its taints say so;
// its return takes all of that back.
func TestSilence(t *testing.T) {
	live(t, func(e *era) {
		e.beside("other")
		e.node("n")
		e.pod("p", "n", corev1.Toleration{Operator: corev1.TolerationOpExists})
		for range 10 {
			e.pass(10 * time.Second)
			e.renew("n")
		}
		heard := metav1.Now()
		e.told()
		e.pass(beforeTheDeadline)
		e.says("n", corev1.ConditionTrue)
		e.pass(time.Millisecond)
		e.says("n", corev1.ConditionUnknown, unreachable, unreachableLeave)
		want := []corev1.NodeCondition{}
		for _, c := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeReady} {
			want = append(want, corev1.NodeCondition{
				Type: c, Status: corev1.ConditionUnknown, Reason: "NodeStatusUnknown", Message: "Kubelet stopped posting node status.",
				LastHeartbeatTime: metav1.NewTime(heard.Add(-100 * time.Second)), LastTransitionTime: metav1.NewTime(heard.Add(50 * time.Second)),
			})
		}
		if diff := cmp.Diff(want, e.get("n").Status.Conditions); diff != "" {
			t.Errorf("conditions: %s", diff)
		}
		if c := e.getPod("p").Status.Conditions[0]; c.Status != corev1.ConditionFalse || !c.LastTransitionTime.Time.Equal(time.Now()) {
			t.Errorf("the Pod's Ready is %+v", c)
		}
		if got, want := e.told(), []string{"Normal NodeNotReady Node n status is now: NodeNotReady", "Warning NodeNotReady Node is not ready"}; !slices.Equal(got, want) {
			t.Errorf("events %q, not %q", got, want)
		}
		e.pass(time.Hour)
		e.renew("n") // its agent lives again, and has not looked at its Node yet
		e.says("n", corev1.ConditionUnknown, unreachable, unreachableLeave)
		e.post("n", corev1.ConditionTrue)
		e.says("n", corev1.ConditionTrue)
		e.post("n", corev1.ConditionFalse)
		e.says("n", corev1.ConditionFalse, notReady, notReadyLeave)
		if got := e.told(); len(got) > 0 {
			t.Errorf("events %q", got)
		}
	})
}

// TestSignsOfLife: what counts as one, each just before the time is up.
func TestSignsOfLife(t *testing.T) {
	for name, sign := range map[string]func(e *era){
		"a renewed lease": func(e *era) { e.renew("n") },
		"a posted status": func(e *era) { e.post("n", corev1.ConditionTrue) },
		"a start of the controllers, however old the lease": func(e *era) {
			e.restart()
			e.look()
		},
		"a start hours later": func(e *era) {
			<-time.After(5 * time.Hour)
			e.restart()
			e.look()
		},
		"a standstill of this very program": func(e *era) {
			<-time.After(time.Hour)
			e.look()
		},
	} {
		t.Run(name, func(t *testing.T) {
			live(t, func(e *era) {
				e.node("n")
				e.pass(beforeTheDeadline)
				sign(e)
				e.says("n", corev1.ConditionTrue)
				e.pass(beforeTheDeadline)
				e.says("n", corev1.ConditionTrue)
				e.pass(time.Millisecond)
				e.says("n", corev1.ConditionUnknown, unreachable)
			})
		})
	}
}

// TestNeverPosted: a node that never says anything has a minute.
func TestNeverPosted(t *testing.T) {
	live(t, func(e *era) {
		e.beside("other")
		e.try(e.client.Create(e.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", CreationTimestamp: metav1.Now()}}))
		born := metav1.Now()
		e.look()
		e.pass(time.Minute - time.Millisecond)
		e.says("n", "")
		e.pass(time.Millisecond)
		e.says("n", corev1.ConditionUnknown, unreachable, unreachableLeave)
		for _, c := range e.get("n").Status.Conditions {
			if c.Reason != "NodeStatusNeverUpdated" || c.Message != "Kubelet never posted node status." || !c.LastHeartbeatTime.Equal(&born) {
				t.Errorf("%+v", c)
			}
		}
		e.post("n", corev1.ConditionTrue)
		e.says("n", corev1.ConditionTrue)
	})
}

// TestCacheBehind: a lease that the cache has not seen yet is a sign of life.
func TestCacheBehind(t *testing.T) {
	live(t, func(e *era) {
		e.node("n")
		e.pass(40 * time.Second)
		now := metav1.NowMicro()
		e.nodes.live = fake.NewClientBuilder().WithScheme(clientscheme.Scheme).WithObjects(&coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: "n"}, Spec: coordinationv1.LeaseSpec{RenewTime: &now},
		}).Build()
		e.pass(10*time.Second + beforeTheDeadline)
		e.says("n", corev1.ConditionTrue)
		e.pass(time.Millisecond)
		e.says("n", corev1.ConditionUnknown, unreachable)
	})
}

// TestAllSilent: when nobody is heard, nobody has to leave, and who had to
// before is left alone; when somebody is, the rest have their time anew.
func TestAllSilent(t *testing.T) {
	live(t, func(e *era) {
		e.node("a")
		e.node("b")
		e.pod("p", "a", corev1.Toleration{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute, Operator: corev1.TolerationOpExists, TolerationSeconds: new(int64(300))})
		e.pass(30 * time.Second)
		e.renew("b")
		e.pass(20 * time.Second)
		e.says("a", corev1.ConditionUnknown, unreachable, unreachableLeave)
		e.pass(30 * time.Second)
		e.says("a", corev1.ConditionUnknown, unreachable)
		e.says("b", corev1.ConditionUnknown, unreachable)
		e.pass(time.Hour)
		if e.deleted("p") {
			t.Error("a Pod had to leave while nobody was heard")
		}
		e.post("b", corev1.ConditionTrue)
		e.says("a", corev1.ConditionUnknown, unreachable, unreachableLeave)
		e.pass(beforeTheDeadline)
		e.says("b", corev1.ConditionTrue)
	})
}

// TestTurns: of a zone, one node in ten seconds has its Pods leave; of a small
// zone of which most are silent none has.
func TestTurns(t *testing.T) {
	live(t, func(e *era) {
		e.beside("other")
		e.node("a")
		e.node("b")
		e.pass(50 * time.Second)
		leaving := func() (n int) {
			for _, name := range []string{"a", "b", "c"} {
				n += strings.Count(fmt.Sprint(e.get(name).Spec.Taints), "NoExecute")
			}
			return n
		}
		e.node("c")
		if leaving() != 1 {
			t.Errorf("%d nodes have their Pods leave at once", leaving())
		}
		e.pass(10*time.Second - time.Millisecond)
		if leaving() != 1 {
			t.Errorf("%d nodes have their Pods leave before ten seconds", leaving())
		}
		e.post("c", corev1.ConditionFalse)
		e.pass(time.Hour)
		if leaving() != 1 {
			t.Errorf("%d nodes have their Pods leave in a zone that fails in part", leaving())
		}
		e.post("c", corev1.ConditionTrue)
		if leaving() != 2 {
			t.Errorf("%d nodes have their Pods leave in a zone that does well again", leaving())
		}
	})
}

func TestZones(t *testing.T) {
	for _, x := range []struct {
		zone
		state zoneState
		pause time.Duration
		ok    bool
	}{
		{zone{}, zoneNormal, expulsionPause, true},
		{zone{1, 0}, zoneNormal, expulsionPause, true},
		{zone{0, 1}, zoneFull, expulsionPause, true},
		{zone{1, 2}, zoneNormal, expulsionPause, true},
		{zone{2, 3}, zonePartial, 0, false},
		{zone{9, 11}, zonePartial, 0, false},
		{zone{10, 11}, zoneNormal, expulsionPause, true},
		{zone{20, 30}, zonePartial, 0, false},
		{zone{20, 31}, zonePartial, slowPause, true},
	} {
		if pause, ok := x.zone.pause(); x.zone.state() != x.state || pause != x.pause || ok != x.ok {
			t.Errorf("%+v: state %v, pause %v, %v", x, x.zone.state(), pause, ok)
		}
	}
}

// TestTaintsByCondition: K34, and what a cordon is.
func TestTaintsByCondition(t *testing.T) {
	live(t, func(e *era) {
		e.beside("other")
		n := e.node("n")
		n = e.get(n.Name)
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "mine", Effect: corev1.TaintEffectNoExecute}, corev1.Taint{Key: "node.kubernetes.io/memory-pressure", Effect: corev1.TaintEffectPreferNoSchedule})
		n.Spec.Unschedulable = true
		n.Labels = map[string]string{corev1.LabelOSStable: "linux", "beta.kubernetes.io/arch": "mine"}
		e.try(e.client.Update(e.Context(), n))
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue})
		for i, c := range n.Status.Conditions {
			if c.Type != corev1.NodeReady {
				n.Status.Conditions[i].Status = corev1.ConditionTrue
			}
		}
		e.try(e.client.Status().Update(e.Context(), n))
		e.look()
		theirs := []string{"mine:NoExecute", "node.kubernetes.io/memory-pressure:PreferNoSchedule"}
		e.says("n", corev1.ConditionTrue, append(theirs, "node.kubernetes.io/memory-pressure:NoSchedule", "node.kubernetes.io/disk-pressure:NoSchedule",
			"node.kubernetes.io/pid-pressure:NoSchedule", "node.kubernetes.io/network-unavailable:NoSchedule", "node.kubernetes.io/unschedulable:NoSchedule")...)
		n = e.get("n")
		if want := map[string]string{corev1.LabelOSStable: "linux", "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "mine"}; !cmp.Equal(n.Labels, want) {
			t.Errorf("labels %v", n.Labels)
		}
		n.Spec.Unschedulable = false
		e.try(e.client.Update(e.Context(), n))
		for i := range n.Status.Conditions {
			n.Status.Conditions[i].Status = corev1.ConditionFalse
		}
		e.try(e.client.Status().Update(e.Context(), n))
		e.look()
		e.says("n", corev1.ConditionFalse, append(theirs, notReady, notReadyLeave)...)
	})
}

// TestNodesComeAndGo: another node of the same name is another node.
func TestNodesComeAndGo(t *testing.T) {
	live(t, func(e *era) {
		n := e.node("n")
		e.pass(beforeTheDeadline)
		e.try(e.client.Delete(e.Context(), n))
		n.UID, n.ResourceVersion = "second", ""
		e.try(e.client.Create(e.Context(), n))
		e.look()
		e.pass(beforeTheDeadline)
		e.says("n", corev1.ConditionTrue)
		e.try(e.client.Delete(e.Context(), e.get("n")))
		e.reconcile(e.nodes, reconcile.Request{NamespacedName: types.NamespacedName{Name: "n"}})
		registered, removing := "Normal RegisteredNode Node n event: Registered Node n in Controller", "Normal RemovingNode Node n event: Removing Node n from Controller"
		if got, want := e.told(), []string{registered, removing, registered, removing}; !slices.Equal(got, want) {
			t.Errorf("events %q", got)
		}
	})
}
