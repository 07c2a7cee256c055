// SPDX-License-Identifier: Apache-2.0

package linux

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// StartTicks returns when a process started, in clock ticks since boot
// (proc_pid_stat(5) field 22). A pid together with its StartTicks names a
// process for the whole boot, also after the number was given to another.
// A process that is not there gives os.ErrNotExist.
func StartTicks(pid int) (uint64, error) {
	fields, err := statFields(pid)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// ZombieStatus returns the wait status of a process that has ended but was not
// yet waited for by its parent, whoever that is; false if it still runs.
func ZombieStatus(pid int) (unix.WaitStatus, bool, error) {
	fields, err := statFields(pid)
	if err != nil {
		return 0, false, err
	}
	if fields[0] != "Z" {
		return 0, false, nil
	}
	n, err := strconv.ParseUint(fields[49], 10, 32)
	return unix.WaitStatus(n), err == nil, err
}

// statFields returns the fields of /proc/<pid>/stat from the third on, the
// process state: the second is the name and may hold anything.
func statFields(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, unix.ESRCH) {
		err = fmt.Errorf("%w: process %d", os.ErrNotExist, pid)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read state of process: %w", err)
	}
	var fields []string
	for _, f := range bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]) {
		fields = append(fields, string(f))
	}
	if len(fields) < 50 {
		return nil, fmt.Errorf("cannot read state of process %d: %d fields", pid, len(fields))
	}
	return fields, nil
}

// Pidfd is a handle on one process that cannot come to mean another.
type Pidfd struct{ f *os.File }

// OpenPidfd opens the process pid. With ticks other than 0 it must be the one
// that started then. A process that is gone gives os.ErrNotExist; one that
// ended but was not waited for can still be opened.
func OpenPidfd(pid int, ticks uint64) (*Pidfd, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("cannot open process %d: %w", pid, os.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open process %d: %w", pid, err)
	}
	p := &Pidfd{os.NewFile(uintptr(fd), "pidfd")}
	if ticks == 0 {
		return p, nil
	}
	// Read after the open: if the number had been reused by then, the ticks
	// differ; if they match, the handle is on that process.
	now, err := StartTicks(pid)
	if err == nil && now != ticks {
		err = fmt.Errorf("cannot open process %d: %w: the number now belongs to another", pid, os.ErrNotExist)
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Signal sends sig. A process that is gone gives os.ErrProcessDone.
func (p *Pidfd) Signal(sig unix.Signal) error {
	var sent error
	err := p.control(func(fd int) { sent = unix.PidfdSendSignal(fd, sig, nil, 0) })
	if err == nil {
		err = sent
	}
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	if err != nil {
		return fmt.Errorf("cannot send signal %d: %w", sig, err)
	}
	return nil
}

// EnterNamespaces moves the calling thread, which must be locked, into those of
// the process's namespaces that flags (unix.CLONE_NEW...) name.
func (p *Pidfd) EnterNamespaces(flags int) error {
	var entered error
	if err := p.control(func(fd int) { entered = unix.Setns(fd, flags) }); err != nil {
		return err
	}
	return entered
}

func (p *Pidfd) control(f func(fd int)) error {
	raw, err := p.f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { f(int(fd)) })
}

// Wait returns when the process has ended, child of ours or not. It may still
// be a zombie then. Close ends the wait with os.ErrClosed.
func (p *Pidfd) Wait() error { return p.await(unix.POLLIN) }

// await parks the goroutine, not a thread, until one of events or a hang-up
// is seen.
func (p *Pidfd) await(events int16) error {
	raw, err := p.f.SyscallConn()
	if err != nil {
		return fmt.Errorf("cannot wait for process: %w", err)
	}
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
		n, err := unix.Poll(fds, 0)
		if errors.Is(err, unix.EINTR) {
			return false
		}
		failed = err
		return err != nil || n > 0
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("cannot wait for process: %w", err)
	}
	return nil
}

// pidfdInfo is struct pidfd_info of linux/pidfd.h as of 6.15.
type pidfdInfo struct {
	mask, cgroupid                                                    uint64
	pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid uint32
	exitCode                                                          int32
}

const (
	pidfdInfoExit = 1 << 3 // PIDFD_INFO_EXIT
	// pidfdGetInfo is _IOWR(0xFF, 11, struct pidfd_info) for the 64 byte
	// form; the kernel takes every size from the first one on.
	pidfdGetInfo = 3<<30 | uint(unsafe.Sizeof(pidfdInfo{}))<<16 | 0xFF<<8 | 11
)

// ErrExitUnknown means that the kernel no longer tells how a process ended.
var ErrExitUnknown = errors.New("exit status unknown")

// ExitStatus returns how an ended process that is not our child has ended.
// Kernels from 6.15 on tell once its parent has waited for it, which is
// awaited for at most patience; others only while it is a zombie. Otherwise
// the error is ErrExitUnknown.
func (p *Pidfd) ExitStatus(pid int, patience time.Duration) (unix.WaitStatus, error) {
	if st, err := p.exitInfo(); err == nil {
		return st, nil
	}
	if st, zombie, err := ZombieStatus(pid); err == nil && zombie {
		return st, nil
	}
	if err := p.f.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return 0, errors.Join(ErrExitUnknown, err)
	}
	if err := p.await(0); err != nil {
		return 0, errors.Join(ErrExitUnknown, err)
	}
	return p.exitInfo()
}

func (p *Pidfd) exitInfo() (unix.WaitStatus, error) {
	info := pidfdInfo{mask: pidfdInfoExit}
	var errno unix.Errno
	err := p.control(func(fd int) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(pidfdGetInfo), uintptr(unsafe.Pointer(&info)))
	})
	if err != nil || errno != 0 || info.mask&pidfdInfoExit == 0 {
		return 0, ErrExitUnknown
	}
	return unix.WaitStatus(info.exitCode), nil
}

// Pin makes the handle last beyond every process that has it open, by a mount
// on the file path. OpenPinnedPidfd gets it back. It needs a kernel whose
// pidfds are files of a filesystem (6.9).
func (p *Pidfd) Pin(path string) error {
	var tree int
	var failed error
	err := p.control(func(fd int) {
		tree, failed = unix.OpenTree(fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("cannot pin process: %w", err)
	}
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("cannot pin process to %s: %w", path, err)
	}
	return nil
}

// OpenPinnedPidfd opens a handle that Pin left at path.
func OpenPinnedPidfd(path string) (*Pidfd, error) {
	mounted, err := IsMountPoint(path)
	if err == nil && !mounted {
		err = os.ErrNotExist
	}
	fd := -1
	if err == nil {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open pinned process %s: %w", path, err)
	}
	return &Pidfd{os.NewFile(uintptr(fd), "pidfd")}, nil
}

// Close lets go of the handle. The process does not notice.
func (p *Pidfd) Close() error { return p.f.Close() }
