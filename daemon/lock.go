// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
)

// errInUse is that another process has the lock of a data folder.
var errInUse = errors.New("data folder in use")

// inUse is errInUse with a text for the user.
type inUse struct{ error }

func (inUse) Is(target error) bool { return target == errInUse }

// lock keeps a second node off the data folder.
func (l layout) lock() (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(l.lockFile()), 0o700); err != nil {
		return nil, fmt.Errorf("cannot use data folder: %w", err)
	}
	f, err := os.OpenFile(l.lockFile(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot use data folder: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return l.locked(f)
	}
	f.Close()
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("cannot lock data folder %s: %w", l.root, err)
	}
	who := "another peapod"
	if p, pid, err := l.holder(); err == nil {
		p.Close()
		who = fmt.Sprintf("another peapod (pid %d)", pid)
	}
	return nil, inUse{fmt.Errorf("cannot use data folder %s: %s runs on it; stop it with Ctrl-C or `peapod down`, or choose another with --data-dir", l.root, who)}
}

// locked writes into a lock file that we have, who we are: pid and the time of
// our start in clock ticks since boot.
func (l layout) locked(f *os.File) (unlock func(), err error) {
	ticks, err := linux.StartTicks(os.Getpid())
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(fmt.Appendf(nil, "%d %d\n", os.Getpid(), ticks), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot use data folder: %w", err)
	}
	return func() { f.Close() }, nil
}

// holder is the living process in the lock file.
func (l layout) holder() (p *linux.Pidfd, pid int, err error) {
	b, err := os.ReadFile(l.lockFile())
	if err != nil {
		return nil, 0, err
	}
	var ticks uint64
	if _, err := fmt.Sscan(string(b), &pid, &ticks); err != nil {
		return nil, 0, fmt.Errorf("cannot read %s: %w", l.lockFile(), err)
	}
	p, err = linux.OpenPidfd(pid, ticks)
	return p, pid, err
}
