// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func evict(t *testing.T, name string, o *metav1.DeleteOptions) error {
	t.Helper()
	return admin.PolicyV1().Evictions("default").Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, DeleteOptions: o})
}

func TestBindingHoldsItsPreconditions(t *testing.T) {
	p := create(t, newPod("precise"), "")
	bindAs := func(uid types.UID) error {
		return admin.CoreV1().Pods("default").Bind(t.Context(), &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: "precise", UID: uid, Annotations: map[string]string{"by": "me"}, Labels: map[string]string{"l": "v"}}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"},
		}, metav1.CreateOptions{})
	}
	if err := bindAs("other"); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), "UID in precondition: other") {
		t.Errorf("a binding of another Pod: %v", err)
	}
	if err := bindAs(p.UID); err != nil {
		t.Fatal(err)
	}
	p, err := admin.CoreV1().Pods("default").Get(t.Context(), "precise", metav1.GetOptions{})
	if err != nil || p.Annotations["by"] != "me" || p.Labels["l"] != "v" || p.Spec.NodeName != "n1" {
		t.Errorf("bound: %+v, %v", p.ObjectMeta, err)
	}
	if err := bind(t.Context(), "nobody", "n1"); !apierrors.IsNotFound(err) || err.Error() != `pods "nobody" not found` {
		t.Errorf("a binding of no Pod: %v", err)
	}
}

// TestGatedPod: it says so from its first moment, and nobody binds it.
func TestGatedPod(t *testing.T) {
	p := newPod("gated")
	p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/wait"}}
	p = create(t, p, "")
	if len(p.Status.Conditions) != 1 || p.Status.Conditions[0].LastTransitionTime.IsZero() {
		t.Fatalf("conditions %+v", p.Status.Conditions)
	}
	got := p.Status.Conditions[0]
	got.LastTransitionTime = metav1.Time{}
	if want := (corev1.PodCondition{Type: "PodScheduled", Status: "False", Reason: "SchedulingGated", Message: "Scheduling is blocked due to non-empty scheduling gates"}); got != want {
		t.Errorf("condition %+v", got)
	}
	if err := bind(t.Context(), "gated", "n1"); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), "pod gated has non-empty .spec.schedulingGates") {
		t.Errorf("bound: %v", err)
	}
}

func TestEviction(t *testing.T) {
	p := create(t, newPod("evicted"), "n1")
	other := types.UID("other")
	err := evict(t, "evicted", &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &other}})
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), "the UID in the precondition (other) does not match the UID in record ("+string(p.UID)+")") {
		t.Errorf("an eviction of another: %v", err)
	}
	if err := evict(t, "evicted", &metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](7), Preconditions: &metav1.Preconditions{ResourceVersion: &p.ResourceVersion}}); err != nil {
		t.Fatal(err)
	}
	p, err = admin.CoreV1().Pods("default").Get(t.Context(), "evicted", metav1.GetOptions{})
	if err != nil || p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != 7 {
		t.Fatalf("after its eviction: %+v, %v", p.ObjectMeta, err)
	}
	c := p.Status.Conditions[len(p.Status.Conditions)-1]
	if c.Type != corev1.DisruptionTarget || c.Reason != "EvictionByEvictionAPI" || c.Message != "Eviction API: evicting" {
		t.Errorf("condition %+v", c)
	}
	if err := evict(t, "nobody", nil); !apierrors.IsNotFound(err) {
		t.Errorf("an eviction of no Pod: %v", err)
	}
}

