// SPDX-License-Identifier: Apache-2.0

package servicecidr

import (
	"testing"

	"github.com/peapod/peapod/controller/world"
)

func TestMain(m *testing.M) { world.Main(m, Add) }
