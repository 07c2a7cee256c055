// SPDX-License-Identifier: Apache-2.0

package garbage

import (
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/controller/world"
)

func TestMain(m *testing.M) {
	world.Main(m, func(m manager.Manager, c loop.Config) error {
		return Add(m, c, NewEverything(m, c))
	})
}
