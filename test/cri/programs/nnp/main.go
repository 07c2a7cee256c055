// SPDX-License-Identifier: Apache-2.0

// Command nnp says as whom it runs. In its image it is root's and set-user-ID.
package main

import (
	"fmt"
	"os"
)

func main() { fmt.Printf("Effective uid: %d\n", os.Geteuid()) }
