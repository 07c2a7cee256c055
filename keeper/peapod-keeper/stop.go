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
// OCI runtime killed; its start then fails, which drops it.
func (k *keeperd) forget(id string) error {
	p, err := k.find(id)
	if err != nil {
		return err
	}
	p.mu.Lock()
	starting, runtime, ended := p.starting, p.runtime, p.exit != nil
	p.mu.Unlock()
	switch {
	case starting && runtime != 0:
		if err := k.reaper.signal(runtime, unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		return nil
	case !ended:
		return fmt.Errorf("process %q still runs: %w", id, keeper.ErrBusy)
	}
	p.release()
	if err := p.remove(); err != nil {
		return err
	}
	k.drop(p)
	return nil
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
	news := make(chan struct{}, 1)
	k.mu.Lock()
	k.watchers[news] = true
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		delete(k.watchers, news)
		k.mu.Unlock()
	}()
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
