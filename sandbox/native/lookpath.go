// SPDX-License-Identifier: Apache-2.0

package native

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// lookPath finds a process's program as the process would: in its root, from
// its working directory, by its PATH, with its user's rights. It says in the
// words of package os/exec, and so of runc, what is wrong.
func (r root) lookPath(p *specs.Process, cwd int) (string, error) {
	if err := unix.Fchdir(cwd); err != nil {
		return "", fmt.Errorf("%s: %w", inCwd(p), err)
	}
	if setsOf(p.Capabilities).effective&capabilityMask([]string{"CAP_DAC_OVERRIDE"}) != 0 {
		return look(p.Args[0], p.Env) // it has them as we do
	}
	back, err := as(p.User)
	if err != nil {
		return "", err
	}
	path, err := look(p.Args[0], p.Env)
	if back := back(); back != nil {
		return "", back
	}
	return path, err
}

func look(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		if err := executable(name); err != nil {
			return "", &exec.Error{Name: name, Err: err}
		}
		return name, nil
	}
	path := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	for _, dir := range filepath.SplitList(path) {
		if dir == "" {
			dir = "."
		}
		file := filepath.Join(dir, name)
		if executable(file) != nil {
			continue
		}
		if !filepath.IsAbs(file) {
			return "", &exec.Error{Name: name, Err: exec.ErrDot}
		}
		return file, nil
	}
	return "", &exec.Error{Name: name, Err: exec.ErrNotFound}
}

func executable(file string) error {
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return syscall.EISDIR
	}
	err = unix.Faccessat(unix.AT_FDCWD, file, unix.X_OK, unix.AT_EACCESS)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		err = nil
		if info.Mode()&0o111 == 0 {
			err = fs.ErrPermission
		}
	}
	if errors.Is(err, unix.EACCES) {
		return fs.ErrPermission
	}
	return err
}

// as gives this thread the file rights of a user until back is called. Only of
// this thread: the library's functions would change all.
func as(u specs.User) (back func() error, err error) {
	set := func(groups []uint32, gid, uid uint32) error {
		list := unsafe.Pointer(unsafe.SliceData(groups))
		if _, _, errno := syscall.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(list), 0); errno != 0 {
			return fmt.Errorf("setgroups: %w", errno)
		}
		// These return what was before, and no error.
		_, _, _ = syscall.RawSyscall(unix.SYS_SETFSGID, uintptr(gid), 0, 0)
		_, _, _ = syscall.RawSyscall(unix.SYS_SETFSUID, uintptr(uid), 0, 0)
		return nil
	}
	if err := set(u.AdditionalGids, u.GID, u.UID); err != nil {
		return nil, err
	}
	return func() error { return set(nil, 0, 0) }, nil
}
