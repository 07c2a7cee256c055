// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/controller/owned"
	"github.com/peapod/peapod/controller/world"
)

func daemon(ns, image string) *appsv1.DaemonSet {
	d := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}}
	d.Spec = appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: template(image)}
	return d
}

// awaitDaemons waits until the one DaemonSet of a namespace is so.
func awaitDaemons(t *testing.T, ns, what string, so func(*appsv1.DaemonSet) bool) *appsv1.DaemonSet {
	t.Helper()
	var list appsv1.DaemonSetList
	world.Until(t, what, &list, func() bool {
		d := &list.Items[0]
		return d.Status.ObservedGeneration == d.Generation && so(d)
	}, client.InNamespace(ns))
	return &list.Items[0]
}

func onAll(n int32) func(*appsv1.DaemonSet) bool {
	return func(d *appsv1.DaemonSet) bool {
		s := &d.Status
		return s.DesiredNumberScheduled == n && s.CurrentNumberScheduled == n && s.UpdatedNumberScheduled == n && s.NumberReady == n &&
			s.NumberAvailable == n && s.NumberUnavailable == 0 && s.NumberMisscheduled == 0
	}
}

// machines are nodes that nothing runs on, of a label of their own.
func machines(t *testing.T, ns string, n int) (out []*corev1.Node) {
	t.Helper()
	for i := range n {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%c", ns, 'a'+i), Labels: map[string]string{"of": ns}}}
		world.Put(t, node)
		out = append(out, node)
	}
	return out
}

// daemonPods are the Pods by node and image.
func daemonPods(t *testing.T, ns string) (out []string) {
	t.Helper()
	var list corev1.PodList
	if err := world.Client.List(t.Context(), &list, client.InNamespace(ns)); err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		out = append(out, strings.TrimPrefix(meantFor(&list.Items[i]), ns+"-")+"="+list.Items[i].Spec.Containers[0].Image)
	}
	slices.Sort(out)
	return out
}

// TestDaemonSet: S64. Each node that fits has a Pod, also one that comes to
// fit; a change rolls from node to node; old revisions are kept and come back.
func TestDaemonSet(t *testing.T) {
	ns := world.Space(t)
	play(t, ns)
	nodes := machines(t, ns, 3)
	change(t, nodes[2], func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "own", Effect: corev1.TaintEffectNoSchedule}}
	})
	d := daemon(ns, "app:1")
	d.Spec.Template.Spec.NodeSelector = map[string]string{"of": ns}
	world.Put(t, d)
	awaitDaemons(t, ns, "is on two nodes", onAll(2))
	var pods corev1.PodList
	if err := world.Client.List(t.Context(), &pods, client.InNamespace(ns)); err != nil {
		t.Fatal(err)
	}
	var past appsv1.ControllerRevisionList
	if err := world.Client.List(t.Context(), &past, client.InNamespace(ns)); err != nil || len(past.Items) != 1 {
		t.Fatalf("%d revisions, %v", len(past.Items), err)
	}
	hash := past.Items[0].Labels[appsv1.ControllerRevisionHashLabelKey]
	if past.Items[0].Name != "web-"+hash || past.Items[0].Revision != 1 {
		t.Errorf("revision %d is %s with the hash %s", past.Items[0].Revision, past.Items[0].Name, hash)
	}
	for _, p := range pods.Items {
		if p.Labels[appsv1.ControllerRevisionHashLabelKey] != hash || p.Labels["pod-template-generation"] != "1" || len(p.Spec.Tolerations) != 6 || !strings.HasPrefix(p.Name, "web-") {
			t.Errorf("%s: labels %v, tolerations %v", p.Name, p.Labels, p.Spec.Tolerations)
		}
	}
	change(t, nodes[2], func(n *corev1.Node) { n.Spec.Taints = nil })
	awaitDaemons(t, ns, "is on all three", onAll(3))
	change(t, nodes[0], func(n *corev1.Node) { delete(n.Labels, "of") })
	awaitDaemons(t, ns, "has left one", onAll(2))
	if got := daemonPods(t, ns); !slices.Equal(got, []string{"b=app:1", "c=app:1"}) {
		t.Errorf("Pods %v", got)
	}
	change(t, d, func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = "app:2" })
	awaitDaemons(t, ns, "is new", onAll(2))
	if got := daemonPods(t, ns); !slices.Equal(got, []string{"b=app:2", "c=app:2"}) {
		t.Errorf("Pods %v", got)
	}
	change(t, d, func(d *appsv1.DaemonSet) {
		d.Spec.Template.Spec.Containers[0].Image = "app:1"
		d.Spec.RevisionHistoryLimit = ptr.To[int32](0)
	})
	d = awaitDaemons(t, ns, "is as at first", onAll(2))
	if got := d.Annotations[appsv1.DeprecatedTemplateGeneration]; got != "3" || d.Generation != 3 {
		t.Errorf("the template has the generation %s, the whole %d", got, d.Generation)
	}
	world.Until(t, "has one revision, the first", &past, func() bool {
		return len(past.Items) == 1 && past.Items[0].Name == "web-"+hash && past.Items[0].Revision == 3
	}, client.InNamespace(ns))
}

