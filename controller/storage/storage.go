// SPDX-License-Identifier: Apache-2.0

// Package storage brings claims and volumes together, makes those of templates,
// and keeps both while they are in use.
package storage

import (
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/peapod/peapod/controller/loop"
)

// Add adds the controllers of this package to a manager.
func Add(m manager.Manager, c loop.Config) error {
	return loop.Add(m, c, addVolumeBinder, addVolumeProtection, addEphemeralVolumes)
}
