// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	"testing"

	"github.com/peapod/peapod/controller/world"
)

func TestMain(m *testing.M) { world.Main(m, Add) }
