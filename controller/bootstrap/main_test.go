// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"testing"

	"github.com/peapod/peapod/controller/certificates"
	"github.com/peapod/peapod/controller/world"
)

func TestMain(m *testing.M) { world.Main(m, Add, certificates.Add) }
