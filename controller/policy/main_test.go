// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/peapod/peapod/controller/access"
	"github.com/peapod/peapod/controller/garbage"
	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/controller/owned"
	"github.com/peapod/peapod/controller/workload"
	"github.com/peapod/peapod/controller/world"
)

func TestMain(m *testing.M) {
	world.Main(m, func(m manager.Manager, c loop.Config) error {
		all := garbage.NewEverything(m, c)
		return errors.Join(owned.IndexPods(m), access.Add(m, c), workload.Add(m, c), garbage.Add(m, c, all), Add(m, c, all))
	})
}
