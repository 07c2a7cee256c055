// SPDX-License-Identifier: Apache-2.0

package native

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
)

// defaultDevices are those that the OCI specification gives every container.
func defaultDevices() []specs.LinuxDevice {
	mode := os.FileMode(0o666)
	var out []specs.LinuxDevice
	for _, d := range []struct {
		path         string
		major, minor int64
	}{{"/dev/null", 1, 3}, {"/dev/random", 1, 8}, {"/dev/full", 1, 7}, {"/dev/tty", 5, 0}, {"/dev/zero", 1, 5}, {"/dev/urandom", 1, 9}} {
		out = append(out, specs.LinuxDevice{Path: d.path, Type: "c", Major: d.major, Minor: d.minor, FileMode: &mode})
	}
	return out
}

// makeDevices fills /dev.
func (r root) makeDevices(asked []specs.LinuxDevice) error {
	list := slices.DeleteFunc(defaultDevices(), func(d specs.LinuxDevice) bool {
		return slices.ContainsFunc(asked, func(a specs.LinuxDevice) bool { return a.Path == d.Path })
	})
	for _, d := range slices.Concat(list, asked) {
		if filepath.Clean(d.Path) == "/dev/ptmx" {
			continue // it is a link into the container's own devpts
		}
		if err := r.makeDevice(d); err != nil {
			return fmt.Errorf("%s: %w", d.Path, err)
		}
	}
	dev, err := r.makeDir("/dev")
	if err != nil {
		return err
	}
	defer unix.Close(dev)
	if err := unix.Unlinkat(dev, "ptmx", 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("/dev/ptmx: %w", err)
	}
	links := [][2]string{{"pts/ptmx", "ptmx"}, {"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"}}
	if kcore, err := r.open("/proc/kcore", 0); err == nil {
		unix.Close(kcore)
		links = append(links, [2]string{"/proc/kcore", "core"})
	}
	for _, l := range links {
		if err := unix.Symlinkat(l[0], dev, l[1]); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("/dev/%s: %w", l[1], err)
		}
	}
	return nil
}

func (r root) makeDevice(d specs.LinuxDevice) error {
	dir, name, err := r.parent(d.Path)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	kind := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}[d.Type]
	mode := uint32(0o666)
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	err = unix.Mknodat(dir, name, kind|mode, int(unix.Mkdev(uint32(d.Major), uint32(d.Minor))))
	if errors.Is(err, unix.EEXIST) {
		return nil // the image's own, which the device cgroup holds
	}
	if err != nil {
		return err
	}
	if deref(d.UID) == 0 && deref(d.GID) == 0 {
		return nil
	}
	return unix.Fchownat(dir, name, int(deref(d.UID)), int(deref(d.GID)), unix.AT_SYMLINK_NOFOLLOW)
}

// mountConsole opens the container's terminal and makes it /dev/console: the
// terminal itself, not whatever a name leads to.
func (c *construction) mountConsole() (int, error) {
	tty, err := c.tree.terminal(c.console, c.spec.Process)
	if err != nil {
		return -1, err
	}
	if !hasDev(c.spec) {
		return tty, nil
	}
	target, err := c.tree.makeFile("/dev/console")
	if err != nil {
		return -1, fmt.Errorf("/dev/console: %w", err)
	}
	defer unix.Close(target)
	mount, err := clone(tty, false)
	if err != nil {
		return -1, fmt.Errorf("/dev/console: %w", err)
	}
	defer unix.Close(mount)
	if err := attach(mount, target); err != nil {
		return -1, fmt.Errorf("/dev/console: %w", err)
	}
	return tty, nil
}

// cover has what is at path covered, if there is anything.
func (r root) cover(path string, do func(target int) error) error {
	target, err := r.open(path, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return do(target)
}

// hide covers what is open as target: with an empty folder, or with null.
func hide(target, null int) error {
	dir, err := isDir(target)
	if err != nil {
		return err
	}
	if !dir {
		return attach(null, target)
	}
	empty, err := newMount("tmpfs", "tmpfs", mountOptions{set: unix.MOUNT_ATTR_RDONLY, data: []string{"mode=755", "nr_inodes=2"}})
	if err != nil {
		return err
	}
	defer unix.Close(empty)
	return attach(empty, target)
}

// isNull tells whether a file is the null device, whatever its name.
func isNull(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
}

// makeReadonly mounts what is open as target onto itself, not to be written.
func makeReadonly(target int) error {
	mount, err := clone(target, true)
	if err != nil {
		return err
	}
	defer unix.Close(mount)
	if err := (mountOptions{all: unix.MOUNT_ATTR_RDONLY}).apply(mount); err != nil {
		return err
	}
	return attach(mount, target)
}

// setSysctls writes settings of this thread's namespaces by a procfs that
// nobody else has: nothing can be put in its place.
func setSysctls(settings map[string]string) error {
	if len(settings) == 0 {
		return nil
	}
	proc, err := newMount("proc", "proc", mountOptions{})
	if err != nil {
		return fmt.Errorf("cannot set sysctls: %w", err)
	}
	defer unix.Close(proc)
	for name, value := range settings {
		fd, err := linux.OpenAt(proc, "sys/"+sysctlPath(name), unix.O_WRONLY, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
		if err == nil {
			_, err = unix.Write(fd, []byte(value))
			err = errors.Join(err, unix.Close(fd))
		}
		if err != nil {
			return fmt.Errorf("cannot set sysctl %s: %w", name, err)
		}
	}
	return nil
}
