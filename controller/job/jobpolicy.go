// SPDX-License-Identifier: Apache-2.0

package job

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// match is what podFailurePolicy makes of a failed Pod (KEP-3329).
type match struct {
	action batchv1.PodFailurePolicyAction // none when no rule matches
	// counts says whether the failure counts towards the limits.
	counts bool
	// message says why the whole Job fails.
	message string
}

// failureAction finds the first rule that matches.
func failureAction(policy *batchv1.PodFailurePolicy, p *corev1.Pod) match {
	if policy == nil {
		return match{counts: true}
	}
	for i, rule := range policy.Rules {
		why := ""
		switch {
		case rule.OnExitCodes != nil:
			if s := exitMatch(&p.Status, rule.OnExitCodes); s != nil {
				why = fmt.Sprintf("Container %s for pod %s/%s failed with exit code %v matching %v rule at index %d", s.Name, p.Namespace, p.Name, s.State.Terminated.ExitCode, rule.Action, i)
			}
		default:
			if c := conditionMatch(&p.Status, rule.OnPodConditions); c != nil {
				why = fmt.Sprintf("Pod %s/%s has condition %v matching %v rule at index %d", p.Namespace, p.Name, c.Type, rule.Action, i)
			}
		}
		if why == "" {
			continue
		}
		switch rule.Action {
		case batchv1.PodFailurePolicyActionIgnore:
			return match{action: rule.Action}
		case batchv1.PodFailurePolicyActionFailJob:
			return match{rule.Action, true, why}
		case batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionCount:
			return match{action: rule.Action, counts: true}
		}
	}
	return match{counts: true}
}

func exitMatch(s *corev1.PodStatus, r *batchv1.PodFailurePolicyOnExitCodesRequirement) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{s.ContainerStatuses, s.InitContainerStatuses} {
		for i := range list {
			t := list[i].State.Terminated
			if t == nil || t.ExitCode == 0 || r.ContainerName != nil && *r.ContainerName != list[i].Name {
				continue
			}
			if slices.Contains(r.Values, t.ExitCode) == (r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
				return &list[i]
			}
		}
	}
	return nil
}

func conditionMatch(s *corev1.PodStatus, patterns []batchv1.PodFailurePolicyOnPodConditionsPattern) *corev1.PodCondition {
	for i, c := range s.Conditions {
		if slices.ContainsFunc(patterns, func(p batchv1.PodFailurePolicyOnPodConditionsPattern) bool {
			return p.Type == c.Type && p.Status == c.Status
		}) {
			return &s.Conditions[i]
		}
	}
	return nil
}

// failingPod is why a Pod fails the whole Job, or "".
func failingPod(j *batchv1.Job, pods []*corev1.Pod) string {
	if j.Spec.PodFailurePolicy == nil {
		return ""
	}
	for _, p := range pods {
		if podFailed(p, j) {
			if m := failureAction(j.Spec.PodFailurePolicy, p); m.message != "" {
				return m.message
			}
		}
	}
	return ""
}

// succeeds is the rule of successPolicy that the completed indexes meet, or -1
// (KEP-3998).
func succeeds(j *batchv1.Job, completed intervals) int {
	if j.Spec.SuccessPolicy == nil || len(completed) == 0 {
		return -1
	}
	return slices.IndexFunc(j.Spec.SuccessPolicy.Rules, func(r batchv1.SuccessPolicyRule) bool {
		if r.SucceededIndexes == nil {
			return r.SucceededCount != nil && completed.total() >= int(*r.SucceededCount)
		}
		want := parseIntervals(*r.SucceededIndexes, int(*j.Spec.Completions))
		if len(want) == 0 {
			return false
		}
		n := want.common(completed)
		return n == want.total() || r.SucceededCount != nil && n >= int(*r.SucceededCount)
	})
}
