// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/utils/ptr"
)

// seed replays one run of the model tests; 0 makes many.
var seed = flag.Uint64("seed", 0, "seed of the model tests")

// each runs f with the seeds of a test run, or the one that was asked for.
func each(t *testing.T, n int, f func(*testing.T, *rand.Rand)) {
	t.Helper()
	from, to := uint64(1), uint64(n)
	if *seed != 0 {
		from, to = *seed, *seed
	}
	for s := from; s <= to && !t.Failed(); s++ {
		f(t, rand.New(rand.NewPCG(s, 0)))
		if t.Failed() {
			t.Logf("replay with -run '%s$' -seed %d", t.Name(), s)
		}
	}
}

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

func randomNode(r *rand.Rand, name string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{}}}
	n.Status.Allocatable = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(pick(r, "500m", "1", "2")), corev1.ResourceMemory: resource.MustParse(pick(r, "512Mi", "1Gi")),
	}
	if r.IntN(8) > 0 {
		n.Status.Allocatable[corev1.ResourcePods] = resource.MustParse(pick(r, "2", "4", "10"))
	}
	if r.IntN(3) == 0 {
		n.Status.Allocatable["example.com/gpu"] = resource.MustParse("2")
	}
	if r.IntN(2) == 0 {
		n.Labels["disk"] = pick(r, "fast", "slow")
	}
	if r.IntN(8) > 0 {
		n.Labels[corev1.LabelHostname] = name
	}
	if r.IntN(4) > 0 {
		n.Labels[corev1.LabelTopologyZone] = pick(r, "a", "b")
	}
	n.Spec.Unschedulable = r.IntN(6) == 0
	for _, k := range []string{"a", "b"} {
		if r.IntN(5) == 0 {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: k, Value: pick(r, "", "v"), Effect: pick(r, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute, corev1.TaintEffectPreferNoSchedule)})
		}
	}
	return n
}

func randomContainer(r *rand.Rand, name string) corev1.Container {
	c := corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{}}}
	// In an order, so that a seed always makes the same.
	for _, x := range []struct {
		name   corev1.ResourceName
		rarely int
		of     []string
	}{{corev1.ResourceCPU, 1, []string{"0", "100m", "250m", "700m"}}, {corev1.ResourceMemory, 1, []string{"0", "100Mi", "300Mi"}}, {"example.com/gpu", 6, []string{"1"}}} {
		if r.IntN(x.rarely) == 0 && r.IntN(3) > 0 {
			c.Resources.Requests[x.name] = resource.MustParse(pick(r, x.of...))
		}
	}
	if r.IntN(3) == 0 {
		c.Ports = []corev1.ContainerPort{{HostPort: int32(80 + r.IntN(2)), HostIP: pick(r, "", "10.0.0.1", "10.0.0.2", "0.0.0.0"), Protocol: pick(r, corev1.ProtocolTCP, corev1.ProtocolUDP)}}
	}
	return c
}

func randomPod(r *rand.Rand, name string, nodes []string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name), Generation: 1}}
	p.Spec.SchedulerName = corev1.DefaultSchedulerName
	p.Spec.Containers = []corev1.Container{randomContainer(r, "c")}
	if r.IntN(3) == 0 {
		c := randomContainer(r, "i")
		if r.IntN(2) == 0 {
			c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
		}
		p.Spec.InitContainers = []corev1.Container{c}
	}
	p.Spec.Priority = ptr.To(int32(r.IntN(3)))
	p.Status.StartTime = &metav1.Time{Time: time.Unix(int64(r.IntN(1000000)), 0)}
	if r.IntN(6) == 0 {
		p.Spec.PreemptionPolicy = ptr.To(corev1.PreemptNever)
	}
	if r.IntN(5) == 0 {
		p.Spec.NodeSelector = map[string]string{"disk": pick(r, "fast", "slow")}
	}
	switch r.IntN(6) {
	case 0:
		needing(pick(r, corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn), "disk", "fast")(p)
	case 1:
		needing(pick(r, corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist), "disk")(p)
	case 2:
		if len(nodes) > 0 {
			terms := []string{pick(r, nodes...)}
			if r.IntN(2) == 0 {
				terms = append(terms, pick(r, nodes...)+" "+pick(r, nodes...))
			}
			named(terms...)(p)
		}
	}
	for range r.IntN(3) {
		tolerating(pick(r,
			corev1.Toleration{Key: "a", Operator: corev1.TolerationOpExists}, corev1.Toleration{Key: "b", Value: "v"},
			corev1.Toleration{Key: "b", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
			corev1.Toleration{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists},
			corev1.Toleration{Operator: corev1.TolerationOpExists},
		))(p)
	}
	relate(r, p)
	scatter(r, p)
	return p
}

