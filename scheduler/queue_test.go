// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// order empties a queue.
func order(q *queue) (names []string) {
	for e := q.next(); e != nil; e = q.next() {
		names = append(names, e.pod.Name)
	}
	return names
}

func queued(name string, change ...func(*corev1.Pod)) *entry {
	return &entry{pod: testPod(name, 100, change...)}
}

// TestQueueOrder: by priority, and of equals who waits longer.
func TestQueueOrder(t *testing.T) {
	q := newQueue()
	for _, e := range []*entry{queued("b"), queued("a"), queued("high", urgent(5)), queued("low", urgent(-5)), queued("c")} {
		q.add(e)
	}
	if got := order(q); !slices.Equal(got, []string{"high", "b", "a", "c", "low"}) {
		t.Error(got)
	}
}

// TestRefusedWait: 5 minutes, or for a change that cures a rule.
func TestRefusedWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		e := queued("p")
		q.refuse(e, []*rule{&resources})
		if q.changed(nodeChange{new: newNodeInfo(testNode("small", 10))}) || q.next() != nil {
			t.Error("too small a node helps")
		}
		if got := time.Until(q.due()); got != 5*time.Minute {
			t.Errorf("due in %v", got)
		}
		if !q.changed(nodeChange{new: newNodeInfo(testNode("big", 1000))}) || q.next() != e {
			t.Error("a big node does not help")
		}
		q.refuse(e, []*rule{&resources})
		pass(5*time.Minute - 1)
		if q.next() != nil {
			t.Error("too early")
		}
		pass(1)
		if q.next() != e {
			t.Error("not after five minutes")
		}
	})
}

// TestWhoWasRefusedRests: while others are active, a second at first and ten at
// most; those that rest together go by priority.
func TestWhoWasRefusedRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		wake := func(entries ...*entry) {
			for _, e := range entries {
				q.refuse(e, []*rule{&resources})
				q.changed(podLeft{newLoad(testPod("gone", 100)), nil})
			}
		}
		tired, other, urgently := queued("tired"), queued("other"), queued("urgently", urgent(5))
		wake(tired, other, urgently)
		q.add(queued("new"))
		if got := order(q); !slices.Equal(got, []string{"new", "urgently", "tired", "other"}) {
			t.Errorf("one after another: %q", got)
		}
		tired.tries = 20
		wake(tired)
		for _, x := range []struct {
			after time.Duration
			want  []string
		}{{10 * time.Second, []string{"new", "tired"}}, {11 * time.Second, []string{"tired", "new"}}} {
			wake(tired)
			pass(x.after)
			q.add(queued("new", urgent(-1)))
			if got := order(q); !slices.Equal(got, x.want) {
				t.Errorf("after %v: %q", x.after, got)
			}
		}
	})
}

// TestBackOff doubles to ten seconds.
func TestBackOff(t *testing.T) {
	for n, want := range []time.Duration{time.Second, time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second, 10 * time.Second} {
		if got := backOff(n); got != want {
			t.Errorf("%d: %v, want %v", n, got, want)
		}
	}
	if got := backOff(1 << 30); got != 10*time.Second {
		t.Error(got)
	}
}

// TestRemoved: who is taken out of any line does not come again.
func TestRemoved(t *testing.T) {
	q := newQueue()
	active, resting, parked, failed := queued("active"), queued("resting"), queued("parked"), queued("failed")
	q.add(active)
	q.refuse(resting, []*rule{&resources})
	q.changed(podLeft{newLoad(testPod("gone", 100)), nil})
	q.refuse(parked, []*rule{&resources})
	q.fail(failed)
	for _, e := range []*entry{active, resting, parked, failed, queued("never there")} {
		q.remove(e)
		q.remove(e)
	}
	if n := len(q.active.entries) + len(q.resting.entries) + len(q.parked.entries); n != 0 || q.next() != nil || !q.due().IsZero() {
		t.Errorf("%d are left", n)
	}
}

