// SPDX-License-Identifier: Apache-2.0

// Package job keeps what runs to an end: Jobs, and the CronJobs that make them.
package job

import (
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/peapod/peapod/controller/loop"
)

// Add adds the controllers of this package to a manager.
func Add(m manager.Manager, c loop.Config) error {
	return loop.Add(m, c, addJob, addJobOrphans, addJobTTL, addCronJob)
}
