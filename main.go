// SPDX-License-Identifier: Apache-2.0

// Command peapod is the Kubernetes Pod system as one program. This file owns
// nothing but the way in; the doors are in cli/.
package main

import (
	"os"

	"github.com/peapod/peapod/cli"
)

func main() {
	os.Exit(cli.Main(os.Args))
}