// TestDaemonFailed: a Pod that failed is replaced, and told of; a revision that
// somebody deleted is made again.
func TestDaemonFailed(t *testing.T) {
	ns := world.Space(t)
	play(t, ns)
	node := machines(t, ns, 1)[0]
	d := daemon(ns, "app:1")
	d.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{node.Name}}},
	}}}}}
	world.Put(t, d)
	awaitDaemons(t, ns, "is there", onAll(1))
	var pods corev1.PodList
	if err := world.Client.List(t.Context(), &pods, client.InNamespace(ns)); err != nil || len(pods.Items) != 1 {
		t.Fatalf("%d Pods, %v", len(pods.Items), err)
	}
	p := &pods.Items[0]
	first := p.Name
	p.Status.Phase, p.Status.Conditions = corev1.PodFailed, nil
	if err := world.Client.Status().Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	world.Until(t, "has another", &pods, func() bool { return len(pods.Items) == 1 && pods.Items[0].Name != first }, client.InNamespace(ns))
	want := fmt.Sprintf("FailedDaemonPod: Found failed daemon pod %s/%s on node %s, will try to kill it", ns, first, node.Name)
	var events corev1.EventList
	world.Until(t, "tells of it", &events, func() bool {
		return slices.ContainsFunc(events.Items, func(e corev1.Event) bool { return e.Reason+": "+e.Message == want })
	}, client.InNamespace(ns))
	var past appsv1.ControllerRevisionList
	if err := world.Client.List(t.Context(), &past, client.InNamespace(ns)); err != nil || len(past.Items) != 1 {
		t.Fatalf("%d revisions, %v", len(past.Items), err)
	}
	gone := past.Items[0]
	if err := world.Client.Delete(t.Context(), &gone); err != nil {
		t.Fatal(err)
	}
	world.Until(t, "has its revision again", &past, func() bool {
		return len(past.Items) == 1 && past.Items[0].UID != gone.UID && past.Items[0].Name == gone.Name
	}, client.InNamespace(ns))
}

// TestDaemonTwins: of two revisions that are the same the newer stays, and no
// Pod is replaced for it.
func TestDaemonTwins(t *testing.T) {
	ns := world.Space(t)
	play(t, ns)
	machines(t, ns, 1)
	d := daemon(ns, "app:1")
	d.Spec.Template.Spec.NodeSelector = map[string]string{"of": ns}
	world.Put(t, d)
	awaitDaemons(t, ns, "is there", onAll(1))
	var past appsv1.ControllerRevisionList
	if err := world.Client.List(t.Context(), &past, client.InNamespace(ns)); err != nil || len(past.Items) != 1 {
		t.Fatalf("%d revisions, %v", len(past.Items), err)
	}
	var before, pods corev1.PodList
	if err := world.Client.List(t.Context(), &before, client.InNamespace(ns)); err != nil || len(before.Items) != 1 {
		t.Fatalf("%d Pods, %v", len(before.Items), err)
	}
	twin := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "twin", Labels: map[string]string{"app": "web"}}, Revision: 9, Data: past.Items[0].Data}
	world.Put(t, twin)
	world.Until(t, "the twin stays", &past, func() bool { return len(past.Items) == 1 && past.Items[0].Name == "twin" }, client.InNamespace(ns))
	if r := past.Items[0]; !metav1.IsControlledBy(&r, d) || r.Labels[appsv1.ControllerRevisionHashLabelKey] != "twin" {
		t.Errorf("the twin has the owners %v and labels %v", r.OwnerReferences, r.Labels)
	}
	world.Until(t, "its Pod has the hash", &pods, func() bool {
		return len(pods.Items) == 1 && pods.Items[0].Labels[appsv1.ControllerRevisionHashLabelKey] == "twin"
	}, client.InNamespace(ns))
	if pods.Items[0].UID != before.Items[0].UID {
		t.Error("the Pod was replaced")
	}
}

