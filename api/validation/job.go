// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

const (
	// mostParallel and mostFailedIndexes bound the text of completedIndexes and
	// failedIndexes.
	mostParallel      = 100_000
	mostFailedIndexes = 100_000
	// manyCompletions is from where on an indexed Job that counts failures per
	// index has narrower bounds.
	manyCompletions          = 100_000
	mostParallelOfMany       = 10_000
	mostFailedIndexesOfMany  = 10_000
	mostManagerName          = 63
	legacyJobNameLabel       = "job-name"
	legacyControllerUIDLabel = "controller-uid"
)

// Job checks a new Job.
func Job(j *batchv1.Job) field.ErrorList {
	errs := meta(&j.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, ownSelector(j)...)
	errs = append(errs, jobSpec(&j.Spec, nil, false, field.NewPath("spec"))...)
	return append(errs, indexedName(j)...)
}

// JobUpdate checks a change. The template stays, but for a suspended Job
// without Pods: what chooses nodes and the resources of containers. The
// completions of an indexed Job change together with its parallelism.
func JobUpdate(j, old *batchv1.Job) field.ErrorList {
	spec := field.NewPath("spec")
	errs := metaUpdate(&j.ObjectMeta, &old.ObjectMeta)
	loose := metavalidation.LabelSelectorHasInvalidLabelValue(old.Spec.Selector)
	errs = append(errs, jobSpec(&j.Spec, &old.Spec.Template, loose, spec)...)
	errs = append(errs, completionsUpdate(&j.Spec, &old.Spec, spec.Child("completions"))...)
	kept := func(now, was any, name string) {
		if !equality.Semantic.DeepEqual(now, was) {
			errs = append(errs, field.Invalid(spec.Child(name), goFields{now}, immutable).WithOrigin("immutable"))
		}
	}
	kept(j.Spec.Selector, old.Spec.Selector, "selector")
	errs = append(errs, jobTemplateUpdate(&j.Spec.Template, old, spec)...)
	kept(j.Spec.CompletionMode, old.Spec.CompletionMode, "completionMode")
	kept(j.Spec.PodFailurePolicy, old.Spec.PodFailurePolicy, "podFailurePolicy")
	kept(j.Spec.BackoffLimitPerIndex, old.Spec.BackoffLimitPerIndex, "backoffLimitPerIndex")
	kept(j.Spec.ManagedBy, old.Spec.ManagedBy, "managedBy")
	kept(j.Spec.SuccessPolicy, old.Spec.SuccessPolicy, "successPolicy")
	return append(errs, indexedName(j)...)
}

// JobWarnings are the notes on a Job, when it is new or its spec changes.
func JobWarnings(j, old *batchv1.Job) []string {
	if old != nil {
		if j.Generation == old.Generation {
			return nil
		}
		return jobSpecWarnings("", &j.Spec, field.NewPath("spec"))
	}
	return jobSpecWarnings(j.Name, &j.Spec, field.NewPath("spec"))
}

func jobSpecWarnings(name string, s *batchv1.JobSpec, at *field.Path) []string {
	n := notes{}
	if problems := validation.IsDNS1123Label(name); len(problems) > 0 && name != "" {
		n.add(metadata.Child("name"), "this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", problems)
	}
	if indexed(s) && ptr.Deref(s.Completions, 0) > manyCompletions && ptr.Deref(s.Parallelism, 0) > mostParallelOfMany {
		n.add(at, "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail")
	}
	return append(n, templateWarnings("", &s.Template, at.Child("template"))...)
}

func indexed(s *batchv1.JobSpec) bool {
	return ptr.Deref(s.CompletionMode, batchv1.NonIndexedCompletion) == batchv1.IndexedCompletion
}

// ownSelector checks that the generated selector and labels are those of this
// Job.
func ownSelector(j *batchv1.Job) (errs field.ErrorList) {
	if yes(j.Spec.ManualSelector) || j.Spec.Selector == nil {
		return nil
	}
	if j.UID == "" {
		errs = append(errs, field.Required(metadata.Child("uid"), ""))
	}
	at, want := field.NewPath("spec", "template", "metadata", "labels"), labels.Set{}
	for _, l := range []struct{ key, value string }{
		{legacyControllerUIDLabel, string(j.UID)}, {legacyJobNameLabel, j.Name},
		{batchv1.ControllerUidLabel, string(j.UID)}, {batchv1.JobNameLabel, j.Name},
	} {
		want[l.key] = l.value
		switch have, ok := j.Spec.Template.Labels[l.key]; {
		case !ok:
			errs = append(errs, field.Required(at.Key(l.key), fmt.Sprintf("must be '%s'", l.value)))
		case have != l.value:
			errs = append(errs, field.Invalid(at.Key(l.key), j.Spec.Template.Labels, fmt.Sprintf("must be '%s'", l.value)))
		}
	}
	if s, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !s.Matches(want) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "selector"), j.Spec.Selector, "`selector` not auto-generated"))
	}
	return errs
}

