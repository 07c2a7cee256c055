// SPDX-License-Identifier: Apache-2.0

package native

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // how devices are limited
	devices "github.com/opencontainers/cgroups/devices/config"
	v1 "github.com/opencontainers/cgroups/fs"
	v2 "github.com/opencontainers/cgroups/fs2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// cgroup is the container's cgroup in all hierarchies.
type cgroup struct {
	manager interface {
		Apply(pid int) error
		Set(r *cgroups.Resources) error
		GetPaths() map[string]string
	}
	config *cgroups.Cgroup
	// unified: v2 is all there is.
	unified bool
}

// openCgroup makes nothing yet.
func openCgroup(path string, r *specs.LinuxResources) (*cgroup, error) {
	unified := cgroups.IsCgroup2UnifiedMode()
	c := &cgroup{config: &cgroups.Cgroup{Path: path, Resources: resources(r, unified)}, unified: unified}
	var err error
	if unified {
		c.manager, err = v2.NewManager(c.config, filepath.Join("/sys/fs/cgroup", path))
	} else {
		c.manager, err = v1.NewManager(c.config, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use cgroup %s: %w", path, err)
	}
	return c, nil
}

// create makes the cgroup with its limits. One that others are in is refused.
func (c *cgroup) create() error {
	for _, dir := range c.manager.GetPaths() {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err == nil && len(b) > 0 {
			return fmt.Errorf("container's cgroup is not empty: %s has processes", dir)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := c.manager.Apply(-1); err != nil {
		return fmt.Errorf("cannot make cgroup: %w", err)
	}
	if err := c.manager.Set(c.config.Resources); err != nil {
		return fmt.Errorf("cannot set limits of cgroup: %w", err)
	}
	return nil
}

// enter moves the calling thread into the cgroup of v1's hierarchies: whom it
// gives birth to is born there. To move oneself, and not a process, spares the
// kernel a grace period of 10 ms and more. It opens the folder in v2, into
// which one can be born, or returns -1. Nothing can be done with c afterwards.
func (c *cgroup) enter() (unified int, err error) {
	unified = -1
	// Controllers that are mounted together have one folder.
	for _, dir := range slices.Compact(slices.Sorted(maps.Values(c.manager.GetPaths()))) {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			return -1, &os.PathError{Op: "statfs", Path: dir, Err: err}
		}
		if st.Type == unix.CGROUP2_SUPER_MAGIC {
			if unified, err = openUnified(dir); err != nil {
				return -1, err
			}
			continue
		}
		// "0" is who writes.
		if err := os.WriteFile(filepath.Join(dir, "tasks"), []byte("0"), 0); err != nil {
			return -1, err
		}
	}
	return unified, closeCgroupRoot()
}

// closeCgroupRoot closes the folder of the machine that the library keeps open:
// who is born has our descriptors for a while.
func closeCgroupRoot() error {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range open {
		// The list's own is gone by now.
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err != nil || to != "/sys/fs/cgroup" {
			continue
		}
		fd, err := strconv.Atoi(e.Name())
		if err == nil {
			err = unix.Close(fd)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// openUnified opens a cgroup of v2 to be born into, and no more: who is born
// has the descriptor too, by which there is no way up, and nothing to write.
func openUnified(dir string) (int, error) {
	return openTree(dir, false, mountOptions{set: unix.MOUNT_ATTR_RDONLY, propagation: unix.MS_PRIVATE})
}

// Update changes the limits of a container.
func Update(path string, r *specs.LinuxResources) error {
	if err := supportsResources(r); err != nil {
		return err
	}
	c, err := openCgroup(path, r)
	if err != nil {
		return err
	}
	c.config.SkipDevices = true
	return c.manager.Set(c.config.Resources)
}

// resources says a specification's limits in the words of the library.
func resources(r *specs.LinuxResources, unified bool) *cgroups.Resources {
	out := &cgroups.Resources{Devices: deviceRules(r)}
	if r == nil {
		return out
	}
	if m := r.Memory; m != nil {
		out.Memory, out.MemoryReservation, out.MemorySwap = deref(m.Limit), deref(m.Reservation), deref(m.Swap)
		out.MemorySwappiness, out.OomKillDisable = m.Swappiness, deref(m.DisableOOMKiller)
		out.MemoryCheckBeforeUpdate = deref(m.CheckBeforeUpdate)
	}
	if c := r.CPU; c != nil {
		out.CpuShares, out.CpuQuota, out.CpuPeriod = deref(c.Shares), deref(c.Quota), deref(c.Period)
		out.CpuBurst, out.CPUIdle = c.Burst, c.Idle
		out.CpuRtRuntime, out.CpuRtPeriod = deref(c.RealtimeRuntime), deref(c.RealtimePeriod)
		out.CpusetCpus, out.CpusetMems = c.Cpus, c.Mems
		if unified && out.CpuShares != 0 {
			out.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(out.CpuShares)
		}
	}
	if r.Pids != nil {
		out.PidsLimit = r.Pids.Limit
	}
	for _, h := range r.HugepageLimits {
		out.HugetlbLimit = append(out.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: h.Pagesize, Limit: h.Limit})
	}
	if len(r.Unified) > 0 {
		out.Unified = r.Unified
	}
	return out
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// deviceRules are those of the specification and, after them, what the OCI
// specification gives every container.
func deviceRules(r *specs.LinuxResources) []*devices.Rule {
	var out []*devices.Rule
	number := func(n *int64) int64 {
		if n == nil {
			return devices.Wildcard
		}
		return *n
	}
	if r != nil {
		for _, d := range r.Devices {
			kind := devices.WildcardDevice
			if d.Type != "" {
				kind = devices.Type(d.Type[0])
			}
			out = append(out, &devices.Rule{Type: kind, Major: number(d.Major), Minor: number(d.Minor), Permissions: devices.Permissions(d.Access), Allow: d.Allow})
		}
	}
	const all = devices.Wildcard
	for _, d := range []struct {
		kind         devices.Type
		major, minor int64
		access       devices.Permissions
	}{
		{devices.CharDevice, all, all, "m"}, {devices.BlockDevice, all, all, "m"},
		{devices.CharDevice, 1, 3, "rwm"}, {devices.CharDevice, 1, 5, "rwm"}, {devices.CharDevice, 1, 7, "rwm"},
		{devices.CharDevice, 1, 8, "rwm"}, {devices.CharDevice, 1, 9, "rwm"}, {devices.CharDevice, 5, 0, "rwm"},
		{devices.CharDevice, 5, 2, "rwm"}, {devices.CharDevice, 136, all, "rwm"},
	} {
		out = append(out, &devices.Rule{Type: d.kind, Major: d.major, Minor: d.minor, Permissions: d.access, Allow: true})
	}
	return out
}

// views are what a container sees of its cgroups of v1: for each folder the
// names of its hierarchy.
func (c *cgroup) views() map[string][]string {
	out := map[string][]string{}
	for name, dir := range c.manager.GetPaths() {
		if name != "" {
			out[dir] = append(out[dir], strings.TrimPrefix(name, "name="))
		}
	}
	return out
}
