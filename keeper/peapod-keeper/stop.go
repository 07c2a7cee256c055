// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/keeper"
)

// forget drops a process that has ended. One that is being started has its
// start aborted.
func (k *keeperd) forget(id string) error {
	k.abort(id)
	p, err := k.find(id)
	if err != nil {
		return err
	}
	if p.state().Exit == nil {
		return fmt.Errorf("process %q still runs: %w", id, keeper.ErrBusy)
	}
	p.release()
	if err := p.remove(); err != nil {
		return err
	}
	k.drop(p)
	return nil
}

// abort kills the OCI runtime of a start that is under way, and returns when
// that start is over.
func (k *keeperd) abort(id string) {
	news := k.follow()
	defer k.leave(news)
	for {
		p, err := k.find(id)
		if err != nil || !k.abortRuntime(p) {
			return
		}
		<-news
	}
}

// abortRuntime tells whether p is still being started.
func (k *keeperd) abortRuntime(p *process) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.starting && p.runtime != 0 {
		// Its end is told by the start it belongs to.
		_ = k.reaper.signal(p.runtime, unix.SIGKILL)
	}
	p.aborted = p.starting
	return p.starting
}

// stop ends the keeper from within.
func (k *keeperd) stop(force bool) error {
	if err := k.stopAll(force); err != nil {
		return err
	}
	close(k.finished)
	return nil
}

// stopAll makes the folder empty of processes, by force if asked to, and
// leaves nothing mounted in it.
func (k *keeperd) stopAll(force bool) error {
	k.mu.Lock()
	if k.stopping {
		k.mu.Unlock()
		return errors.New("keeper is stopping")
	}
	k.stopping = true
	k.mu.Unlock()
	err := k.endAll(force)
	if err == nil {
		// Nobody can connect from now on, so a client that looks for a keeper
		// starts a new one.
		err = os.Remove(filepath.Join(k.dir, "sock"))
	}
	if err != nil {
		k.mu.Lock()
		k.stopping = false
		k.mu.Unlock()
		return err
	}
	k.log.Info("keeper stopped")
	return nil
}

func (k *keeperd) endAll(force bool) error {
	news := k.follow()
	defer k.leave(news)
	for {
		var left *process
		for _, p := range k.all() {
			if p.state().Exit == nil {
				left = p
				break
			}
		}
		if left == nil {
			break
		}
		if !force {
			return fmt.Errorf("process %q still runs: %w", left.spec.ID, keeper.ErrBusy)
		}
		if left.state().Starting {
			err := k.forget(left.spec.ID)
			if err != nil && !errors.Is(err, keeper.ErrNotFound) && !errors.Is(err, keeper.ErrBusy) {
				return err
			}
		} else if err := k.signalProcess(left, unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		<-news
	}
	for _, p := range k.all() {
		if err := k.forget(p.spec.ID); err != nil {
			return err
		}
	}
	return nil
}