// slowRefusal is what the documentation of the API says about a Pod, a node and
// the Pods on it, said straight: nothing is counted in advance. It names the
// first thing that is wrong, and whether it would be if the node were empty.
func (w slowWorld) slowRefusal(p *corev1.Pod, n *corev1.Node, on []*corev1.Pod) (why []string, final bool) {
	if n.Spec.Unschedulable && !slowTolerates(p, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}) {
		return []string{cordoned}, true
	}
	if slowTainted(p, n) {
		return []string{untaintly}, true
	}
	if !slowMatch(p, n) {
		return []string{noMatch}, true
	}
	for _, a := range slowPorts(p) {
		for _, other := range on {
			for _, b := range slowPorts(other) {
				all := func(ip string) bool { return ip == "" || ip == "0.0.0.0" }
				if a.HostPort == b.HostPort && a.Protocol == b.Protocol && (all(a.HostIP) || all(b.HostIP) || a.HostIP == b.HostIP) {
					return []string{portsTaken}, false
				}
			}
		}
	}
	pods := n.Status.Allocatable[corev1.ResourcePods]
	if int64(len(on)) >= pods.Value() {
		why = append(why, tooManyPods)
	}
	for name, want := range resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{}) {
		all := n.Status.Allocatable[name]
		sum := want.DeepCopy()
		for _, other := range on {
			sum.Add(resourcehelper.PodRequests(other, resourcehelper.PodResourcesOptions{})[name])
		}
		if !want.IsZero() && sum.Cmp(all) > 0 {
			why = append(why, "Insufficient "+string(name))
			final = final || want.Cmp(all) > 0
		}
	}
	if len(why) > 0 {
		slices.Sort(why)
		return why, final
	}
	for _, f := range []func(*corev1.Pod, *corev1.Node, []*corev1.Pod) (string, bool){w.slowSpread, w.slowCompany} {
		if why, final := f(p, n, on); why != "" {
			return []string{why}, final
		}
	}
	return nil, false
}

func slowTolerates(p *corev1.Pod, t corev1.Taint) bool {
	for _, x := range p.Spec.Tolerations {
		key := x.Key == "" && x.Operator == corev1.TolerationOpExists || x.Key == t.Key
		value := x.Operator == corev1.TolerationOpExists || x.Value == t.Value
		if key && value && (x.Effect == "" || x.Effect == t.Effect) {
			return true
		}
	}
	return false
}

func slowTainted(p *corev1.Pod, n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool {
		return t.Effect != corev1.TaintEffectPreferNoSchedule && !slowTolerates(p, t)
	})
}

func slowMatch(p *corev1.Pod, n *corev1.Node) bool {
	for k, v := range p.Spec.NodeSelector {
		if n.Labels[k] != v {
			return false
		}
	}
	if p.Spec.Affinity == nil || p.Spec.Affinity.NodeAffinity == nil {
		return true
	}
	return slices.ContainsFunc(p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms, func(t corev1.NodeSelectorTerm) bool {
		for _, r := range t.MatchFields {
			if !slices.Contains(r.Values, n.Name) {
				return false
			}
		}
		for _, r := range t.MatchExpressions {
			v, has := n.Labels[r.Key]
			ok := map[corev1.NodeSelectorOperator]bool{
				corev1.NodeSelectorOpIn: has && slices.Contains(r.Values, v), corev1.NodeSelectorOpNotIn: !has || !slices.Contains(r.Values, v),
				corev1.NodeSelectorOpExists: has, corev1.NodeSelectorOpDoesNotExist: !has,
			}
			if !ok[r.Operator] {
				return false
			}
		}
		return true
	})
}

func slowPorts(p *corev1.Pod) (ports []corev1.ContainerPort) {
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil {
			ports = append(ports, c.Ports...)
		}
	}
	return append(ports, p.Spec.Containers[0].Ports...)
}

