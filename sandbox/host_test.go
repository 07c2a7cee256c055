// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/peapod/peapod/linux"
)

// TestSwapLimit: whether the kernel counts swap is seen at a cgroup below the
// root, and is what the kernel can when none has the controller yet.
func TestSwapLimit(t *testing.T) {
	_, err := os.Stat("/proc/swaps")
	canSwap := err == nil
	for name, c := range map[string]struct {
		files []string
		want  bool
	}{
		"counts":        {[]string{"system.slice/memory.max", "system.slice/memory.swap.max"}, true},
		"does not":      {[]string{"system.slice/memory.max"}, false},
		"nobody has it": {[]string{"system.slice/cpu.max"}, canSwap},
		"empty":         {nil, canSwap},
	} {
		root := t.TempDir()
		for _, f := range c.files {
			path := filepath.Join(root, f)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte("max\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := swapLimit(linux.CgroupLayout{Unified: root, UnifiedControllers: []string{"memory"}}); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
