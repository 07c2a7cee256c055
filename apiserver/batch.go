// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

// batchRows are the kinds of work that ends.
func batchRows() []*row {
	batch := batchv1.SchemeGroupVersion
	return []*row{
		resource[batchv1.Job, batchv1.JobList](batch, "Job", "jobs", "job", hooks[batchv1.Job]{
			Defaults: defaults.Job, Validate: validation.Job, ValidateUpdate: validation.JobUpdate,
			ValidateStatus: validation.JobStatusUpdate, Warn: warn(validation.JobWarnings), Columns: table.Job(),
			Prepare:    func(_ context.Context, j, old *batchv1.Job) { defaults.PrepareJob(j, old) },
			Selectable: func(j *batchv1.Job) fields.Set { return fields.Set{"status.successful": itoa(j.Status.Succeeded)} },
		}, inAll, collected(rest.OrphanDependents)),
		resource[batchv1.CronJob, batchv1.CronJobList](batch, "CronJob", "cronjobs", "cronjob", hooks[batchv1.CronJob]{
			Defaults: defaults.CronJob, Validate: validation.CronJob, ValidateUpdate: validation.CronJobUpdate,
			ValidateStatus: validation.CronJobStatusUpdate, Warn: warn(validation.CronJobWarnings), Columns: table.CronJob(),
			Prepare: func(_ context.Context, c, old *batchv1.CronJob) { defaults.PrepareCronJob(c, old) },
		}, shortNames("cj"), inAll, collected(rest.DeleteDependents)),
	}
}
