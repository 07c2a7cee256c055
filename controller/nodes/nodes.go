// SPDX-License-Identifier: Apache-2.0

// Package nodes watches over machines: what is lost with one, and Pods that
// nobody will finish.
package nodes

import (
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/peapod/peapod/controller/loop"
)

// Add adds the controllers of this package to a manager.
func Add(m manager.Manager, c loop.Config) error {
	return loop.Add(m, c, addPodGC, addNodeLifecycle, addTaintEviction)
}
