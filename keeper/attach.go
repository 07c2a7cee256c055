// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Attach connects to the stdio of a process and returns when its output has
// ended: at end of file on both streams, or, should others have inherited
// them, two seconds after the end of the process. Output from before is seen
// only with HoldOutput. A Stdin.Read that blocks then is left behind until it
// returns.
func (c *Client) Attach(ctx context.Context, id string, a Streams) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, closer, _, err := c.open(ctx, Request{Op: OpAttach, ID: id, WithStdin: a.Stdin != nil})
	if err != nil {
		return fmt.Errorf("cannot attach to %s: %w", id, err)
	}
	defer closer()
	if a.Stdin != nil {
		go sendStdin(conn, a.Stdin)
	}
	var resizing sync.WaitGroup
	defer resizing.Wait()
	defer cancel()
	if a.Resize != nil {
		resizing.Go(func() { c.followSize(ctx, id, a.Resize) })
	}
	err = receive(conn, a)
	var w writerError
	if err != nil && !errors.As(err, &w) {
		err = gone(ctx, err)
	}
	if err != nil {
		return fmt.Errorf("cannot attach to %s: %w", id, err)
	}
	return nil
}

// sendStdin ends with in, or when the connection does.
func sendStdin(conn net.Conn, in io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := in.Read(buf)
		if n > 0 && WriteFrame(conn, Stdin, buf[:n]) != nil {
			return
		}
		if err != nil {
			// The end is sent for every kind of error: nothing more will come.
			_ = WriteFrame(conn, StdinEnd, nil)
			return
		}
	}
}

// followSize sets each size that comes. A size that cannot be set, because
// the process is just ending, is of no consequence.
func (c *Client) followSize(ctx context.Context, id string, sizes <-chan Size) {
	for {
		select {
		case s, ok := <-sizes:
			if !ok {
				return
			}
			_ = c.Resize(ctx, id, s)
		case <-ctx.Done():
			return
		}
	}
}

// writerError marks an error of the caller's writer: the keeper is not gone.
type writerError struct{ error }

func receive(conn net.Conn, a Streams) error {
	var buf []byte
	for {
		kind, b, err := ReadFrame(conn, buf)
		if err != nil {
			return err
		}
		buf = b[:cap(b)]
		var w io.Writer
		switch kind {
		case Stdout:
			w = a.Stdout
		case Stderr:
			w = a.Stderr
		case End:
			return nil
		default:
			return fmt.Errorf("frame of kind %d", kind)
		}
		if w == nil {
			continue
		}
		if _, err := w.Write(b); err != nil {
			return writerError{err}
		}
	}
}
