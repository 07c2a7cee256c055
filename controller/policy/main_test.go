// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"testing"

	"github.com/peapod/peapod/controller/access"
	"github.com/peapod/peapod/controller/garbage"
	"github.com/peapod/peapod/controller/owned"
	"github.com/peapod/peapod/controller/workload"
	"github.com/peapod/peapod/controller/world"
)

func TestMain(m *testing.M) {
	world.Main(m, owned.IndexPods, access.Add, workload.Add, garbage.Sharing(garbage.Add, Add))
}
