// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/keeper"
	"github.com/peapod/peapod/linux"
)

// reapPatience is how long an ended process may stay a zombie of the parent it
// has been given until its status is taken for lost.
const reapPatience = 5 * time.Second

// Reasons for an exit status that is not known.
const (
	unknownReboot = "the machine was restarted"
	unknownGap    = "it ended while no keeper was alive, and the kernel does not tell how"
	unknownOther  = "its parent was not the keeper any more, and the kernel does not tell how it ended"
)

// adoptAll takes over what an earlier keeper of the folder has left.
func (k *keeperd) adoptAll() error {
	root := filepath.Join(k.dir, "run")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return fmt.Errorf("cannot adopt: %w", err)
	}
	dirs, err := os.ReadDir(root)
	if err != nil {
		return fmt.Errorf("cannot adopt: %w", err)
	}
	for _, d := range dirs {
		if err := checkID(d.Name()); err != nil {
			k.log.Error("cannot adopt: left alone", "path", filepath.Join(root, d.Name()), "err", err)
			continue
		}
		k.adopt(d.Name(), filepath.Join(root, d.Name()))
	}
	return nil
}

// adopt takes over one process. One whose folder tells nothing was never
// announced as started to anyone, or is of an earlier boot: its end is told
// as unknown, so that who started it is not left waiting.
func (k *keeperd) adopt(id, dir string) {
	p := &process{dir: dir, log: k.log.With("id", id), sinks: map[*sink]bool{}}
	r, err := readRecord(p.file("state.json"))
	p.spec, p.starting, p.proc, p.exit = r.Spec, r.Starting, r.Process, r.Exit
	p.spec.ID = id
	if p.starting && !k.finishBirth(p) {
		p.log.Info("start was not finished, forgotten")
		if err := p.remove(); err != nil {
			p.log.Error("folder cannot be removed", "err", err)
		}
		return
	}
	k.procs[id] = p
	switch {
	case p.exit != nil:
		p.over = true
		k.seq = max(k.seq, p.exit.Seq)
		return
	case k.announced(p):
		return
	case err != nil || r.Boot != k.boot:
		p.over = true
		k.tell(p, exitOf(id, ended{at: time.Now(), unknown: unknownReboot}))
		return
	}
	k.resume(p)
}

func readRecord(file string) (r record, err error) {
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	return r, err
}

// finishBirth completes a start during which the earlier keeper was killed,
// if the OCI runtime did its part.
func (k *keeperd) finishBirth(p *process) bool {
	if p.spec.PidFile == "" {
		return false
	}
	pid, err := readPid(p.inDir(p.spec.PidFile))
	if err != nil {
		return false
	}
	ticks, err := linux.StartTicks(pid)
	if err != nil {
		return false
	}
	p.starting, p.proc = false, keeper.Process{Pid: pid, StartTicks: ticks}
	return p.save(k.boot) == nil
}

// announced tells whether the earlier keeper wrote the exit file but died
// before it noted that.
func (k *keeperd) announced(p *process) bool {
	if p.spec.ExitFile == "" {
		return false
	}
	b, err := os.ReadFile(p.inDir(p.spec.ExitFile))
	if err != nil {
		return false
	}
	var x keeper.Exit
	if json.Unmarshal(b, &x) != nil || x.ID != p.spec.ID {
		return false
	}
	p.over = true
	k.tell(p, x)
	return true
}

// resume goes on where the earlier keeper left off: with a process that still
// runs, or with the question how it ended.
func (k *keeperd) resume(p *process) {
	pidfd, err := linux.OpenPinnedPidfd(p.file("pidfd"))
	if err != nil {
		pidfd, err = linux.OpenPidfd(p.proc.Pid, p.proc.StartTicks)
	}
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			p.log.Error("process cannot be opened", "pid", p.proc.Pid, "err", err)
		}
		p.over = true
		k.tell(p, exitOf(p.spec.ID, ended{at: time.Now(), unknown: unknownGap}))
		return
	}
	p.pidfd = pidfd
	if err := p.reconnect(k); err != nil {
		p.log.Error("stdio cannot be adopted", "err", err)
	}
	p.log.Info("process adopted", "pid", p.proc.Pid, "terminal", p.spec.Terminal)
	p.listen()
	go k.keepUntilEnd(p, p.watchFromOutside(pidfd, p.proc.Pid))
}

// reconnect opens our ends of the stdio again. A terminal ended with its
// keeper.
func (p *process) reconnect(k *keeperd) error {
	if p.spec.LogPath != "" {
		l, err := openLog(p.spec.LogPath, p.log)
		if err != nil {
			return err
		}
		p.logFile = l
	}
	if p.spec.Terminal {
		return nil
	}
	if p.spec.Stdin && !p.spec.StdinOnce {
		if err := p.openInput(); err != nil && !errors.Is(err, unix.ENXIO) {
			return err
		}
	}
	for i, kind := range []keeper.Kind{keeper.Stdout, keeper.Stderr} {
		err := p.addOutput(kind, [...]string{"stdout", "stderr"}[i], k.pool)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// watchFromOutside waits for a process that is not our child.
func (p *process) watchFromOutside(pidfd *linux.Pidfd, pid int) func() ended {
	return func() ended {
		if err := pidfd.Wait(); err != nil {
			return ended{at: time.Now(), unknown: err.Error()}
		}
		at := time.Now()
		status, err := pidfd.ExitStatus(pid, reapPatience)
		if err != nil {
			p.log.Info("exit status is lost", "err", err)
			return ended{at: at, unknown: unknownOther}
		}
		return ended{status: status, at: at}
	}
}
