// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/keeper"
)

// attach connects a client to the stdio of a process until the output or the
// client ends.
func (k *keeperd) attach(conn *net.UnixConn, req keeper.Request) {
	p, err := k.find(req.ID)
	if err == nil && p.state().Starting {
		err = errors.New("it is still being started")
	}
	if err != nil {
		if err := keeper.WriteMessage(conn, keeper.Fail(err)); err != nil {
			k.log.Info("client left before its answer", "op", string(req.Op), "err", err)
		}
		return
	}
	if keeper.WriteMessage(conn, keeper.Response{}) != nil {
		return
	}
	sink := &sink{conn: conn}
	p.join(sink, req.WithStdin)
	go func() {
		// Reading is also how it is noticed that the client has left.
		p.feed(conn, req.WithStdin)
		for _, s := range p.outs {
			s.remove(sink)
		}
	}()
	for _, s := range p.outs {
		s.follow(sink)
	}
	p.leave(sink)
	// The client may have left: then there is nobody to tell.
	_ = sink.write(keeper.End, nil)
}

// join adds a client before any output is read for it.
func (p *process) join(s *sink, stdin bool) {
	p.mu.Lock()
	p.sinks[s] = true
	p.fed = p.fed || stdin
	p.mu.Unlock()
	for _, o := range p.outs {
		o.add(s)
		o.open()
	}
}

func (p *process) leave(s *sink) {
	p.mu.Lock()
	delete(p.sinks, s)
	p.mu.Unlock()
	for _, o := range p.outs {
		o.remove(s)
	}
}

// feed writes what the client sends to stdin. With StdinOnce the end of the
// client's input, or of the client, is the end of the process's.
func (p *process) feed(conn *net.UnixConn, stdin bool) {
	var buf []byte
	for {
		kind, b, err := keeper.ReadFrame(conn, buf)
		if err != nil {
			break
		}
		buf = b[:cap(b)]
		if kind == keeper.StdinEnd && p.spec.StdinOnce {
			p.endInput()
		}
		if kind != keeper.Stdin {
			continue
		}
		p.mu.Lock()
		in := p.stdin
		p.mu.Unlock()
		if in == nil {
			continue
		}
		if err := in.write(b); err != nil {
			// The process has closed its stdin, or ended: what is sent from
			// now on is for nobody, but the client must be able to send it.
			p.mu.Lock()
			p.stdin = nil
			p.mu.Unlock()
		}
	}
	if stdin && p.spec.StdinOnce {
		p.endInput()
	}
}

// resize sets the size of the terminal.
func (p *process) resize(size *keeper.Size) error {
	if p.master == nil || size == nil {
		return errors.New("it has no terminal")
	}
	raw, err := p.master.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
	})
	return errors.Join(err, failed)
}