// TestDaemonsSurge: a new Pod is there before the old one goes.
func TestDaemonsSurge(t *testing.T) {
	ns := world.Space(t)
	play(t, ns)
	machines(t, ns, 2)
	d := daemon(ns, "app:1")
	d.Spec.Template.Spec.NodeSelector = map[string]string{"of": ns}
	d.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxSurge: ptr.To(intstr.FromInt32(1)), MaxUnavailable: ptr.To(intstr.FromInt32(0))}
	world.Put(t, d)
	awaitDaemons(t, ns, "is there", onAll(2))
	change(t, d, func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = "hangs:1" })
	var pods corev1.PodList
	world.Until(t, "one is twice", &pods, func() bool { return len(pods.Items) == 3 }, client.InNamespace(ns))
	change(t, d, func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = "app:2" })
	awaitDaemons(t, ns, "is new", onAll(2))
	world.Until(t, "the old are gone", &pods, func() bool { return len(pods.Items) == 2 }, client.InNamespace(ns))
	if got := daemonPods(t, ns); !slices.Equal(got, []string{"a=app:2", "b=app:2"}) {
		t.Errorf("Pods %v", got)
	}
}

// TestDaemonsOnDelete: nothing is replaced unless somebody deletes it.
func TestDaemonsOnDelete(t *testing.T) {
	ns := world.Space(t)
	play(t, ns)
	machines(t, ns, 2)
	d := daemon(ns, "app:1")
	d.Spec.Template.Spec.NodeSelector = map[string]string{"of": ns}
	d.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType
	world.Put(t, d)
	awaitDaemons(t, ns, "is there", onAll(2))
	change(t, d, func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Image = "app:2" })
	awaitDaemons(t, ns, "none is new", func(d *appsv1.DaemonSet) bool {
		return d.Status.UpdatedNumberScheduled == 0 && d.Status.NumberAvailable == 2
	})
	var pods corev1.PodList
	if err := world.Client.List(t.Context(), &pods, client.InNamespace(ns)); err != nil {
		t.Fatal(err)
	}
	if err := world.Client.Delete(t.Context(), &pods.Items[0]); err != nil {
		t.Fatal(err)
	}
	awaitDaemons(t, ns, "one is new", func(d *appsv1.DaemonSet) bool {
		return d.Status.UpdatedNumberScheduled == 1 && d.Status.NumberAvailable == 2
	})
}

// TestDaemonDeeds: what is done on nodes whose Pods are as the words say:
// capital letters are of the current template; r is ready, p not, f failed,
// s succeeded, w waits for its node, d is ending.
func TestDaemonDeeds(t *testing.T) {
	surge := appsv1.RollingUpdateDaemonSet{MaxSurge: ptr.To(intstr.FromInt32(1)), MaxUnavailable: ptr.To(intstr.FromInt32(0))}
	half := appsv1.RollingUpdateDaemonSet{MaxSurge: ptr.To(intstr.FromInt32(0)), MaxUnavailable: ptr.To(intstr.FromString("50%"))}
	for name, c := range map[string]struct {
		rolling         *appsv1.RollingUpdateDaemonSet
		nodes           string // of each its Pods; a leading - is one that repels new Pods, ! one that repels all, ? one that is gone
		place, rollover string
	}{
		"empty":                   {nil, "  ", "+n0 +n1 +n2", ""},
		"repelled":                {nil, "-,!,-R,!R", "-n3R0", ""},
		"all well":                {nil, "R R", "", ""},
		"ending is not replaced":  {nil, "d", "", ""},
		"failed and succeeded":    {nil, "F S", "-n0F0 -n1S0", ""},
		"too many":                {nil, "RR RW", "-n0R1 -n1W1", ""},
		"waiting for a lost node": {nil, "R ?W ?R", "-n1W0", ""},
		"one at a time":           {nil, "r r R", "", "-n0r0"},
		"one is missing already":  {nil, "r P r", "", ""},
		"not ready costs nothing": {nil, "p p r", "", "-n0p0 -n1p0"},
		"half":                    {&half, "r r r R", "", "-n0r0 -n1r0"},
		"one empty counts":        {&half, "r r d R", "", "-n0r0"},
		"surge":                   {&surge, "r r R", "", "+n0"},
		"surge waits":             {&surge, "rP r", "", ""},
		"surge goes on":           {&surge, "rR r", "-n0r0", ""},
		"surge where not ready":   {&surge, "p p r", "", "+n0 +n1 +n2"},
		"surge old is not ready":  {&surge, "pP", "-n0p0", ""},
		"surge leaves":            {&surge, "R -r", "", "-n1r0"},
		"surge leaves later":      {&surge, "P -r", "", ""},
		"surge leaves at once":    {&surge, "P -p", "", "-n1p0"},
		"surge with three":        {&surge, "RRr r", "-n0R1 -n0r2", ""},
		"surge ending":            {&surge, "d", "+n0", ""},
	} {
		set := daemon("x", "app:1")
		set.Spec.UpdateStrategy.RollingUpdate = c.rolling
		defaults.DaemonSet(set)
		all, nodes := scene(c.nodes)
		r := daemonSets{&owned.Replicas{Owning: owned.Owning{Events: record.NewFakeRecorder(10)}}, flowcontrol.NewBackOff(firstFailure, longestFailure)}
		d := newDaemons(r, set, nodes, all, time.Now())
		d.hash = "new"
		d.spread()
		if got := told(d.place()); got != c.place {
			t.Errorf("%s: place does %q, want %q", name, got, c.place)
		}
		if c.place != "" {
			continue // first each node has what it should
		}
		if got := told(d.roll()); got != c.rollover {
			t.Errorf("%s: roll does %q, want %q", name, got, c.rollover)
		}
	}
}

