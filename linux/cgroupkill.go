// SPDX-License-Identifier: Apache-2.0

package linux

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Kill sends SIGKILL to every process in a cgroup and those below it, in any
// hierarchy, also to those that are born meanwhile, and returns when all have
// ended. A cgroup that is not there has none.
func (l CgroupLayout) Kill(ctx context.Context, cgroup string) error {
	for round := 0; ; round++ {
		pids, err := l.processes(cgroup)
		if err == nil && len(pids) > 0 {
			// Frozen only when they are born faster than they die: should we
			// be killed meanwhile, they stay frozen.
			err = l.killOnce(ctx, cgroup, round > 2)
		}
		if err != nil {
			return fmt.Errorf("cannot end processes of cgroup %s: %w", cgroup, err)
		}
		if len(pids) == 0 {
			return nil
		}
	}
}

// Signal sends a signal to every process that is in a cgroup, or below it, in
// any hierarchy.
func (l CgroupLayout) Signal(cgroup string, sig unix.Signal) error {
	pids, err := l.processes(cgroup)
	for _, pid := range pids {
		p, openErr := OpenPidfd(pid, 0)
		if errors.Is(openErr, os.ErrNotExist) {
			continue
		}
		if openErr == nil {
			openErr = errors.Join(p.Signal(sig), p.Close())
		}
		if openErr != nil && !errors.Is(openErr, os.ErrProcessDone) {
			err = errors.Join(err, openErr)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot signal processes of cgroup %s: %w", cgroup, err)
	}
	return nil
}

// killOnce kills who is there, if frozen while nobody can be born, and waits
// for their end. Frozen processes die when they are thawed.
func (l CgroupLayout) killOnce(ctx context.Context, cgroup string, frozen bool) (err error) {
	if err := errors.Join(l.freeze(cgroup, frozen), l.killUnified(cgroup)); err != nil {
		return err
	}
	var dying []*Pidfd
	defer func() {
		for _, p := range dying {
			p.Close()
		}
	}()
	pids, err := l.processes(cgroup)
	for _, pid := range pids {
		p, openErr := OpenPidfd(pid, 0)
		if errors.Is(openErr, os.ErrNotExist) {
			continue
		}
		if openErr == nil {
			dying = append(dying, p)
			openErr = p.Signal(unix.SIGKILL)
		}
		if openErr != nil && !errors.Is(openErr, os.ErrProcessDone) {
			err = errors.Join(err, openErr)
		}
	}
	if err = errors.Join(err, l.freeze(cgroup, false)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		for _, p := range dying {
			p.Close()
		}
	})
	defer stop()
	for _, p := range dying {
		if err := p.Wait(); err != nil {
			return errors.Join(ctx.Err(), err)
		}
	}
	return nil
}

// killUnified has the kernel kill who is in a cgroup of v2 or below it, and who
// is being born there (cgroup.kill, since Linux 5.14). Where it cannot, killOnce
// can.
func (l CgroupLayout) killUnified(cgroup string) error {
	if l.Unified == "" {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(l.Unified, cgroup, "cgroup.kill"), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString("1")
		f.Close()
	}
	for _, fine := range []error{fs.ErrNotExist, unix.ENODEV, unix.EOPNOTSUPP} {
		if errors.Is(err, fine) {
			return nil
		}
	}
	return err
}

// Thaw lets a cgroup go on that a Kill of ours, or an OCI runtime, left frozen
// when it was killed itself. A frozen process does not even die.
func (l CgroupLayout) Thaw(cgroup string) error {
	if err := l.freeze(cgroup, false); err != nil {
		return fmt.Errorf("cannot thaw cgroup %s: %w", cgroup, err)
	}
	return nil
}

// freeze stops a cgroup's processes or lets them go on, where there is a
// freezer.
func (l CgroupLayout) freeze(cgroup string, frozen bool) error {
	file, value := "cgroup.freeze", map[bool]string{true: "1", false: "0"}[frozen]
	root := l.Unified
	if v1 := l.V1["freezer"]; v1 != "" {
		root, file, value = v1, "freezer.state", map[bool]string{true: "FROZEN", false: "THAWED"}[frozen]
	}
	if root == "" {
		return nil
	}
	err := os.WriteFile(filepath.Join(root, cgroup, file), []byte(value), 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// processes lists who is in a cgroup or below it, in any hierarchy.
func (l CgroupLayout) processes(cgroup string) ([]int, error) {
	var pids []int
	for _, root := range l.Roots() {
		dirs, err := cgroupTree(filepath.Join(root, cgroup))
		if err != nil {
			return nil, err
		}
		for _, d := range dirs {
			b, err := os.ReadFile(filepath.Join(d, "cgroup.procs"))
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
				continue // removed meanwhile
			}
			if errors.Is(err, unix.EOPNOTSUPP) {
				continue // a cgroup of threads, whose processes count where their domain is
			}
			if err != nil {
				return nil, err
			}
			for _, f := range strings.Fields(string(b)) {
				// 0 stands for a process of another PID namespace than ours.
				if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
					pids = append(pids, pid)
				}
			}
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// cgroupTree lists a cgroup's folder and those below it, parents first.
func cgroupTree(dir string) ([]string, error) {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	return dirs, err
}

// removePatience is how long the kernel may go on counting processes that have
// ended as members of their cgroup.
const removePatience = 2 * time.Second

// Remove removes a cgroup and those below it in every hierarchy. None may hold
// a process. One that is not there is fine.
func (l CgroupLayout) Remove(ctx context.Context, cgroup string) error {
	ctx, cancel := context.WithTimeout(ctx, removePatience)
	defer cancel()
	for _, root := range l.Roots() {
		dirs, err := cgroupTree(filepath.Join(root, cgroup))
		if err != nil {
			return fmt.Errorf("cannot remove cgroup %s: %w", cgroup, err)
		}
		for _, d := range slices.Backward(dirs) {
			if err := removeCgroup(ctx, d); err != nil {
				return fmt.Errorf("cannot remove cgroup %s: %w", cgroup, err)
			}
		}
	}
	return nil
}

// removeCgroup tries again while the folder is busy: a process whose end has
// been seen leaves its cgroup a moment later, of which nothing tells.
func removeCgroup(ctx context.Context, dir string) error {
	for pause := time.Millisecond; ; pause *= 2 {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		again := time.NewTimer(pause)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return err
		}
	}
}