// slowVictims are the Pods of a node, those of higher priority and longer life
// kept as far as they leave room.
func (w slowWorld) slowVictims(p *corev1.Pod, n *corev1.Node, on []*corev1.Pod) (victims []*corev1.Pod) {
	var stay, less []*corev1.Pod
	for _, o := range on {
		if *o.Spec.Priority < *p.Spec.Priority {
			less = append(less, o)
		} else {
			stay = append(stay, o)
		}
	}
	slices.SortFunc(less, func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(*b.Spec.Priority, *a.Spec.Priority), a.Status.StartTime.Compare(b.Status.StartTime.Time))
	})
	for _, o := range less {
		if why, _ := w.slowRefusal(p, n, append(slices.Clone(stay), o)); len(why) == 0 {
			stay = append(stay, o)
		} else {
			victims = append(victims, o)
		}
	}
	return victims
}

// slowWords puts what slowRefusal says of each node together.
func (w slowWorld) slowWords(p *corev1.Pod) (fits []string, text string) {
	nodes, on := w.nodes, w.on
	names := map[string]bool{}
	open := p.Spec.Affinity == nil || p.Spec.Affinity.NodeAffinity == nil
	if !open {
		for _, t := range p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			open = open || len(t.MatchFields) == 0
			for _, n := range nodes {
				if !slices.ContainsFunc(t.MatchFields, func(r corev1.NodeSelectorRequirement) bool { return !slices.Contains(r.Values, n.Name) }) {
					names[n.Name] = true
				}
			}
		}
	}
	var why, after []string
	room, least, found := "", 0, []int64(nil)
	for _, n := range nodes {
		if !open && !names[n.Name] {
			why, after = append(why, notNamed), append(after, notHelpful)
			continue
		}
		said, final := w.slowRefusal(p, n, on[n.Name])
		if len(said) == 0 {
			fits = append(fits, n.Name)
			continue
		}
		why = append(why, said...)
		stay := slices.DeleteFunc(slices.Clone(on[n.Name]), func(o *corev1.Pod) bool { return *o.Spec.Priority < *p.Spec.Priority })
		again, _ := w.slowRefusal(p, n, stay)
		switch {
		case final:
			after = append(after, notHelpful)
		case len(stay) == len(on[n.Name]):
			after = append(after, noVictims)
		case len(again) == 0:
			harm := []int64{0, 0, 0, 0}
			victims := w.slowVictims(p, n, on[n.Name])
			for k, o := range victims {
				harm[1] += int64(*o.Spec.Priority) + 1<<31
				if t := -o.Status.StartTime.UnixNano(); *o.Spec.Priority == *victims[0].Spec.Priority && (k == 0 || t > harm[3]) {
					harm[3] = t
				}
			}
			harm[0], harm[2] = int64(*victims[0].Spec.Priority), int64(len(victims))
			if found == nil || slices.Compare(harm, found) < 0 {
				room, least, found = n.Name, len(victims), harm
			}
		default:
			after = append(after, again...)
		}
	}
	count := func(list []string) string {
		n := map[string]int{}
		for _, s := range list {
			n[s]++
		}
		var out []string
		for s, k := range n {
			out = append(out, fmt.Sprint(k, " ", s))
		}
		slices.Sort(out)
		return fmt.Sprintf("0/%d nodes are available: %s.", len(nodes), strings.Join(out, ", "))
	}
	switch {
	case len(nodes) == 0:
		return nil, noNodes
	case p.Spec.PreemptionPolicy != nil:
		return fits, count(why) + " preemption: not eligible due to preemptionPolicy=Never."
	case room != "":
		return fits, count(why) + fmt.Sprintf(" preemption: found a potential placement for pod on node %s, preempting %d victims", room, least)
	}
	return fits, count(why) + " preemption: " + count(after)
}

