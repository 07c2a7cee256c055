// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"errors"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/peapod/peapod/controller/access"
	"github.com/peapod/peapod/controller/garbage"
	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/controller/nodes"
	"github.com/peapod/peapod/controller/owned"
	"github.com/peapod/peapod/controller/storage"
	"github.com/peapod/peapod/controller/world"
)

func TestMain(m *testing.M) {
	world.Main(m, func(m manager.Manager, c loop.Config) error {
		return errors.Join(owned.IndexPods(m), access.Add(m, c), nodes.Add(m, c), storage.Add(m, c), garbage.Add(m, c, garbage.NewEverything(m, c)), Add(m, c))
	})
}
