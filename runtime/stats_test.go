// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"os"
	"path/filepath"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/linux"
	"github.com/peapod/peapod/sandbox"
)

// over is a runtime whose cgroups are files in a folder.
func over(t *testing.T, layout linux.CgroupLayout, root string, files map[string]string) (*Runtime, *container) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := newContainer(t.TempDir(), &runtimeapi.ContainerConfig{})
	c.ID, c.Cgroup = "c", "/peapod/pod/c"
	return &Runtime{host: sandbox.Host{Cgroups: layout}}, c
}

func unifiedIn(root string) linux.CgroupLayout {
	return linux.CgroupLayout{Unified: root, UnifiedControllers: []string{"cpu", "memory", "pids"}}
}

// TestStats: one container in both versions' units comes to the same figures.
func TestStats(t *testing.T) {
	v1, v2 := t.TempDir(), t.TempDir()
	for name, c := range map[string]struct {
		layout linux.CgroupLayout
		root   string
		files  map[string]string
	}{
		"v1": {linux.CgroupLayout{V1: map[string]string{"cpu": v1 + "/cpu", "cpuacct": v1 + "/cpuacct", "memory": v1 + "/memory"}}, v1, map[string]string{
			"cpuacct/peapod/pod/c/cpuacct.usage":        "7000000",
			"memory/peapod/pod/c/memory.usage_in_bytes": "5000", "memory/peapod/pod/c/memory.limit_in_bytes": "9000",
			"memory/peapod/pod/c/memory.stat": "rss 1\npgfault 2\ntotal_rss 3000\ntotal_inactive_file 1000\ntotal_pgfault 44\ntotal_pgmajfault 4",
		}},
		"v2": {unifiedIn(v2), v2, map[string]string{
			"peapod/pod/c/cpu.stat":       "usage_usec 7000\nuser_usec 5000\nsystem_usec 2000",
			"peapod/pod/c/memory.current": "5000", "peapod/pod/c/memory.max": "9000",
			"peapod/pod/c/memory.stat": "anon 3000\nfile 1500\ninactive_anon 9\ninactive_file 1000\npgfault 44\npgmajfault 4",
		}},
	} {
		r, x := over(t, c.layout, c.root, c.files)
		s := r.stats(x)
		m := s.GetMemory()
		got := []uint64{s.GetCpu().GetUsageCoreNanoSeconds().GetValue(), m.GetUsageBytes().GetValue(), m.GetWorkingSetBytes().GetValue(),
			m.GetAvailableBytes().GetValue(), m.GetRssBytes().GetValue(), m.GetPageFaults().GetValue(), m.GetMajorPageFaults().GetValue()}
		for i, want := range []uint64{7000000, 5000, 4000, 5000, 3000, 44, 4} {
			if got[i] != want {
				t.Errorf("%s: figure %d is %d, want %d", name, i, got[i], want)
			}
		}
	}
}

// TestStatsOfNoLimit: nothing is told as available, and of a cgroup that is
// gone nothing at all.
func TestStatsOfNoLimit(t *testing.T) {
	v1, v2 := t.TempDir(), t.TempDir()
	for name, c := range map[string]struct {
		layout linux.CgroupLayout
		root   string
		files  map[string]string
	}{
		"v1": {linux.CgroupLayout{V1: map[string]string{"memory": v1}}, v1, map[string]string{
			"peapod/pod/c/memory.usage_in_bytes": "5", "peapod/pod/c/memory.limit_in_bytes": "9223372036854771712"}},
		"v2": {unifiedIn(v2), v2, map[string]string{"peapod/pod/c/memory.current": "5", "peapod/pod/c/memory.max": "max"}},
	} {
		r, x := over(t, c.layout, c.root, c.files)
		if m := r.stats(x).GetMemory(); m.GetUsageBytes().GetValue() != 5 || m.AvailableBytes != nil || m.RssBytes != nil {
			t.Errorf("%s without a limit: %v", name, m)
		}
		x.Cgroup = "/gone"
		if s := r.stats(x); s.Cpu != nil || s.Memory != nil {
			t.Errorf("%s, gone: %v", name, s)
		}
	}
}

// TestOOMKilled reads what the kernel counts in either version.
func TestOOMKilled(t *testing.T) {
	for text, want := range map[string]bool{
		"low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 1": true,
		"low 0\nhigh 0\nmax 12\noom 1\noom_kill 0\noom_group_kill 0": false,
		"low 0\noom 3\noom_group_kill 2":                             false,
		"":                                                           false,
	} {
		root := t.TempDir()
		r, c := over(t, unifiedIn(root), root, map[string]string{"peapod/pod/c/memory.events": text})
		if got := r.oomKilled(c); got != want {
			t.Errorf("v2 %q: %v", text, got)
		}
	}
	for text, want := range map[string]bool{"oom_kill_disable 0\nunder_oom 0\noom_kill 2": true, "oom_kill_disable 1\nunder_oom 0\noom_kill 0": false} {
		root := t.TempDir()
		r, c := over(t, linux.CgroupLayout{V1: map[string]string{"memory": root}}, root, map[string]string{"peapod/pod/c/memory.oom_control": text})
		if got := r.oomKilled(c); got != want {
			t.Errorf("v1 %q: %v", text, got)
		}
	}
}
