// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"
	budgetstatus "k8s.io/component-helpers/apps/poddisruptionbudget"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/api/pod"
	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/controller/owned"
)

const (
	// deletionTimeout is how long an eviction that was allowed may take to
	// become a deletion, before the Pod counts again.
	deletionTimeout = 2 * time.Minute
	// staleDisruption is how long a Pod may be about to be disrupted without
	// ending, before that is taken back.
	staleDisruption = 2 * time.Minute
)

// budgets counts for each PodDisruptionBudget how many of its Pods may be
// evicted now (disruption-controller of kube-controller-manager). The API
// server takes from that number with each eviction, and names the Pod; what is
// named does not count as healthy until it has ended.
type budgets struct {
	client client.Client
	events record.EventRecorder
	scales scales
}

func addDisruption(m manager.Manager, c loop.Config) error {
	b := &budgets{client: m.GetClient(), events: m.GetEventRecorderFor("controllermanager"), scales: scales{m.GetClient(), m.GetRESTMapper(), c.Client}}
	err := ctrl.NewControllerManagedBy(m).Named("disruption").For(&policyv1.PodDisruptionBudget{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(b.of)).Complete(b)
	if err != nil {
		return err
	}
	marked := predicate.NewPredicateFuncs(func(o client.Object) bool { return disruptionNear(o.(*corev1.Pod)) != nil })
	return ctrl.NewControllerManagedBy(m).Named("staledisruption").For(&corev1.Pod{}, builder.WithPredicates(marked)).
		Complete(reconcile.Func(b.clearStale))
}

// of are the budgets that select a Pod. Only one should.
func (b *budgets) of(ctx context.Context, o client.Object) (out []reconcile.Request) {
	var list policyv1.PodDisruptionBudgetList
	if err := b.client.List(ctx, &list, client.InNamespace(o.GetNamespace()), client.UnsafeDisableDeepCopy); err != nil {
		return nil // the cache is stopping
	}
	for i := range list.Items {
		if owned.Selects(list.Items[i].Spec.Selector, o) {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	if len(out) > 1 {
		b.events.Eventf(o, corev1.EventTypeWarning, "MultiplePodDisruptionBudgets", "Pod %q/%q matches multiple PodDisruptionBudgets.  Chose %q arbitrarily.", o.GetNamespace(), o.GetName(), out[0].Name)
	}
	return out
}

// Reconcile counts the Pods of a budget. What cannot be counted allows
// nothing.
func (b *budgets) Reconcile(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
	budget := &policyv1.PodDisruptionBudget{}
	if err := b.client.Get(ctx, q.NamespacedName, budget); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	was := budget.Status.DeepCopy()
	after, err := b.count(ctx, budget)
	if err != nil {
		budget.Status = *was.DeepCopy()
		budget.Status.DisruptionsAllowed = 0
		meta.SetStatusCondition(&budget.Status.Conditions, metav1.Condition{
			Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason,
			Message: err.Error(), ObservedGeneration: budget.Status.ObservedGeneration,
		})
	}
	if !equality.Semantic.DeepEqual(was, &budget.Status) {
		if err := b.client.Status().Update(ctx, budget); err != nil {
			return reconcile.Result{}, loop.IgnoreStale(err)
		}
	}
	return reconcile.Result{RequeueAfter: after}, nil
}

// count fills in the status. after is when a Pod that was allowed to go counts
// again.
func (b *budgets) count(ctx context.Context, budget *policyv1.PodDisruptionBudget) (after time.Duration, err error) {
	selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
	var list corev1.PodList
	if err == nil {
		err = b.client.List(ctx, &list, client.InNamespace(budget.Namespace), client.MatchingLabelsSelector{Selector: selector}, client.UnsafeDisableDeepCopy)
	}
	if err != nil {
		b.events.Eventf(budget, corev1.EventTypeWarning, "NoPods", "Failed to get pods: %v", err)
		return 0, err
	}
	if len(list.Items) == 0 {
		b.events.Event(budget, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	expected, desired, alone, err := b.want(ctx, budget, list.Items)
	if err != nil {
		b.events.Eventf(budget, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
		return 0, err
	}
	if alone {
		b.events.Eventf(budget, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found to be unmanaged. "+
			"As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
			"To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", budget.Spec.Selector)
	}
	now := time.Now()
	leaving, late, after := disrupted(budget, list.Items, now)
	for _, p := range late {
		b.events.Eventf(p, corev1.EventTypeWarning, "NotDeleted", "Pod was expected by PDB %s/%s to be deleted but it wasn't", budget.Namespace, budget.Namespace)
	}
	s := &budget.Status
	s.CurrentHealthy, s.DesiredHealthy, s.ExpectedPods, s.DisruptedPods = healthy(list.Items, leaving), desired, expected, leaving
	s.DisruptionsAllowed = max(0, s.CurrentHealthy-desired)
	if expected <= 0 {
		s.DisruptionsAllowed = 0
	}
	s.ObservedGeneration = budget.Generation
	budgetstatus.UpdateDisruptionAllowedCondition(budget)
	return after, nil
}

// want is how many Pods there should be, and how many of them healthy. alone
// says that some have no controller, so that nobody knows how many they are to
// be.
func (b *budgets) want(ctx context.Context, budget *policyv1.PodDisruptionBudget, pods []corev1.Pod) (expected, desired int32, alone bool, err error) {
	least, most := budget.Spec.MinAvailable, budget.Spec.MaxUnavailable
	if most == nil && least == nil {
		return 0, 0, false, nil
	}
	if most == nil && least.Type == intstr.Int {
		return int32(len(pods)), least.IntVal, false, nil
	}
	expected, alone, err = b.scales.sum(ctx, pods)
	if err != nil {
		return 0, 0, alone, err
	}
	amount := least
	if most != nil {
		amount = most
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(amount, int(expected), true)
	if err != nil {
		return 0, 0, alone, err
	}
	if most != nil {
		return expected, max(0, expected-int32(n)), alone, nil
	}
	return expected, int32(n), alone, nil
}

// disrupted are the Pods that were allowed to go and have not begun to; late
// are those that should have by now. after is when the next becomes late.
func disrupted(budget *policyv1.PodDisruptionBudget, pods []corev1.Pod, now time.Time) (leaving map[string]metav1.Time, late []*corev1.Pod, after time.Duration) {
	leaving = map[string]metav1.Time{}
	for i := range pods {
		p := &pods[i]
		at, named := budget.Status.DisruptedPods[p.Name]
		if !named || p.DeletionTimestamp != nil {
			continue
		}
		left := at.Add(deletionTimeout).Sub(now)
		if left < 0 {
			late = append(late, p)
			continue
		}
		leaving[p.Name] = at
		if left += time.Millisecond; after == 0 || left < after {
			after = left
		}
	}
	return leaving, late, after
}

func healthy(pods []corev1.Pod, leaving map[string]metav1.Time) (n int32) {
	for i := range pods {
		if _, named := leaving[pods[i].Name]; !named && pods[i].DeletionTimestamp == nil && pod.Ready(&pods[i]) {
			n++
		}
	}
	return n
}

// disruptionNear is the condition that a Pod is about to be disrupted, while
// it lives. What the node itself says stays.
func disruptionNear(p *corev1.Pod) *corev1.PodCondition {
	c := pod.Condition(&p.Status, corev1.DisruptionTarget)
	if c == nil || c.Status != corev1.ConditionTrue || c.Reason == corev1.PodReasonTerminationByKubelet || p.DeletionTimestamp != nil || pod.Terminal(p) {
		return nil
	}
	return c
}

// clearStale takes back that a Pod is about to be disrupted, when it has not
// been.
func (b *budgets) clearStale(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
	p := &corev1.Pod{}
	if err := b.client.Get(ctx, q.NamespacedName, p); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	c := disruptionNear(p)
	if c == nil {
		return reconcile.Result{}, nil
	}
	if left := staleDisruption - time.Since(c.LastTransitionTime.Time); left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	pod.SetCondition(&p.Status, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse, ObservedGeneration: c.ObservedGeneration})
	return reconcile.Result{}, loop.IgnoreStale(b.client.Status().Update(ctx, p))
}
