// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/keeper"
	"github.com/peapod/peapod/linux"
)

// validate checks what clients send; the ID becomes a file name.
func validate(s keeper.Spec) error {
	if err := checkID(s.ID); err != nil {
		return err
	}
	switch {
	case len(s.Args) == 0 || !filepath.IsAbs(s.Args[0]):
		return errors.New("args[0] must be an absolute path")
	case s.PidFile == "":
		return errors.New("no pid file")
	case s.Terminal && s.ConsoleSocket == "":
		return errors.New("no console socket for the terminal")
	case s.Dir != "" && !filepath.IsAbs(s.Dir):
		return errors.New("dir must be absolute")
	}
	for _, f := range []string{s.PidFile, s.ConsoleSocket, s.LogPath, s.ExitFile} {
		if f != "" && s.Dir == "" && !filepath.IsAbs(f) {
			return fmt.Errorf("%s is relative to no dir", f)
		}
	}
	return nil
}

func checkID(id string) error {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."
	if id == "" || len(id) > 128 || id[0] == '.' || strings.Trim(id, letters) != "" {
		return fmt.Errorf("%q is not a good id", id)
	}
	return nil
}

// run starts a process and returns when the OCI runtime has done its work.
func (k *keeperd) run(spec keeper.Spec) (keeper.Process, error) {
	if err := validate(spec); err != nil {
		return keeper.Process{}, err
	}
	p := &process{spec: spec, dir: filepath.Join(k.dir, "run", spec.ID), log: k.log.With("id", spec.ID),
		starting: true, sinks: map[*sink]bool{}}
	k.mu.Lock()
	switch {
	case k.stopping:
		k.mu.Unlock()
		return keeper.Process{}, errors.New("keeper is stopping")
	case k.procs[spec.ID] != nil:
		k.mu.Unlock()
		return keeper.Process{}, fmt.Errorf("process %q %w", spec.ID, keeper.ErrExists)
	}
	k.procs[spec.ID] = p
	k.mu.Unlock()
	// The birth lasts until the process is claimed.
	k.reaper.begin()
	defer k.reaper.end()
	watch, err := k.birth(p)
	if err != nil {
		p.release()
		err = errors.Join(err, p.remove())
		k.drop(p)
		k.wake()
		return keeper.Process{}, err
	}
	p.listen()
	k.wake()
	go k.keepUntilEnd(p, watch)
	return p.state().Process, nil
}

func (k *keeperd) drop(p *process) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.procs, p.spec.ID)
}

