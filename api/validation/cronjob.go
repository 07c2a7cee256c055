// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // a machine need not have zones of its own

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// longestCronName leaves room for the minute in the names of the Jobs.
const longestCronName = validation.DNS1035LabelMaxLength - 11

// CronJob checks a new CronJob.
func CronJob(c *batchv1.CronJob) field.ErrorList {
	errs := meta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	bad, declared := cronJobSpec(&c.Spec, nil, field.NewPath("spec"))
	errs = append(errs, bad...)
	if len(c.Name) > longestCronName {
		errs = append(errs, field.Invalid(metadata.Child("name"), c.Name, fmt.Sprintf("must be no more than %d characters", longestCronName)))
	}
	return reported(errs, declared)
}

// CronJobUpdate checks a change.
func CronJobUpdate(c, old *batchv1.CronJob) field.ErrorList {
	errs := metaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	bad, declared := cronJobSpec(&c.Spec, &old.Spec, field.NewPath("spec"))
	return reported(append(errs, bad...), declared)
}

// CronJobStatusUpdate checks nothing: whoever may write the status is believed.
func CronJobStatusUpdate(_, _ *batchv1.CronJob) field.ErrorList { return nil }

// CronJobWarnings are the notes on a CronJob.
func CronJobWarnings(c, old *batchv1.CronJob) (out []string) {
	at := field.NewPath("spec", "jobTemplate", "spec")
	if old == nil {
		return jobSpecWarnings(c.Name, &c.Spec.JobTemplate.Spec, at)
	}
	if c.Generation != old.Generation {
		out = jobSpecWarnings("", &c.Spec.JobTemplate.Spec, at)
	}
	if strings.Contains(c.Spec.Schedule, "TZ") {
		out = append(out, "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details")
	}
	return out
}

func cronJobSpec(s, old *batchv1.CronJobSpec, at *field.Path) (errs, declared field.ErrorList) {
	if s.Schedule == "" {
		declared = append(declared, field.Required(at.Child("schedule"), ""))
	} else {
		errs = append(errs, schedule(s, old != nil && strings.Contains(old.Schedule, "TZ"), at.Child("schedule"))...)
	}
	if s.StartingDeadlineSeconds != nil {
		errs = append(errs, nonNegative(*s.StartingDeadlineSeconds, at.Child("startingDeadlineSeconds"))...)
	}
	if s.TimeZone != nil && (old == nil || !ptr.Equal(old.TimeZone, s.TimeZone)) {
		errs = append(errs, timeZone(*s.TimeZone, at.Child("timeZone"))...)
	}
	errs = append(errs, oneOf(s.ConcurrencyPolicy, at.Child("concurrencyPolicy"), batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)...)
	var was *corev1.PodTemplateSpec
	if old != nil {
		was = &old.JobTemplate.Spec.Template
	}
	job, at2 := &s.JobTemplate.Spec, at.Child("jobTemplate", "spec")
	bad, more := jobSpecWithout(job, was, at2)
	errs, declared = append(errs, bad...), append(declared, more...)
	if job.Selector != nil {
		errs = append(errs, field.Invalid(at2.Child("selector"), job.Selector, "`selector` will be auto-generated"))
	}
	if yes(job.ManualSelector) {
		errs = append(errs, field.NotSupported(at2.Child("manualSelector"), job.ManualSelector, []string{"nil", "false"}))
	}
	errs = append(errs, nonNegativeIfSet(s.SuccessfulJobsHistoryLimit, at.Child("successfulJobsHistoryLimit"))...)
	return append(errs, nonNegativeIfSet(s.FailedJobsHistoryLimit, at.Child("failedJobsHistoryLimit"))...), declared
}

// schedule checks the five fields or the @name. A zone in it is an old way,
// which may stay where it is.
func schedule(s *batchv1.CronJobSpec, zoned bool, at *field.Path) (errs field.ErrorList) {
	if _, err := ParseSchedule(s.Schedule); err != nil {
		errs = append(errs, field.Invalid(at, s.Schedule, err.Error()))
	}
	switch {
	case !strings.Contains(s.Schedule, "TZ"):
	case !zoned:
		errs = append(errs, field.Invalid(at, s.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
	case s.TimeZone != nil:
		errs = append(errs, field.Invalid(at, s.Schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule"))
	}
	return errs
}

// ParseSchedule reads a schedule. The parser panics at some that it does not
// understand, such as a zone without anything behind it.
func ParseSchedule(text string) (s cron.Schedule, err error) {
	defer func() {
		if p := recover(); p != nil {
			s, err = nil, fmt.Errorf("invalid schedule format: %v", p)
		}
	}()
	return cron.ParseStandard(text)
}

func timeZone(name string, at *field.Path) (errs field.ErrorList) {
	if name == "" {
		return field.ErrorList{field.Invalid(at, name, "timeZone must be nil or non-empty string")}
	}
	for _, part := range strings.Split(name, "/") {
		if part == "." || part == ".." || strings.HasPrefix(part, "-") || !matches(`^[A-Za-z\.\-_0-9+]{1,14}$`, part) {
			return field.ErrorList{field.Invalid(at, name, "unknown time zone "+name)}
		}
	}
	if strings.EqualFold(name, "Local") {
		errs = append(errs, field.Invalid(at, name, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
	}
	if _, err := time.LoadLocation(name); err != nil {
		errs = append(errs, field.Invalid(at, name, err.Error()))
	}
	return errs
}
