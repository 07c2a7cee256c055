// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/keeper"
	"github.com/peapod/peapod/linux"
)

// process is one process that is kept.
//
//	starting --OCI runtime done--> running --ended, output drained--> announced
//
// Each arrow is written to state.json first.
type process struct {
	spec keeper.Spec
	dir  string
	log  *slog.Logger

	logFile *criLog
	outs    []*stream
	master  *os.File
	// stdin is where attached clients write, nil if there is none (any more).
	stdin *input

	// mu guards the fields below.
	mu       sync.Mutex
	starting bool
	runtime  int // the OCI runtime's pid while starting
	aborted  bool
	proc     keeper.Process
	pidfd    *linux.Pidfd // of a process that is not our child
	exit     *keeper.Exit
	sinks    map[*sink]bool
	fed      bool // a client with a stdin was attached
	over     bool // the process has ended; its exit may not be announced yet
}

// record is state.json.
type record struct {
	Version  int            `json:"version"`
	Boot     string         `json:"boot"`
	Spec     keeper.Spec    `json:"spec"`
	Starting bool           `json:"starting,omitempty"`
	Process  keeper.Process `json:"process"`
	Exit     *keeper.Exit   `json:"exit,omitempty"`
}

func (p *process) file(name string) string { return filepath.Join(p.dir, name) }

// save writes state.json. It need not survive a power failure, which no
// process does.
func (p *process) save(boot string) error {
	p.mu.Lock()
	r := record{Version: 1, Boot: boot, Spec: p.spec, Starting: p.starting, Process: p.proc, Exit: p.exit}
	p.mu.Unlock()
	// The environment of the OCI runtime is of no use any more.
	r.Spec.Env = nil
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot save %s: %w", p.spec.ID, err)
	}
	return linux.ReplaceFile(p.file("state.json"), append(b, '\n'), 0o600)
}

func (p *process) state() keeper.State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return keeper.State{ID: p.spec.ID, Process: p.proc, Starting: p.starting, Running: !p.starting && !p.over,
		Terminal: p.spec.Terminal, Exit: p.exit}
}

// inDir makes a path of the spec absolute.
func (p *process) inDir(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(p.spec.Dir, path)
}

// listen starts to carry output; with HoldOutput the first client does.
func (p *process) listen() {
	for _, s := range p.outs {
		go s.run()
		if !p.spec.HoldOutput {
			s.open()
		}
	}
}

// settle is called when the process has ended: it returns when all its output
// is in the log. Without a log there is nothing to wait for: who is attached,
// or will be, gets it from the pipe.
func (p *process) settle() {
	p.mu.Lock()
	p.over = true
	sinks := make([]*sink, 0, len(p.sinks))
	for k := range p.sinks {
		sinks = append(sinks, k)
	}
	p.mu.Unlock()
	p.endInput()
	for _, s := range p.outs {
		s.processEnded()
	}
	if p.logFile == nil || p.spec.HoldOutput {
		return
	}
	// A client that does not read must not keep the exit from being told.
	for _, k := range sinks {
		if err := k.conn.SetWriteDeadline(time.Now().Add(grace)); err != nil {
			k.conn.Close()
		}
	}
	for _, s := range p.outs {
		s.drained()
	}
}

// announce makes the exit durable: exit file, then state.
func (p *process) announce(e keeper.Exit, boot string) error {
	var err error
	if p.spec.ExitFile != "" {
		var b []byte
		if b, err = json.MarshalIndent(e, "", "  "); err == nil {
			err = linux.WriteFile(p.inDir(p.spec.ExitFile), append(b, '\n'), 0o600)
		}
	}
	p.mu.Lock()
	p.exit = &e
	p.mu.Unlock()
	return errors.Join(err, p.save(boot))
}

// exitOf translates how a process ended, as shells and CRI runtimes do.
func exitOf(id string, e ended) keeper.Exit {
	x := keeper.Exit{ID: id, At: e.at.UTC(), Unknown: e.unknown}
	switch {
	case e.unknown != "":
		x.Code = 255
	case e.status.Signaled():
		x.Signal = int(e.status.Signal())
		x.Code = 128 + x.Signal
	default:
		x.Code = e.status.ExitStatus()
	}
	return x
}

// endInput gives the process end of file.
func (p *process) endInput() {
	p.mu.Lock()
	in := p.stdin
	p.mu.Unlock()
	if in != nil {
		in.end()
	}
}

// release lets go of everything but the folder.
func (p *process) release() {
	p.endInput()
	for _, s := range p.outs {
		s.open()
		s.file.Close()
		if s.held != nil {
			s.held.Close()
		}
	}
	if p.master != nil {
		p.master.Close()
	}
	if p.logFile != nil {
		p.logFile.close()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.sinks {
		k.conn.Close()
	}
	if p.pidfd != nil {
		p.pidfd.Close()
		p.pidfd = nil
	}
}

// remove takes the folder away, with the pin that may be mounted in it.
func (p *process) remove() error {
	if err := linux.Detach(p.file("pidfd")); err != nil {
		return err
	}
	return os.RemoveAll(p.dir)
}

// input is the writing end of a stdin.
type input struct {
	// mu guards file: one client's bytes are written as a whole.
	mu   sync.Mutex
	file *os.File
	tty  bool
}

func (in *input) write(b []byte) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	_, err := in.file.Write(b)
	return err
}

// end closes it, which also ends a write that waits; a terminal has no end of
// file but the character that its user types.
func (in *input) end() {
	if !in.tty {
		in.file.Close()
	}
}

// signalProcess sends sig to the process.
func (k *keeperd) signalProcess(p *process, sig unix.Signal) error {
	p.mu.Lock()
	pid, pidfd, running := p.proc.Pid, p.pidfd, !p.starting && !p.over
	p.mu.Unlock()
	switch {
	case !running:
		return os.ErrProcessDone
	case pidfd != nil:
		return pidfd.Signal(sig)
	}
	return k.reaper.signal(pid, sig)
}
