// SPDX-License-Identifier: Apache-2.0

package defaults

import (
	"math"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Job fills in a Job: without numbers it is one Pod that has to succeed once.
func Job(j *batchv1.Job) {
	s := &j.Spec
	if s.Completions == nil && s.Parallelism == nil {
		set(&s.Completions, 1)
	}
	set(&s.Parallelism, 1)
	limit := int32(6)
	if s.BackoffLimitPerIndex != nil {
		limit = math.MaxInt32
	}
	set(&s.BackoffLimit, limit)
	if s.Template.Labels != nil && len(j.Labels) == 0 {
		j.Labels = s.Template.Labels // one map: what PrepareJob adds is the Job's too, as in Kubernetes
	}
	set(&s.CompletionMode, batchv1.NonIndexedCompletion)
	set(&s.Suspend, false)
	replace := batchv1.TerminatingOrFailed
	if s.PodFailurePolicy != nil {
		replace = batchv1.Failed
	}
	set(&s.PodReplacementPolicy, replace)
	set(&s.ManualSelector, false)
	jobParts(s)
}

// CronJob fills in a CronJob. Its Jobs get their own defaults when they are
// made.
func CronJob(c *batchv1.CronJob) {
	zero(&c.Spec.ConcurrencyPolicy, batchv1.AllowConcurrent)
	set(&c.Spec.Suspend, false)
	set(&c.Spec.SuccessfulJobsHistoryLimit, 3)
	set(&c.Spec.FailedJobsHistoryLimit, 1)
	jobParts(&c.Spec.JobTemplate.Spec)
}

func jobParts(s *batchv1.JobSpec) {
	if s.PodFailurePolicy != nil {
		for i := range s.PodFailurePolicy.Rules {
			for j := range s.PodFailurePolicy.Rules[i].OnPodConditions {
				zero(&s.PodFailurePolicy.Rules[i].OnPodConditions[j].Status, corev1.ConditionTrue)
			}
		}
	}
	PodTemplateSpec(&s.Template)
}

// PrepareJob gives a new Job a selector of its own, and its template the labels
// that match it, unless the selector is manual.
func PrepareJob(j, old *batchv1.Job) {
	prepareJobSpec(&j.Spec)
	if old != nil || *j.Spec.ManualSelector {
		return
	}
	if j.Spec.Template.Labels == nil {
		j.Spec.Template.Labels = map[string]string{}
	}
	label := func(labels map[string]string, key, value string) {
		if _, ok := labels[key]; !ok { // what is there is for validation to refuse
			labels[key] = value
		}
	}
	for _, key := range []string{"job-name", batchv1.JobNameLabel} {
		label(j.Spec.Template.Labels, key, j.Name)
	}
	for _, key := range []string{"controller-uid", batchv1.ControllerUidLabel} {
		label(j.Spec.Template.Labels, key, string(j.UID))
	}
	if j.Spec.Selector == nil {
		j.Spec.Selector = &metav1.LabelSelector{}
	}
	if j.Spec.Selector.MatchLabels == nil {
		j.Spec.Selector.MatchLabels = map[string]string{}
	}
	label(j.Spec.Selector.MatchLabels, batchv1.ControllerUidLabel, string(j.UID))
}

// PrepareCronJob is what the API makes of a CronJob before validation.
func PrepareCronJob(c, _ *batchv1.CronJob) { prepareJobSpec(&c.Spec.JobTemplate.Spec) }

// prepareJobSpec drops scheduling of the Job as a whole, which is alpha in
// Kubernetes 1.37.
func prepareJobSpec(s *batchv1.JobSpec) {
	s.Scheduling = nil
	PreparePodTemplate(&s.Template)
}

// reservedForEmpty is a label that a selector of policy/v1beta1 was stored with
// when it was empty; alone it still selects nothing.
const reservedForEmpty = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match"

// PreparePodDisruptionBudget drops the reserved label where it is mixed with
// others.
func PreparePodDisruptionBudget(b, old *policyv1.PodDisruptionBudget) {
	s := b.Spec.Selector
	if s == nil || old != nil && equality.Semantic.DeepEqual(old.Spec.Selector, s) {
		return
	}
	none := metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: reservedForEmpty, Operator: metav1.LabelSelectorOpExists}}}
	if !equality.Semantic.DeepEqual(*s, none) {
		s.MatchExpressions = slices.DeleteFunc(s.MatchExpressions, func(r metav1.LabelSelectorRequirement) bool { return r.Key == reservedForEmpty })
	}
}
