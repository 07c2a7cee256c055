// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/controller/world"
)

// guard makes a budget of everything in a namespace.
func guard(t *testing.T, namespace string, change func(*policyv1.PodDisruptionBudgetSpec)) {
	t.Helper()
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "guard", Namespace: namespace}}
	b.Spec.Selector = &metav1.LabelSelector{}
	change(&b.Spec)
	world.Put(t, b)
}

// counted waits until a budget has counted so: allowed, healthy, desired,
// expected.
func counted(t *testing.T, namespace string, want ...int32) policyv1.PodDisruptionBudgetStatus {
	t.Helper()
	var list policyv1.PodDisruptionBudgetList
	world.Until(t, fmt.Sprintf("counts %v", want), &list, func() bool {
		s := list.Items[0].Status
		return s.ObservedGeneration == list.Items[0].Generation && slices.Equal(want, []int32{s.DisruptionsAllowed, s.CurrentHealthy, s.DesiredHealthy, s.ExpectedPods})
	}, client.InNamespace(namespace))
	return list.Items[0].Status
}

// run makes a Pod run, and ready.
func run(t *testing.T, p *corev1.Pod) {
	t.Helper()
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	if err := world.Client.Status().Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

func TestBudgetByScale(t *testing.T) {
	t.Parallel()
	ns := world.Space(t)
	rc := &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: ns}}
	rc.Spec.Replicas = ptr.To[int32](3)
	rc.Spec.Template = &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "app:1"}}}}
	world.Put(t, rc)
	half := intstr.FromString("50%")
	guard(t, ns, func(s *policyv1.PodDisruptionBudgetSpec) { s.MinAvailable = &half })
	st := counted(t, ns, 0, 0, 2, 3)
	if c := meta.FindStatusCondition(st.Conditions, policyv1.DisruptionAllowedCondition); c == nil || c.Status != metav1.ConditionFalse || c.Reason != policyv1.InsufficientPodsReason {
		t.Errorf("conditions %+v", st.Conditions)
	}
	var pods corev1.PodList
	world.Until(t, "three Pods", &pods, func() bool { return len(pods.Items) == 3 }, client.InNamespace(ns))
	for i := range pods.Items {
		run(t, &pods.Items[i])
	}
	st = counted(t, ns, 1, 3, 2, 3)
	if c := meta.FindStatusCondition(st.Conditions, policyv1.DisruptionAllowedCondition); c.Status != metav1.ConditionTrue || c.Reason != policyv1.SufficientPodsReason {
		t.Errorf("conditions %+v", st.Conditions)
	}
	evict := func(p *corev1.Pod) error {
		return world.Client.SubResource("eviction").Create(t.Context(), p, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: ns}})
	}
	if err := evict(&pods.Items[0]); err != nil {
		t.Fatal(err)
	}
	// The Pod was never bound, so it is gone and another, not ready, comes.
	counted(t, ns, 0, 2, 2, 3)
	if err := evict(&pods.Items[1]); err == nil || !strings.Contains(err.Error(), "Cannot evict pod as it would violate the pod's disruption budget.") {
		t.Errorf("the next eviction: %v", err)
	}
}

func TestBudgetByNumber(t *testing.T) {
	t.Parallel()
	ns := world.Space(t)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "alone", Namespace: ns}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "app:1"}}}}
	world.Put(t, p)
	run(t, p)
	one := intstr.FromInt32(1)
	guard(t, ns, func(s *policyv1.PodDisruptionBudgetSpec) { s.MinAvailable = &one })
	counted(t, ns, 0, 1, 1, 1)
}

func TestBudgetOfUncountable(t *testing.T) {
	t.Parallel()
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "sum", Namespace: world.Space(t)}}
	j.Spec.Template.Spec = corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "main", Image: "app:1"}}}
	world.Put(t, j)
	p := world.NewPod(j.Namespace, "of-sum", "")
	p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(j, batchv1.SchemeGroupVersion.WithKind("Job"))}
	world.Put(t, p)
	one := intstr.FromInt32(1)
	guard(t, j.Namespace, func(s *policyv1.PodDisruptionBudgetSpec) { s.MaxUnavailable = &one })
	var list policyv1.PodDisruptionBudgetList
	world.Until(t, "it says why", &list, func() bool {
		c := meta.FindStatusCondition(list.Items[0].Status.Conditions, policyv1.DisruptionAllowedCondition)
		return c != nil && c.Reason == policyv1.SyncFailedReason
	}, client.InNamespace(j.Namespace))
	if got := list.Items[0].Status.Conditions[0].Message; got != "jobs.batch does not implement the scale subresource" {
		t.Errorf("message %q", got)
	}
}

func TestDisrupted(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }
	pods := make([]corev1.Pod, 4)
	for i := range pods {
		pods[i].Name = string(rune('a' + i))
		pods[i].Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	pods[3].DeletionTimestamp = ptr.To(ago(0))
	b := &policyv1.PodDisruptionBudget{}
	b.Status.DisruptedPods = map[string]metav1.Time{"a": ago(time.Minute), "b": ago(3 * time.Minute), "d": ago(0), "gone": ago(0)}
	leaving, late, after := disrupted(b, pods, now)
	if _, named := leaving["a"]; !named || len(leaving) != 1 || len(late) != 1 || late[0].Name != "b" || after != time.Minute+time.Millisecond {
		t.Errorf("leaving %v, late %d, again after %v", leaving, len(late), after)
	}
	if n := healthy(pods, leaving); n != 2 { // b counts again, and c
		t.Errorf("%d healthy", n)
	}
}