// A delete right behind the binding meets a watch cache that still shows the
// Pod without its node. It must not take the Pod for one that runs nowhere.
func TestADeleteKeepsTheGraceItAskedFor(t *testing.T) {
	pods := admin.CoreV1().Pods("default")
	for i := range 50 {
		p, err := pods.Create(t.Context(), newPod(fmt.Sprint("quick", i)), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := bind(t.Context(), p.Name, "n1"); err != nil {
			t.Fatal(err)
		}
		if err := pods.Delete(t.Context(), p.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](5)}); err != nil {
			t.Fatal(err)
		}
		got, err := pods.Get(t.Context(), p.Name, metav1.GetOptions{})
		if err != nil || *got.DeletionGracePeriodSeconds != 5 {
			t.Fatalf("round %d: %v", i, err)
		}
		// Once more without a period: the Pod's own 30 s are no shorter.
		if err := pods.Delete(t.Context(), p.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if again, err := pods.Get(t.Context(), p.Name, metav1.GetOptions{}); err != nil || again.ResourceVersion != got.ResourceVersion {
			t.Fatalf("round %d: a second delete wrote: %v", i, err)
		}
		if err := pods.Delete(t.Context(), p.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStatusIsForTheNode(t *testing.T) {
	pods := admin.CoreV1().Pods("default")
	p := create(t, newPod("status"), "n1")
	p.Status.Phase = corev1.PodRunning
	if got, err := pods.Update(t.Context(), p, metav1.UpdateOptions{}); err != nil || got.Status.Phase != corev1.PodPending {
		t.Errorf("an update of the whole wrote the status: %v, %v", got.Status.Phase, err)
	}
	p, err := pods.Get(t.Context(), "status", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.Status.Phase, p.Spec.NodeName, p.Status.QOSClass, p.Labels = corev1.PodSucceeded, "n2", "", map[string]string{"by": "node"}
	got, err := pods.UpdateStatus(t.Context(), p, metav1.UpdateOptions{})
	if err != nil || got.Status.Phase != corev1.PodSucceeded || got.Spec.NodeName != "n1" || got.Status.QOSClass != corev1.PodQOSBestEffort || got.Labels["by"] != "node" || got.Generation != 1 {
		t.Errorf("an update of the status: %+v, %v", got, err)
	}
	// A Pod that has ended needs no grace.
	if err := pods.Delete(t.Context(), "status", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(t.Context(), "status", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a Pod that has ended, deleted: %v", err)
	}
}

func TestEphemeralContainers(t *testing.T) {
	pods := admin.CoreV1().Pods("default")
	p := create(t, newPod("debugged"), "n1")
	p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "d", Image: "tools"}}}
	p.Spec.Containers[0].Image = "changed"
	got, err := pods.UpdateEphemeralContainers(t.Context(), "debugged", p, metav1.UpdateOptions{})
	if err != nil || len(got.Spec.EphemeralContainers) != 1 || got.Spec.Containers[0].Image != "busybox" || got.Generation != 2 {
		t.Fatalf("%+v, %v", got.Spec, err)
	}
	got.Spec.EphemeralContainers = nil
	if _, err := pods.UpdateEphemeralContainers(t.Context(), "debugged", got, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("an ephemeral container taken away: %v", err)
	}
}

func TestScaleAndCollections(t *testing.T) {
	namespace(t, "scaled", nil)
	sets := admin.AppsV1().ReplicaSets("scaled")
	labels := map[string]string{"app": "x"}
	_, err := sets.Create(t.Context(), &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "rs"}, Spec: appsv1.ReplicaSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: newPod("").Spec},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	scale, err := sets.GetScale(t.Context(), "rs", metav1.GetOptions{})
	if err != nil || scale.Spec.Replicas != 1 || scale.Status.Selector != "app=x" {
		t.Fatalf("%+v, %v", scale, err)
	}
	scale.Spec.Replicas = 3
	if _, err := sets.UpdateScale(t.Context(), "rs", scale, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if rs, err := sets.Get(t.Context(), "rs", metav1.GetOptions{}); err != nil || *rs.Spec.Replicas != 3 || rs.Generation != 2 {
		t.Errorf("scaled: %v, generation %d, %v", *rs.Spec.Replicas, rs.Generation, err)
	}
	scale.ResourceVersion, scale.Spec.Replicas = "", -1
	if _, err := sets.UpdateScale(t.Context(), "rs", scale, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("scaled below nothing: %v", err)
	}
	maps := admin.CoreV1().ConfigMaps("scaled")
	for _, name := range []string{"a", "b", "keep"} {
		if _, err := maps.Create(t.Context(), newMap(name, map[string]string{"keep": name}), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := maps.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "keep!=keep"}); err != nil {
		t.Fatal(err)
	}
	if l, err := maps.List(t.Context(), metav1.ListOptions{}); err != nil || len(l.Items) != 1 || l.Items[0].Name != "keep" {
		t.Errorf("what is left: %v, %v", l.Items, err)
	}
}

// A PUT to a name that is not there makes it, for the kinds where upstream says
// so; a Lease must name the version it changes.
func TestLeasesAndEvents(t *testing.T) {
	leases := admin.CoordinationV1().Leases("default")
	holder := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "l"}, Spec: coordinationv1.LeaseSpec{HolderIdentity: ptr.To("me"), LeaseDurationSeconds: ptr.To[int32](40)}}
	got, err := leases.Update(t.Context(), holder, metav1.UpdateOptions{})
	if err != nil || got.UID == "" {
		t.Fatalf("an upsert: %v", err)
	}
	if _, err := leases.Update(t.Context(), holder, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "metadata.resourceVersion: Invalid value: 0: must be specified for an update") {
		t.Errorf("without a version: %v", err)
	}
	if _, err := admin.CoreV1().ConfigMaps("default").Update(t.Context(), newMap("absent", nil), metav1.UpdateOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("an upsert of another kind: %v", err)
	}
	now := metav1.NewMicroTime(time.Now())
	event := &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "default"}, EventTime: now, Type: "Normal", Reason: "Pulled", Action: "Pull", Note: "pulled it",
		ReportingController: "kubelet", ReportingInstance: "n1", Regarding: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p"},
	}
	made, err := admin.EventsV1().Events("default").Create(t.Context(), event, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	made.Series = &eventsv1.EventSeries{Count: 2, LastObservedTime: now}
	if _, err := admin.EventsV1().Events("default").Update(t.Context(), made, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	seen, err := admin.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=p,involvedObject.kind=Pod,reason=Pulled"})
	if err != nil || len(seen.Items) != 1 || seen.Items[0].Message != "pulled it" || seen.Items[0].Series.Count != 2 {
		t.Errorf("by the older name: %+v, %v", seen.Items, err)
	}
	again, err := admin.EventsV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "regarding.name=p"})
	if err != nil || len(again.Items) != 1 {
		t.Errorf("by the newer name: %v, %v", again.Items, err)
	}
	if ttl := leaseOf(t, "/registry/events/default/e"); ttl <= 0 || ttl > eventTTL+3600 {
		t.Errorf("an event lives %d s", ttl)
	}
}

