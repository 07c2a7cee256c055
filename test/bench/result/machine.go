// SPDX-License-Identifier: Apache-2.0

package result

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine describes this machine in a line: figures hold for no other.
func Machine() string {
	var uts unix.Utsname
	_ = unix.Uname(&uts) // cannot fail with a valid buffer
	var info unix.Sysinfo_t
	_ = unix.Sysinfo(&info) // neither can this
	memory := float64(info.Totalram) * float64(info.Unit) / (1 << 30)
	return fmt.Sprintf("%d cores%s, %.0f GiB, Linux %s, %s", runtime.NumCPU(), processor(), memory, unix.ByteSliceToString(uts.Release[:]), cgroups())
}

func processor() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return " (" + strings.TrimSpace(value) + ")"
		}
	}
	return ""
}

func cgroups() string {
	var fs unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		return "cgroups v2"
	}
	return "cgroups v1"
}

// Version asks a program for its version.
func Version(name, program string) (string, error) {
	said, err := exec.Command(program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("cannot ask %s for its version: %w", name, err)
	}
	return version(string(said)), nil
}

// version is the first word of a text with a digit in it, as programs tell it.
func version(text string) string {
	for _, word := range strings.Fields(text) {
		if strings.ContainsAny(word, "0123456789") && !strings.Contains(word, "/") {
			return strings.Trim(strings.TrimPrefix(word, "v"), ",")
		}
	}
	return strings.TrimSpace(text)
}