// TestCures: which changes let a Pod hope that which rule refused.
func TestCures(t *testing.T) {
	closed := func(n *corev1.Node) { n.Spec.Unschedulable = true }
	tainted := func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}
	}
	fast := func(n *corev1.Node) { n.Labels["disk"] = "fast" }
	came := func(cpu int64, change ...func(*corev1.Node)) nodeChange {
		return nodeChange{new: newNodeInfo(testNode("n", cpu, change...))}
	}
	became := func(old, new nodeChange) nodeChange { return nodeChange{old.new, new.new} }
	left := func(p *corev1.Pod) podLeft { return podLeft{newLoad(p), nil} }
	p := testPod("p", 500, port("", "TCP", 80), needing(corev1.NodeSelectorOpIn, "disk", "fast"))
	edited := func(to *corev1.Pod) podEdited { return podEdited{newWish(p), newWish(to)} }
	in := teams
	lonely := testPod("p", 0, app("a"), apart("b", corev1.LabelHostname), beside("c", corev1.LabelHostname), spreadBy(corev1.LabelTopologyZone, "a"))
	moved := func(p *corev1.Pod, to string) podRelabelled {
		q := p.DeepCopy()
		app(to)(q)
		return podRelabelled{newLoad(p), newLoad(q), in}
	}
	zoned := func(z string) func(*corev1.Node) {
		return func(n *corev1.Node) { n.Labels[corev1.LabelTopologyZone] = z }
	}
	forbearing := testPod("p", 500, tolerating(corev1.Toleration{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists}))
	for name, x := range map[string]struct {
		by   *rule
		what any
		want bool
	}{
		"no node, one comes":                   {&anyNode, came(10, closed), true},
		"no node, a Pod leaves":                {&anyNode, left(testPod("a", 500)), false},
		"cordoned, another comes":              {&unschedulable, came(10), true},
		"cordoned, another cordoned one comes": {&unschedulable, came(10, closed), false},
		"cordoned, lifted":                     {&unschedulable, became(came(10, closed), came(10)), true},
		"cordoned, relabelled":                 {&unschedulable, became(came(10), came(10, fast)), false},
		"cordoned, tolerated now":              {&unschedulable, edited(forbearing), true},
		"cordoned, something else tolerated":   {&unschedulable, edited(testPod("p", 1, tolerating(corev1.Toleration{Key: "k"}))), false},
		"tainted, taken away":                  {&taints, became(came(10, tainted), came(10)), true},
		"tainted, a clean one comes":           {&taints, came(10), true},
		"tainted, another tainted one comes":   {&taints, came(10, tainted), false},
		"tainted, a clean one changes":         {&taints, became(came(10), came(20)), false},
		"tainted, tolerated now":               {&taints, edited(forbearing), true},
		"tainted, a Pod leaves":                {&taints, left(testPod("a", 500)), false},
		"no match, a match comes":              {&affinity, came(10, fast), true},
		"no match, no match comes":             {&affinity, came(1000), false},
		"no match, becomes one":                {&affinity, became(came(10), came(10, fast)), true},
		"no match, a match grows":              {&affinity, became(came(10, fast), came(20, fast)), false},
		"port taken, another leaves":           {&hostPorts, left(testPod("a", 500)), false},
		"port taken, its holder leaves":        {&hostPorts, left(testPod("a", 0, port("10.0.0.1", "TCP", 80))), true},
		"port taken, another port is free":     {&hostPorts, left(testPod("a", 0, port("", "UDP", 80))), false},
		"port taken, a node comes":             {&hostPorts, came(10), true},
		"port taken, a node grows":             {&hostPorts, became(came(10), came(2000)), false},
		"full, a Pod leaves":                   {&resources, left(testPod("a", 0)), true},
		"full, a big enough one comes":         {&resources, came(500), true},
		"full, a small one comes":              {&resources, came(499), false},
		"full, one grows enough":               {&resources, became(came(400), came(600)), true},
		"full, one grows not enough":           {&resources, became(came(300), came(400)), false},
		"full, one shrinks":                    {&resources, became(came(2000), came(1000)), false},
		"full, relabelled":                     {&resources, became(came(2000), came(2000, fast)), false},
		"full, a Pod shrinks":                  {&resources, podShrank{newLoad(testPod("a", 500)), newLoad(testPod("a", 400))}, true},
		"full, a Pod grows":                    {&resources, podShrank{newLoad(testPod("a", 400)), newLoad(testPod("a", 500))}, false},
		"full, asks for less":                  {&resources, edited(testPod("p", 400)), true},
		"full, asks for more":                  {&resources, edited(testPod("p", 600)), false},
		"full, tolerates more":                 {&resources, edited(forbearing), false},
	} {
		if got := x.by.cures(newWish(p), x.what); got != x.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	for name, x := range map[string]struct {
		by   *rule
		what any
		want bool
	}{
		"alone, who is missed comes":            {&podAffinity, podCame{newLoad(testPod("x", 0, app("c"))), in}, true},
		"alone, somebody else comes":            {&podAffinity, podCame{newLoad(testPod("x", 0, app("d"))), in}, false},
		"alone, one of another namespace":       {&podAffinity, podCame{newLoad(testPod("x", 0, app("c"), elsewhere)), in}, false},
		"alone, one becomes who is missed":      {&podAffinity, moved(testPod("x", 0, app("d")), "c"), true},
		"alone, one becomes somebody else":      {&podAffinity, moved(testPod("x", 0, app("c")), "d"), false},
		"shunned, who is shunned goes":          {&podAffinity, podLeft{newLoad(testPod("x", 0, app("b"))), in}, true},
		"shunned, who shuns goes":               {&podAffinity, podLeft{newLoad(testPod("x", 0, apart("a", corev1.LabelHostname))), in}, true},
		"shunned, somebody else goes":           {&podAffinity, podLeft{newLoad(testPod("x", 0, app("d"))), in}, false},
		"shunned, one is no longer shunned":     {&podAffinity, moved(testPod("x", 0, app("b")), "d"), true},
		"shunned, a node comes":                 {&podAffinity, came(10), true},
		"shunned, a node is relabelled":         {&podAffinity, became(came(10), came(10, fast)), true},
		"shunned, a node grows":                 {&podAffinity, became(came(10), came(20)), false},
		"shunned, a node goes":                  {&podAffinity, nodeGone{newNodeInfo(testNode("n", 1))}, true},
		"shunned, a namespace is relabelled":    {&podAffinity, namespaceChange{"other"}, true},
		"shunned, has another label":            {&podAffinity, podEdited{newWish(lonely), newWish(testPod("p", 0, app("z")))}, true},
		"shunned, tolerates more":               {&podAffinity, podEdited{newWish(testPod("p", 0)), newWish(testPod("p", 0, tolerating(corev1.Toleration{Key: "k"})))}, false},
		"skewed, one of them comes":             {&topologySpread, podCame{newLoad(testPod("x", 0, app("a"))), in}, true},
		"skewed, another comes":                 {&topologySpread, podCame{newLoad(testPod("x", 0, app("b"))), in}, false},
		"skewed, one of them goes":              {&topologySpread, podLeft{newLoad(testPod("x", 0, app("a"))), in}, true},
		"skewed, one of another namespace":      {&topologySpread, podLeft{newLoad(testPod("x", 0, app("a"), elsewhere)), in}, false},
		"skewed, one becomes one of them":       {&topologySpread, moved(testPod("x", 0, app("b")), "a"), true},
		"skewed, one becomes another":           {&topologySpread, moved(testPod("x", 0, app("b")), "c"), false},
		"skewed, a node of a zone comes":        {&topologySpread, came(10, zoned("a")), true},
		"skewed, a node of no zone comes":       {&topologySpread, came(10), false},
		"skewed, a node gets a zone":            {&topologySpread, became(came(10), came(10, zoned("a"))), true},
		"skewed, a node loses its zone":         {&topologySpread, became(came(10, zoned("a")), came(10)), true},
		"skewed, a node changes its zone":       {&topologySpread, became(came(10, zoned("a")), came(10, zoned("b"))), true},
		"skewed, a node is tainted":             {&topologySpread, became(came(10, zoned("a")), came(10, zoned("a"), tainted)), true},
		"skewed, a node grows":                  {&topologySpread, became(came(10, zoned("a")), came(20, zoned("a"))), false},
		"skewed, a node without zone changes":   {&topologySpread, became(came(10), came(20, fast)), false},
		"skewed, a node of a zone goes":         {&topologySpread, nodeGone{newNodeInfo(testNode("n", 1, zoned("a")))}, true},
		"skewed, a node of no zone goes":        {&topologySpread, nodeGone{newNodeInfo(testNode("n", 1))}, false},
		"skewed, has another label":             {&topologySpread, podEdited{newWish(lonely), newWish(testPod("p", 0, app("z")))}, true},
		"skewed, tolerates what does not count": {&topologySpread, podEdited{newWish(lonely), newWish(testPod("p", 0, app("a"), tolerating(corev1.Toleration{Key: "k"})))}, false},
	} {
		if got := x.by.cures(newWish(lonely), x.what); got != x.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
