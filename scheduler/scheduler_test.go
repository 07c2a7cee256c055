// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/api/pod"
)

// feed is an informer that a test speaks for.
type feed struct {
	h    cache.ResourceEventHandler
	full chan struct{} // closes when the first list has been told
}

func (f *feed) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	f.h = h
	return f, nil
}

func (f *feed) HasSynced() bool                     { return cache.IsDone(f) }
func (f *feed) HasSyncedChecker() cache.DoneChecker { return f }
func (f *feed) Name() string                        { return "feed" }
func (f *feed) Done() <-chan struct{}               { return f.full }

// stage is a scheduler in virtual time, with what it wrote to the API.
type stage struct {
	*Scheduler
	pods, nodes, namespaces, others feed
	claims, volumes, classes        feed
	client                          *fake.Clientset
	hold                            chan struct{} // patches wait for its end, if there is one

	mu       sync.Mutex // guards the fields below
	refuse   int        // bindings to refuse
	deny     int        // patches to refuse
	bound    map[string]string
	attempts []time.Time // of bindings
	wrote    []string    // kinds of writes, and of which Pod
	deleted  []string
	spare    int // deletions to refuse
	version  int
}

// play runs do beside a scheduler that has seen an empty cluster.
func play(t *testing.T, do func(*stage)) {
	t.Helper()
	playCold(t, func(s *stage) {
		close(s.pods.full)
		close(s.nodes.full)
		synctest.Wait()
		do(s)
	})
}

