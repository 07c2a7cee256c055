// SPDX-License-Identifier: Apache-2.0

package node

import (
	goflag "flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

var update = goflag.Bool("update", false, "write the golden files")

// golden compares a value with testdata/<file>, as YAML.
func golden(t *testing.T, file string, value any) {
	t.Helper()
	got, err := yaml.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s is not as wanted (-want +got):\n%s", path, diff)
	}
}

// noStrays checks that each golden file of a folder belongs to a case.
func noStrays[T any](t *testing.T, dir string, cases map[string]T) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join("testdata", dir, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		name := filepath.Base(f)
		if _, ok := cases[name[:len(name)-len(".yaml")]]; !ok {
			t.Errorf("%s belongs to no case", f)
		}
	}
}
