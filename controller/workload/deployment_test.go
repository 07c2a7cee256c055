// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/controller/owned"
	"github.com/peapod/peapod/controller/world"
)

// template is that of Pods whose label app is web.
func template(image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: image}}},
	}
}

func web(ns string, replicas int32) *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}}
	d.Spec = appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: template("app:1")}
	return d
}

// play stands in for nodes: it makes each Pod of a namespace ready as long as
// the test runs, unless its image is to hang.
func play(t *testing.T, ns string) {
	t.Helper()
	w, err := world.Client.Watch(t.Context(), &corev1.PodList{}, client.InNamespace(ns))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { w.Stop(); <-done })
	go func() {
		defer close(done)
		for e := range w.ResultChan() {
			p, ok := e.Object.(*corev1.Pod)
			if !ok || p.Status.Phase == corev1.PodRunning || p.DeletionTimestamp != nil || p.Spec.Containers[0].Image == "hangs:1" {
				continue
			}
			now := metav1.Now()
			p.Status.Phase = corev1.PodRunning
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now}}
			_ = world.Client.Status().Update(t.Context(), p) // one that was deleted meanwhile
		}
	}()
}

// change updates an object, reading it again when another came first.
func change[T client.Object](t *testing.T, o T, f func(T)) {
	t.Helper()
	for range 20 {
		if err := world.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			t.Fatal(err)
		}
		f(o)
		err := world.Client.Update(t.Context(), o)
		if err == nil {
			return
		}
		if loop.IgnoreStale(err) != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("others are always first")
}

// awaitDeployment waits until the one Deployment of a namespace is so.
func awaitDeployment(t *testing.T, ns, what string, so func(*appsv1.Deployment) bool) *appsv1.Deployment {
	t.Helper()
	var list appsv1.DeploymentList
	world.Until(t, what, &list, func() bool {
		d := &list.Items[0]
		return d.Status.ObservedGeneration == d.Generation && so(d)
	}, client.InNamespace(ns))
	return &list.Items[0]
}

func because(d *appsv1.Deployment, kind appsv1.DeploymentConditionType) string {
	if c := deploymentCondition(&d.Status, kind); c != nil {
		return c.Reason
	}
	return ""
}

func rolledOut(d *appsv1.Deployment) bool {
	return complete(d, &d.Status) && because(d, appsv1.DeploymentProgressing) == setAvailable
}

// TestRollout: S62. A template leads to a ReplicaSet, another one to another;
// going back takes the first one again, with a new revision.
func TestRollout(t *testing.T) {
	ns := world.Space(t)
	play(t, ns)
	d := web(ns, 3)
	world.Put(t, d)
	awaitDeployment(t, ns, "is rolled out", rolledOut)
	for _, image := range []string{"app:2", "app:1"} {
		change(t, d, func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = image })
		awaitDeployment(t, ns, "is rolled out with "+image, rolledOut)
	}
	if d = awaitDeployment(t, ns, "is at revision 3", func(d *appsv1.Deployment) bool { return d.Annotations[revisionAnnotation] == "3" }); *d.Status.TerminatingReplicas != 0 {
		t.Errorf("status %+v", d.Status)
	}
	var sets appsv1.ReplicaSetList
	world.Until(t, "two ReplicaSets", &sets, func() bool { return len(sets.Items) == 2 }, client.InNamespace(ns))
	for _, s := range sets.Items {
		want := map[string]string{revisionAnnotation: "2", desiredAnnotation: "3", maxAnnotation: "4"}
		if s.Spec.Template.Spec.Containers[0].Image == "app:1" {
			want[revisionAnnotation], want[historyAnnotation] = "3", "1"
		}
		hash := s.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
		if fmt.Sprint(s.Annotations) != fmt.Sprint(want) || s.Name != "web-"+hash || s.Spec.Selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] != hash || s.Spec.Template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] != hash {
			t.Errorf("%s: %+v", s.Name, s)
		}
	}
	// As older clients order it.
	change(t, d, func(d *appsv1.Deployment) { d.Annotations[appsv1.DeprecatedRollbackTo] = "0" })
	d = awaitDeployment(t, ns, "is rolled back", func(d *appsv1.Deployment) bool { return rolledOut(d) && d.Annotations[revisionAnnotation] == "4" })
	if image := d.Spec.Template.Spec.Containers[0].Image; image != "app:2" || d.Annotations[appsv1.DeprecatedRollbackTo] != "" {
		t.Errorf("rolled back to %s, %v", image, d.Annotations)
	}
}

