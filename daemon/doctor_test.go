// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKernelVersion(t *testing.T) {
	for release, want := range map[string][2]int{
		"6.18.44-fc-v669":                     {6, 18},
		"5.9.0":                               {5, 9},
		"5.15.0-91-generic":                   {5, 15},
		"6.1":                                 {6, 1},
		"5.10.16.3-microsoft-standard-WSL2":   {5, 10},
		"4.18.0-553.el8_10.x86_64":            {4, 18},
		"7-rc1":                               {7, 1},
		"":                                    {0, 0},
		"unknown":                             {0, 0},
		"99999999999999999999.1":              {1<<63 - 1, 1},
		"6.12.8+bpo-amd64":                    {6, 12},
		"5.4.0-1103-aws #111-Ubuntu SMP 2023": {5, 4},
	} {
		major, minor := kernelVersion(release)
		if major != want[0] || minor != want[1] {
			t.Errorf("kernelVersion(%q) = %d, %d, want %v", release, major, minor, want)
		}
	}
}

const (
	unified = "30 23 0:26 / DIR rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	others  = "23 28 0:21 / /proc rw,nosuid shared:12 - proc proc rw\n29 1 254:0 / / rw - ext4 /dev/vda rw\ntruncated line\n30 - cgroup\n"
)

func v1Mount(controllers string) string {
	return "31 30 0:27 / /sys/fs/cgroup/" + controllers + " rw,nosuid shared:9 - cgroup cgroup rw," + controllers + "\n"
}

func TestCgroups(t *testing.T) {
	for name, c := range map[string]struct {
		mounts, controllers string
		level               Level
		found               string
	}{
		"v2":                      {others + unified, "cpuset cpu io memory hugetlb pids\n", Good, "v2"},
		"v2 without controllers":  {unified, "io\n", Fatal, "no controller for cpu, memory, pids"},
		"v1":                      {others + v1Mount("cpu,cpuacct") + v1Mount("memory") + v1Mount("pids"), "", Good, "v1"},
		"v1 without memory":       {v1Mount("cpu,cpuacct") + v1Mount("pids"), "", Fatal, "no controller for memory"},
		"hybrid":                  {unified + v1Mount("cpu,cpuacct") + v1Mount("memory") + v1Mount("pids"), "", Good, "hybrid (controllers on v1)"},
		"hybrid, memory on v2":    {unified + v1Mount("cpu,cpuacct") + v1Mount("pids"), "memory\n", Fatal, "no controller for memory"},
		"v2 has all, v1 the rest": {unified + v1Mount("net_cls,net_prio"), "cpu memory pids\n", Good, "v2"},
		"none":                    {others, "", Fatal, "no controller for cpu, memory, pids"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "cgroup.controllers"), []byte(c.controllers), 0o600); err != nil {
				t.Fatal(err)
			}
			mounts := filepath.Join(dir, "mountinfo")
			if err := os.WriteFile(mounts, []byte(strings.ReplaceAll(c.mounts, "DIR", dir)), 0o600); err != nil {
				t.Fatal(err)
			}
			f := examineCgroups(mounts)
			if f.Level != c.level || f.Found != c.found {
				t.Errorf("found %v %q, want %v %q", f.Level, f.Found, c.level, c.found)
			}
			if (f.Level == Good) != (f.Mend == "") {
				t.Errorf("level %v, but the mend is %q", f.Level, f.Mend)
			}
		})
	}
	if f := examineCgroups("/nonexistent"); f.Level != Fatal || f.Mend == "" {
		t.Errorf("without mountinfo: %+v", f)
	}
}

// TestExamine: whatever this machine has, each finding says something, and
// only what is bad has a mend.
func TestExamine(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range Examine(t.Context(), filepath.Join(t.TempDir(), "not", "yet")) {
		if f.Subject == "" || f.Found == "" || seen[f.Subject] {
			t.Errorf("%+v", f)
		}
		if f.Level == Good && f.Mend != "" || f.Level == Fatal && f.Mend == "" {
			t.Errorf("level and mend do not fit: %+v", f)
		}
		seen[f.Subject] = true
	}
	for _, want := range []string{"privileges", "kernel", "cgroups", "overlayfs", "nftables", "forwarding", "data folder", "keeper", "OCI runtime", "oom scores", "open files"} {
		if !seen[want] {
			t.Errorf("nothing is said of %s", want)
		}
	}
}

func TestFit(t *testing.T) {
	if err := fit([]Finding{{"a", Good, "x", ""}, {"b", Poor, "y", "z"}}); err != nil {
		t.Errorf("nothing fatal: %v", err)
	}
	err := fit([]Finding{{"a", Fatal, "x", "do y"}, {"b", Good, "y", ""}, {"c", Fatal, "p", "do q"}})
	if !errors.Is(err, ErrUnfit) {
		t.Fatalf("fatal findings: %v", err)
	}
	const want = "this machine cannot run Pods: a: x (mend: do y)\nc: p (mend: do q)"
	if err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

func TestDataFolderFinding(t *testing.T) {
	if f := examineDataDir("/proc/peapod"); f.Level == Good {
		t.Errorf("a folder in /proc: %+v", f)
	}
	dir := t.TempDir()
	if f := examineDataDir(filepath.Join(dir, "a", "b")); f.Level == Fatal {
		t.Errorf("a folder to be made: %+v", f)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if f := examineDataDir(file); f.Level != Fatal || !strings.Contains(f.Found, "not a folder") {
		t.Errorf("a file: %+v", f)
	}
}