// playCold runs do beside a scheduler whose informers have told nothing yet.
func playCold(t *testing.T, do func(*stage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &stage{client: fake.NewClientset(), bound: map[string]string{}}
		s.pods.full, s.nodes.full, s.namespaces.full, s.others.full = make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{})
		close(s.namespaces.full)
		close(s.others.full)
		for _, f := range []*feed{&s.claims, &s.volumes, &s.classes} {
			f.full = s.others.full
		}
		s.client.PrependReactor("create", "pods", s.bindings)
		s.client.PrependReactor("patch", "pods", s.statuses)
		s.client.PrependReactor("delete", "pods", s.deletes)
		s.Scheduler = New(Config{Client: heldClient{s.client, s}, Log: slog.New(slog.DiscardHandler), Informers: Informers{
			Pods: &s.pods, Nodes: &s.nodes, Namespaces: &s.namespaces, Services: &s.others, ReplicationControllers: &s.others, ReplicaSets: &s.others, StatefulSets: &s.others, Budgets: &s.others,
			Claims: &s.claims, Volumes: &s.volumes, StorageClasses: &s.classes,
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		do(s)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		synctest.Wait()
	})
}

// heldClient holds patches of Pods up: the fake client answers one call at a
// time, so that a reactor cannot.
type (
	heldClient struct {
		kubernetes.Interface
		s *stage
	}
	heldCore struct {
		typedcore.CoreV1Interface
		s *stage
	}
	heldPods struct {
		typedcore.PodInterface
		s *stage
	}
)

func (c heldClient) CoreV1() typedcore.CoreV1Interface { return heldCore{c.Interface.CoreV1(), c.s} }
func (c heldCore) Pods(namespace string) typedcore.PodInterface {
	return heldPods{c.CoreV1Interface.Pods(namespace), c.s}
}
func (c heldPods) Patch(ctx context.Context, name string, kind types.PatchType, data []byte, o metav1.PatchOptions, subresources ...string) (*corev1.Pod, error) {
	if c.s.hold != nil {
		<-c.s.hold
	}
	return c.PodInterface.Patch(ctx, name, kind, data, o, subresources...)
}

// bindings takes bindings, or refuses them.
func (s *stage) bindings(a clienttesting.Action) (bool, runtime.Object, error) {
	if a.GetSubresource() != "binding" {
		return false, nil, nil
	}
	b := a.(clienttesting.CreateAction).GetObject().(*corev1.Binding)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrote = append(s.wrote, "bind "+b.Name)
	s.attempts = append(s.attempts, time.Now())
	if s.refuse > 0 {
		s.refuse--
		return true, nil, errors.New("the API is not well")
	}
	s.bound[b.Name] = b.Target.Name
	return true, b, nil
}

// statuses gives a patched Pod its next version, or refuses the patch.
func (s *stage) statuses(a clienttesting.Action) (bool, runtime.Object, error) {
	name := a.(clienttesting.PatchAction).GetName()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrote = append(s.wrote, "patch "+name)
	if s.deny > 0 {
		s.deny--
		return true, nil, errors.New("the API is not well")
	}
	pods := corev1.SchemeGroupVersion.WithResource("pods")
	o, err := s.client.Tracker().Get(pods, a.GetNamespace(), name)
	if err != nil {
		return true, nil, err
	}
	s.version++
	p := o.(*corev1.Pod).DeepCopy()
	p.ResourceVersion = strconv.Itoa(s.version)
	return false, nil, s.client.Tracker().Update(pods, p, a.GetNamespace())
}

// deletes begins a termination, or refuses to.
func (s *stage) deletes(a clienttesting.Action) (bool, runtime.Object, error) {
	d := a.(clienttesting.DeleteAction)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrote = append(s.wrote, "delete "+d.GetName())
	if p := d.GetDeleteOptions().Preconditions; p == nil || p.UID == nil || *p.UID != types.UID(d.GetName()) {
		return true, nil, errors.New("not that Pod")
	}
	if s.spare > 0 {
		s.spare--
		return true, nil, errors.New("the API is not well")
	}
	s.deleted = append(s.deleted, d.GetName())
	return true, nil, nil
}

// writes are what was written since the last call.
func (s *stage) writes() []string {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.wrote
	s.wrote = nil
	return w
}

// looks is how often a Pod was looked at in vain.
func (s *stage) looks(pod string) int {
	synctest.Wait()
	s.Scheduler.mu.Lock()
	defer s.Scheduler.mu.Unlock()
	return s.Scheduler.pods[types.UID(pod)].tries
}

// get is the Pod as the API has it, and its PodScheduled condition.
func (s *stage) get(t *testing.T, name string) (*corev1.Pod, corev1.PodCondition) {
	t.Helper()
	synctest.Wait()
	p, err := s.client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if c := pod.Condition(&p.Status, corev1.PodScheduled); c != nil {
		return p, *c
	}
	return p, corev1.PodCondition{}
}

// create makes a Pod known, to the API also, so that its status can be written.
func (s *stage) create(t *testing.T, p *corev1.Pod) {
	t.Helper()
	s.mu.Lock()
	s.version++
	p.ResourceVersion = strconv.Itoa(s.version)
	s.mu.Unlock()
	if _, err := s.client.CoreV1().Pods(p.Namespace).Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.pods.h.OnAdd(p, false)
	synctest.Wait()
}

func (s *stage) on(pod string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bound[pod]
}

// placed is the Pod as the API would show it after its binding.
func placed(p *corev1.Pod, node string) *corev1.Pod {
	p = p.DeepCopy()
	p.Spec.NodeName = node
	return p
}

func (s *stage) messages(t *testing.T, reason string) (out []string) {
	t.Helper()
	synctest.Wait()
	list, err := s.client.EventsV1().Events("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list.Items {
		if e.Reason == reason {
			out = append(out, e.Note)
		}
	}
	return out
}

// pass lets virtual time go on.
func pass(d time.Duration) {
	time.Sleep(d) // polls: the clock is the test's own
	synctest.Wait()
}

// TestFirstChoiceWaitsForTheCluster: after a restart Pods and nodes come one by
// one, and a choice in between would overcommit a node or find none.
func TestFirstChoiceWaitsForTheCluster(t *testing.T) {
	playCold(t, func(s *stage) {
		s.create(t, testPod("new", 800))
		s.nodes.h.OnAdd(testNode("n", 1000), true)
		close(s.nodes.full)
		synctest.Wait()
		if s.on("new") != "" || len(s.messages(t, "FailedScheduling")) > 0 {
			t.Fatalf("chosen %q, said %q before all Pods were known", s.on("new"), s.messages(t, "FailedScheduling"))
		}
		s.pods.h.OnAdd(placed(testPod("old", 800), "n"), true)
		close(s.pods.full)
		synctest.Wait()
		if s.on("new") != "" {
			t.Errorf("placed on %q, which is full", s.on("new"))
		}
		if got := s.messages(t, "FailedScheduling"); len(got) != 1 || !strings.HasPrefix(got[0], "0/1 nodes are available: 1 Insufficient cpu.") {
			t.Errorf("said %q", got)
		}
	})
}

// TestStopsBeforeTheClusterIsKnown: an API that never answers holds nobody up.
func TestStopsBeforeTheClusterIsKnown(t *testing.T) { playCold(t, func(*stage) {}) }

// TestReplacedUnderOneName: a removal and a new Pod of the same name can come
// as one change; the room of the first is free.
func TestReplacedUnderOneName(t *testing.T) {
	play(t, func(s *stage) {
		s.nodes.h.OnAdd(testNode("n", 1000), false)
		first := placed(testPod("p", 800), "n")
		s.pods.h.OnAdd(first, false)
		s.create(t, testPod("waits", 900))
		if s.on("waits") != "" {
			t.Fatalf("waits is on %q", s.on("waits"))
		}
		second := testPod("p", 100)
		second.UID = "another"
		s.pods.h.OnUpdate(first, second)
		synctest.Wait()
		if s.on("p") != "n" || s.on("waits") != "n" {
			t.Errorf("the new Pod is on %q, the waiting one on %q", s.on("p"), s.on("waits"))
		}
	})
}

// TestWaitsForRoom: a Pod that fits nowhere says so once, and is placed the
// moment a Pod before it ends.
func TestWaitsForRoom(t *testing.T) {
	play(t, func(s *stage) {
		s.nodes.h.OnAdd(testNode("n", 1000), false)
		first, second := testPod("first", 800), testPod("second", 800)
		s.create(t, first)
		if s.on("first") != "n" {
			t.Fatalf("first is on %q", s.on("first"))
		}
		s.pods.h.OnUpdate(first, placed(first, "n"))
		s.create(t, second)
		p, c := s.get(t, "second")
		if len(p.Status.Conditions) != 1 || c.Status != corev1.ConditionFalse || c.Reason != "Unschedulable" || c.ObservedGeneration != 1 {
			t.Errorf("conditions %+v", p.Status.Conditions)
		}
		s.pods.h.OnUpdate(second, p) // its own status is no reason to look again
		if got := s.messages(t, "FailedScheduling"); len(got) != 1 || !strings.HasPrefix(got[0], "0/1 nodes are available: 1 Insufficient cpu.") {
			t.Errorf("said %q", got)
		}
		pass(time.Second) // events are named after their moment
		s.pods.h.OnDelete(placed(first, "n"))
		synctest.Wait()
		if s.on("second") != "n" {
			t.Errorf("second is on %q", s.on("second"))
		}
		if got := s.messages(t, "Scheduled"); len(got) != 2 || got[1] != "Successfully assigned default/second to n" {
			t.Errorf("said %q", got)
		}
	})
}

// TestWaitsForNodes: a new node, a label and a lifted cordon are looked at.
func TestWaitsForNodes(t *testing.T) {
	play(t, func(s *stage) {
		p := testPod("p", 100, needing(corev1.NodeSelectorOpIn, "disk", "fast"))
		s.create(t, p)
		closed := testNode("n", 1000, func(n *corev1.Node) { n.Spec.Unschedulable = true })
		s.nodes.h.OnAdd(closed, false)
		open := testNode("n", 1000)
		s.nodes.h.OnUpdate(closed, open)
		synctest.Wait()
		if s.on("p") != "" {
			t.Fatalf("placed on %q without the label", s.on("p"))
		}
		fast := testNode("n", 1000, func(n *corev1.Node) { n.Labels["disk"] = "fast" })
		s.nodes.h.OnUpdate(open, fast)
		synctest.Wait()
		if s.on("p") != "n" {
			t.Errorf("placed on %q", s.on("p"))
		}
	})
}

// TestBindingRefused: the Pod says why it waits, and its room is free.
func TestBindingRefused(t *testing.T) {
	play(t, func(s *stage) {
		s.refuse = 1
		s.nodes.h.OnAdd(testNode("n", 1000), false)
		p := testPod("p", 800)
		s.create(t, p)
		want := `running Bind plugin "DefaultBinder": the API is not well`
		told, first := s.get(t, "p")
		if first.Status != corev1.ConditionFalse || first.Reason != "SchedulerError" || first.Message != want {
			t.Errorf("condition %+v", first)
		}
		s.pods.h.OnUpdate(p, told)
		if got := s.messages(t, "FailedScheduling"); len(got) != 1 || got[0] != want {
			t.Errorf("said %q", got)
		}
		s.create(t, testPod("between", 700))
		if s.on("between") != "n" {
			t.Errorf("between is on %q", s.on("between"))
		}
		pass(2 * time.Second)
		_, second := s.get(t, "p")
		if second.Reason != "Unschedulable" || !second.LastTransitionTime.Equal(&first.LastTransitionTime) {
			t.Errorf("condition %+v after %+v", second, first)
		}
	})
}

// TestBindingBacksOff: twice as long each time.
func TestBindingBacksOff(t *testing.T) {
	play(t, func(s *stage) {
		s.refuse = 6
		s.nodes.h.OnAdd(testNode("n", 1000), false)
		s.create(t, testPod("p", 800))
		pass(time.Minute)
		if s.on("p") != "n" || len(s.attempts) != 7 {
			t.Fatalf("on %q after %d tries", s.on("p"), len(s.attempts))
		}
		for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second, 10 * time.Second} {
			if got := s.attempts[i+1].Sub(s.attempts[i]); got != want {
				t.Errorf("pause %d is %v, want %v", i, got, want)
			}
		}
	})
}

