// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/apiserver"
)

// RestoreOptions is what `peapod restore` was asked for.
type RestoreOptions struct {
	DataDir, File string
	// Replace gives up the cluster that the data folder has.
	Replace bool
}

// restoring is the folder in which a restore is prepared. As long as it is
// there, etcd and the keys may not belong together.
const restoring = "restoring"

// restored are what of a data folder a restore replaces.
var restored = []string{"etcd", pkiFolder}

// Restore makes a data folder's cluster the one of a backup. Nothing of the
// folder is touched before the backup is known to be whole. What the node keeps
// of its Pods stays: those that the backup knows go on.
func Restore(_ context.Context, o RestoreOptions) (About, error) {
	l, err := newLayout(o.DataDir)
	if err != nil {
		return About{}, err
	}
	about, err := readArchive(o.File, func(string, io.Reader) error { return nil })
	if err != nil {
		return about, err
	}
	if _, err := l.claim(); err != nil {
		return about, err
	}
	unlock, err := l.lock()
	if err != nil {
		return about, err
	}
	defer unlock()
	if !o.Replace {
		if err := l.withoutCluster(); err != nil {
			return about, err
		}
	}
	if err := l.restore(o.File); err != nil {
		return about, fmt.Errorf("cannot restore into %s: %w", l.root, err)
	}
	return about, nil
}

// withoutCluster finds what a restore would destroy.
func (l layout) withoutCluster() error {
	for _, name := range slices.Concat(restored, []string{restoring}) {
		if _, err := os.Lstat(l.path(name)); err == nil {
			return fmt.Errorf("cannot restore into %s: it has a cluster already; choose an empty folder with --data-dir, or give up that cluster with --replace", l.root)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot restore into %s: %w", l.root, err)
		}
	}
	return nil
}

func (l layout) restore(file string) error {
	_, err := os.Lstat(l.path(restoring))
	again := err == nil // it has begun to replace the cluster, perhaps
	if err := l.remove(restoring + "/new"); err != nil {
		return err
	}
	if err := l.stage(file, l.path(restoring, "new")); err != nil {
		if !again {
			err = errors.Join(err, l.remove(restoring))
		}
		return err
	}
	for _, name := range restored {
		if err := l.remove(name); err != nil {
			return err
		}
		if err := os.Rename(l.path(restoring, "new", name), l.path(name)); err != nil {
			return err
		}
	}
	if err := syncAll(l.root); err != nil {
		return err
	}
	return l.remove(restoring)
}

// stage makes what a restore moves into place, and waits until the disk has it.
func (l layout) stage(file, dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, pkiFolder), 0o700); err != nil {
		return err
	}
	_, err := readArchive(file, func(name string, r io.Reader) error {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		return errors.Join(err, f.Close())
	})
	if err != nil {
		return err
	}
	if err := apiserver.RestoreEtcd(filepath.Join(dir, snapshotFile), filepath.Join(dir, "etcd")); err != nil {
		return err
	}
	return syncAll(dir)
}

// syncAll waits until the disk has all that was written to a folder's file system.
func syncAll(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("cannot write %s to the disk: %w", dir, err)
	}
	return nil
}

// notRestoring refuses a data folder of which a restore has replaced only a part.
func (l layout) notRestoring() error {
	if _, err := os.Lstat(l.path(restoring)); err == nil {
		return fmt.Errorf("cannot use data folder %s: a restore into it was broken off; run `peapod restore --replace` again", l.root)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot use data folder %s: %w", l.root, bare(err))
	}
	return nil
}
