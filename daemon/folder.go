// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/peapod/peapod/linux"
	nodeagent "github.com/peapod/peapod/node"
)

// ErrForeign says that a folder has not been made by Peapod.
var ErrForeign = errors.New("not a data folder of Peapod")

// layout names the places of one node. Everything but the Pod logs of the
// default data folder lies inside it.
type layout struct {
	root string
	// instance is the short name that keeps several Peapods on one machine
	// apart: cgroup root, nftables table, links.
	instance string
}

// maxRoot leaves room for the CRI socket: a socket's path has at most 107 bytes
// (unix(7)).
const maxRoot = 107 - len("/run/cri.sock")

func newLayout(dataDir string) (layout, error) {
	if dataDir == "" {
		return layout{}, misuse("--data-dir is empty")
	}
	root, err := filepath.Abs(dataDir)
	if err != nil {
		return layout{}, fmt.Errorf("cannot use data folder %q: %w", dataDir, err)
	}
	switch {
	case root == "/":
		return layout{}, misuse("--data-dir %q: the root folder cannot hold a node's state", dataDir)
	case len(root) > maxRoot:
		return layout{}, misuse("--data-dir %q: %d bytes long; sockets below it allow %d", root, len(root), maxRoot)
	}
	l := layout{root: root, instance: "peapod"}
	if root != DefaultDataDir {
		h := fnv.New32a()
		h.Write([]byte(root))
		l.instance = fmt.Sprintf("peapod-%08x", h.Sum32())
	}
	return l, nil
}

func (l layout) path(elem ...string) string {
	return filepath.Join(append([]string{l.root}, elem...)...)
}

func (l layout) kubeconfig() string { return l.path(KubeconfigName) }
func (l layout) criSocket() string  { return l.path("run", "cri.sock") }
func (l layout) lockFile() string   { return l.path("run", "up.lock") }

// podLogs is where log collectors look on every Kubernetes node; another data
// folder keeps its logs to itself.
func (l layout) podLogs() string {
	if l.root == DefaultDataDir {
		return "/var/log/pods"
	}
	return l.path("log", "pods")
}

// What a node keeps in its data folder. `peapod down` removes what concerns
// this run of the machine; --purge the rest, too.
var (
	passing = []string{"runtime", "keeper", "network", "node", "run"}
	lasting = []string{"etcd", "images", "log", pkiFolder, "volumes", restoring, KubeconfigName}
	// users write these themselves, also before there is a node.
	byUsers = []string{"registries", "seccomp"}
)

// markerName is the file by which a data folder is known to be Peapod's own:
// what lies in one may be removed.
const markerName = "peapod.json"

// marker is the content of that file.
type marker struct {
	// Version is that of the folder's form.
	Version int `json:"version"`
	// Runtime is the external CRI socket that the node's Pods run on; empty is
	// the built-in runtime.
	Runtime string `json:"runtime,omitempty"`
	// Join is the API server of the cluster that the machine has joined; empty
	// is a cluster of its own.
	Join string `json:"join,omitempty"`
}

// markerVersion is the form of a data folder that this program knows.
const markerVersion = 1

// empty says that the folder is there and holds nothing.
func (l layout) empty() bool {
	entries, err := os.ReadDir(l.root)
	return err == nil && len(entries) == 0
}

// untouched says that no node has run since the folder was made, or since the
// last `peapod down`.
func (l layout) untouched() bool {
	for _, name := range []string{"runtime", "keeper", "network", "node"} {
		if _, err := os.Lstat(l.path(name)); err == nil {
			return false
		}
	}
	return true
}

// claim makes the data folder Peapod's, or finds that it is.
func (l layout) claim() (marker, error) {
	fail := func(err error) (marker, error) {
		return marker{}, fmt.Errorf("cannot use data folder %s: %w", l.root, err)
	}
	if err := os.MkdirAll(l.root, 0o700); err != nil {
		return fail(bare(err))
	}
	m, err := l.readMarker()
	if !errors.Is(err, ErrForeign) {
		return m, err
	}
	for _, name := range slices.Concat(passing, lasting) {
		if _, err := os.Lstat(l.path(name)); err != nil {
			continue
		}
		// Another process may have claimed the folder just now.
		if m, err := l.readMarker(); !errors.Is(err, ErrForeign) {
			return m, err
		}
		return fail(fmt.Errorf("%w, and %q is in the way; choose an empty folder with --data-dir", ErrForeign, name))
	}
	m = marker{Version: markerVersion}
	return m, l.writeMarker(m)
}

// readMarker is ErrForeign where there is none, and fs.ErrNotExist where there
// is not even a folder.
func (l layout) readMarker() (m marker, err error) {
	fail := func(err error) (marker, error) {
		return m, fmt.Errorf("cannot use data folder %s: %w", l.root, err)
	}
	b, err := os.ReadFile(l.path(markerName))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		info, err := os.Stat(l.root)
		switch {
		case err != nil:
			return fail(bare(err))
		case !info.IsDir():
			return fail(syscall.ENOTDIR)
		}
		return fail(ErrForeign)
	case err != nil:
		return fail(bare(err))
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return fail(fmt.Errorf("%s: %w", markerName, err))
	}
	if m.Version != markerVersion {
		return fail(fmt.Errorf("its form is version %d, this program knows version %d", m.Version, markerVersion))
	}
	return m, nil
}

func (l layout) writeMarker(m marker) error {
	b, err := json.Marshal(m)
	if err == nil {
		err = linux.WriteFile(l.path(markerName), append(b, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot use data folder %s: %w", l.root, err)
	}
	return nil
}

// remove removes things of the data folder. A mount below one of them would
// lend it the files of somebody else, so that there must be none.
func (l layout) remove(names ...string) error {
	for _, name := range names {
		path := l.path(name)
		mounts, err := linux.MountsBelow(path)
		if err != nil {
			return fmt.Errorf("cannot clean up: %w", err)
		}
		if len(mounts) > 0 {
			return fmt.Errorf("cannot remove %s: something is mounted at %s; unmount it and try again", path, mounts[0])
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("cannot clean up: %w", err)
		}
	}
	return nil
}

// purge removes everything that a node has ever kept, and the folder when
// nothing else is in it. What is, it returns. Where other nodes' Pods have
// their logs beside ours, those stay.
func (l layout) purge() (foreign []string, err error) {
	if err := nodeagent.RemoveLogs(l.podLogs(), l.instance); err != nil {
		return nil, fmt.Errorf("cannot remove pod logs: %w", err)
	}
	if err := l.remove(slices.Concat(passing, lasting, byUsers)...); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(l.root)
	if err != nil {
		return nil, fmt.Errorf("cannot remove data folder: %w", err)
	}
	for _, e := range entries {
		switch {
		case strings.HasPrefix(e.Name(), "."+markerName): // a write that was cut short
			if err := os.Remove(l.path(e.Name())); err != nil {
				return nil, fmt.Errorf("cannot remove data folder: %w", err)
			}
		case e.Name() != markerName:
			foreign = append(foreign, e.Name())
		}
	}
	// Last: until here the clean-up can be repeated.
	if err := os.Remove(l.path(markerName)); err != nil {
		return nil, fmt.Errorf("cannot remove data folder: %w", err)
	}
	if len(foreign) > 0 {
		return foreign, nil
	}
	// The folder may be a mount point, which stays.
	if err := os.Remove(l.root); err != nil && !errors.Is(err, syscall.EBUSY) {
		return nil, fmt.Errorf("cannot remove data folder: %w", err)
	}
	return nil, nil
}

// bare is an error of a file without the path, where that is told already.
func bare(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}
