// SPDX-License-Identifier: Apache-2.0

package namespaces

import (
	"testing"

	"github.com/peapod/peapod/controller/access"
	"github.com/peapod/peapod/controller/garbage"
	"github.com/peapod/peapod/controller/world"
)

func TestMain(m *testing.M) { world.Main(m, access.Add, garbage.Sharing(garbage.Add, Add)) }
