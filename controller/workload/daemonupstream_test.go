// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/controller/owned"
	"github.com/peapod/peapod/controller/world"
)

// daemonQuestion is a DaemonSet with its Pods, past and nodes, as
// test/stock/daemons reads them; daemonAnswer is what became of them.
type (
	daemonQuestion struct {
		Seed  uint64
		Set   *appsv1.DaemonSet
		Nodes []*corev1.Node
		Pods  []*corev1.Pod
		Past  []*appsv1.ControllerRevision
	}
	daemonAnswer struct {
		Seed   uint64
		Status appsv1.DaemonSetStatus
		Pods   []string
		Past   []string
	}
)

// askDaemons makes a DaemonSet in the middle of something.
func askDaemons(t *testing.T, seed uint64) daemonQuestion {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 38))
	ns := fmt.Sprint("ns", seed)
	version := r.IntN(3)
	set := daemon(ns, fmt.Sprint("app:", version))
	set.UID, set.Generation = types.UID(ns), 3
	set.Annotations = map[string]string{appsv1.DeprecatedTemplateGeneration: "4"}
	set.Spec.Template.Spec.NodeSelector = map[string]string{"of": ns}
	set.Spec.UpdateStrategy = someStrategy(r)
	defaults.DaemonSet(set)
	q := daemonQuestion{Seed: seed, Set: set}
	owner := []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))}
	hashes := []string{}
	for v := range 3 {
		was := set.Spec.Template.DeepCopy()
		was.Spec.Containers[0].Image = fmt.Sprint("app:", v)
		hash := templateHash(was, nil)
		hashes = append(hashes, hash)
		if r.IntN(3) == 0 {
			continue
		}
		data, err := owned.PatchOf(was)
		if err != nil {
			t.Fatal(err)
		}
		past := &appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: data}, Revision: int64(v + 1), ObjectMeta: metav1.ObjectMeta{
			Namespace: ns, Name: "web-" + hash, UID: types.UID(ns + hash), OwnerReferences: owner,
			Labels: map[string]string{"app": "web", "controller-revision-hash": hash},
		}}
		if r.IntN(4) == 0 {
			delete(past.Labels, "controller-revision-hash") // its name stands for it
			hashes[v] = past.Name
		}
		q.Past = append(q.Past, past)
	}
	for i := range r.IntN(7) {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(ns, "-", i), Labels: map[string]string{"of": ns}}}
		switch r.IntN(12) {
		case 0:
			n.Spec.Taints = []corev1.Taint{{Key: "own", Effect: corev1.TaintEffectNoExecute}}
		case 1:
			n.Labels["of"] = "others"
		case 2:
			n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}}
		}
		q.Nodes = append(q.Nodes, n)
		for j := range []int{0, 1, 1, 1, 1, 2, 3}[r.IntN(7)] {
			p := actor(n.Name, rune("rrrrpfsw"[r.IntN(8)]), j)
			p.Namespace, p.UID, p.Name = ns, types.UID(ns+p.Name), p.Name+"-"+ns
			p.Labels = map[string]string{"app": "web", "controller-revision-hash": hashes[(version+r.IntN(2))%3]}
			if r.IntN(8) > 0 {
				p.OwnerReferences = owner
			}
			for c := range p.Status.Conditions {
				p.Status.Conditions[c].LastTransitionTime = metav1.NewTime(world.Noon)
			}
			q.Pods = append(q.Pods, p)
		}
	}
	if len(q.Pods) == 0 { // else it is chance whether a revision is dropped before the last Pod that has it
		set.Spec.RevisionHistoryLimit = ptr.To(r.Int32N(2))
	}
	return q
}

func someStrategy(r *rand.Rand) (u appsv1.DaemonSetUpdateStrategy) {
	amount := ptr.To(intstr.FromInt32(1 + r.Int32N(3)))
	if r.IntN(2) == 0 {
		amount = ptr.To(intstr.FromString(fmt.Sprint(1+r.IntN(100), "%")))
	}
	none := ptr.To(intstr.FromInt32(0))
	switch r.IntN(5) {
	case 0:
		u.Type = appsv1.OnDeleteDaemonSetStrategyType
	case 1, 2:
		u.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxSurge: amount, MaxUnavailable: none}
	default:
		u.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxSurge: none, MaxUnavailable: amount}
	}
	return u
}

// settledDaemons looks at the DaemonSet until nothing is written any more.
func settledDaemons(t *testing.T, c *memory, q daemonQuestion) daemonAnswer {
	t.Helper()
	r := daemonSets{
		&owned.Replicas{Owning: owned.Owning{Client: c, Live: c, Events: record.NewFakeRecorder(1000), Gvk: appsv1.SchemeGroupVersion.WithKind("DaemonSet")}, Seen: func() string { return "1000000" }},
		flowcontrol.NewBackOff(firstFailure, longestFailure),
	}
	key := client.ObjectKeyFromObject(q.Set)
	c.writes = 0
	for before := -1; before != c.writes; {
		before = c.writes
		if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: key}); err != nil {
			t.Fatalf("question %d: %v", q.Seed, err)
		}
		if c.writes > 200 {
			t.Fatalf("question %d: never settles", q.Seed)
		}
	}
	var set appsv1.DaemonSet
	var pods corev1.PodList
	var past appsv1.ControllerRevisionList
	for _, err := range []error{c.Get(t.Context(), key, &set), c.List(t.Context(), &pods, client.InNamespace(key.Namespace)), c.List(t.Context(), &past, client.InNamespace(key.Namespace))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	a := daemonAnswer{Seed: q.Seed, Status: set.Status}
	for i := range pods.Items {
		p := &pods.Items[i]
		// Which of equal nodes is chosen is open: Kubernetes takes them in any order.
		a.Pods = append(a.Pods, fmt.Sprint(p.Status.Phase, " ", len(p.Status.Conditions), " ", p.DeletionTimestamp != nil, " ", p.Labels, " ", len(p.Spec.Tolerations)))
	}
	for _, r := range past.Items {
		a.Past = append(a.Past, fmt.Sprint(r.Name, " ", r.Revision, " ", r.Labels))
	}
	slices.Sort(a.Pods)
	slices.Sort(a.Past)
	return a
}

// TestDaemonsUpstream compares what becomes of random DaemonSets with what
// kube-controller-manager's own controller makes of them, when it has come to
// rest: Pods, revisions with their names, counts.
func TestDaemonsUpstream(t *testing.T) {
	var all []daemonQuestion
	var objects []client.Object
	for seed := range uint64(asked) {
		q := askDaemons(t, seed)
		all, objects = append(all, q), append(objects, q.Set)
		for _, n := range q.Nodes {
			objects = append(objects, n)
		}
		for _, p := range q.Pods {
			objects = append(objects, p)
		}
		for _, r := range q.Past {
			objects = append(objects, r)
		}
	}
	c := sync.OnceValue(func() *memory { return newMemory(objects) }) // it writes on the objects
	world.Upstream(t, "daemons.jsonl", all, func(q daemonQuestion) daemonAnswer { return settledDaemons(t, c(), q) })
}
