// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"context"
	"errors"
)

// Config says where the keeper lives.
type Config struct {
	// Binary is the path of the program peapod-keeper.
	Binary string
	// Dir is the keeper's folder, made if missing. One keeper lives in it.
	Dir string
}

// Client talks to one keeper. It is safe for concurrent use. When the keeper
// dies, Done is closed and calls give ErrGone.
type Client struct{ done chan struct{} }

var errSkeleton = errors.New("not built yet")

// Launch connects to the keeper that lives in cfg.Dir, or starts one there.
func Launch(ctx context.Context, cfg Config) (*Client, error) { return nil, errSkeleton }

// Done is closed when the keeper has gone.
func (c *Client) Done() <-chan struct{} { return c.done }

// Run starts a process and returns when the OCI runtime has. An error carries
// the OCI runtime's own text; nothing is kept then and the ID is free.
func (c *Client) Run(ctx context.Context, s Spec) (Process, error) { return Process{}, errSkeleton }

// Attach connects to the stdio of a process and returns when its output has
// ended. Output from before is seen only with HoldOutput. A Stdin.Read that
// blocks then is left behind until it returns.
func (c *Client) Attach(ctx context.Context, id string, a Streams) error { return errSkeleton }

// CloseStdin gives the process end of file on its stdin, if it has StdinOnce.
func (c *Client) CloseStdin(ctx context.Context, id string) error { return errSkeleton }

// Resize sets the size of the process's terminal.
func (c *Client) Resize(ctx context.Context, id string, s Size) error { return errSkeleton }

// ReopenLog starts to write to a new file at the LogPath, after the old one was
// renamed.
func (c *Client) ReopenLog(ctx context.Context, id string) error { return errSkeleton }

// Signal sends a signal to the process (not to others in its container). One
// that has ended gives os.ErrProcessDone.
func (c *Client) Signal(ctx context.Context, id string, sig int) error { return errSkeleton }

// List returns all processes that were not forgotten, by ID.
func (c *Client) List(ctx context.Context) ([]State, error) { return nil, errSkeleton }

// Events sends, in order, each Exit with a Seq above since whose process was
// not forgotten, then those to come. The channel is closed when ctx ends or
// the keeper has gone.
func (c *Client) Events(ctx context.Context, since uint64) (<-chan Exit, error) {
	return nil, errSkeleton
}

// Forget drops an ended process; while it is still being started, it ends the
// OCI runtime. A running one gives ErrBusy; an unknown one is fine.
func (c *Client) Forget(ctx context.Context, id string) error { return errSkeleton }

// Stop ends the keeper and returns when it has gone, leaving nothing mounted
// and its folder free to be removed. While processes run it gives ErrBusy;
// with force it kills them first.
func (c *Client) Stop(ctx context.Context, force bool) error { return errSkeleton }

// Close drops the connection; the keeper and its processes go on.
func (c *Client) Close() error { return errSkeleton }
