// SPDX-License-Identifier: Apache-2.0

package native

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
)

// Record is <state folder>/<id>/state.json: what is known of a container. It
// is written before anything is made, and again when there is a process.
type Record struct {
	Version int    `json:"version"`
	ID      string `json:"id"`
	Bundle  string `json:"bundle"`
	// Cgroup is the container's, below the root of each hierarchy.
	Cgroup string `json:"cgroup"`
	// Pid and StartTicks name the first process; 0 while there is none.
	Pid        int    `json:"pid"`
	StartTicks uint64 `json:"startTicks"`
}

// Names in a container's folder.
const (
	recordName = "state.json"
	// startName and resultName are FIFOs that are there from Create until
	// Start: by the one the program is let go, by the other it says that it
	// could not be started.
	startName  = "start"
	resultName = "result"
)

func dirOf(state, id string) string { return filepath.Join(state, id) }

func checkID(id string) error {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+."
	if id == "" || len(id) > 128 || id == "." || id == ".." || strings.Trim(id, letters) != "" {
		return fmt.Errorf("invalid container ID %q", id)
	}
	return nil
}

// Load reads the record of a container; without one the error is
// os.ErrNotExist.
func Load(state, id string) (Record, error) {
	var r Record
	if err := checkID(id); err != nil {
		return r, err
	}
	b, err := os.ReadFile(filepath.Join(dirOf(state, id), recordName))
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err == nil && (r.Version != 1 || r.ID != id) {
		err = errors.New("it is no record of that container")
	}
	if err != nil {
		return r, fmt.Errorf("cannot read record of container %s: %w", id, err)
	}
	return r, nil
}

func (r Record) save(state string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return linux.ReplaceFile(filepath.Join(dirOf(state, r.ID), recordName), append(b, '\n'), 0o600)
}

// Open opens the first process; os.ErrNotExist says that it has ended or never
// was.
func (r Record) Open() (*linux.Pidfd, error) {
	if r.Pid == 0 {
		return nil, fmt.Errorf("container %s has no process: %w", r.ID, fs.ErrNotExist)
	}
	if _, dead, err := linux.ZombieStatus(r.Pid); err != nil || dead {
		return nil, fmt.Errorf("container %s has ended: %w", r.ID, fs.ErrNotExist)
	}
	return linux.OpenPidfd(r.Pid, r.StartTicks)
}

// Status is created, running or stopped, as an OCI runtime tells it.
func (r Record) Status(state string) (string, error) {
	p, err := r.Open()
	if errors.Is(err, fs.ErrNotExist) {
		return "stopped", nil
	}
	if err != nil {
		return "", err
	}
	if err := p.Close(); err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(dirOf(state, r.ID), startName)); err == nil {
		return "created", nil
	}
	return "running", nil
}

// Start lets the program of a created container run.
func (r Record) Start(state string) error {
	status, err := r.Status(state)
	if err != nil {
		return err
	}
	if status != "created" {
		return fmt.Errorf("cannot start a container that is %s", status)
	}
	start, result := filepath.Join(dirOf(state, r.ID), startName), filepath.Join(dirOf(state, r.ID), resultName)
	// The process has both open for reading and writing, so neither blocks.
	back, err := unix.Open(result, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(back)
	fd, err := unix.Open(start, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte{1})
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return err
	}
	failed, err := awaitExec(back)
	if err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("cannot start its program: %w", unix.Errno(failed.errno))
	}
	return errors.Join(os.Remove(start), os.Remove(result))
}

// Forget removes the record of a container; one that is not there is fine.
func Forget(state, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	return os.RemoveAll(dirOf(state, id))
}