// TestLeavesOthersAlone: another scheduler's Pods, gated ones, and those that
// are going.
func TestLeavesOthersAlone(t *testing.T) {
	play(t, func(s *stage) {
		s.nodes.h.OnAdd(testNode("n", 1000), false)
		s.create(t, testPod("other", 1, func(p *corev1.Pod) { p.Spec.SchedulerName = "mine" }))
		s.create(t, testPod("going", 1, func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Now()} }))
		gated := testPod("gated", 1, func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} })
		s.create(t, gated)
		for _, name := range []string{"other", "going", "gated"} {
			if s.on(name) != "" {
				t.Errorf("%s is on %s", name, s.on(name))
			}
		}
		s.pods.h.OnUpdate(gated, testPod("gated", 1))
		synctest.Wait()
		if s.on("gated") != "n" {
			t.Errorf("without its gate it is on %q", s.on("gated"))
		}
	})
}

// TestPriorityFirst: of those that wait, the highest takes the room.
func TestPriorityFirst(t *testing.T) {
	play(t, func(s *stage) {
		priority := func(n int32) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Priority = &n } }
		s.create(t, testPod("low", 800, priority(1)))
		s.create(t, testPod("high", 800, priority(10)))
		s.nodes.h.OnAdd(testNode("n", 1000), false)
		synctest.Wait()
		if s.on("high") != "n" || s.on("low") != "" {
			t.Errorf("high on %q, low on %q", s.on("high"), s.on("low"))
		}
	})
}