// TestModel compares where Pods fit, and what is said when they do not, with
// the slow way, over random clusters.
func TestModel(t *testing.T) {
	placed, refused, moved := 0, 0, 0
	each(t, 6000, func(t *testing.T, r *rand.Rand) {
		var nodes []*corev1.Node
		var names []string
		on := map[string][]*corev1.Pod{}
		k := newKnown()
		k.namespaces = teams
		for i := range r.IntN(5) {
			n := randomNode(r, fmt.Sprint("n", i))
			nodes, names = append(nodes, n), append(names, n.Name)
			for j := range r.IntN(4) {
				p := randomPod(r, fmt.Sprintf("old%d-%d", i, j), nil)
				p.Namespace = pick(r, "default", "default", "other")
				on[n.Name] = append(on[n.Name], p)
			}
			k.nodes[n.Name] = nodeWith(n, on[n.Name]...)
		}
		p := randomPod(r, "p", names)
		w := newWish(p)
		v := look(w, k)
		var fits []string
		for _, i := range v.fit {
			fits = append(fits, i.node.Name)
		}
		slices.Sort(fits)
		want, text := slowWorld{nodes, on}.slowWords(p)
		if !slices.Equal(fits, want) {
			t.Fatalf("fits on %q, want %q", fits, want)
		}
		if len(fits) > 0 {
			placed++
			return
		}
		refused++
		_, words, _ := preemption(w, v, "")
		got := explain(v, words)
		if strings.Contains(got, "preempting") {
			moved++
		}
		if v.whole != "" { // the slow way has no words of its own for it
			if !strings.HasPrefix(got, fmt.Sprintf("0/%d nodes are available: %s. preemption: ", len(nodes), conflict)) {
				t.Fatalf("said %s", got)
			}
			return
		}
		if got != text {
			t.Fatalf("said %s\nwant %s", got, text)
		}
	})
	if *seed == 0 && (placed < 500 || refused < 500 || moved < 100) {
		t.Errorf("%d placed, %d refused, %d by preemption: the clusters are not worth a test", placed, refused, moved)
	}
}

// world is a cluster as the API has it, told to the scheduler by and by.
type world struct {
	*stage
	r     *rand.Rand
	pods  map[string]*corev1.Pod
	nodes map[string]*corev1.Node
	made  int
	ended int // for others
}

// TestNobodyWaitsInVain: after any change, no node has more than it takes and no
// Pod waits that fits somewhere: the changes that cure are all that are needed.
func TestNobodyWaitsInVain(t *testing.T) {
	ended := 0
	each(t, 3, func(t *testing.T, r *rand.Rand) {
		play(t, func(s *stage) {
			for name, set := range teams {
				s.namespaces.h.OnAdd(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: set}}, true)
			}
			w := &world{s, r, map[string]*corev1.Pod{}, map[string]*corev1.Node{}, 0, 0}
			for step := range 120 {
				w.step(t)
				w.settle(t)
				if w.check(t); t.Failed() {
					t.Logf("after step %d", step)
					return
				}
			}
			ended += w.ended
		})
	})
	if *seed == 0 && ended < 10 {
		t.Errorf("%d were preempted: not worth a test", ended)
	}
}

// deletions are the Pods that the scheduler has ended since the last call.
func (w *world) deletions() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.deleted
	w.deleted = nil
	return d
}

// step changes something at random.
func (w *world) step(t *testing.T) {
	switch k := w.r.IntN(10); {
	case k < 4:
		w.made++
		p := randomPod(w.r, fmt.Sprint("p", w.made), slices.Sorted(maps.Keys(w.nodes)))
		w.pods[p.Name] = p
		w.create(t, p)
	case k < 6 && len(w.pods) > 0:
		p := w.pods[pick(w.r, slices.Sorted(maps.Keys(w.pods))...)]
		delete(w.pods, p.Name)
		if w.r.IntN(2) == 0 {
			done := p.DeepCopy()
			done.Status.Phase = corev1.PodSucceeded
			w.stage.pods.h.OnUpdate(p, done)
		} else {
			w.stage.pods.h.OnDelete(p)
		}
	case k < 7 && len(w.pods) > 0:
		w.editPod(pick(w.r, slices.Sorted(maps.Keys(w.pods))...))
	case k < 8 && len(w.nodes) > 0 && w.r.IntN(2) == 0:
		n := w.nodes[pick(w.r, slices.Sorted(maps.Keys(w.nodes))...)]
		delete(w.nodes, n.Name)
		w.stage.nodes.h.OnDelete(n)
	default:
		n := randomNode(w.r, fmt.Sprint("n", w.r.IntN(4)))
		if was := w.nodes[n.Name]; was == nil {
			w.stage.nodes.h.OnAdd(n, false)
		} else {
			w.stage.nodes.h.OnUpdate(was, n)
		}
		w.nodes[n.Name] = n
	}
}

// editPod gives a Pod another label, lets it tolerate more, or its containers
// ask for less.
func (w *world) editPod(name string) {
	was := w.pods[name]
	p := was.DeepCopy()
	if w.r.IntN(3) == 0 {
		p.Labels = map[string]string{"app": pick(w.r, "a", "b")}
	} else if w.r.IntN(2) == 0 && p.Spec.NodeName == "" {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: pick(w.r, "a", "b"), Operator: corev1.TolerationOpExists})
	} else {
		p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("50m")
	}
	p.Generation++
	w.pods[name] = p
	w.stage.pods.h.OnUpdate(was, p)
}

