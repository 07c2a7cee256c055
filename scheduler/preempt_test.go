// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/api/pod"
)

func startedAt(sec int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.StartTime = &metav1.Time{Time: time.Unix(sec, 0)} }
}

func victimsOf(c *candidate) (names []string) {
	if c == nil {
		return nil
	}
	for _, l := range c.victims {
		names = append(names, l.pod.Name)
	}
	return names
}

// budget allows a number of disruptions of the Pods of an app.
func budget(name string, allowed int32, change ...func(*policyv1.PodDisruptionBudget)) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}
	b.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
	b.Status.DisruptionsAllowed = allowed
	for _, f := range change {
		f(b)
	}
	return b
}

// TestBudgets: who is kept by a budget goes last, and only if nothing else helps.
func TestBudgets(t *testing.T) {
	disrupted := func(name string) func(*policyv1.PodDisruptionBudget) {
		return func(b *policyv1.PodDisruptionBudget) { b.Status.DisruptedPods = map[string]metav1.Time{name: {}} }
	}
	all := func(b *policyv1.PodDisruptionBudget) { b.Spec.Selector = &metav1.LabelSelector{} }
	abroad := func(b *policyv1.PodDisruptionBudget) { b.Namespace = "other" }
	for name, x := range map[string]struct {
		asks       int64
		budgets    []*policyv1.PodDisruptionBudget
		want       string
		violations int
	}{
		"none":                       {300, nil, "b", 0},
		"the less important is kept": {300, []*policyv1.PodDisruptionBudget{budget("b", 0)}, "a", 0},
		"one may go":                 {300, []*policyv1.PodDisruptionBudget{budget("b", 1)}, "b", 0},
		"both are needed":            {800, []*policyv1.PodDisruptionBudget{budget("b", 0)}, "a b", 1},
		"both are kept":              {300, []*policyv1.PodDisruptionBudget{budget("b", 0), budget("a", 0)}, "b", 1},
		"allowed already":            {300, []*policyv1.PodDisruptionBudget{budget("b", 0, disrupted("b"))}, "b", 0},
		"of nobody":                  {300, []*policyv1.PodDisruptionBudget{budget("b", 0, all)}, "b", 0},
		"of another namespace":       {300, []*policyv1.PodDisruptionBudget{budget("b", 0, abroad)}, "b", 0},
	} {
		p := testPod("p", x.asks, urgent(9))
		i := nodeWith(testNode("n", 1000), testPod("a", 500, urgent(2), app("a")), testPod("b", 500, urgent(1), app("b")))
		on := shelf[policyv1.PodDisruptionBudget]{}
		for _, b := range x.budgets {
			on[nameOf(b)] = b
		}
		o := victimsOn(newWish(p), placeOf(p, i), on)
		c, why := o.candidate, o.why
		if got := strings.Join(victimsOf(c), " "); got != x.want || c.violations != x.violations {
			t.Errorf("%s: %q with %d violations, want %q with %d; %v", name, got, c.violations, x.want, x.violations, why)
		}
	}
}

// TestVictims: the fewest that are needed, the least important first to go.
func TestVictims(t *testing.T) {
	for name, x := range map[string]struct {
		pod  *corev1.Pod
		node *nodeInfo
		want string
	}{
		"one is enough":           {testPod("p", 500, urgent(9)), nodeWith(testNode("n", 1000), testPod("a", 500, urgent(1)), testPod("b", 500, urgent(2))), "a"},
		"of equals the youngest":  {testPod("p", 500, urgent(9)), nodeWith(testNode("n", 1000), testPod("a", 500, startedAt(2)), testPod("b", 500, startedAt(1))), "a"},
		"who has not started":     {testPod("p", 500, urgent(9)), nodeWith(testNode("n", 1000), testPod("a", 500, startedAt(2)), testPod("b", 500)), "b"},
		"both":                    {testPod("p", 900, urgent(9)), nodeWith(testNode("n", 1000), testPod("a", 500, urgent(1)), testPod("b", 500, urgent(2))), "b a"},
		"the small can stay":      {testPod("p", 800, urgent(9)), nodeWith(testNode("n", 1000), testPod("a", 800, urgent(2)), testPod("b", 200, urgent(1))), "a"},
		"equals are let be":       {testPod("p", 500, urgent(2)), nodeWith(testNode("n", 1000), testPod("a", 500, urgent(1)), testPod("b", 500, urgent(2))), "a"},
		"a port":                  {testPod("p", 1, urgent(9), port("", "TCP", 80)), nodeWith(testNode("n", 1000), testPod("a", 1, port("", "TCP", 80)), testPod("b", 1, port("", "TCP", 81))), "a"},
		"a place":                 {testPod("p", 1, urgent(9)), nodeWith(testNode("n", 1000), testPod("a", 1, startedAt(1)), testPod("b", 1, startedAt(2)), testPod("c", 1, startedAt(3))), "c"},
		"not even then":           {testPod("p", 900, urgent(9)), nodeWith(testNode("n", 1000), testPod("a", 500, urgent(1)), testPod("b", 500, urgent(9))), ""},
		"nobody of less priority": {testPod("p", 900), nodeWith(testNode("n", 1000), testPod("a", 500)), ""},
	} {
		o := victimsOn(newWish(x.pod), placeOf(x.pod, x.node), nil)
		c, why := o.candidate, o.why
		if got := strings.Join(victimsOf(c), " "); got != x.want || c != nil == (len(why) > 0) {
			t.Errorf("%s: %q, want %q; %v", name, got, x.want, why)
		}
	}
}

