// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func jobHas(j *batchv1.Job, t batchv1.JobConditionType) bool {
	return jobCondition(j, t, corev1.ConditionTrue)
}

func jobCondition(j *batchv1.Job, t batchv1.JobConditionType, s corev1.ConditionStatus) bool {
	for _, c := range j.Status.Conditions {
		if c.Type == t && c.Status == s {
			return true
		}
	}
	return false
}

func jobFinished(j *batchv1.Job) bool {
	return jobHas(j, batchv1.JobComplete) || jobHas(j, batchv1.JobFailed)
}

// JobStatusUpdate checks a status, which controllers beside ours write too
// (KEP-4368): what does not change may be wrong, as a change of the spec can
// make it so until the controller has seen it.
func JobStatusUpdate(j, old *batchv1.Job) field.ErrorList {
	errs := metaUpdate(&j.ObjectMeta, &old.ObjectMeta)
	s := &statusCheck{now: j, old: old, at: field.NewPath("status")}
	s.counts()
	s.uncounted()
	s.completion()
	s.finish()
	s.indexes()
	s.success()
	s.history()
	return append(errs, s.errs...)
}

// statusCheck collects what is wrong with a status.
type statusCheck struct {
	now, old *batchv1.Job
	at       *field.Path
	errs     field.ErrorList
}

func (s *statusCheck) invalid(name string, value any, text string) {
	s.errs = append(s.errs, field.Invalid(s.at.Child(name), value, text))
}

func (s *statusCheck) condition(text string) {
	s.invalid("conditions", field.OmitValueType{}, text)
}

// changed says whether any of the conditions became true or ceased to be.
func (s *statusCheck) changed(list ...batchv1.JobConditionType) bool {
	for _, t := range list {
		if jobHas(s.now, t) != jobHas(s.old, t) {
			return true
		}
	}
	return false
}

func (s *statusCheck) counts() {
	st := &s.now.Status
	for _, n := range []struct {
		name  string
		value *int32
	}{{"active", &st.Active}, {"succeeded", &st.Succeeded}, {"failed", &st.Failed}, {"ready", st.Ready}, {"terminating", st.Terminating}} {
		s.errs = append(s.errs, nonNegativeIfSet(n.value, s.at.Child(n.name))...)
	}
}

func (s *statusCheck) uncounted() {
	u, seen := s.now.Status.UncountedTerminatedPods, map[types.UID]bool{}
	if u == nil {
		return
	}
	for _, l := range []struct {
		name string
		list []types.UID
	}{{"succeeded", u.Succeeded}, {"failed", u.Failed}} {
		for i, uid := range l.list {
			at := s.at.Child("uncountedTerminatedPods", l.name).Index(i)
			switch {
			case uid == "":
				s.errs = append(s.errs, field.Invalid(at, uid, "must not be empty"))
			case seen[uid]:
				s.errs = append(s.errs, field.Duplicate(at, uid))
			}
			seen[uid] = true
		}
	}
}

