// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/controller/owned"
	"github.com/peapod/peapod/controller/world"
)

func stateful(ns string, replicas int32) *appsv1.StatefulSet {
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}}
	s.Spec = appsv1.StatefulSetSpec{Replicas: &replicas, ServiceName: "web", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: template("app:1")}
	// A Pod of a node takes its time to end, and this node never answers.
	s.Spec.Template.Spec.NodeName = "silent"
	return s
}

// awaitSet waits until the one StatefulSet of a namespace is so.
func awaitSet(t *testing.T, ns, what string, so func(*appsv1.StatefulSet) bool) *appsv1.StatefulSet {
	t.Helper()
	var list appsv1.StatefulSetList
	world.Until(t, what, &list, func() bool {
		s := &list.Items[0]
		return s.Status.ObservedGeneration == s.Generation && so(s)
	}, client.InNamespace(ns))
	return &list.Items[0]
}

// bury stands in for a node that ends Pods at once, as long as the test runs.
// The names in order are told.
func bury(t *testing.T, ns string) func() []string {
	t.Helper()
	w, err := world.Client.Watch(t.Context(), &corev1.PodList{}, client.InNamespace(ns))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var names []string
	go func() {
		defer close(done)
		for e := range w.ResultChan() {
			if p, ok := e.Object.(*corev1.Pod); ok && e.Type != "DELETED" && p.DeletionTimestamp != nil {
				names = append(names, p.Name)
				_ = world.Client.Delete(t.Context(), p, client.GracePeriodSeconds(0)) // it may be gone
			}
		}
	}()
	stop := func() []string { w.Stop(); <-done; return slices.Compact(names) } // one end, several events
	t.Cleanup(func() { stop() })
	return stop
}

func podsIn(t *testing.T, ns string) (out []string) {
	t.Helper()
	var list corev1.PodList
	if err := world.Client.List(t.Context(), &list, client.InNamespace(ns)); err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Items {
		out = append(out, p.Name+"="+p.Spec.Containers[0].Image)
	}
	slices.Sort(out)
	return out
}

func updated(s *appsv1.StatefulSet) bool {
	n := *s.Spec.Replicas
	return s.Status.UpdatedReplicas == n && s.Status.AvailableReplicas == n && s.Status.Replicas == n && s.Status.CurrentRevision == s.Status.UpdateRevision
}

// TestStatefulSet: S63. Pods have names that stay, are made in order and
// replaced from the last to the partition.
func TestStatefulSet(t *testing.T) {
	ns := world.Space(t)
	play(t, ns)
	ended := bury(t, ns)
	s := stateful(ns, 3)
	s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 4}
	world.Put(t, s)
	s = awaitSet(t, ns, "has three", updated)
	var pods corev1.PodList
	if err := world.Client.List(t.Context(), &pods, client.InNamespace(ns)); err != nil {
		t.Fatal(err)
	}
	for i, p := range pods.Items {
		name := fmt.Sprint("web-", 4+i)
		if p.Name != name || p.Spec.Hostname != name || p.Spec.Subdomain != "web" || p.Labels[appsv1.StatefulSetPodNameLabel] != name ||
			p.Labels[appsv1.PodIndexLabel] != fmt.Sprint(4+i) || p.Labels[appsv1.StatefulSetRevisionLabel] != s.Status.CurrentRevision {
			t.Errorf("%s: labels %v, hostname %s.%s", p.Name, p.Labels, p.Spec.Hostname, p.Spec.Subdomain)
		}
		if i > 0 && p.CreationTimestamp.Before(&pods.Items[i-1].CreationTimestamp) {
			t.Errorf("%s is older than the one before", p.Name)
		}
	}
	first := s.Status.CurrentRevision
	change(t, s, func(s *appsv1.StatefulSet) {
		s.Spec.UpdateStrategy.RollingUpdate.Partition = ptr.To[int32](2)
		s.Spec.Template.Spec.Containers[0].Image = "app:2"
	})
	s = awaitSet(t, ns, "one is updated", func(s *appsv1.StatefulSet) bool {
		return s.Status.UpdatedReplicas == 1 && s.Status.AvailableReplicas == 3
	})
	if got := podsIn(t, ns); s.Status.CurrentRevision != first || !slices.Equal(got, []string{"web-4=app:1", "web-5=app:1", "web-6=app:2"}) {
		t.Errorf("%v, %+v", got, s.Status)
	}
	change(t, s, func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.Partition = ptr.To[int32](0) })
	awaitSet(t, ns, "all are updated", updated)
	change(t, s, func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "app:1" })
	if s = awaitSet(t, ns, "all are as at first", updated); s.Status.CurrentRevision != first {
		t.Errorf("the first revision is not taken again: %s, %s", s.Status.CurrentRevision, first)
	}
	var past appsv1.ControllerRevisionList
	if err := world.Client.List(t.Context(), &past, client.InNamespace(ns)); err != nil || len(past.Items) != 2 {
		t.Fatalf("%d revisions, %v", len(past.Items), err)
	}
	for _, r := range past.Items {
		if (r.Name == first) != (r.Revision == 3) || (r.Name != first) != (r.Revision == 2) {
			t.Errorf("revision %s has number %d", r.Name, r.Revision)
		}
	}
	change(t, s, func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To[int32](1) })
	awaitSet(t, ns, "one is left", updated)
	if got, want := ended(), []string{"web-6", "web-5", "web-4", "web-6", "web-5", "web-4", "web-6", "web-5"}; !slices.Equal(got, want) {
		t.Errorf("ended %v, want %v", got, want)
	}
}

