// SPDX-License-Identifier: Apache-2.0

package native

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// sources are the machine's parts of a container, as detached mounts that are
// nowhere and that nothing outside can change any more.
type sources struct {
	// rootPath is where the root is to be entered.
	rootPath string
	// binds by the index of the mount.
	binds map[int]int
	// nulls are read-only mounts of /dev/null, one for each path to mask: its
	// mode is the machine's to change.
	nulls []int
	// cgroups are the views of v1's hierarchies.
	cgroups []cgroupView
}

type cgroupView struct {
	names []string
	mount int
}

// openTree makes a detached mount of what is at path on the machine.
func openTree(path string, recursive bool, o mountOptions) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, flags)
	if err == nil {
		err = o.apply(fd)
	}
	if err != nil {
		return -1, &os.PathError{Op: "open tree", Path: path, Err: err}
	}
	return fd, nil
}

// openSources is done while the machine is still in sight.
func (c *construction) openSources() (sources, error) {
	s := sources{binds: map[int]int{}, rootPath: c.spec.Root.Path}
	if !filepath.IsAbs(s.rootPath) {
		s.rootPath = filepath.Join(c.Bundle, s.rootPath)
	}
	// What is mounted into it goes nowhere else.
	private := mountOptions{propagation: unix.MS_PRIVATE, below: true}
	var err error
	if c.tree.fd, err = openTree(s.rootPath, true, private); err != nil {
		return s, fmt.Errorf("cannot open root: %w", err)
	}
	for i, m := range c.spec.Mounts {
		o, err := parseOptions(m)
		if err != nil {
			return s, err
		}
		switch {
		case m.Type == "bind":
			if o.propagation == 0 {
				o.propagation, o.below = unix.MS_SLAVE, true
			}
			if s.binds[i], err = openTree(m.Source, o.recursive, o); err != nil {
				return s, mountError(m, err)
			}
		case m.Type == "cgroup" && !c.cgroup.unified:
			views := c.cgroup.views()
			for _, dir := range slices.Sorted(maps.Keys(views)) {
				fd, err := openTree(dir, false, mountOptions{set: o.set, propagation: unix.MS_PRIVATE})
				if err != nil {
					return s, mountError(m, err)
				}
				slices.Sort(views[dir])
				s.cgroups = append(s.cgroups, cgroupView{views[dir], fd})
			}
		}
	}
	return s, s.openNulls(len(c.spec.Linux.MaskedPaths))
}

func (s *sources) openNulls(n int) error {
	var st unix.Stat_t
	if err := unix.Lstat(os.DevNull, &st); err != nil || !isNull(&st) {
		return fmt.Errorf("%s of this machine is not the null device", os.DevNull)
	}
	for range n {
		fd, err := openTree(os.DevNull, false, mountOptions{set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC, propagation: unix.MS_PRIVATE})
		if err != nil {
			return err
		}
		s.nulls = append(s.nulls, fd)
	}
	return nil
}

// byProcess are the mounts that the process has to make, as they show its
// namespaces.
func (c *construction) byProcess() (list []specs.Mount) {
	if c.late {
		return nil
	}
	for _, m := range c.spec.Mounts {
		if c.showsNamespace(m) {
			list = append(list, m)
		}
	}
	return list
}

func (c *construction) showsNamespace(m specs.Mount) bool {
	return m.Type == "proc" || m.Type == "cgroup" && c.cgroup.unified
}

func mountError(m specs.Mount, err error) error {
	return fmt.Errorf("error mounting %q to rootfs at %q: %w", m.Source, m.Destination, err)
}

// hasDev tells whether /dev is the container's own to be filled, and not
// something of the machine's.
func hasDev(s *specs.Spec) bool {
	return !slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool {
		return m.Type == "bind" && filepath.Clean(m.Destination) == "/dev"
	})
}

// nameOf is the folder's name of a hierarchy with several controllers.
func (v cgroupView) nameOf() string { return strings.Join(v.names, ",") }
