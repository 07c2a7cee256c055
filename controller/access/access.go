// SPDX-License-Identifier: Apache-2.0

// Package access gives each namespace its ServiceAccount and root certificate,
// tells everybody whose tokens to trust, and adds up aggregated ClusterRoles.
package access

import (
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/peapod/peapod/controller/loop"
)

// Add adds the controllers of this package to a manager.
func Add(m manager.Manager, c loop.Config) error {
	return loop.Add(m, c, addServiceAccount, addRootCA, addTrustBundle, addAggregation)
}
