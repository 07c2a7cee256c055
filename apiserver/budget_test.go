// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// budgeted makes two running Pods with a label of the test, and a budget of
// them with a status; nothing here counts it.
func budgeted(t *testing.T, spec policyv1.PodDisruptionBudgetSpec, status policyv1.PodDisruptionBudgetStatus, ready bool) (name string, budget func() *policyv1.PodDisruptionBudget) {
	t.Helper()
	name = strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	for i := range 2 {
		p := newPod(fmt.Sprint(name, i))
		p.Labels = map[string]string{"of": name}
		p = create(t, p, "n1")
		p.Status.Phase = corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: map[bool]corev1.ConditionStatus{true: corev1.ConditionTrue, false: corev1.ConditionFalse}[ready]}}
		if _, err := admin.CoreV1().Pods("default").UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	all := admin.PolicyV1().PodDisruptionBudgets("default")
	spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"of": name}}
	b, err := all.Create(t.Context(), &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := all.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	b.Status = status
	if _, err := all.UpdateStatus(t.Context(), b, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	return name, func() *policyv1.PodDisruptionBudget {
		t.Helper()
		b, err := all.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

// overBudget checks the answer to an eviction that a budget does not allow.
func overBudget(t *testing.T, err error, cause string) {
	t.Helper()
	status, ok := err.(apierrors.APIStatus)
	if !ok || !apierrors.IsTooManyRequests(err) || status.Status().Message != violation {
		t.Fatalf("answer %v", err)
	}
	causes := status.Status().Details.Causes
	if len(causes) != 1 || causes[0].Type != policyv1.DisruptionBudgetCause || causes[0].Message != cause {
		t.Errorf("causes %+v, want %q", causes, cause)
	}
}

func TestBudgetIsSpent(t *testing.T) {
	least := intstr.FromInt32(1)
	name, budget := budgeted(t, policyv1.PodDisruptionBudgetSpec{MinAvailable: &least},
		policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: 1, CurrentHealthy: 1, DesiredHealthy: 1, ExpectedPods: 2}, true)
	if err := evict(t, name+"0", &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}); err != nil || budget().Status.DisruptionsAllowed != 1 {
		t.Errorf("a dry run: %v, leaves %+v", err, budget().Status)
	}
	if err := evict(t, name+"0", nil); err != nil {
		t.Fatal(err)
	}
	s := budget().Status
	if _, named := s.DisruptedPods[name+"0"]; !named || s.DisruptionsAllowed != 0 || len(s.Conditions) != 1 || s.Conditions[0].Reason != policyv1.InsufficientPodsReason {
		t.Errorf("status %+v", s)
	}
	overBudget(t, evict(t, name+"1", nil), fmt.Sprintf("The disruption budget %s needs 1 healthy pods and has 1 currently", name))
	if err := evict(t, name+"0", nil); err != nil {
		t.Errorf("a Pod that is ending already: %v", err)
	}
}

func TestBudgetOfUnhealthy(t *testing.T) {
	for _, c := range []struct {
		name    string
		policy  *policyv1.UnhealthyPodEvictionPolicyType
		healthy int32
		goes    bool
	}{
		{"IfHealthy", nil, 1, false}, {"IfHealthyEnough", nil, 2, true},
		{"Named", ptr.To(policyv1.IfHealthyBudget), 1, false}, {"Always", ptr.To(policyv1.AlwaysAllow), 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			least := intstr.FromInt32(2)
			name, budget := budgeted(t, policyv1.PodDisruptionBudgetSpec{MinAvailable: &least, UnhealthyPodEvictionPolicy: c.policy},
				policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, CurrentHealthy: c.healthy, DesiredHealthy: 2, ExpectedPods: 3}, false)
			err := evict(t, name+"0", nil)
			if !c.goes {
				overBudget(t, err, fmt.Sprintf("The disruption budget %s needs 2 healthy pods and has %d currently", name, c.healthy))
				return
			}
			if err != nil || len(budget().Status.DisruptedPods) != 0 {
				t.Errorf("%v, status %+v", err, budget().Status)
			}
		})
	}
}

func TestTwoBudgets(t *testing.T) {
	most := intstr.FromInt32(1)
	name, _ := budgeted(t, policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &most}, policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: 1}, true)
	all := admin.PolicyV1().PodDisruptionBudgets("default")
	other := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "second"}, Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"of": name}}}}
	if _, err := all.Create(t.Context(), other, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	err := evict(t, name+"0", nil)
	if deleteErr := all.Delete(t.Context(), "second", metav1.DeleteOptions{}); deleteErr != nil {
		t.Error(deleteErr)
	}
	if !apierrors.IsInternalError(err) && (err == nil || !strings.Contains(err.Error(), "more than one PodDisruptionBudget")) {
		t.Errorf("a Pod of two budgets: %v", err)
	}
}

func TestSpend(t *testing.T) {
	failed := metav1.Condition{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason, Message: "no scale"}
	other := failed
	other.Reason = "Odd"
	many := map[string]metav1.Time{}
	for i := range mostDisrupted + 1 {
		many[fmt.Sprint(i)] = metav1.Time{}
	}
	for _, c := range []struct {
		name   string
		status policyv1.PodDisruptionBudgetStatus
		want   string
	}{
		{"allowed", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 2, DisruptionsAllowed: 3}, ""},
		{"old", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: 3}, "The disruption budget b is still being processed by the server."},
		{"negative", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 2, DisruptionsAllowed: -1}, "The disruption budget b does not allow evicting pods currently: pdb disruptions allowed is negative"},
		{"many", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 2, DisruptionsAllowed: 1, DisruptedPods: many}, "The disruption budget b does not allow evicting pods currently: too many pending evictions not confirmed by PDB controller"},
		{"failed", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 2, Conditions: []metav1.Condition{failed}}, "The disruption budget b does not allow evicting pods currently because it failed sync: no scale"},
		{"few", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 2, DesiredHealthy: 3, CurrentHealthy: 2}, "The disruption budget b needs 3 healthy pods and has 2 currently"},
		{"odd", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 2, CurrentHealthy: 2, Conditions: []metav1.Condition{other}}, "The disruption budget b does not allow evicting pods currently (Odd): no scale"},
		{"else", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 2, CurrentHealthy: 2}, "The disruption budget b does not allow evicting pods currently"},
	} {
		b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b", Generation: 2}, Status: c.status}
		err := spend(b, "p", time.Now())
		got := ""
		if s, ok := err.(apierrors.APIStatus); ok {
			got = s.Status().Details.Causes[0].Message
		}
		if got != c.want || (err == nil) != (b.Status.DisruptionsAllowed == c.status.DisruptionsAllowed-1) {
			t.Errorf("%s: %v, cause %q, want %q", c.name, err, got, c.want)
		}
	}
}