// TestLeastHarm: one criterion after another.
func TestLeastHarm(t *testing.T) {
	on := func(node string, victims ...*corev1.Pod) *candidate {
		c := &candidate{node: newNodeInfo(testNode(node, 1000))}
		for _, p := range victims {
			c.victims = append(c.victims, newLoad(p))
		}
		return c
	}
	for name, x := range map[string]struct{ better, worse *candidate }{
		"the budgets":            {on("b", testPod("1", 1, urgent(9))), func() *candidate { c := on("a", testPod("2", 1)); c.violations = 1; return c }()},
		"the highest priority":   {on("b", testPod("1", 1, urgent(1)), testPod("2", 1, urgent(1))), on("a", testPod("3", 1, urgent(2)))},
		"the sum of priorities":  {on("b", testPod("1", 1, urgent(2)), testPod("2", 1, urgent(0))), on("a", testPod("3", 1, urgent(2)), testPod("4", 1, urgent(1)))},
		"negative ones count":    {on("b", testPod("1", 1, urgent(-5))), on("a", testPod("2", 1, urgent(-5)), testPod("3", 1, urgent(-5)))},
		"who has run shorter":    {on("b", testPod("1", 1, startedAt(20))), on("a", testPod("2", 1, startedAt(10)))},
		"the longest run counts": {on("b", testPod("1", 1, startedAt(15)), testPod("2", 1, startedAt(15))), on("a", testPod("3", 1, startedAt(10)), testPod("4", 1, startedAt(90)))},
		"of the most important":  {on("b", testPod("1", 1, urgent(1), startedAt(20)), testPod("2", 1, urgent(0), startedAt(1))), on("a", testPod("3", 1, urgent(1), startedAt(10)), testPod("4", 1, urgent(0), startedAt(90)))},
		"the name":               {on("a", testPod("1", 1, startedAt(1))), on("b", testPod("2", 1, startedAt(1)))},
	} {
		for _, list := range [][]*candidate{{x.better, x.worse}, {x.worse, x.better}} {
			if got := leastHarm(list); got != x.better {
				t.Errorf("%s: %s", name, got.node.node.Name)
			}
		}
	}
}

// terminate shows the scheduler what its deletion began, and gives that Pod.
func (s *stage) terminate(t *testing.T, p *corev1.Pod) *corev1.Pod {
	t.Helper()
	going, _ := s.get(t, p.Name)
	going = placed(going, p.Spec.NodeName)
	going.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	s.pods.h.OnUpdate(p, going)
	synctest.Wait()
	return going
}

// full makes a node that a Pod fills.
func (s *stage) full(t *testing.T, pod string, cpu int64) *corev1.Pod {
	t.Helper()
	s.nodes.h.OnAdd(testNode("n", 1000), false)
	low := testPod(pod, cpu)
	s.create(t, low)
	there := placed(low, "n")
	s.pods.h.OnUpdate(low, there)
	pass(time.Second) // events are named after their moment
	s.writes()
	return there
}