// settle tells the scheduler what came of its writes until there is nothing new.
func (w *world) settle(t *testing.T) {
	for more := true; more; {
		synctest.Wait()
		more = false
		for _, name := range slices.Sorted(maps.Keys(w.pods)) {
			p := w.pods[name]
			if node := w.on(name); node != "" && p.Spec.NodeName == "" {
				w.pods[name], more = placed(p, node), true
				w.stage.pods.h.OnUpdate(p, w.pods[name])
			}
		}
		for _, name := range w.deletions() {
			p := w.pods[name]
			if p == nil {
				continue
			}
			written, _ := w.get(t, name)
			going := p.DeepCopy()
			going.Status, going.DeletionTimestamp = written.Status, &metav1.Time{Time: time.Now()}
			if !leaves(going) {
				t.Errorf("%s is not said to be preempted: %+v", name, going.Status.Conditions)
			}
			w.stage.pods.h.OnUpdate(p, going)
			synctest.Wait()
			w.stage.pods.h.OnDelete(going)
			delete(w.pods, name)
			w.ended++
			more = true
		}
	}
}

func (w *world) check(t *testing.T) {
	var nodes []*corev1.Node
	for _, name := range slices.Sorted(maps.Keys(w.nodes)) {
		nodes = append(nodes, w.nodes[name])
	}
	on := map[string][]*corev1.Pod{}
	for _, p := range w.pods {
		on[p.Spec.NodeName] = append(on[p.Spec.NodeName], p)
	}
	all := slowWorld{nodes, on}
	for _, p := range on[""] {
		if fits, words := all.slowWords(p); len(fits) > 0 || strings.Contains(words, "preempting") {
			t.Errorf("%s waits though it fits on %q, or could: %s", p.Name, fits, words)
		}
	}
	w.Scheduler.mu.Lock()
	defer w.Scheduler.mu.Unlock()
	for name, i := range w.Scheduler.nodes {
		fresh := newNodeInfo(i.node)
		for _, p := range on[name] {
			fresh.add(newLoad(p))
		}
		nonzero := func(a amounts) amounts {
			a = maps.Clone(a)
			maps.DeleteFunc(a, func(_ corev1.ResourceName, n int64) bool { return n == 0 })
			return a
		}
		if len(i.promised) > 0 {
			t.Errorf("%s is promised to %d Pods yet", name, len(i.promised))
		}
		if !maps.Equal(nonzero(fresh.used), nonzero(i.used)) || !maps.Equal(nonzero(fresh.scored), nonzero(i.scored)) || !maps.Equal(fresh.ports, i.ports) || len(fresh.pods) != len(i.pods) {
			t.Errorf("%s is counted as %v of %d Pods with ports %v, and has %v of %d with %v", name, i.used, len(i.pods), i.ports, fresh.used, len(fresh.pods), fresh.ports)
		}
	}
}

// TestNothingIsOvercommitted: many Pods at once, refused bindings among them,
// and no node ever has more than it takes.
func TestNothingIsOvercommitted(t *testing.T) {
	each(t, 8, func(t *testing.T, r *rand.Rand) {
		play(t, func(s *stage) {
			s.refuse = r.IntN(5)
			for k := range 3 {
				s.nodes.h.OnAdd(testNode(fmt.Sprint("n", k), 1000), false)
			}
			for k := range 20 {
				s.create(t, testPod(fmt.Sprint("p", k), int64(pick(r, 200, 400, 600))))
			}
			pass(time.Minute)
			on := map[string][]*corev1.Pod{}
			s.mu.Lock()
			defer s.mu.Unlock()
			for name, node := range s.bound {
				p, err := s.client.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				on[node] = append(on[node], p)
			}
			for name, pods := range on {
				i := nodeWith(testNode(name, 1000), pods...)
				if i.used[corev1.ResourceCPU] > 1000 || len(pods) > 3 {
					t.Errorf("%s has %d of %d Pods", name, i.used[corev1.ResourceCPU], len(pods))
				}
			}
			if len(s.bound) == 0 {
				t.Error("nothing was placed")
			}
		})
	})
}
