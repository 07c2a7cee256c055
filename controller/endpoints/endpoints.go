// SPDX-License-Identifier: Apache-2.0

// Package endpoints says which Pods stand behind Services, and names the
// cluster's own DNS among them.
package endpoints

import (
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/peapod/peapod/controller/loop"
)

// Add adds the controllers of this package to a manager.
func Add(m manager.Manager, c loop.Config) error {
	return loop.Add(m, c, addEndpoints, addEndpointSlices, addMirroring, addClusterDNS)
}