// completion checks the condition Complete and the time that belongs to it.
func (s *statusCheck) completion() {
	st, complete := &s.now.Status, jobHas(s.now, batchv1.JobComplete)
	started := !ptr.Equal(s.old.Status.StartTime, st.StartTime)
	ended := !ptr.Equal(s.old.Status.CompletionTime, st.CompletionTime)
	if complete && s.changed(batchv1.JobComplete, batchv1.JobFailed) && jobHas(s.now, batchv1.JobFailed) {
		s.condition("cannot set Complete=True and Failed=true conditions")
	}
	if complete && s.changed(batchv1.JobComplete, batchv1.JobFailureTarget) && jobHas(s.now, batchv1.JobFailureTarget) {
		s.condition("cannot set Complete=True and FailureTarget=true conditions")
	}
	if s.changed(batchv1.JobComplete) || ended {
		switch {
		case st.CompletionTime != nil && !complete:
			s.invalid("completionTime", st.CompletionTime, "cannot set completionTime when there is no Complete=True condition")
		case st.CompletionTime == nil && complete:
			s.errs = append(s.errs, field.Required(s.at.Child("completionTime"), "completionTime is required for Complete jobs"))
		}
	}
	if (started || ended) && st.StartTime != nil && st.CompletionTime != nil && st.CompletionTime.Before(st.StartTime) {
		s.invalid("completionTime", st.CompletionTime, "must be equal to or after `startTime`")
	}
	if (s.changed(batchv1.JobFailed) || !ptr.Equal(s.old.Status.FailedIndexes, st.FailedIndexes)) && jobHas(s.now, batchv1.JobFailed) && !jobHas(s.now, batchv1.JobFailureTarget) {
		s.condition("cannot set Failed=True condition without the FailureTarget=true condition")
	}
	if s.changed(batchv1.JobComplete, batchv1.JobSuccessCriteriaMet) && complete && !jobHas(s.now, batchv1.JobSuccessCriteriaMet) {
		s.condition("cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
	}
}

// finish checks what a Job that is over may not have any more.
func (s *statusCheck) finish() {
	if !jobFinished(s.now) {
		return
	}
	st, was := &s.now.Status, &s.old.Status
	fresh := !jobFinished(s.old)
	if st.Active > 0 && (fresh || st.Active != was.Active) {
		s.invalid("active", st.Active, "active>0 is invalid for finished job")
	}
	nothing := yes(s.now.Spec.Suspend) && ptr.Equal(s.now.Spec.Completions, ptr.To[int32](0))
	if st.StartTime == nil && (fresh || was.StartTime != nil) && !nothing {
		s.errs = append(s.errs, field.Required(s.at.Child("startTime"), "startTime is required for finished job"))
	}
	u := st.UncountedTerminatedPods
	if (fresh || !equality.Semantic.DeepEqual(u, was.UncountedTerminatedPods)) && u != nil && len(u.Failed)+len(u.Succeeded) > 0 {
		s.invalid("uncountedTerminatedPods", goFields{u}, "must be empty for finished job")
	}
}

func (s *statusCheck) indexes() {
	st, was, completions := &s.now.Status, &s.old.Status, s.now.Spec.Completions
	done, failed := was.CompletedIndexes != st.CompletedIndexes, !ptr.Equal(was.FailedIndexes, st.FailedIndexes)
	if completions != nil && done {
		if _, err := indexes(st.CompletedIndexes, *completions); err != nil {
			s.invalid("completedIndexes", st.CompletedIndexes, "error parsing completedIndexes: "+err.Error())
		}
	}
	perIndex := s.now.Spec.BackoffLimitPerIndex != nil
	if completions != nil && failed && perIndex && st.FailedIndexes != nil {
		if _, err := indexes(*st.FailedIndexes, *completions); err != nil {
			s.invalid("failedIndexes", st.FailedIndexes, "error parsing failedIndexes: "+err.Error())
		}
	}
	if done && st.CompletedIndexes != "" && !indexed(&s.now.Spec) {
		s.invalid("completedIndexes", st.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode")
	}
	if failed && !perIndex && st.FailedIndexes != nil {
		s.invalid("failedIndexes", *st.FailedIndexes, "cannot set non-null failedIndexes when backoffLimitPerIndex is null")
	}
	if (failed || done) && completions != nil && st.FailedIndexes != nil {
		if i, found := overlap(st.CompletedIndexes, *st.FailedIndexes, *completions); found {
			s.invalid("failedIndexes", *st.FailedIndexes, fmt.Sprintf("failedIndexes and completedIndexes overlap at index: %d", i))
		}
	}
	fresh := jobFinished(s.now) != jobFinished(s.old)
	if (fresh || !ptr.Equal(st.Terminating, was.Terminating)) && ptr.Deref(st.Terminating, 0) > 0 && jobFinished(s.now) {
		s.invalid("terminating", st.Terminating, "terminating>0 is invalid for finished job")
	}
	if (st.Active != was.Active || !ptr.Equal(st.Ready, was.Ready)) && st.Ready != nil && *st.Ready > st.Active {
		s.invalid("ready", *st.Ready, "cannot set more ready pods than active")
	}
}

func (s *statusCheck) success() {
	met := jobHas(s.now, batchv1.JobSuccessCriteriaMet)
	if met && jobHas(s.now, batchv1.JobFailed) {
		s.condition("cannot set SuccessCriteriaMet=True and Failed=true conditions")
	}
	if met && jobHas(s.now, batchv1.JobFailureTarget) {
		s.condition("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions")
	}
	if s.now.Spec.SuccessPolicy != nil && !met && jobHas(s.now, batchv1.JobComplete) {
		s.condition("cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True")
	}
}

// history checks what never goes back.
func (s *statusCheck) history() {
	st, was := &s.now.Status, &s.old.Status
	for _, t := range []batchv1.JobConditionType{batchv1.JobFailed, batchv1.JobComplete, batchv1.JobFailureTarget} {
		if jobHas(s.old, t) && !jobHas(s.now, t) {
			s.condition(fmt.Sprintf("cannot disable the terminal %s=True condition", t))
		}
	}
	if st.Failed < was.Failed {
		s.invalid("failed", st.Failed, "cannot decrease the failed counter")
	}
	// An elastic indexed Job can be made smaller than what has succeeded.
	elastic := indexed(&s.now.Spec) && ptr.Equal(s.now.Spec.Completions, s.now.Spec.Parallelism)
	if st.Succeeded < was.Succeeded && !elastic {
		s.invalid("succeeded", st.Succeeded, "cannot decrease the succeeded counter")
	}
	if st.CompletionTime != nil && was.CompletionTime != nil && !ptr.Equal(st.CompletionTime, was.CompletionTime) {
		s.invalid("completionTime", st.CompletionTime, immutable)
	}
	resumes := jobHas(s.old, batchv1.JobSuspended) && jobCondition(s.now, batchv1.JobSuspended, corev1.ConditionFalse)
	if was.StartTime != nil && !ptr.Equal(was.StartTime, st.StartTime) && !resumes && !yes(s.now.Spec.Suspend) {
		s.invalid("startTime", st.StartTime, "field is immutable for unsuspended job once set")
	}
	met, had := jobHas(s.now, batchv1.JobSuccessCriteriaMet), jobHas(s.old, batchv1.JobSuccessCriteriaMet)
	if had && !met {
		s.condition("cannot disable the SuccessCriteriaMet=True condition")
	}
	if jobHas(s.old, batchv1.JobComplete) && !had && met {
		s.condition("cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions")
	}
}
