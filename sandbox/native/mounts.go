// SPDX-License-Identifier: Apache-2.0

package native

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
)

// furnish enters the root and mounts, masks and makes all that is in it. It
// returns the path of the program.
func (c *construction) furnish() (string, error) {
	if err := c.enterRoot(); err != nil {
		return "", fmt.Errorf("cannot enter root: %w", err)
	}
	if err := c.mountAll(); err != nil {
		return "", fmt.Errorf("error during container init: %w", err)
	}
	if hasDev(c.spec) {
		if err := c.tree.makeDevices(c.spec.Linux.Devices); err != nil {
			return "", fmt.Errorf("error during container init: error creating device nodes: %w", err)
		}
	}
	stdio := []int{0, 1, 2}
	if c.spec.Process.Terminal {
		tty, err := c.mountConsole()
		if err != nil {
			return "", fmt.Errorf("error during container init: %w", err)
		}
		stdio = []int{c.handles.tty}
		if err := becomes(tty, c.handles.tty); err != nil {
			return "", err
		}
	}
	if err := giveStdio(stdio, c.spec.Process.User.UID); err != nil {
		return "", err
	}
	cwd, err := c.tree.makeDir(c.spec.Process.Cwd)
	if err != nil {
		return "", fmt.Errorf("%s: %w", inCwd(c.spec.Process), err)
	}
	if err := becomes(cwd, c.handles.cwd); err != nil {
		return "", err
	}
	if err := c.close(); err != nil {
		return "", fmt.Errorf("error during container init: %w", err)
	}
	return c.tree.lookPath(c.spec.Process, c.handles.cwd)
}

// close makes read-only and hides what the container may not write or see.
func (c *construction) close() error {
	l := c.spec.Linux
	if c.spec.Root.Readonly {
		if err := (mountOptions{set: unix.MOUNT_ATTR_RDONLY}).apply(c.tree.fd); err != nil {
			return fmt.Errorf("cannot make root read-only: %w", err)
		}
	}
	if err := setSysctls(l.Sysctl); err != nil {
		return err
	}
	for _, p := range l.ReadonlyPaths {
		if err := c.tree.cover(p, makeReadonly); err != nil {
			return fmt.Errorf("readonly path %s: %w", p, err)
		}
	}
	for i, p := range l.MaskedPaths {
		null := c.sources.nulls[i]
		err := c.tree.cover(p, func(target int) error { return hide(target, null) })
		if err = errors.Join(err, unix.Close(null)); err != nil {
			return fmt.Errorf("mask path %s: %w", p, err)
		}
	}
	// The mark is set last, as whatever is mounted below a shared mount would
	// be mounted in its peers too.
	if p := l.RootfsPropagation; p != "" {
		o, err := parseOptions(specs.Mount{Options: []string{p}})
		if err == nil {
			err = o.apply(c.tree.fd)
		}
		if err != nil {
			return fmt.Errorf("cannot set propagation of root: %w", err)
		}
	}
	return nil
}

// enterRoot makes the root this thread's, and lets go of the machine's.
func (c *construction) enterRoot() error {
	if err := unix.MoveMount(c.tree.fd, "", unix.AT_FDCWD, c.sources.rootPath, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return err
	}
	old, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(old)
	if err := unix.Fchdir(c.tree.fd); err != nil {
		return err
	}
	// The new root comes where the old one is, and the old one on top of it
	// (pivot_root(2)), from where it is taken off.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Fchdir(old); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("cannot let go of the machine's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Dup3(c.tree.fd, c.handles.root, unix.O_CLOEXEC); err != nil {
		return err
	}
	return nil
}

func (c *construction) mountAll() error {
	var made [slots]int64
	if len(c.byProcess()) > 0 {
		var err error
		if made, err = c.told(); err != nil {
			return err
		}
	}
	next := 0
	for i, m := range c.spec.Mounts {
		o, err := parseOptions(m)
		if err != nil {
			return err
		}
		fd := -1
		switch {
		case m.Type == "bind":
			fd = c.sources.binds[i]
		case c.late && m.Type == "proc":
			fd, err = newMount("proc", "", o, showing(c.pids))
		case c.late && c.showsNamespace(m):
			fd, err = newMount("cgroup2", "", o)
		case c.showsNamespace(m):
			fd = int(made[next])
			next++
		case m.Type == "cgroup":
			if err := c.mountCgroups(m, o); err != nil {
				return mountError(m, err)
			}
			continue
		default:
			fd, err = newMount(m.Type, m.Source, o)
		}
		if err == nil {
			err = c.tree.mount(m, fd, o)
		}
		if err != nil {
			return mountError(m, err)
		}
	}
	return nil
}

// mount puts a detached mount where m says.
func (r root) mount(m specs.Mount, fd int, o mountOptions) error {
	defer unix.Close(fd)
	target, err := r.target(m, fd)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	to := filepath.Clean(m.Destination)
	if m.Type == "bind" && to == "/proc" && onFilesystem(fd, unix.PROC_SUPER_MAGIC, "proc") != nil {
		return fmt.Errorf("%q cannot be mounted because it is not of type proc", to)
	}
	// A link may have led into procfs; what may be there is known by name.
	if onFilesystem(target, unix.PROC_SUPER_MAGIC, "proc") == nil && !strings.HasPrefix(to, "/proc/") {
		return fmt.Errorf("%q cannot be mounted because it is inside /proc", to)
	}
	if err := attach(fd, target); err != nil {
		return err
	}
	if m.Type == "bind" {
		return nil
	}
	return mountOptions{propagation: o.propagation, below: o.below}.apply(fd)
}

// target opens the mount point of m, made if it is missing: a folder, or a
// file for what is none.
func (r root) target(m specs.Mount, source int) (int, error) {
	switch m.Type {
	case "proc", "sysfs":
		// All that relies on them names them without links.
		fd, err := linux.OpenAt(r.fd, m.Destination, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS)
		if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
			return -1, fmt.Errorf("filesystem %q must be mounted on ordinary directory", m.Type)
		}
		if !errors.Is(err, unix.ENOENT) {
			return fd, err
		}
	case "bind":
		dir, err := isDir(source)
		if err != nil {
			return -1, err
		}
		if !dir {
			return r.makeFile(m.Destination)
		}
	}
	return r.makeDir(m.Destination)
}

// mountCgroups shows a container its own cgroups of v1, each where programs
// look for it.
func (c *construction) mountCgroups(m specs.Mount, o mountOptions) error {
	writable := o
	writable.set &^= unix.MOUNT_ATTR_RDONLY
	writable.data = []string{"mode=755"}
	fs, err := newMount("tmpfs", "tmpfs", writable)
	if err != nil {
		return err
	}
	target, err := c.tree.makeDir(m.Destination)
	if err == nil {
		err = attach(fs, target)
		unix.Close(target)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	for _, v := range c.sources.cgroups {
		if err := unix.Mkdirat(fs, v.nameOf(), 0o755); err != nil {
			return err
		}
		dir, err := linux.OpenAt(fs, v.nameOf(), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
		if err != nil {
			return err
		}
		err = attach(v.mount, dir)
		if err = errors.Join(err, unix.Close(dir), unix.Close(v.mount)); err != nil {
			return err
		}
		if len(v.names) == 1 {
			continue
		}
		for _, name := range v.names {
			if err := unix.Symlinkat(v.nameOf(), fs, name); err != nil {
				return err
			}
		}
	}
	return mountOptions{set: o.set & unix.MOUNT_ATTR_RDONLY}.apply(fs)
}
