// SPDX-License-Identifier: Apache-2.0

package garbage

import (
	"testing"

	"github.com/peapod/peapod/controller/world"
)

func TestMain(m *testing.M) { world.Main(m, Sharing(Add)) }
