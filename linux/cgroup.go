// SPDX-License-Identifier: Apache-2.0

package linux

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// CgroupLayout is how the machine has its cgroups mounted.
type CgroupLayout struct {
	// Unified is the mount point of cgroup v2, "" if there is none.
	Unified string
	// UnifiedControllers are those that v2 offers at its root.
	UnifiedControllers []string
	// V1 maps each v1 controller ("memory", "cpu", "name=systemd") to the
	// mount point of its hierarchy.
	V1 map[string]string
}

// Pure2 tells whether v2 is all there is.
func (l CgroupLayout) Pure2() bool { return l.Unified != "" && len(l.V1) == 0 }

// V2 tells whether limits are set through v2: it is pure, or the v1
// hierarchies beside it hold none of the controllers that Pods need.
func (l CgroupLayout) V2() bool {
	return l.Unified != "" && l.V1["memory"] == "" && l.V1["cpu"] == ""
}

// Mode names the layout: "v2", "v1", "hybrid" or "none".
func (l CgroupLayout) Mode() string {
	switch {
	case l.Pure2():
		return "v2"
	case l.Unified != "":
		return "hybrid"
	case len(l.V1) > 0:
		return "v1"
	}
	return "none"
}

// Has tells whether a controller can be used at all, in either version.
func (l CgroupLayout) Has(controller string) bool {
	if l.V2() {
		return slices.Contains(l.UnifiedControllers, controller)
	}
	return l.V1[controller] != ""
}

// Path returns the folder of a cgroup ("/peapod/podx") for a controller: in
// its v1 hierarchy, else in v2, "" if there is neither.
func (l CgroupLayout) Path(controller, cgroup string) string {
	if m := l.V1[controller]; m != "" {
		return filepath.Join(m, cgroup)
	}
	if l.Unified != "" && (controller == "" || slices.Contains(l.UnifiedControllers, controller)) {
		return filepath.Join(l.Unified, cgroup)
	}
	return ""
}

// Roots returns the mount points of all hierarchies, each once, sorted: a
// cgroup's folders are below each of them.
func (l CgroupLayout) Roots() []string {
	var out []string
	for _, m := range l.V1 {
		out = append(out, m)
	}
	if l.Unified != "" {
		out = append(out, l.Unified)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Cgroups reads the layout of the machine.
func Cgroups() (CgroupLayout, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return CgroupLayout{}, fmt.Errorf("cannot read cgroup layout: %w", err)
	}
	l := parseCgroups(string(b))
	if l.Unified == "" {
		return l, nil
	}
	b, err = os.ReadFile(filepath.Join(l.Unified, "cgroup.controllers"))
	if err != nil {
		return l, fmt.Errorf("cannot read cgroup layout: %w", err)
	}
	l.UnifiedControllers = strings.Fields(string(b))
	return l, nil
}

// parseCgroups finds the cgroup mounts in the text of proc_pid_mountinfo(5).
// A hierarchy that is mounted several times counts where it came first, and
// only whole hierarchies count.
func parseCgroups(mountinfo string) CgroupLayout {
	l := CgroupLayout{V1: map[string]string{}}
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(head) < 6 || len(tail) < 3 || head[3] != "/" {
			continue
		}
		point := unescape(head[4])
		switch tail[0] {
		case "cgroup2":
			if l.Unified == "" {
				l.Unified = point
			}
		case "cgroup":
			for _, o := range strings.Split(tail[2], ",") {
				if isController(o) && l.V1[o] == "" {
					l.V1[o] = point
				}
			}
		}
	}
	return l
}

// isController separates the controllers in a v1 mount's superblock options
// from its flags.
func isController(option string) bool {
	switch option {
	case "rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods", "seclabel":
		return false
	}
	return !strings.HasPrefix(option, "release_agent=")
}