// TestPreemption: who is more urgent takes the place of who is less, when that
// has ended; until then nobody else gets it who is not more urgent still.
func TestPreemption(t *testing.T) {
	play(t, func(s *stage) {
		low := s.full(t, "low", 800)
		p := testPod("p", 900, urgent(5))
		s.create(t, p)
		if got := s.writes(); !slices.Contains(got, "delete low") || !slices.Contains(got, "patch low") || slices.Index(got, "patch low") > slices.Index(got, "delete low") {
			t.Errorf("wrote %q", got)
		}
		victim, _ := s.get(t, "low")
		if c := pod.Condition(&victim.Status, corev1.DisruptionTarget); c == nil || c.Status != corev1.ConditionTrue || c.Reason != "PreemptionByScheduler" ||
			c.Message != "default-scheduler: preempting to accommodate a higher priority pod" {
			t.Errorf("condition %+v", c)
		}
		waits, c := s.get(t, "p")
		want := "0/1 nodes are available: 1 Insufficient cpu. preemption: found a potential placement for pod on node n, preempting 1 victims"
		if waits.Status.NominatedNodeName != "n" || c.Message != want {
			t.Errorf("promised %q, said %q", waits.Status.NominatedNodeName, c.Message)
		}
		if got := s.messages(t, "Preempted"); !slices.Equal(got, []string{"Preempted by pod p on node n"}) {
			t.Errorf("said %q", got)
		}
		s.pods.h.OnUpdate(p, waits)
		going := s.terminate(t, low)
		s.create(t, testPod("thief", 200, urgent(5)))
		s.create(t, testPod("chief", 100, urgent(6)))
		if s.on("thief") != "" || s.on("chief") != "n" || s.on("p") != "" {
			t.Errorf("thief on %q, chief on %q, p on %q", s.on("thief"), s.on("chief"), s.on("p"))
		}
		s.writes()
		s.pods.h.OnDelete(going)
		if got := s.writes(); s.on("p") != "n" || slices.Contains(got, "delete low") {
			t.Errorf("p on %q, wrote %q", s.on("p"), got)
		}
	})
}

// TestPreemptsOnce: while somebody ends for it, a Pod chooses nobody else.
func TestPreemptsOnce(t *testing.T) {
	play(t, func(s *stage) {
		low := s.full(t, "low", 800)
		p := testPod("p", 900, urgent(5))
		s.create(t, p)
		waits, _ := s.get(t, "p")
		s.pods.h.OnUpdate(p, waits)
		s.terminate(t, low)
		s.writes()
		small := testNode("other", 1000)
		s.pods.h.OnAdd(placed(testPod("there", 200), "other"), false)
		s.nodes.h.OnAdd(small, false)
		if got := s.writes(); slices.Contains(got, "delete there") || slices.Contains(got, "delete low") {
			t.Errorf("wrote %q", got)
		}
		waits, c := s.get(t, "p")
		if !strings.HasSuffix(c.Message, "preemption: not eligible due to a terminating pod on the nominated node.") || waits.Status.NominatedNodeName != "n" {
			t.Errorf("promised %q, said %q", waits.Status.NominatedNodeName, c.Message)
		}
	})
}

// TestPreemptionIsTriedAgain when the API would not end somebody.
func TestPreemptionIsTriedAgain(t *testing.T) {
	play(t, func(s *stage) {
		s.full(t, "low", 800)
		s.spare = 1
		s.create(t, testPod("p", 900, urgent(5)))
		if len(s.deleted) != 0 {
			t.Fatalf("deleted %q", s.deleted)
		}
		pass(2 * time.Second)
		if !slices.Equal(s.deleted, []string{"low"}) {
			t.Errorf("deleted %q", s.deleted)
		}
	})
}

// TestVictimGoesByItself while its end is being written: that is not forgotten.
func TestVictimGoesByItself(t *testing.T) {
	play(t, func(s *stage) {
		low := s.full(t, "low", 800)
		s.hold = make(chan struct{})
		s.create(t, testPod("p", 900, urgent(5)))
		s.pods.h.OnDelete(low)
		synctest.Wait()
		if s.on("p") != "" {
			t.Error("placed while it was still preempting")
		}
		close(s.hold)
		synctest.Wait()
		if s.on("p") != "n" {
			t.Errorf("p is on %q", s.on("p"))
		}
	})
}

// TestPromises: one that the API knows holds from the start, is lost to who is
// more urgent, and ends with the Pod.
func TestPromises(t *testing.T) {
	play(t, func(s *stage) {
		s.nodes.h.OnAdd(testNode("n", 1000), false)
		s.pods.h.OnAdd(placed(testPod("low", 500), "n"), false)
		p := testPod("p", 900, urgent(5), func(p *corev1.Pod) {
			p.Status.NominatedNodeName = "n"
			p.Spec.PreemptionPolicy = new(corev1.PreemptNever)
		})
		s.create(t, p)
		s.create(t, testPod("small", 300, urgent(1)))
		if s.on("small") != "" {
			t.Errorf("small took what is promised")
		}
		high := testPod("high", 600, urgent(7))
		s.create(t, high)
		if waits, _ := s.get(t, "p"); waits.Status.NominatedNodeName != "" {
			t.Errorf("p is promised %q yet", waits.Status.NominatedNodeName)
		}
		if waits, _ := s.get(t, "high"); waits.Status.NominatedNodeName != "n" {
			t.Errorf("high is promised %q", waits.Status.NominatedNodeName)
		}
		s.pods.h.OnDelete(high)
		synctest.Wait()
		if s.on("small") != "n" {
			t.Errorf("small is on %q", s.on("small"))
		}
	})
}
