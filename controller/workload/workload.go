// SPDX-License-Identifier: Apache-2.0

// Package workload keeps the kinds whose Pods run until somebody ends them:
// ReplicaSets and ReplicationControllers, Deployments, StatefulSets, DaemonSets.
package workload

import (
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/peapod/peapod/controller/loop"
)

// Add adds the controllers of this package to a manager.
func Add(m manager.Manager, c loop.Config) error {
	return loop.Add(m, c, addReplicaSet, addReplicationController, addDeployment, addStatefulSet, addDaemonSet)
}
