// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/keeper"
	"github.com/peapod/peapod/linux"
)

// keeperd is the whole keeper of one folder.
type keeperd struct {
	dir    string
	boot   string
	log    *slog.Logger
	reaper *reaper
	self   keeper.Process
	pool   *sync.Pool
	lock   *os.File
	// finished is closed when serve shall return.
	finished chan struct{}

	// mu guards the fields below.
	mu    sync.Mutex
	procs map[string]*process
	seq   uint64
	// untold are the numbers of exits that are being made durable. Later ones
	// may be ready before them but are told after them, so that a client that
	// has seen a number has seen all below it.
	untold   map[uint64]bool
	watchers map[chan struct{}]bool
	stopping bool
}

// identity is keeper.json.
type identity struct {
	Version int            `json:"version"`
	Boot    string         `json:"boot"`
	Process keeper.Process `json:"process"`
	// Epoch counts the keepers of this folder. It is the upper half of the
	// numbers of their exits, which therefore grow.
	Epoch uint32 `json:"epoch"`
}

// newKeeper takes the folder over and adopts what it finds in it.
func newKeeper(dir string, log *slog.Logger) (*keeperd, error) {
	k := &keeperd{dir: dir, log: log, finished: make(chan struct{}), procs: map[string]*process{},
		untold: map[uint64]bool{}, watchers: map[chan struct{}]bool{}, pool: &sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}}
	var err error
	if k.lock, err = os.OpenFile(filepath.Join(dir, keeper.LockName), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, fmt.Errorf("cannot lock folder: %w", err)
	}
	// An earlier keeper that was killed may still be on its way out.
	if err := unix.Flock(int(k.lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("cannot lock folder: %w", err)
	}
	if k.boot, err = linux.BootID(); err != nil {
		return nil, err
	}
	k.self.Pid = os.Getpid()
	if k.self.StartTicks, err = linux.StartTicks(k.self.Pid); err != nil {
		return nil, err
	}
	if err := k.identify(); err != nil {
		return nil, err
	}
	// Before the first child.
	k.reaper = newReaper()
	if err := k.adoptAll(); err != nil {
		return nil, err
	}
	log.Info("keeper started", "pid", k.self.Pid, "processes", len(k.procs))
	return k, nil
}

// identify begins a new epoch.
func (k *keeperd) identify() error {
	name := filepath.Join(k.dir, "keeper.json")
	var id identity
	b, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(b, &id)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	id = identity{Version: 1, Boot: k.boot, Process: k.self, Epoch: id.Epoch + 1}
	k.seq = uint64(id.Epoch) << 32
	if b, err = json.MarshalIndent(id, "", "  "); err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	return linux.WriteFile(name, append(b, '\n'), 0o600)
}

// serve answers until stop has done its work.
func (k *keeperd) serve(f *os.File) error {
	l, err := net.FileListener(f)
	if err != nil {
		return fmt.Errorf("cannot serve: %w", err)
	}
	f.Close()
	unixListener, ok := l.(*net.UnixListener)
	if !ok {
		return errors.New("cannot serve: descriptor 3 is no unix socket")
	}
	unixListener.SetUnlinkOnClose(false)
	go func() {
		<-k.finished
		l.Close()
	}()
	for {
		conn, err := unixListener.AcceptUnix()
		if err != nil {
			select {
			case <-k.finished:
				return nil
			default:
				return fmt.Errorf("cannot serve: %w", err)
			}
		}
		go k.converse(conn)
	}
}

