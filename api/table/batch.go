// SPDX-License-Identifier: Apache-2.0

package table

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// Job are the columns of jobs.
func Job() Columns[batchv1.Job] {
	defs := []metav1.TableColumnDefinition{
		name(), text("Status", "Status of the job."), text("Completions", batchv1.JobStatus{}.SwaggerDoc()["succeeded"]),
		text("Duration", "Time required to complete the job."), ageColumn(),
	}
	return Columns[batchv1.Job]{
		Definitions: append(append(defs, templateColumns()...), wide(text("Selector", batchv1.JobSpec{}.SwaggerDoc()["selector"]))),
		Cells: func(j *batchv1.Job, now time.Time) []any {
			names, images := templateCells(j.Spec.Template.Spec)
			return []any{j.Name, jobStatus(j), jobCompletions(j), jobDuration(j, now), age(j.CreationTimestamp, now), names, images, selector(j.Spec.Selector)}
		},
	}
}

func jobStatus(j *batchv1.Job) string {
	has := func(t batchv1.JobConditionType) bool {
		for _, c := range j.Status.Conditions {
			if c.Type == t {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	}
	switch {
	case has(batchv1.JobComplete):
		return "Complete"
	case has(batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	}
	for _, t := range []batchv1.JobConditionType{batchv1.JobSuspended, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet} {
		if has(t) {
			return string(t)
		}
	}
	return "Running"
}

func jobCompletions(j *batchv1.Job) string {
	parallel := or(j.Spec.Parallelism, 0)
	switch {
	case j.Spec.Completions != nil:
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	case parallel > 1:
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, parallel)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func jobDuration(j *batchv1.Job, now time.Time) string {
	switch s := j.Status; {
	case s.StartTime == nil:
		return ""
	case s.CompletionTime == nil:
		return duration.HumanDuration(now.Sub(s.StartTime.Time))
	default:
		return duration.HumanDuration(s.CompletionTime.Sub(s.StartTime.Time))
	}
}

// CronJob are the columns of cronjobs.
func CronJob() Columns[batchv1.CronJob] {
	spec, status := batchv1.CronJobSpec{}.SwaggerDoc(), batchv1.CronJobStatus{}.SwaggerDoc()
	defs := []metav1.TableColumnDefinition{
		name(), text("Schedule", spec["schedule"]), text("Timezone", spec["timeZone"]),
		{Name: "Suspend", Type: "boolean", Description: spec["suspend"]},
		number("Active", status["active"]), text("Last Schedule", status["lastScheduleTime"]), ageColumn(),
	}
	return Columns[batchv1.CronJob]{
		Definitions: append(append(defs, templateColumns()...), wide(text("Selector", batchv1.JobSpec{}.SwaggerDoc()["selector"]))),
		Cells: func(c *batchv1.CronJob, now time.Time) []any {
			names, images := templateCells(c.Spec.JobTemplate.Spec.Template.Spec)
			last, suspend := none, unset
			if t := c.Status.LastScheduleTime; t != nil {
				last = age(*t, now)
			}
			if c.Spec.Suspend != nil {
				suspend = map[bool]string{true: "True", false: "False"}[*c.Spec.Suspend]
			}
			return []any{c.Name, c.Spec.Schedule, or(c.Spec.TimeZone, none), suspend, int64(len(c.Status.Active)), last, age(c.CreationTimestamp, now), names, images, selector(c.Spec.JobTemplate.Spec.Selector)}
		},
	}
}
