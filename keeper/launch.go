// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Names in the keeper's folder.
const (
	socketName = "sock"
	// LockName is locked by the keeper for as long as it lives.
	LockName = "lock"
	// LogName is the keeper's own log.
	LogName = "keeper.log"
	// launchLock is locked by a client that looks for or starts a keeper.
	launchLock = "launch.lock"
)

// Config says where the keeper lives.
type Config struct {
	// Binary is the path of the program peapod-keeper.
	Binary string
	// Dir is the keeper's folder, made if missing. One keeper lives in it.
	Dir string
}

// Launch connects to the keeper that lives in cfg.Dir, or starts one there,
// which then adopts what an earlier one left. The keeper outlives us.
func Launch(ctx context.Context, cfg Config) (*Client, error) {
	c, err := launch(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("cannot launch keeper in %s: %w", cfg.Dir, err)
	}
	return c, nil
}

func launch(ctx context.Context, cfg Config) (*Client, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return nil, err
	}
	unlock, err := lockLaunch(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	for {
		c, err := connect(ctx, dir)
		switch {
		case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, os.ErrNotExist):
			return start(ctx, cfg.Binary, dir)
		case errors.Is(err, ErrGone):
			// A keeper that is being killed: its connections end before
			// its socket does. The next one is refused, soon.
		default:
			return c, err
		}
	}
}

// lockLaunch waits until no other client is launching.
func lockLaunch(ctx context.Context, dir string) (func(), error) {
	f, err := os.OpenFile(filepath.Join(dir, launchLock), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	locked := make(chan error, 1)
	go func() { locked <- unix.Flock(int(f.Fd()), unix.LOCK_EX) }()
	select {
	case err = <-locked:
	case <-ctx.Done():
		// The waiting goroutine ends, and gives the lock back, when the
		// other client is done.
		go func() { <-locked; f.Close() }()
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { f.Close() }, nil
}

// connect makes a Client of the keeper that listens in dir.
func connect(ctx context.Context, dir string) (*Client, error) {
	conn, err := dial(ctx, dir)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var r Response
	if err = WriteMessage(conn, Request{Op: OpHello}); err == nil {
		err = ReadMessage(conn, &r)
	}
	if err == nil {
		err = r.Err()
	}
	if err == nil && r.Process == nil {
		err = errors.New("keeper did not say who it is")
	}
	if err != nil {
		conn.Close()
		return nil, gone(ctx, err)
	}
	c := &Client{dir: dir, self: *r.Process, life: conn, done: make(chan struct{})}
	go c.watch()
	return c, nil
}

// start makes the socket and hands it to a new keeper. It can be connected to
// from then on, so nobody has to wait for the keeper to be ready: what it
// still has to adopt comes before its first answer.
func start(ctx context.Context, binary, dir string) (*Client, error) {
	sock, err := listen(dir)
	if err != nil {
		return nil, err
	}
	defer sock.Close()
	log, err := os.OpenFile(filepath.Join(dir, LogName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	size, err := log.Seek(0, 2)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(binary, "keep", dir)
	cmd.Dir, cmd.Env = "/", []string{"PATH=" + DefaultPath}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{sock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	// Our copy goes before the first question: if the keeper dies at its
	// start, the question must not wait for ever.
	sock.Close()
	// While we live the keeper is our child and must not stay a zombie. How
	// it ended is in its log.
	go func() { _ = cmd.Wait() }()
	c, err := connect(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, said(dir, size))
	}
	return c, nil
}

// DefaultPath is the PATH of the keeper and of the OCI runtimes it is asked to
// run without an environment.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func listen(dir string) (*os.File, error) {
	if err := os.Remove(filepath.Join(dir, socketName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	name := filepath.Join("/proc/self/fd", strconv.Itoa(fd), socketName)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	if err := os.Chmod(filepath.Join(dir, socketName), 0o600); err != nil {
		return nil, err
	}
	return l.File()
}

// said returns what the keeper logged since its log had the given size.
func said(dir string, size int64) string {
	b, err := os.ReadFile(filepath.Join(dir, LogName))
	if err != nil || int64(len(b)) <= size {
		return ""
	}
	return ": " + strings.TrimSpace(string(b[size:]))
}