// converse answers one connection. Only the superuser is served.
func (k *keeperd) converse(conn *net.UnixConn) {
	defer conn.Close()
	if err := checkPeer(conn); err != nil {
		k.log.Warn("connection refused", "err", err)
		return
	}
	var req keeper.Request
	if err := keeper.ReadMessage(conn, &req); err != nil {
		k.log.Warn("connection refused", "err", err)
		return
	}
	if req.To != nil && *req.To != k.self {
		_ = keeper.WriteMessage(conn, keeper.Fail(fmt.Errorf("%w: keeper %d is another one", keeper.ErrGone, k.self.Pid))) // who has left needs no answer
		return
	}
	switch req.Op {
	case keeper.OpHello:
		if keeper.WriteMessage(conn, keeper.Response{Process: &k.self}) == nil {
			// The client learns by the end of this connection that we died,
			// we by its end that the client has gone.
			_, _, _ = keeper.ReadFrame(conn, nil)
		}
	case keeper.OpAttach:
		k.attach(conn, req)
	case keeper.OpEvents:
		k.events(conn, req.Since)
	default:
		r, err := k.answer(req)
		if err != nil {
			r = keeper.Fail(err)
		}
		if err := keeper.WriteMessage(conn, r); err != nil {
			k.log.Info("client left before its answer", "op", string(req.Op), "err", err)
		}
		if req.Op == keeper.OpStop && err == nil {
			close(k.finished)
		}
	}
}

func checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) { cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	if cred.Uid != 0 {
		return fmt.Errorf("user %d is not served", cred.Uid)
	}
	return nil
}

func (k *keeperd) answer(req keeper.Request) (r keeper.Response, err error) {
	switch req.Op {
	case keeper.OpRun:
		if req.Spec == nil {
			return r, errors.New("no spec")
		}
		proc, err := k.run(*req.Spec)
		return keeper.Response{Process: &proc}, err
	case keeper.OpList:
		return keeper.Response{States: k.list()}, nil
	case keeper.OpStop:
		return r, k.stopAll(req.Force)
	case keeper.OpForget:
		return r, k.forget(req.ID)
	case keeper.OpAbort:
		k.abort(req.ID)
		return r, nil
	}
	p, err := k.find(req.ID)
	if err != nil {
		return r, err
	}
	switch req.Op {
	case keeper.OpCloseStdin:
		if p.spec.StdinOnce {
			p.endInput()
		}
		return r, nil
	case keeper.OpResize:
		return r, p.resize(req.Size)
	case keeper.OpReopenLog:
		if p.logFile == nil {
			return r, errors.New("it has no log")
		}
		return r, p.logFile.reopen()
	case keeper.OpSignal:
		return r, k.signalProcess(p, unix.Signal(req.Signal))
	}
	return r, fmt.Errorf("request %q is not known", req.Op)
}

func (k *keeperd) find(id string) (*process, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := k.procs[id]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("process %q %w", id, keeper.ErrNotFound)
}

func (k *keeperd) all() []*process {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]*process, 0, len(k.procs))
	for _, p := range k.procs {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *process) int { return strings.Compare(a.spec.ID, b.spec.ID) })
	return out
}

func (k *keeperd) list() []keeper.State {
	var out []keeper.State
	for _, p := range k.all() {
		out = append(out, p.state())
	}
	return out
}

// events sends the exits above since, then each new one, until either side
// has gone.
func (k *keeperd) events(conn *net.UnixConn, since uint64) {
	news := k.follow()
	left := make(chan struct{})
	go func() {
		defer close(left)
		_, _, _ = keeper.ReadFrame(conn, nil)
	}()
	defer func() {
		k.leave(news)
		conn.Close()
		<-left
	}()
	if keeper.WriteMessage(conn, keeper.Response{}) != nil {
		return
	}
	for {
		for _, e := range k.exitsAfter(since) {
			if keeper.WriteMessage(conn, keeper.Response{Exit: &e}) != nil {
				return
			}
			since = e.Seq
		}
		select {
		case <-news:
		case <-left:
			return
		}
	}
}

func (k *keeperd) exitsAfter(since uint64) []keeper.Exit {
	k.mu.Lock()
	// What gets its number from here on waits for the next look.
	limit := k.seq + 1
	for seq := range k.untold {
		limit = min(limit, seq)
	}
	k.mu.Unlock()
	var out []keeper.Exit
	for _, p := range k.all() {
		if e := p.state().Exit; e != nil && e.Seq > since && e.Seq < limit {
			out = append(out, *e)
		}
	}
	slices.SortFunc(out, func(a, b keeper.Exit) int {
		if a.Seq < b.Seq {
			return -1
		}
		return 1
	})
	return out
}
