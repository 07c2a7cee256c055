// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ended is how and when a process ended.
type ended struct {
	status unix.WaitStatus
	at     time.Time
	// unknown is empty, or says why status means nothing.
	unknown string
}

// reaper waits for all children, born or adopted. Only the reaper waits, so a
// pid in its books cannot come to mean another process.
type reaper struct {
	// mu guards the fields below, and the calls of wait itself.
	mu      sync.Mutex
	waiting map[int]chan ended
	// births counts those under way. Meanwhile the ends of processes that
	// nobody waits for are noted, since one may turn out to be meant.
	births int
	noted  map[int]ended
}

func newReaper() *reaper {
	r := &reaper{waiting: map[int]chan ended{}, noted: map[int]ended{}}
	chld := make(chan os.Signal, 1)
	signal.Notify(chld, unix.SIGCHLD)
	go func() {
		for range chld {
			r.reap()
		}
	}()
	return r
}

func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		e := ended{status: status, at: time.Now()}
		if ch, ok := r.waiting[pid]; ok {
			delete(r.waiting, pid)
			ch <- e
		} else if r.births > 0 {
			r.noted[pid] = e
		}
	}
}

// begin and end enclose a birth: from before the fork until its last claim.
func (r *reaper) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.births++
}

func (r *reaper) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.births--; r.births == 0 {
		clear(r.noted)
	}
}

// claim returns where the end of our child pid is told, once. It is used
// between begin and end.
func (r *reaper) claim(pid int) <-chan ended {
	r.mu.Lock()
	defer r.mu.Unlock()
	ch := make(chan ended, 1)
	if e, ok := r.noted[pid]; ok {
		delete(r.noted, pid)
		ch <- e
	} else {
		r.waiting[pid] = ch
	}
	return ch
}

// isChild tells whether pid is ours to wait for, or already was.
func (r *reaper) isChild(pid int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.noted[pid]; ok {
		return true
	}
	var info unix.Siginfo
	return unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) == nil
}

// signal sends sig to a claimed process.
func (r *reaper) signal(pid int, sig unix.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.waiting[pid]; !ok {
		return os.ErrProcessDone
	}
	if err := unix.Kill(pid, sig); err != nil {
		return fmt.Errorf("cannot send signal %d: %w", sig, err)
	}
	return nil
}

// spawn starts a program; stdio are its descriptors 0 to 2. It dies with us: an
// OCI runtime that went on without a keeper would leave a container that
// nobody knows. (The signal comes when the thread that forked ends; no thread
// of ours ends before we do.)
func (r *reaper) spawn(args, env []string, dir string, stdio [3]*os.File) (int, error) {
	var fds []uintptr
	for _, f := range stdio {
		fds = append(fds, f.Fd())
	}
	pid, err := syscall.ForkExec(args[0], args, &syscall.ProcAttr{Dir: dir, Env: env, Files: fds, Sys: &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}})
	if err != nil {
		return 0, fmt.Errorf("cannot start %s: %w", args[0], err)
	}
	return pid, nil
}
