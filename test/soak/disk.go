// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// diskSize is what the node's file system has room for; the file behind it
// takes what is used.
const diskSize = 2 << 30

// disk is a file system of the run's own, which can be full without harm to
// the machine.
type disk struct {
	home, mount string
}

func newDisk(ctx context.Context) (_ *disk, err error) {
	// Short: sockets lie below it.
	home, err := os.MkdirTemp("", "soak")
	if err != nil {
		return nil, err
	}
	d := &disk{home: home, mount: filepath.Join(home, "m")}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(home))
		}
	}()
	file := filepath.Join(home, "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return nil, err
	}
	if err := os.Truncate(file, diskSize); err != nil {
		return nil, err
	}
	if err := os.Mkdir(d.mount, 0o755); err != nil {
		return nil, err
	}
	for _, c := range [][]string{{"mkfs.ext4", "-q", "-m", "0", file}, {"mount", "-o", "loop", file, d.mount}} {
		if out, err := exec.CommandContext(ctx, c[0], c[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("cannot make a file system: %s: %w\n%s", c[0], err, out)
		}
	}
	return d, nil
}

func (d *disk) filler() string { return filepath.Join(d.mount, "full") }

// fill leaves no block free.
func (d *disk) fill() error {
	f, err := os.Create(d.filler())
	if err != nil {
		return fmt.Errorf("cannot fill the disk: %w", err)
	}
	defer f.Close()
	var at int64
	for piece := int64(diskSize); piece >= 4096; {
		if err := unix.Fallocate(int(f.Fd()), 0, at, piece); err != nil {
			piece /= 2
			continue
		}
		at += piece
	}
	return nil
}

// empty takes back what fill took.
func (d *disk) empty() error {
	if err := os.Remove(d.filler()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot empty the disk: %w", err)
	}
	return nil
}

func (d *disk) remove() error {
	if err := unix.Unmount(d.mount, 0); err != nil {
		return fmt.Errorf("cannot unmount %s: %w", d.mount, err)
	}
	return os.RemoveAll(d.home)
}
