// SPDX-License-Identifier: Apache-2.0

// Package clients drives a node with programs that others write for
// Kubernetes: stock kubectl, Helm, client-go's informers, and an operator made
// with controller-runtime that runs in a Pod. scripts/clients starts the node,
// has the programs on PATH, and runs the tests.
package clients

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs each script of testdata: one for a verb of kubectl, one for
// Helm, one for the operator.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			// Its own, which `kubectl config` may change.
			own := filepath.Join(e.WorkDir, ".kubeconfig")
			e.Setenv("KUBECONFIG", own)
			e.Setenv("KUBE_EDITOR", "cat")
			b, err := os.ReadFile(kubeconfig(t))
			if err != nil {
				return err
			}
			return os.WriteFile(own, b, 0o600)
		},
		RequireExplicitExec: true,
	})
}

func kubeconfig(t *testing.T) string {
	t.Helper()
	path := os.Getenv("KUBECONFIG")
	if path == "" {
		t.Fatal("KUBECONFIG is not set: run the tests with scripts/clients")
	}
	return path
}