// TestNeverForced: S95. A Pod on a node that does not answer stays, and its
// name is not given again until it is gone.
func TestNeverForced(t *testing.T) {
	ns := world.Space(t)
	play(t, ns)
	world.Put(t, stateful(ns, 2))
	awaitSet(t, ns, "has two", updated)
	var p corev1.Pod
	key := client.ObjectKey{Namespace: ns, Name: "web-0"}
	if err := world.Client.Get(t.Context(), key, &p); err != nil {
		t.Fatal(err)
	}
	if err := world.Client.Delete(t.Context(), &p); err != nil {
		t.Fatal(err)
	}
	awaitSet(t, ns, "it is seen to end", func(s *appsv1.StatefulSet) bool { return s.Status.UpdatedReplicas == 1 })
	uid := p.UID
	if err := world.Client.Get(t.Context(), key, &p); err != nil || p.UID != uid || p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != 30 {
		t.Fatalf("%v of %v, %v", p.UID, uid, err)
	}
	if err := world.Client.Delete(t.Context(), &p, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	awaitSet(t, ns, "it is made again", updated)
	if err := world.Client.Get(t.Context(), key, &p); err != nil || p.UID == uid {
		t.Errorf("%v, %v", p.UID, err)
	}
}

// TestStatefulClaims: claims come with the Pods, stay with their names, and go
// with what the policy says.
func TestStatefulClaims(t *testing.T) {
	ns := world.Space(t)
	play(t, ns)
	bury(t, ns)
	s := stateful(ns, 2)
	s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
	s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}}}
	world.Put(t, s)
	awaitSet(t, ns, "has two", updated)
	owners := func(c *corev1.PersistentVolumeClaim) string {
		var out []string
		for _, ref := range c.OwnerReferences {
			out = append(out, ref.Kind+" "+ref.Name)
		}
		return c.Name + ": " + strings.Join(out, ",")
	}
	var claims corev1.PersistentVolumeClaimList
	await := func(what string, want ...string) {
		t.Helper()
		world.Until(t, what, &claims, func() bool {
			var got []string
			for i := range claims.Items {
				got = append(got, owners(&claims.Items[i]))
			}
			return slices.Equal(got, want)
		}, client.InNamespace(ns))
	}
	await("one for each Pod, of nobody", "data-web-0: ", "data-web-1: ")
	change(t, s, func(s *appsv1.StatefulSet) {
		s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
			WhenDeleted: appsv1.DeletePersistentVolumeClaimRetentionPolicyType, WhenScaled: appsv1.DeletePersistentVolumeClaimRetentionPolicyType,
		}
	})
	await("they go with the set", "data-web-0: StatefulSet web", "data-web-1: StatefulSet web")
	change(t, s, func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To[int32](1) })
	await("the one that is scaled away goes with its Pod", "data-web-0: StatefulSet web")
	change(t, s, func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To[int32](2) })
	awaitSet(t, ns, "has two again", updated)
}

// TestClaimsAreBornOwned: what goes with the set is not changed after it is made.
func TestClaimsAreBornOwned(t *testing.T) {
	for policy, want := range map[appsv1.PersistentVolumeClaimRetentionPolicyType]int{
		appsv1.DeletePersistentVolumeClaimRetentionPolicyType: 1, appsv1.RetainPersistentVolumeClaimRetentionPolicyType: 0,
	} {
		s := stateful("ns", 1)
		s.UID = "set"
		s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
		s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: policy}
		kind := appsv1.SchemeGroupVersion.WithKind("StatefulSet")
		m := &members{statefulSets: statefulSets{&owned.Replicas{Owning: owned.Owning{Gvk: kind}}}, set: s}
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web-0", UID: "pod"}}
		c := m.claims(p)[0]
		if len(c.OwnerReferences) != want {
			t.Errorf("%s: owned by %v", policy, c.OwnerReferences)
		}
		if !m.owned(c, p) {
			t.Errorf("%s: it would be changed again", policy)
		}
	}
}

// TestOnDelete: nothing is replaced unless somebody deletes it.
func TestOnDelete(t *testing.T) {
	ns := world.Space(t)
	play(t, ns)
	bury(t, ns)
	s := stateful(ns, 2)
	s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
	world.Put(t, s)
	awaitSet(t, ns, "has two", updated)
	change(t, s, func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "app:2" })
	awaitSet(t, ns, "has another revision", func(s *appsv1.StatefulSet) bool { return s.Status.CurrentRevision != s.Status.UpdateRevision })
	if err := world.Client.Delete(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web-0"}}); err != nil {
		t.Fatal(err)
	}
	awaitSet(t, ns, "one is updated", func(s *appsv1.StatefulSet) bool {
		return s.Status.UpdatedReplicas == 1 && s.Status.AvailableReplicas == 2
	})
	if got := podsIn(t, ns); !slices.Equal(got, []string{"web-0=app:2", "web-1=app:1"}) {
		t.Error(got)
	}
}

// TestParentOf: which names are of a set.
func TestParentOf(t *testing.T) {
	for name, want := range map[string]string{"web-0": "web 0", "a-b-12": "a-b 12", "web": " -1", "web-": " -1", "web-x": " -1", "web-1x": " -1", "-3": " 3", "web-99999999999": "web -1", "web-007": "web 7"} {
		parent, n := parentOf(name)
		if got := fmt.Sprint(parent, " ", n); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