// indexedName: the Pods of an indexed Job are named after it and their index.
func indexedName(j *batchv1.Job) field.ErrorList {
	if n := ptr.Deref(j.Spec.Completions, 0); indexed(&j.Spec) && n > 0 {
		longest := fmt.Sprintf("%s-%d", j.Name, n-1)
		if len(validation.IsDNS1123Label(longest)) > 0 {
			return field.ErrorList{field.Invalid(metadata.Child("name"), j.Name, "will not able to create pod with invalid DNS label: "+longest)}
		}
	}
	return nil
}

// jobSpec checks the spec of a Job, which has a selector.
func jobSpec(s *batchv1.JobSpec, old *corev1.PodTemplateSpec, loose bool, at *field.Path) field.ErrorList {
	errs, declared := jobSpecWithout(s, old, at)
	if s.Selector == nil {
		errs = append(errs, field.Required(at.Child("selector"), ""))
	} else {
		errs = append(errs, labelSelector(s.Selector, loose, at.Child("selector"))...)
	}
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !selector.Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, field.Invalid(at.Child("template", "metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
	}
	return reported(errs, declared)
}

// jobSpecWithout checks all but the selector, which Jobs in a CronJob get
// later.
func jobSpecWithout(s *batchv1.JobSpec, old *corev1.PodTemplateSpec, at *field.Path) (errs, declared field.ErrorList) {
	for _, n := range []struct {
		name  string
		value *int32
	}{{"parallelism", s.Parallelism}, {"completions", s.Completions}} {
		errs = append(errs, nonNegativeIfSet(n.value, at.Child(n.name))...)
	}
	if s.ActiveDeadlineSeconds != nil {
		errs = append(errs, nonNegative(*s.ActiveDeadlineSeconds, at.Child("activeDeadlineSeconds"))...)
	}
	for _, n := range []struct {
		name  string
		value *int32
	}{{"backoffLimit", s.BackoffLimit}, {"ttlSecondsAfterFinished", s.TTLSecondsAfterFinished}, {"backoffLimitPerIndex", s.BackoffLimitPerIndex}, {"maxFailedIndexes", s.MaxFailedIndexes}} {
		errs = append(errs, nonNegativeIfSet(n.value, at.Child(n.name))...)
	}
	if s.MaxFailedIndexes != nil && s.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Required(at.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
	}
	if s.ManagedBy != nil {
		errs = append(errs, validation.IsDomainPrefixedPath(at.Child("managedBy"), *s.ManagedBy)...)
		if len(*s.ManagedBy) > mostManagerName {
			errs = append(errs, field.TooLong(at.Child("managedBy"), "" /* unused */, mostManagerName))
		}
	}
	errs = append(errs, completionMode(s, at)...)
	if s.PodFailurePolicy != nil {
		errs = append(errs, failurePolicy(s, at.Child("podFailurePolicy", "rules"))...)
	}
	switch {
	case s.SuccessPolicy == nil:
	case indexed(s):
		errs = append(errs, successPolicy(s, at.Child("successPolicy", "rules"))...)
	default:
		errs = append(errs, field.Invalid(at.Child("successPolicy"), goFields{*s.SuccessPolicy}, "requires indexed completion mode"))
	}
	errs = append(errs, replacementPolicy(s, at.Child("podReplacementPolicy"))...)
	errs = append(errs, template(&s.Template, old, at.Child("template"))...)
	return append(errs, endingRestart(s, at.Child("template", "spec", "restartPolicy"))...), declared
}

// completionMode checks what an indexed Job needs, and what only it may have.
func completionMode(s *batchv1.JobSpec, at *field.Path) (errs field.ErrorList) {
	if s.CompletionMode != nil {
		errs = append(errs, supported(*s.CompletionMode, at.Child("completionMode"), batchv1.NonIndexedCompletion, batchv1.IndexedCompletion)...)
	}
	if s.CompletionMode == nil || *s.CompletionMode == batchv1.NonIndexedCompletion {
		if s.BackoffLimitPerIndex != nil {
			errs = append(errs, field.Invalid(at.Child("backoffLimitPerIndex"), *s.BackoffLimitPerIndex, "requires indexed completion mode"))
		}
		if s.MaxFailedIndexes != nil {
			errs = append(errs, field.Invalid(at.Child("maxFailedIndexes"), *s.MaxFailedIndexes, "requires indexed completion mode"))
		}
	}
	if !indexed(s) {
		return errs
	}
	if s.Completions == nil {
		errs = append(errs, field.Required(at.Child("completions"), fmt.Sprintf("when completion mode is %s", batchv1.IndexedCompletion)))
	}
	most := func(v *int32, name string, limit int32, text string) {
		if v != nil && *v > limit {
			errs = append(errs, field.Invalid(at.Child(name), *v, text))
		}
	}
	most(s.Parallelism, "parallelism", mostParallel, fmt.Sprintf("must be less than or equal to %d when completion mode is %s", mostParallel, batchv1.IndexedCompletion))
	if s.Completions != nil {
		most(s.MaxFailedIndexes, "maxFailedIndexes", *s.Completions, "must be less than or equal to completions")
	}
	most(s.MaxFailedIndexes, "maxFailedIndexes", mostFailedIndexes, fmt.Sprintf("must be less than or equal to %d", mostFailedIndexes))
	if ptr.Deref(s.Completions, 0) <= manyCompletions || s.BackoffLimitPerIndex == nil {
		return errs
	}
	if s.MaxFailedIndexes == nil {
		errs = append(errs, field.Required(at.Child("maxFailedIndexes"), fmt.Sprintf("must be specified when completions is above %d", manyCompletions)))
	}
	const ofMany = "must be less than or equal to %d when completions are above %d and used with backoff limit per index"
	most(s.Parallelism, "parallelism", mostParallelOfMany, fmt.Sprintf(ofMany, mostParallelOfMany, manyCompletions))
	most(s.MaxFailedIndexes, "maxFailedIndexes", mostFailedIndexesOfMany, fmt.Sprintf(ofMany, mostFailedIndexesOfMany, manyCompletions))
	return errs
}

// endingRestart: the Pods of a Job end.
func endingRestart(s *batchv1.JobSpec, at *field.Path) field.ErrorList {
	switch p := s.Template.Spec.RestartPolicy; {
	case p == corev1.RestartPolicyAlways, p == "":
		return field.ErrorList{field.Required(at, fmt.Sprintf("valid values: %q, %q", corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever))}
	case p != corev1.RestartPolicyOnFailure && p != corev1.RestartPolicyNever:
		return field.ErrorList{field.NotSupported(at, p, []corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever})}
	case s.PodFailurePolicy != nil && p != corev1.RestartPolicyNever:
		return field.ErrorList{field.Invalid(at, p, fmt.Sprintf("only %q is supported when podFailurePolicy is specified", corev1.RestartPolicyNever))}
	}
	return nil
}

