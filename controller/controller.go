// SPDX-License-Identifier: Apache-2.0

// Package controller owns the loops that keep objects true: a package for each
// group of them, a file for each controller, which is a reconcile function on
// the one shared cache of the process. A controller does nothing while nothing
// changes.
package controller

import (
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/peapod/peapod/controller/access"
	"github.com/peapod/peapod/controller/bootstrap"
	"github.com/peapod/peapod/controller/certificates"
	"github.com/peapod/peapod/controller/endpoints"
	"github.com/peapod/peapod/controller/garbage"
	"github.com/peapod/peapod/controller/job"
	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/controller/namespaces"
	"github.com/peapod/peapod/controller/nodeipam"
	"github.com/peapod/peapod/controller/nodes"
	"github.com/peapod/peapod/controller/owned"
	"github.com/peapod/peapod/controller/policy"
	"github.com/peapod/peapod/controller/servicecidr"
	"github.com/peapod/peapod/controller/storage"
	"github.com/peapod/peapod/controller/workload"
)

// Add adds all controllers to a manager.
func Add(m manager.Manager, c loop.Config) error {
	return loop.Add(m, c, owned.IndexPods, workload.Add, job.Add, endpoints.Add, storage.Add, nodes.Add, access.Add, certificates.Add, bootstrap.Add, servicecidr.Add, nodeipam.Add,
		garbage.Sharing(garbage.Add, namespaces.Add, policy.Add))
}
