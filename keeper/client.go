// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
)

// Client talks to one keeper. It is safe for concurrent use. When the keeper
// dies, Done is closed and calls give ErrGone; Launch then gives a new one.
type Client struct {
	dir  string
	self Process
	// life is an open connection whose end is the keeper's.
	life net.Conn
	done chan struct{}
}

// Done is closed when the keeper has gone, or after Close.
func (c *Client) Done() <-chan struct{} { return c.done }

// Process is the keeper's own.
func (c *Client) Process() Process { return c.self }

// Close drops the connection; the keeper and its processes go on.
func (c *Client) Close() error {
	err := c.life.Close()
	<-c.done
	return err
}

// watch closes done when the life connection ends.
func (c *Client) watch() {
	defer close(c.done)
	defer c.life.Close()
	var one [1]byte
	for {
		if _, err := c.life.Read(one[:]); err != nil {
			return
		}
	}
}

// dial connects to the socket in dir. The way through /proc/self/fd keeps it
// independent of the folder's length: a socket's path is limited to 107 bytes.
func dial(ctx context.Context, dir string) (net.Conn, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	var d net.Dialer
	return d.DialContext(ctx, "unix", filepath.Join("/proc/self/fd", strconv.Itoa(fd), socketName))
}

// open sends a request on a new connection and reads the first answer. The
// connection is closed when ctx ends, and by the function returned.
func (c *Client) open(ctx context.Context, req Request) (net.Conn, func(), Response, error) {
	var r Response
	req.To = &c.self
	conn, err := dial(ctx, c.dir)
	if err != nil {
		return nil, nil, r, gone(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	closer := func() { stop(); conn.Close() }
	if err = WriteMessage(conn, req); err == nil {
		err = ReadMessage(conn, &r)
	}
	if err != nil {
		closer()
		return nil, nil, r, gone(ctx, err)
	}
	if err := r.Err(); err != nil {
		closer()
		return nil, nil, r, err
	}
	return conn, closer, r, nil
}

// gone names the cause of a broken conversation.
func gone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %w", ErrGone, err)
}

func (c *Client) call(ctx context.Context, what string, req Request) (Response, error) {
	_, closer, r, err := c.open(ctx, req)
	if err != nil {
		return r, fmt.Errorf("cannot %s: %w", what, err)
	}
	closer()
	return r, nil
}

// Run starts a process and returns when the OCI runtime has. An error carries
// the OCI runtime's own text; nothing is kept then and the ID is free. When
// ctx ends first, the keeper goes on with it: List tells the outcome, Forget
// ends it.
func (c *Client) Run(ctx context.Context, s Spec) (Process, error) {
	r, err := c.call(ctx, "run "+s.ID, Request{Op: OpRun, ID: s.ID, Spec: &s})
	if err != nil || r.Process == nil {
		return Process{}, err
	}
	return *r.Process, nil
}

// CloseStdin gives the process end of file on its stdin, if it has StdinOnce.
func (c *Client) CloseStdin(ctx context.Context, id string) error {
	_, err := c.call(ctx, "close stdin of "+id, Request{Op: OpCloseStdin, ID: id})
	return err
}

// Resize sets the size of the process's terminal.
func (c *Client) Resize(ctx context.Context, id string, s Size) error {
	_, err := c.call(ctx, "resize terminal of "+id, Request{Op: OpResize, ID: id, Size: &s})
	return err
}

// ReopenLog starts to write to a new file at the LogPath, after the old one was
// renamed.
func (c *Client) ReopenLog(ctx context.Context, id string) error {
	_, err := c.call(ctx, "reopen log of "+id, Request{Op: OpReopenLog, ID: id})
	return err
}

// Signal sends a signal to the process (not to others in its container). One
// that has ended gives os.ErrProcessDone.
func (c *Client) Signal(ctx context.Context, id string, sig int) error {
	_, err := c.call(ctx, "signal "+id, Request{Op: OpSignal, ID: id, Signal: sig})
	return err
}

// List returns all processes that were not forgotten, by ID.
func (c *Client) List(ctx context.Context) ([]State, error) {
	r, err := c.call(ctx, "list processes", Request{Op: OpList})
	return r.States, err
}

// Events sends, in order, each Exit with a Seq above since whose process was
// not forgotten, then those to come. The channel is closed when ctx ends or
// the keeper has gone.
func (c *Client) Events(ctx context.Context, since uint64) (<-chan Exit, error) {
	conn, closer, _, err := c.open(ctx, Request{Op: OpEvents, Since: since})
	if err != nil {
		return nil, fmt.Errorf("cannot watch exits: %w", err)
	}
	out := make(chan Exit)
	go func() {
		defer close(out)
		defer closer()
		for {
			var r Response
			if err := ReadMessage(conn, &r); err != nil || r.Exit == nil {
				return
			}
			select {
			case out <- *r.Exit:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

// Wait returns how a process ended, as soon as it has.
func (c *Client) Wait(ctx context.Context, id string) (Exit, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	exits, err := c.Events(ctx, 0)
	if err != nil {
		return Exit{}, err
	}
	list, err := c.List(ctx)
	if err != nil {
		return Exit{}, err
	}
	if !slices.ContainsFunc(list, func(s State) bool { return s.ID == id }) {
		return Exit{}, fmt.Errorf("cannot wait for %s: %w", id, ErrNotFound)
	}
	for e := range exits {
		if e.ID == id {
			return e, nil
		}
	}
	return Exit{}, fmt.Errorf("cannot wait for %s: %w", id, cmp.Or(ctx.Err(), ErrGone))
}

// Abort ends the OCI runtime of a process that is still being started, and
// returns when its start is over: it failed, and the process is not kept, or
// it had just succeeded, and it is. In any other state nothing happens.
func (c *Client) Abort(ctx context.Context, id string) error {
	_, err := c.call(ctx, "abort the start of "+id, Request{Op: OpAbort, ID: id})
	return err
}

// Forget drops an ended process; while it is still being started, it aborts
// that. A running one gives ErrBusy; an unknown one is fine.
func (c *Client) Forget(ctx context.Context, id string) error {
	_, err := c.call(ctx, "forget "+id, Request{Op: OpForget, ID: id})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// Stop ends the keeper and returns when it has gone, leaving nothing mounted
// and its folder free to be removed. While processes run it gives ErrBusy;
// with force it kills them first.
func (c *Client) Stop(ctx context.Context, force bool) error {
	// The handle is taken while the keeper lives, so that the end that is
	// awaited is its own.
	pidfd, err := linux.OpenPidfd(c.self.Pid, c.self.StartTicks)
	if err != nil {
		return fmt.Errorf("cannot stop keeper: %w: %w", ErrGone, err)
	}
	defer pidfd.Close()
	if _, err := c.call(ctx, "stop keeper", Request{Op: OpStop, Force: force}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { pidfd.Close() })
	defer stop()
	if err := pidfd.Wait(); err != nil {
		return fmt.Errorf("cannot stop keeper: %w", errors.Join(ctx.Err(), err))
	}
	<-c.done
	return nil
}