func completionsUpdate(s, old *batchv1.JobSpec, at *field.Path) field.ErrorList {
	switch {
	case !indexed(s):
		return apivalidation.ValidateImmutableField(s.Completions, old.Completions, at)
	case s.Completions == nil, ptr.Equal(s.Completions, old.Completions), *s.Completions == *s.Parallelism:
		return nil
	}
	return field.ErrorList{field.Invalid(at, s.Completions, fmt.Sprintf("can only be modified in tandem with %s", at.Root().Child("parallelism")))}
}

// jobTemplateUpdate checks a change of the template (KEP-2926, KEP-5440).
func jobTemplateUpdate(now *corev1.PodTemplateSpec, job *batchv1.Job, spec *field.Path) field.ErrorList {
	suspended := yes(job.Spec.Suspend)
	idle := suspended && job.Status.Active == 0 && (job.Status.StartTime == nil || jobHas(job, batchv1.JobSuspended))
	was := job.Spec.Template.DeepCopy()
	if idle {
		freeScheduling(now, was)
		for _, l := range []struct{ now, was []corev1.Container }{{now.Spec.Containers, was.Spec.Containers}, {now.Spec.InitContainers, was.Spec.InitContainers}} {
			for i := range l.now {
				if len(l.now) == len(l.was) && l.now[i].Name == l.was[i].Name {
					l.was[i].Resources = l.now[i].Resources
				}
			}
		}
		return immutableValue(now.Spec, was.Spec, spec.Child("template.spec"))
	}
	return immutableValue(now, was, spec.Child("template"))
}

func immutableValue(now, was any, at *field.Path) field.ErrorList {
	if equality.Semantic.DeepEqual(now, was) {
		return nil
	}
	return field.ErrorList{field.Invalid(at, goFields{now}, immutable).WithOrigin("immutable")}
}

// freeScheduling takes over what may change of where the Pods go.
func freeScheduling(now, was *corev1.PodTemplateSpec) {
	switch a, b := now.Spec.Affinity, was.Spec.Affinity; {
	case a == nil && b != nil:
		if b.NodeAffinity = nil; *b == (corev1.Affinity{}) {
			was.Spec.Affinity = nil
		}
	case a != nil && b == nil:
		was.Spec.Affinity = &corev1.Affinity{NodeAffinity: a.NodeAffinity}
	case a != nil:
		b.NodeAffinity = a.NodeAffinity
	}
	was.Spec.NodeSelector, was.Spec.Tolerations, was.Spec.SchedulingGates = now.Spec.NodeSelector, now.Spec.Tolerations, now.Spec.SchedulingGates
	was.Annotations, was.Labels = now.Annotations, now.Labels
}
