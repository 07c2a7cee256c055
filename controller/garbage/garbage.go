// SPDX-License-Identifier: Apache-2.0

// Package garbage deletes what has no owner any more, of every kind that is
// served.
package garbage

import (
	"errors"

	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/peapod/peapod/controller/loop"
)

// Add adds the controllers of this package to a manager.
func Add(m manager.Manager, _ loop.Config, all *Everything) error {
	return errors.Join(addGarbage(m, all), addCustomResources(m, all))
}