func told(todo daemonDeeds) string {
	var out []string
	for _, p := range todo.gone {
		out = append(out, "-"+p.Name)
	}
	slices.Sort(out)
	for _, n := range todo.on {
		out = append(out, "+"+n)
	}
	return strings.Join(out, " ")
}

// scene makes the nodes and Pods that words describe.
func scene(words string) (pods []*corev1.Pod, nodes []corev1.Node) {
	split := func(r rune) bool { return r == ' ' || r == ',' }
	list := strings.FieldsFunc(words, split)
	if len(list) == 0 {
		list = make([]string, len(words)+1)
	}
	for i, word := range list {
		n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i)}}
		switch {
		case strings.HasPrefix(word, "-"):
			n.Spec.Taints = []corev1.Taint{{Key: "own", Effect: corev1.TaintEffectNoSchedule}}
		case strings.HasPrefix(word, "!"):
			n.Spec.Taints = []corev1.Taint{{Key: "own", Effect: corev1.TaintEffectNoExecute}}
		}
		if !strings.HasPrefix(word, "?") {
			nodes = append(nodes, n)
		}
		for j, r := range strings.TrimLeft(word, "-!?") {
			pods = append(pods, actor(n.Name, r, j))
		}
	}
	return pods, nodes
}

func actor(node string, r rune, age int) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s%c%d", node, r, age), Labels: map[string]string{}}}
	p.CreationTimestamp = metav1.NewTime(time.Unix(int64(1000+age), 0))
	p.Spec.NodeName, p.Status.Phase = node, corev1.PodRunning
	small := strings.ToLower(string(r))
	if small != string(r) {
		p.Labels[appsv1.ControllerRevisionHashLabelKey] = "new"
	}
	switch small {
	case "r":
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	case "f":
		p.Status.Phase = corev1.PodFailed
	case "s":
		p.Status.Phase = corev1.PodSucceeded
	case "d":
		p.DeletionTimestamp = &p.CreationTimestamp
	case "w":
		p.Spec = (&daemons{set: daemon("x", "app:1")}).templateFor(node).Spec
		p.Status.Phase = corev1.PodPending
	}
	return p
}

// TestDaemonStatus: what is counted of which node, and when to look again.
func TestDaemonStatus(t *testing.T) {
	set := daemon("x", "app:1")
	defaults.DaemonSet(set)
	set.Spec.MinReadySeconds = 60
	all, nodes := scene("R,r,P,-R,!,?R")
	now := time.Now()
	all[0].Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-time.Minute))
	all[1].Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-20 * time.Second))
	d := newDaemons(daemonSets{}, set, nodes, all, now)
	d.hash = "new"
	d.spread()
	want := appsv1.DaemonSetStatus{DesiredNumberScheduled: 3, CurrentNumberScheduled: 3, NumberMisscheduled: 1, NumberReady: 2, NumberAvailable: 1, NumberUnavailable: 2, UpdatedNumberScheduled: 2}
	if got := d.status(); fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := owned.NextAvailable(all, set.Spec.MinReadySeconds, now); got != 40*time.Second {
		t.Errorf("looks again in %v", got)
	}
}

// TestDaemonTolerations: what is there already is not there twice, and not for
// some seconds only.
func TestDaemonTolerations(t *testing.T) {
	s := &corev1.PodSpec{HostNetwork: true, Tolerations: []corev1.Toleration{
		{Key: "own", Operator: corev1.TolerationOpExists},
		{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](5)},
	}}
	var got []string
	for _, x := range daemonTolerations(s) {
		got = append(got, fmt.Sprint(strings.TrimPrefix(x.Key, "node.kubernetes.io/"), " ", x.Effect, " ", x.TolerationSeconds == nil))
	}
	want := []string{"own  true", "unreachable NoExecute true", "not-ready NoExecute true", "disk-pressure NoSchedule true", "memory-pressure NoSchedule true", "pid-pressure NoSchedule true", "unschedulable NoSchedule true", "network-unavailable NoSchedule true"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if s.Tolerations[1].TolerationSeconds == nil {
		t.Error("the template was changed")
	}
}
