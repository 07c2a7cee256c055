// SPDX-License-Identifier: Apache-2.0

package native

import (
	"errors"
	"fmt"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
)

// dialConsole connects to who wants the terminal's master.
func dialConsole(path string) (int, error) {
	if path == "" {
		return -1, errors.New("cannot allocate tty if runc will detach without setting console socket")
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		if err = unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			err = errors.Join(err, unix.Close(fd))
		}
	}
	if err != nil {
		return -1, fmt.Errorf("cannot connect to console socket %s: %w", path, err)
	}
	return fd, nil
}

// terminal opens a new terminal of the container's devpts, sends its master,
// and gives the process's end. What is opened is known to be devpts: a
// container may have put anything at /dev/pts.
func (r root) terminal(console int, proc *specs.Process) (tty int, err error) {
	dir, err := r.open("/dev/pts", unix.O_DIRECTORY)
	if err != nil {
		return -1, fmt.Errorf("open /dev/pts: %w", err)
	}
	defer unix.Close(dir)
	if err := onFilesystem(dir, unix.DEVPTS_SUPER_MAGIC, "devpts"); err != nil {
		return -1, fmt.Errorf("open /dev/pts: %w", err)
	}
	master, err := linux.OpenAt(dir, "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NOFOLLOW, unix.RESOLVE_NO_XDEV|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_BENEATH)
	if err != nil {
		return -1, fmt.Errorf("open /dev/pts/ptmx: %w", err)
	}
	defer unix.Close(master)
	if err := onFilesystem(master, unix.DEVPTS_SUPER_MAGIC, "devpts"); err != nil {
		return -1, fmt.Errorf("open /dev/pts/ptmx: %w", err)
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return -1, fmt.Errorf("unlock terminal: %w", err)
	}
	n, err := unix.IoctlGetUint32(master, unix.TIOCGPTN)
	if err != nil {
		return -1, fmt.Errorf("name terminal: %w", err)
	}
	// Not by its name, at which there might be something else by now.
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, fmt.Errorf("open terminal: %w", errno)
	}
	tty = int(fd)
	if s := proc.ConsoleSize; s != nil {
		if err := unix.IoctlSetWinsize(tty, unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(s.Height), Col: uint16(s.Width)}); err != nil {
			return tty, fmt.Errorf("size terminal: %w", err)
		}
	}
	name := "/dev/pts/" + strconv.FormatUint(uint64(n), 10)
	if err := unix.Sendmsg(console, []byte(name), unix.UnixRights(master), nil, 0); err != nil {
		return tty, fmt.Errorf("send terminal: %w", err)
	}
	return tty, unix.Close(console)
}

// giveStdio makes the standard descriptors the user's, who may want to open
// them again by /dev/stdout.
func giveStdio(fds []int, uid uint32) error {
	for _, fd := range fds {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("stat of standard descriptor %d: %w", fd, err)
		}
		if isNull(&st) || st.Uid == uid {
			continue
		}
		err := unix.Fchown(fd, int(uid), -1)
		for _, fine := range []error{unix.EINVAL, unix.EPERM, unix.EROFS} {
			if errors.Is(err, fine) {
				err = nil // it stays another's, as with runc
			}
		}
		if err != nil {
			return fmt.Errorf("chown of standard descriptor %d: %w", fd, err)
		}
	}
	return nil
}
