// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	budgetstatus "k8s.io/component-helpers/apps/poddisruptionbudget"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/api/pod"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

// mostDisrupted bounds how many evictions the disruption controller has not
// confirmed yet.
const mostDisrupted = 2000

func budgetRow() *row {
	return resource[policyv1.PodDisruptionBudget, policyv1.PodDisruptionBudgetList](policyv1.SchemeGroupVersion, "PodDisruptionBudget", "poddisruptionbudgets", "poddisruptionbudget", hooks[policyv1.PodDisruptionBudget]{
		Validate: validation.PodDisruptionBudget, ValidateUpdate: validation.PodDisruptionBudgetUpdate, ValidateStatus: validation.PodDisruptionBudgetStatusUpdate,
		Columns: table.PodDisruptionBudget(),
		Prepare: func(_ context.Context, b, old *policyv1.PodDisruptionBudget) {
			defaults.PreparePodDisruptionBudget(b, old)
		},
	}, shortNames("pdb"), strictUpdate)
}

// budgetsOf lists the budgets that select a Pod.
func budgetsOf(ctx context.Context, s *registry.Store, p *corev1.Pod) (out []*policyv1.PodDisruptionBudget, err error) {
	found, err := s.List(ctx, nil)
	if err != nil {
		return nil, err
	}
	list := found.(*policyv1.PodDisruptionBudgetList)
	for i := range list.Items {
		selector, err := metav1.LabelSelectorAsSelector(list.Items[i].Spec.Selector)
		if err == nil && selector.Matches(labels.Set(p.Labels)) {
			out = append(out, &list.Items[i])
		}
	}
	return out, nil
}

// unhealthyMayGo says whether a Pod that is not ready can be evicted without
// taking from the budget (KEP-3017): it does not count as healthy. Unless it
// always may, the healthy ones have to be enough.
func unhealthyMayGo(b *policyv1.PodDisruptionBudget, p *corev1.Pod) bool {
	if pod.Ready(p) {
		return false
	}
	if w := b.Spec.UnhealthyPodEvictionPolicy; w != nil && *w == policyv1.AlwaysAllow {
		return true
	}
	return b.Status.DesiredHealthy > 0 && b.Status.CurrentHealthy >= b.Status.DesiredHealthy
}

// spend takes the eviction of a Pod from a budget, or says why not. The Pod is
// named in it until the disruption controller has seen its end.
func spend(b *policyv1.PodDisruptionBudget, name string, now time.Time) error {
	s := &b.Status
	switch {
	case s.ObservedGeneration < b.Generation:
		return inProgress(b.Name)
	case s.DisruptionsAllowed < 0:
		return overdrawn(b, "pdb disruptions allowed is negative", "pdb disruptions allowed is negative")
	case len(s.DisruptedPods) > mostDisrupted:
		return overdrawn(b, "DisruptedPods map too big - too many evictions not confirmed by PDB controller", "too many pending evictions not confirmed by PDB controller")
	case s.DisruptionsAllowed == 0:
		return withCause(apierrors.NewTooManyRequests(violation, 0), whyNot(b))
	}
	s.DisruptionsAllowed--
	if s.DisruptionsAllowed == 0 {
		budgetstatus.UpdateDisruptionAllowedCondition(b)
	}
	if s.DisruptedPods == nil {
		s.DisruptedPods = map[string]metav1.Time{}
	}
	s.DisruptedPods[name] = metav1.NewTime(now)
	return nil
}

const violation = "Cannot evict pod as it would violate the pod's disruption budget."

func withCause(err *apierrors.StatusError, text string) *apierrors.StatusError {
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: text})
	return err
}

// inProgress asks to come again: the budget is not known well enough.
func inProgress(name string) error {
	return withCause(apierrors.NewTooManyRequests(violation, 10), fmt.Sprintf("The disruption budget %s is still being processed by the server.", name))
}

func overdrawn(b *policyv1.PodDisruptionBudget, why, cause string) error {
	err := apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), b.Name, errors.New(why))
	return withCause(err, fmt.Sprintf("The disruption budget %s does not allow evicting pods currently: %s", b.Name, cause))
}

// whyNot is why a budget allows no disruption. Counts that could not be made
// say nothing.
func whyNot(b *policyv1.PodDisruptionBudget) string {
	c := meta.FindStatusCondition(b.Status.Conditions, policyv1.DisruptionAllowedCondition)
	told := c != nil && c.Status == metav1.ConditionFalse && c.Message != ""
	switch {
	case told && c.Reason == policyv1.SyncFailedReason:
		return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently because it failed sync: %s", b.Name, c.Message)
	case b.Status.CurrentHealthy <= b.Status.DesiredHealthy:
		return fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, b.Status.DesiredHealthy, b.Status.CurrentHealthy)
	case told:
		return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently (%s): %s", b.Name, c.Reason, c.Message)
	}
	return fmt.Sprintf("The disruption budget %s does not allow evicting pods currently", b.Name)
}