// leaseOf is how many seconds etcd keeps a key.
func leaseOf(t *testing.T, key string) int64 {
	t.Helper()
	kv, err := server.etcd.client.Client.KV.Get(t.Context(), key)
	if err != nil || len(kv.Kvs) != 1 {
		t.Fatalf("%s: %v, %v", key, kv, err)
	}
	l, err := server.etcd.client.Client.Lease.TimeToLive(t.Context(), clientv3.LeaseID(kv.Kvs[0].Lease))
	if err != nil {
		t.Fatal(err)
	}
	return l.GrantedTTL
}

func TestNamespacesEndInSteps(t *testing.T) {
	namespaces := admin.CoreV1().Namespaces()
	namespace(t, "ending", nil)
	if err := namespaces.Delete(t.Context(), "ending", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	ns, err := namespaces.Get(t.Context(), "ending", metav1.GetOptions{})
	if err != nil || ns.Status.Phase != corev1.NamespaceTerminating || ns.DeletionTimestamp == nil || len(ns.Spec.Finalizers) != 1 || ns.Labels["kubernetes.io/metadata.name"] != "ending" {
		t.Fatalf("%+v, %v", ns, err)
	}
	_, err = admin.CoreV1().ConfigMaps("ending").Create(t.Context(), newMap("late", nil), metav1.CreateOptions{})
	if want := `configmaps "late" is forbidden: unable to create new content in namespace ending because it is being terminated`; err == nil || err.Error() != want || !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	ns.Spec.Finalizers = nil
	if _, err := namespaces.Finalize(t.Context(), ns, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := namespaces.Get(t.Context(), "ending", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after its finalizer: %v", err)
	}
	if err := namespaces.Delete(context.Background(), "default", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) || err.Error() != `namespaces "default" is forbidden: this namespace may not be deleted` {
		t.Errorf("the end of default: %v", err)
	}
	_, err = admin.CoreV1().ConfigMaps("nowhere").Create(t.Context(), newMap("m", nil), metav1.CreateOptions{})
	if err == nil || err.Error() != `namespaces "nowhere" not found` {
		t.Errorf("in no namespace: %v", err)
	}
}
