// SPDX-License-Identifier: Apache-2.0

package native

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
)

// Exec starts the process that processFile describes in a running container
// and returns its number. The calling thread is lost for anything else.
func Exec(o Options, processFile string) (int, error) {
	record, err := Load(o.State, o.ID)
	if err != nil {
		return 0, err
	}
	e := &entry{Options: o, record: record, console: -1, unified: -1, fallback: -1}
	if e.spec, err = ReadBundle(record.Bundle); err != nil {
		return 0, err
	}
	b, err := os.ReadFile(processFile)
	if err == nil {
		err = json.Unmarshal(b, &e.process)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot read process: %w", err)
	}
	if err := errors.Join(Supports(e.spec), SupportsProcess(&e.process)); err != nil {
		return 0, err
	}
	if err := e.make(); err != nil {
		if e.birthplace != nil {
			e.kill()
		}
		return 0, fmt.Errorf("exec failed: unable to start container process: %w", err)
	}
	return e.pid, nil
}

// entry is a process that is to join a container.
type entry struct {
	Options
	record  Record
	spec    *specs.Spec
	process specs.Process
	*birthplace
	tree    root
	console int
	// unified is the container's cgroup of v2, fallback that of its first
	// process, which may have moved on to one below.
	unified, fallback int
}

func (e *entry) make() error {
	if err := isolate(); err != nil {
		return err
	}
	init, err := e.openInit()
	if err != nil {
		return err
	}
	if e.birthplace, err = newBirthplace(); err != nil {
		return err
	}
	if e.process.Terminal {
		if e.console, err = dialConsole(e.ConsoleSocket); err != nil {
			return err
		}
	}
	if err := adjustOOM(e.process.OOMScoreAdj); err != nil {
		return err
	}
	cgroup, err := openCgroup(e.record.Cgroup, nil)
	if err != nil {
		return err
	}
	if e.unified, err = cgroup.enter(); err != nil {
		return fmt.Errorf("cannot enter cgroup: %w", err)
	}
	// All namespaces of one process, whatever its number means by now.
	const all = unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWCGROUP
	if err := errors.Join(init.EnterNamespaces(all), init.Close()); err != nil {
		return fmt.Errorf("cannot enter namespaces: %w", err)
	}
	path, err := e.settle()
	if err != nil {
		return err
	}
	if err := narrow(&e.process, e.spec.Linux.Seccomp); err != nil {
		return err
	}
	if err := e.program.become(e.ID, &e.process, e.spec.Linux.Seccomp, e.handles); err != nil {
		return err
	}
	return e.born(path)
}

// openInit opens the first process, and the cgroup of v2 that it has gone to.
func (e *entry) openInit() (*linux.Pidfd, error) {
	init, err := e.record.Open()
	if err != nil {
		return nil, fmt.Errorf("cannot exec in a stopped container: %w", err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", e.record.Pid))
	if err != nil {
		return nil, fmt.Errorf("cannot exec in a stopped container: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		path, unified := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !unified || !strings.HasPrefix(path, e.record.Cgroup+"/") {
			continue
		}
		e.fallback, err = openUnified(filepath.Join("/sys/fs/cgroup", path))
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, err
		}
	}
	return init, nil
}

// settle opens what the process is given in the container, whose files may be
// anything.
func (e *entry) settle() (string, error) {
	var err error
	if e.tree.fd, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return "", err
	}
	if err := unix.Dup3(e.tree.fd, e.handles.root, unix.O_CLOEXEC); err != nil {
		return "", err
	}
	stdio := []int{0, 1, 2}
	if e.process.Terminal {
		tty, err := e.tree.terminal(e.console, &e.process)
		if err != nil {
			return "", err
		}
		if err := becomes(tty, e.handles.tty); err != nil {
			return "", err
		}
		stdio = []int{e.handles.tty}
	}
	if err := giveStdio(stdio, e.process.User.UID); err != nil {
		return "", err
	}
	cwd, err := e.tree.open(e.process.Cwd, unix.O_DIRECTORY)
	if err != nil {
		return "", fmt.Errorf("%s: %w", inCwd(&e.process), err)
	}
	if err := becomes(cwd, e.handles.cwd); err != nil {
		return "", err
	}
	return e.tree.lookPath(&e.process, e.handles.cwd)
}

func (e *entry) born(path string) error {
	err := e.start(0, e.unified)
	if errors.Is(err, unix.EBUSY) && e.fallback >= 0 {
		// The container has cgroups of its own, and processes only in these.
		err = e.start(0, e.fallback)
	}
	if err != nil {
		return err
	}
	if err := outside(func() error { return writePid(e.PidFile, e.pid) }); err != nil {
		return err
	}
	if err := e.goOn(path); err != nil {
		return err
	}
	return e.await()
}
