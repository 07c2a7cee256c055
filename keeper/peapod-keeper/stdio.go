// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/keeper"
)

// stdio is what the OCI runtime is given, and through it the process.
type stdio struct {
	fds [3]*os.File
	// console is where a terminal arrives.
	console *console
}

func (s *stdio) close() {
	for _, f := range s.fds {
		if f != nil {
			f.Close()
		}
	}
	if s.console != nil {
		s.console.close()
	}
}

// prepare makes the stdio of a new process.
func (p *process) prepare(pool *sync.Pool) (s *stdio, err error) {
	s = &stdio{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if p.spec.LogPath != "" {
		if p.logFile, err = openLog(p.spec.LogPath, p.log); err != nil {
			return s, err
		}
	}
	if p.spec.Terminal {
		return s, p.prepareTerminal(s)
	}
	if s.fds[0], err = p.prepareInput(); err != nil {
		return s, err
	}
	for i, kind := range []keeper.Kind{keeper.Stdout, keeper.Stderr} {
		name := [...]string{"stdout", "stderr"}[i]
		if err := unix.Mkfifo(p.file(name), 0o600); err != nil {
			return s, fmt.Errorf("cannot make %s: %w", name, err)
		}
		// Open for reading and writing: with its own reading end the process
		// gets no SIGPIPE should we die.
		if s.fds[i+1], err = openFile(p.file(name), unix.O_RDWR); err != nil {
			return s, err
		}
		if err := p.addOutput(kind, name, pool); err != nil {
			return s, err
		}
	}
	return s, nil
}

// addOutput opens our end of a FIFO.
func (p *process) addOutput(kind keeper.Kind, name string, pool *sync.Pool) error {
	f, err := openFile(p.file(name), unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	var held *os.File
	if p.logFile != nil {
		if held, err = openFile(p.file("held."+name), unix.O_CREAT|unix.O_RDWR); err != nil {
			f.Close()
			return err
		}
	}
	st, err := newStream(kind, f, p.logFile, held, pool)
	if err != nil {
		f.Close()
		return err
	}
	p.outs = append(p.outs, st)
	return nil
}

// openFile opens without the detours of os.OpenFile: what is opened blocking
// stays so, and so goes to the process.
func openFile(path string, flags int) (*os.File, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// prepareInput returns the reading end of stdin. Where stdin is never closed
// it is open for writing too, so that it survives us.
func (p *process) prepareInput() (*os.File, error) {
	if !p.spec.Stdin {
		return openFile(os.DevNull, unix.O_RDONLY)
	}
	if err := unix.Mkfifo(p.file("stdin"), 0o600); err != nil {
		return nil, fmt.Errorf("cannot make stdin: %w", err)
	}
	flags := unix.O_RDWR
	if p.spec.StdinOnce {
		// Non-blocking, as there is no writer yet.
		flags = unix.O_RDONLY | unix.O_NONBLOCK
	}
	reader, err := openFile(p.file("stdin"), flags)
	if err != nil {
		return nil, err
	}
	if err = p.openInput(); err == nil && p.spec.StdinOnce {
		err = unix.SetNonblock(int(reader.Fd()), false)
	}
	if err != nil {
		reader.Close()
		return nil, err
	}
	return reader, nil
}

// openInput opens our end of stdin.
func (p *process) openInput() error {
	w, err := openFile(p.file("stdin"), unix.O_WRONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	p.stdin = &input{file: w}
	return nil
}

// prepareTerminal gives the OCI runtime nothing to read and a file in memory
// to write its errors to.
func (p *process) prepareTerminal(s *stdio) (err error) {
	if s.fds[0], err = openFile(os.DevNull, unix.O_RDONLY); err != nil {
		return err
	}
	for i := 1; i < 3; i++ {
		fd, err := unix.MemfdCreate("stderr", unix.MFD_CLOEXEC)
		if err != nil {
			return fmt.Errorf("cannot make stderr: %w", err)
		}
		s.fds[i] = os.NewFile(uintptr(fd), "stderr")
	}
	s.console, err = openConsole(p.inDir(p.spec.ConsoleSocket))
	return err
}

// useTerminal takes the master that the OCI runtime has sent.
func (p *process) useTerminal(c *console, pool *sync.Pool) error {
	master, err := c.receive()
	if err != nil {
		return err
	}
	p.master = master
	st, err := newStream(keeper.Stdout, master, p.logFile, nil, pool)
	if err != nil {
		return err
	}
	st.tty = true
	p.outs = append(p.outs, st)
	if p.spec.Stdin {
		p.stdin = &input{file: master, tty: true}
	}
	return nil
}

// complaint returns what the OCI runtime wrote to stderr before it failed.
func (p *process) complaint(s *stdio) string {
	const limit = 16 << 10
	buf := make([]byte, limit)
	n := 0
	if p.spec.Terminal {
		n, _ = s.fds[2].ReadAt(buf, 0)
	} else if len(p.outs) == 2 {
		raw, err := p.outs[1].file.SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { n, _ = unix.Read(int(fd), buf) })
		}
		if err != nil {
			return ""
		}
	}
	return strings.TrimSpace(string(buf[:max(n, 0)]))
}

// console is the socket on which an OCI runtime hands over a terminal.
type console struct {
	listener *net.UnixListener
	path     string
	got      chan result
}

type result struct {
	master *os.File
	err    error
}

func openConsole(path string) (*console, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot make console socket: %w", err)
	}
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make console socket in %s: %w", filepath.Dir(path), err)
	}
	defer unix.Close(dir)
	name := filepath.Join("/proc/self/fd", strconv.Itoa(dir), filepath.Base(path))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("cannot make console socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	c := &console{listener: l, path: path, got: make(chan result, 1)}
	go func() {
		m, err := c.accept()
		c.got <- result{m, err}
	}()
	return c, nil
}

func (c *console) accept() (*os.File, error) {
	conn, err := c.listener.AcceptUnix()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(name, oob)
	if err != nil {
		return nil, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) == 0 {
		return nil, fmt.Errorf("no descriptor came: %w", err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) == 0 {
		return nil, fmt.Errorf("no descriptor came: %w", err)
	}
	unix.CloseOnExec(fds[0])
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

// receive returns the terminal. It is called when the OCI runtime has done
// its work, so it comes now or never.
func (c *console) receive() (*os.File, error) {
	select {
	case r := <-c.got:
		c.got <- result{err: os.ErrClosed}
		if r.err != nil {
			return nil, fmt.Errorf("cannot receive terminal: %w", r.err)
		}
		return r.master, nil
	case <-time.After(grace):
		return nil, errors.New("cannot receive terminal: the OCI runtime sent none")
	}
}

// close drops a terminal that nobody took.
func (c *console) close() {
	c.listener.Close()
	if r := <-c.got; r.master != nil {
		r.master.Close()
	}
	os.Remove(c.path)
}