// birth runs the OCI runtime and takes what it leaves behind. The function it
// returns waits for the end.
func (k *keeperd) birth(p *process) (func() ended, error) {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return nil, err
	}
	for _, old := range []string{p.spec.PidFile, p.spec.ExitFile} {
		if old == "" {
			continue
		}
		if err := os.Remove(p.inDir(old)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	stdio, err := p.prepare(k.pool)
	if err != nil {
		return nil, err
	}
	defer stdio.close()
	if err := p.save(k.boot); err != nil {
		return nil, err
	}
	if err := k.runtimeCommand(p, stdio); err != nil {
		return nil, err
	}
	pid, err := readPid(p.inDir(p.spec.PidFile))
	if err != nil {
		return nil, err
	}
	watch, ticks, err := k.claim(p, pid)
	if err != nil {
		return nil, err
	}
	if p.spec.Terminal {
		err = p.useTerminal(stdio.console, k.pool)
	}
	p.mu.Lock()
	p.starting, p.proc = false, keeper.Process{Pid: pid, StartTicks: ticks}
	p.mu.Unlock()
	if err == nil {
		err = p.save(k.boot)
	}
	if err != nil {
		// It cannot be kept, so it must not live.
		err = errors.Join(err, k.signalProcess(p, unix.SIGKILL))
		return nil, err
	}
	if !p.spec.HoldOutput {
		p.pin(k, pid, ticks)
	}
	return watch, nil
}

// runtimeCommand carries the command line out.
func (k *keeperd) runtimeCommand(p *process, stdio *stdio) error {
	env := p.spec.Env
	if env == nil {
		env = []string{"PATH=" + keeper.DefaultPath}
	}
	pid, err := k.reaper.spawn(p.spec.Args, env, p.spec.Dir, stdio.fds)
	if err != nil {
		return err
	}
	end := k.reaper.claim(pid)
	p.mu.Lock()
	p.runtime = pid
	aborted := p.aborted
	p.mu.Unlock()
	if aborted {
		// Its end is awaited below.
		_ = k.reaper.signal(pid, unix.SIGKILL)
	}
	e := <-end
	p.mu.Lock()
	p.runtime = 0
	p.mu.Unlock()
	if e.status.Exited() && e.status.ExitStatus() == 0 {
		return nil
	}
	if text := p.complaint(stdio); text != "" {
		return errors.New(text)
	}
	if e.status.Signaled() {
		return fmt.Errorf("%s ended by signal %d", p.spec.Args[0], e.status.Signal())
	}
	return fmt.Errorf("%s ended with code %d", p.spec.Args[0], e.status.ExitStatus())
}

func readPid(file string) (int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("cannot read pid file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("cannot read pid file: %q", b)
	}
	return pid, nil
}

// claim makes the process ours to wait for. An OCI runtime that leaves it to
// another parent (some keep a monitor) is watched from outside.
func (k *keeperd) claim(p *process, pid int) (func() ended, uint64, error) {
	if k.reaper.isChild(pid) {
		ticks, err := linux.StartTicks(pid)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, 0, err
		}
		end := k.reaper.claim(pid)
		return func() ended { return <-end }, ticks, nil
	}
	ticks, err := linux.StartTicks(pid)
	if err != nil {
		return nil, 0, err
	}
	pidfd, err := linux.OpenPidfd(pid, ticks)
	if err != nil {
		return nil, 0, err
	}
	p.pidfd = pidfd
	return p.watchFromOutside(pidfd, pid), ticks, nil
}

// pin lets the kernel remember how the process ended, should we die first. It
// is of use only where the kernel can tell (6.15), so a kernel that cannot
// pin is no error.
func (p *process) pin(k *keeperd, pid int, ticks uint64) {
	pidfd, err := linux.OpenPidfd(pid, ticks)
	if err != nil {
		return
	}
	defer pidfd.Close()
	err = os.WriteFile(p.file("pidfd"), nil, 0o600)
	if err == nil {
		err = pidfd.Pin(p.file("pidfd"))
	}
	if err != nil {
		k.log.Debug("process cannot be pinned", "id", p.spec.ID, "err", err)
	}
}

// keepUntilEnd waits for the end of a process and tells it.
func (k *keeperd) keepUntilEnd(p *process, watch func() ended) {
	e := watch()
	p.settle()
	x := exitOf(p.spec.ID, e)
	k.tell(p, x)
}

// tell numbers an exit, makes it durable, and then lets everybody know.
func (k *keeperd) tell(p *process, x keeper.Exit) {
	k.mu.Lock()
	k.seq++
	x.Seq = k.seq
	k.untold[x.Seq] = true
	k.mu.Unlock()
	if err := p.announce(x, k.boot); err != nil {
		p.log.Error("exit cannot be saved", "code", x.Code, "err", err)
	}
	if x.Unknown != "" {
		p.log.Warn("process ended, how is not known", "err", x.Unknown)
	}
	k.mu.Lock()
	delete(k.untold, x.Seq)
	k.mu.Unlock()
	k.wake()
}

// follow returns where it is told that something changed, until leave.
func (k *keeperd) follow() chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	news := make(chan struct{}, 1)
	k.watchers[news] = true
	return news
}

func (k *keeperd) leave(news chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.watchers, news)
}

// wake makes all who watch look again.
func (k *keeperd) wake() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for w := range k.watchers {
		select {
		case w <- struct{}{}:
		default: // it has not looked since the last one
		}
	}
}
