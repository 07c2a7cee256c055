// SPDX-License-Identifier: Apache-2.0

// Package policy counts what limits others: quotas, disruption budgets, and
// whether admission policies can be read.
package policy

import (
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/peapod/peapod/controller/garbage"
	"github.com/peapod/peapod/controller/loop"
)

// Add adds the controllers of this package to a manager. all says when a
// namespace holds less.
func Add(m manager.Manager, c loop.Config, all *garbage.Everything) error {
	if err := addResourceQuota(m, c, all); err != nil {
		return err
	}
	return loop.Add(m, c, addPolicyStatus, addDisruption)
}