// TestDeadline: what does not get on is late after its deadline, also when
// nothing happens at that moment; a pause does not count.
func TestDeadline(t *testing.T) {
	ns := world.Space(t)
	d := web(ns, 1)
	d.Spec.ProgressDeadlineSeconds = ptr.To[int32](1)
	world.Put(t, d)
	awaitDeployment(t, ns, "is late", func(d *appsv1.Deployment) bool { return because(d, appsv1.DeploymentProgressing) == timedOut })
	other := world.Space(t)
	d = web(other, 1)
	d.Spec.ProgressDeadlineSeconds, d.Spec.Paused = ptr.To[int32](1), true
	world.Put(t, d)
	awaitDeployment(t, other, "is paused", func(d *appsv1.Deployment) bool { return because(d, appsv1.DeploymentProgressing) == isPaused })
	var sets appsv1.ReplicaSetList
	if err := world.Client.List(t.Context(), &sets, client.InNamespace(other)); err != nil || len(sets.Items) != 0 {
		t.Errorf("a paused Deployment has %v, %v", sets.Items, err)
	}
	change(t, d, func(d *appsv1.Deployment) { d.Spec.Paused = false })
	awaitDeployment(t, other, "is resumed, and late in its time", func(d *appsv1.Deployment) bool { return because(d, appsv1.DeploymentProgressing) == timedOut })
}

// TestDeadlineTimer: the only timer is that of the deadline, and there is none
// for what cannot be late.
func TestDeadlineTimer(t *testing.T) {
	at := world.Noon
	for name, x := range map[string]struct {
		reason  string
		change  func(*appsv1.Deployment)
		elapsed time.Duration
		want    time.Duration
	}{
		"begins":        {setCreated, nil, 0, 601 * time.Second},
		"goes on":       {setUpdated, nil, 5 * time.Minute, 301 * time.Second},
		"is due":        {setUpdated, nil, time.Hour, time.Second},
		"is resumed":    {isResumed, nil, 0, 601 * time.Second},
		"is late":       {timedOut, nil, time.Hour, 0},
		"is done":       {setAvailable, nil, time.Hour, 0},
		"is paused":     {isPaused, func(d *appsv1.Deployment) { d.Spec.Paused = true }, time.Hour, 0},
		"has no end":    {setUpdated, func(d *appsv1.Deployment) { d.Spec.ProgressDeadlineSeconds = ptr.To[int32](1<<31 - 1) }, time.Hour, 0},
		"wants nothing": {setUpdated, func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](0) }, time.Hour, 0},
	} {
		d := web("ns", 2)
		d.Spec.ProgressDeadlineSeconds = ptr.To[int32](600)
		d.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Reason: x.reason, LastUpdateTime: metav1.NewTime(at)}}
		if x.change != nil {
			x.change(d)
		}
		if got := (&rollout{d: d}).deadline(at.Add(x.elapsed)); got != x.want {
			t.Errorf("%s: looked at after %v, want %v", name, got, x.want)
		}
	}
}

// TestCollision: a name that another has is not taken, and not waited for.
func TestCollision(t *testing.T) {
	ns := world.Space(t)
	play(t, ns)
	d := web(ns, 1)
	first := (&rollout{d: d, deployments: deployments{owned.Owning{Gvk: appsv1.SchemeGroupVersion.WithKind("Deployment")}}}).newSetOfDefaults(t)
	world.Put(t, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: first}, Spec: appsv1.ReplicaSetSpec{
		Replicas: ptr.To[int32](0), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "other"}},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "other"}}, Spec: template("app:1").Spec},
	}})
	world.Put(t, d)
	d = awaitDeployment(t, ns, "is rolled out", rolledOut)
	if n := d.Status.CollisionCount; n == nil || *n != 1 {
		t.Errorf("status %+v", d.Status)
	}
}

// newSetOfDefaults is the name of the ReplicaSet that the API's form of a
// Deployment gets.
func (o *rollout) newSetOfDefaults(t *testing.T) string {
	t.Helper()
	if err := world.Client.Create(t.Context(), o.d, client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	name := o.newSet().Name
	o.d.ResourceVersion, o.d.UID = "", ""
	return name
}

// TestRecreate: no new Pod is made before the last old one is gone.
func TestRecreate(t *testing.T) {
	ns := world.Space(t)
	play(t, ns)
	d := web(ns, 1)
	d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType
	// A Pod of a node takes its time to end, and this node never answers.
	d.Spec.Template.Spec.NodeName = "silent"
	world.Put(t, d)
	awaitDeployment(t, ns, "is rolled out", rolledOut)
	change(t, d, func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "app:2" })
	awaitDeployment(t, ns, "its old Pod ends", func(d *appsv1.Deployment) bool { return d.Status.Replicas == 0 && *d.Status.TerminatingReplicas == 1 })
	var pods corev1.PodList
	if err := world.Client.List(t.Context(), &pods, client.InNamespace(ns)); err != nil || len(pods.Items) != 1 {
		t.Fatalf("%d Pods, %v", len(pods.Items), err)
	}
	if err := world.Client.Delete(t.Context(), &pods.Items[0], client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	awaitDeployment(t, ns, "is rolled out again", func(d *appsv1.Deployment) bool { return rolledOut(d) && d.Annotations[revisionAnnotation] == "2" })
}
