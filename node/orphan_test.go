// SPDX-License-Identifier: Apache-2.0

package node

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestRemoveLogs: where several nodes keep logs, each removes its own.
func TestRemoveLogs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pods")
	ours, theirs := &Agent{cfg: Config{CgroupRoot: "peapod"}}, &Agent{cfg: Config{CgroupRoot: "peapod-2"}}
	for pod, a := range map[string]*Agent{"ns_mine_1": ours, "ns_other_2": theirs, "ns_kubelets_3": nil} {
		path := filepath.Join(dir, pod)
		for range 2 { // a second sandbox of the Pod finds it there
			if a == nil {
				break
			}
			if err := a.makeLogDir(path); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.MkdirAll(filepath.Join(path, "c"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(path, "c/0.log"), []byte("x"), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		root string
		left []string
	}{
		{"peapod", []string{"ns_kubelets_3", "ns_other_2"}},
		{"peapod", []string{"ns_kubelets_3", "ns_other_2"}}, // repeated
		{"peapod-2", []string{"ns_kubelets_3"}},
	} {
		if err := RemoveLogs(dir, step.root); err != nil {
			t.Fatal(err)
		}
		if left, err := entries(dir); err != nil || !slices.Equal(left, step.left) {
			t.Errorf("after %s: %v, %v", step.root, left, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "ns_kubelets_3/c/0.log")); err != nil {
			t.Error(err)
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, "ns_kubelets_3")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // empty, then gone
		if err := RemoveLogs(dir, "peapod"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("the empty folder is left: %v", err)
		}
	}
}
