// SPDX-License-Identifier: Apache-2.0

package native

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
)

// construction is a container that is being made.
type construction struct {
	Options
	spec   *specs.Spec
	cgroup *cgroup
	*birthplace
	// tree is the root, detached until it is entered.
	tree root
	// sources are what the machine gives to mount, opened before it is left.
	sources sources
	// flags of the clone; namespaces to enter before, as descriptors.
	flags uint64
	join  []int
	// pids is the PID namespace that is joined, or -1. late: who is in it sees
	// the process only when nothing is left to be done with great rights.
	pids int
	late bool
	// unified is the cgroup of v2 to be born into, or -1.
	unified int
	console int
}

// Run makes a container and starts its program; with Held it waits before. It
// returns the number of its first process, our child. The calling thread is
// lost for anything else. What is left of a container that could not be made
// is taken away as if it had been.
func Run(o Options) (int, error) {
	spec, err := ReadBundle(o.Bundle)
	if err == nil {
		err = Supports(spec)
	}
	if err == nil {
		err = checkID(o.ID)
	}
	if err != nil {
		return 0, err
	}
	c := &construction{Options: o, spec: spec, console: -1, pids: -1}
	if err := c.make(); err != nil {
		if c.birthplace != nil {
			c.kill()
		}
		return 0, fmt.Errorf("unable to start container process: %w", err)
	}
	return c.pid, nil
}

func (c *construction) make() error {
	if err := isolate(); err != nil {
		return err
	}
	record := Record{Version: 1, ID: c.ID, Bundle: c.Bundle, Cgroup: c.spec.Linux.CgroupsPath}
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(dirOf(c.State, c.ID), 0o700); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("container with given ID already exists: %s", c.ID)
	} else if err != nil {
		return err
	}
	if err := record.save(c.State); err != nil {
		return err
	}
	var err error
	if c.birthplace, err = newBirthplace(); err != nil {
		return err
	}
	// All that is the machine's comes first.
	if err := c.prepare(); err != nil {
		return err
	}
	if err := c.leave(); err != nil {
		return err
	}
	path, err := c.build(&record)
	if err != nil {
		return err
	}
	return c.finish(path)
}

// build furnishes the root and gives birth to the process, which comes first
// only if it has to make filesystems.
func (c *construction) build(r *Record) (path string, err error) {
	if c.late {
		if path, err = c.furnish(); err != nil {
			return "", err
		}
		if err := narrow(c.spec.Process, c.spec.Linux.Seccomp); err != nil {
			return "", err
		}
	}
	if err := c.program.become(c.ID, c.spec.Process, c.spec.Linux.Seccomp, c.handles); err != nil {
		return "", err
	}
	if err := c.start(c.flags, c.unified); err != nil {
		return "", err
	}
	if err := c.record(r); err != nil || c.late {
		return path, err
	}
	return c.furnish()
}

// record tells which process it is.
func (c *construction) record(r *Record) error {
	r.Pid = c.pid
	return outside(func() (err error) {
		if r.StartTicks, err = linux.StartTicks(c.pid); err == nil {
			err = r.save(c.State)
		}
		if err == nil {
			err = writePid(c.PidFile, c.pid)
		}
		return err
	})
}

// prepare opens what the machine gives, makes the cgroup, and writes the
// program of the process.
func (c *construction) prepare() (err error) {
	l := c.spec.Linux
	if c.cgroup, err = openCgroup(l.CgroupsPath, l.Resources); err != nil {
		return err
	}
	if err := c.cgroup.create(); err != nil {
		return err
	}
	if c.sources, err = c.openSources(); err != nil {
		return err
	}
	if c.spec.Process.Terminal {
		if c.console, err = dialConsole(c.ConsoleSocket); err != nil {
			return err
		}
	}
	if c.Held {
		if err := c.holdBack(); err != nil {
			return err
		}
	}
	for _, n := range l.Namespaces {
		if err := c.namespace(n); err != nil {
			return err
		}
	}
	ownCgroups := slices.ContainsFunc(l.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
	c.late = c.pids >= 0 && !ownCgroups && canShow(c.pids)
	return c.program.filesystems(c.byProcess(), c.handles.sync)
}

// holdBack makes the FIFOs by which a held program is let go.
func (c *construction) holdBack() error {
	for _, f := range []struct {
		name string
		fd   *int
	}{{startName, &c.handles.start}, {resultName, &c.handles.report}} {
		path := filepath.Join(dirOf(c.State, c.ID), f.name)
		if err := unix.Mkfifo(path, 0o600); err != nil {
			return &os.PathError{Op: "mkfifo", Path: path, Err: err}
		}
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		if *f.fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 16); err != nil {
			return err
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	c.report = c.handles.report
	return nil
}

// namespace notes one to be made or joined.
func (c *construction) namespace(n specs.LinuxNamespace) error {
	flag := namespaceFlags()[n.Type]
	if n.Path == "" {
		switch n.Type {
		case specs.CgroupNamespace:
			// Made by the process when it is in its cgroup, which it shall see
			// as the root.
			if !c.cgroup.unified {
				return errors.New("a cgroup namespace on cgroup v1 is not supported")
			}
			c.program.do("unshare cgroup namespace", unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP)
		case specs.PIDNamespace:
			c.flags |= unix.CLONE_NEWPID
		}
		return nil
	}
	fd, err := unix.Open(n.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: n.Path, Err: err}
	}
	// A descriptor that is no namespace of that kind is refused by setns.
	if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != flag {
		return fmt.Errorf("%s is not a %s namespace", n.Path, n.Type)
	}
	c.join = append(c.join, fd)
	if n.Type == specs.PIDNamespace {
		c.pids = fd
	}
	return nil
}

// leave goes into the cgroup and the namespaces. The machine's mounts are
// still there, as copies that change nothing outside.
func (c *construction) leave() (err error) {
	if err := adjustOOM(c.spec.Process.OOMScoreAdj); err != nil {
		return err
	}
	if c.unified, err = c.cgroup.enter(); err != nil {
		return fmt.Errorf("cannot enter cgroup: %w", err)
	}
	for _, fd := range c.join {
		if err := unix.Setns(fd, 0); err != nil {
			return fmt.Errorf("cannot enter namespace: %w", err)
		}
	}
	flags := 0
	for _, n := range c.spec.Linux.Namespaces {
		if n.Path == "" && n.Type != specs.PIDNamespace && n.Type != specs.CgroupNamespace {
			flags |= namespaceFlags()[n.Type]
		}
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("cannot make namespaces: %w", err)
	}
	if c.spec.Hostname != "" {
		if err := unix.Sethostname([]byte(c.spec.Hostname)); err != nil {
			return fmt.Errorf("sethostname: %w", err)
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("cannot separate mounts: %w", err)
	}
	return unix.Chdir("/")
}

// finish lets the process go and waits until it is its program.
func (c *construction) finish(path string) error {
	if err := c.goOn(path); err != nil || c.Held {
		return err
	}
	return c.await()
}
