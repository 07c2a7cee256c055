// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
)

// nobody is the user and group that pause runs as, as upstream's does.
const nobody = 65535

// hold makes a PID namespace with pause as its first process, which it leaves
// behind, as an OCI runtime would, with its pid in pidFile. The namespaces to
// join first are given as KIND=PATH.
func hold(pidFile string, join []string) error {
	runtime.LockOSThread()
	for _, j := range join {
		kind, path, ok := strings.Cut(j, "=")
		if !ok {
			return fmt.Errorf("cannot join %q: want KIND=NAMESPACE", j)
		}
		if err := linux.JoinNamespace(kind, path); err != nil {
			return err
		}
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("cannot start pause: %w", err)
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot start pause: %w", err)
	}
	// pause says through the socket that it is locked in, and only then may
	// anybody join it. It waits there until its pid is written down: should we
	// be killed before, it ends too, as nobody would know it.
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot start pause: %w", err)
	}
	ready, confirm := os.NewFile(uintptr(pair[0]), "ready"), os.NewFile(uintptr(pair[1]), "confirm")
	pid, err := syscall.ForkExec(exe, []string{"pause", "pause", "3"}, &syscall.ProcAttr{
		Dir: "/", Env: []string{}, Files: []uintptr{null.Fd(), null.Fd(), 2, confirm.Fd()},
		Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("cannot start pause: %w", err)
	}
	confirm.Close()
	if n, err := ready.Read(make([]byte, 1)); n != 1 {
		return fmt.Errorf("cannot start pause: it ended at once: %w", err)
	}
	if err := linux.ReplaceFile(pidFile, []byte(strconv.Itoa(pid)), 0o600); err != nil {
		return err
	}
	if _, err := ready.Write([]byte{'\n'}); err != nil {
		return fmt.Errorf("cannot start pause: %w", err)
	}
	return nil
}

// pause is the first process of a PID namespace: it gives up everything that
// others in the namespace might borrow from it, collects orphans, and ends on
// SIGTERM or SIGINT.
func pause(confirm string) error {
	chld := make(chan os.Signal, 1)
	end := make(chan os.Signal, 1)
	signal.Notify(chld, unix.SIGCHLD)
	signal.Notify(end, unix.SIGTERM, unix.SIGINT)
	if err := dropRoot(); err != nil {
		return err
	}
	if err := dropPrivileges(); err != nil {
		return err
	}
	fd, err := strconv.Atoi(confirm)
	if err != nil {
		return fmt.Errorf("cannot confirm: %w", err)
	}
	f := os.NewFile(uintptr(fd), "confirm")
	if _, err := f.Write([]byte{'\n'}); err != nil {
		return fmt.Errorf("cannot confirm: %w", err)
	}
	if n, err := f.Read(make([]byte, 1)); n != 1 {
		return fmt.Errorf("cannot confirm: who started us is gone: %w", err)
	}
	f.Close()
	// The stderr of who started us must not stay open.
	if err := unix.Dup3(0, 2, 0); err != nil {
		return err
	}
	for {
		select {
		case <-end:
			return nil
		case <-chld:
			for {
				pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
				if !errors.Is(err, unix.EINTR) && (err != nil || pid <= 0) {
					break
				}
			}
		}
	}
}

// dropRoot exchanges the machine's filesystem for an empty one: /proc/1/root
// leads nowhere.
func dropRoot() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot separate mounts: %w", err)
	}
	const over = "/proc" // any folder that is always there
	flags := uintptr(unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	if err := unix.Mount("pause", over, "tmpfs", flags, "size=4k,mode=555"); err != nil {
		return fmt.Errorf("cannot mount empty root: %w", err)
	}
	if err := unix.Chdir(over); err != nil {
		return fmt.Errorf("cannot enter empty root: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("cannot enter empty root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("cannot leave the machine's root: %w", err)
	}
	return nil
}

// dropPrivileges becomes nobody, by which the kernel clears the capabilities
// too, for all threads.
func dropPrivileges() error {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("cannot drop privileges: %w", errno)
	}
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("cannot drop groups: %w", err)
	}
	if err := syscall.Setresgid(nobody, nobody, nobody); err != nil {
		return fmt.Errorf("cannot change group: %w", err)
	}
	if err := syscall.Setresuid(nobody, nobody, nobody); err != nil {
		return fmt.Errorf("cannot change user: %w", err)
	}
	return nil
}
