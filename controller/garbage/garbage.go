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

// Sharing adds controllers that hear of everything from one source.
func Sharing(controllers ...func(manager.Manager, loop.Config, *Everything) error) func(manager.Manager, loop.Config) error {
	return func(m manager.Manager, c loop.Config) error {
		all := newEverything(m, c)
		for _, add := range controllers {
			if err := add(m, c, all); err != nil {
				return err
			}
		}
		return nil
	}
}
