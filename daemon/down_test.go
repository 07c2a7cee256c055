// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
)

// TestDownFinishes: whatever an earlier `down` had still removed when it was
// killed, the next one takes the rest, mounts and cgroups included.
func TestDownFinishes(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", filepath.Dir(self)+"/", "../keeper/peapod-keeper", "../sandbox/peapod-launcher")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the keeper: %v\n%s", err, out)
	}
	for k := range len(passing) + 1 {
		l := leftAfter(t, k)
		ended, err := Down(t.Context(), DownOptions{DataDir: l.root, Purge: true, Grace: time.Second, Log: slog.New(slog.DiscardHandler)})
		if err != nil || !ended.Found || len(ended.Foreign) > 0 {
			t.Errorf("after %d folders were gone: %+v, %v", k, ended, err)
		}
		if _, err := os.Lstat(l.root); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after %d folders were gone: the data folder is left: %v", k, err)
		}
		groups, err := linux.Cgroups()
		if err != nil {
			t.Fatal(err)
		}
		for _, root := range groups.Roots() {
			if _, err := os.Stat(filepath.Join(root, l.instance)); err == nil {
				t.Errorf("after %d folders were gone: cgroup left in %s", k, root)
			}
		}
	}
}

// leftAfter is a data folder after a `down` that could only remove the first n
// of the folders that it removes.
func leftAfter(t *testing.T, n int) layout {
	t.Helper()
	dir, err := os.MkdirTemp("", "down") // short: sockets lie below it
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLayout(filepath.Join(dir, "d"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if _, err := l.claim(); err != nil {
		t.Fatal(err)
	}
	for _, name := range passing[n:] {
		if err := os.MkdirAll(l.path(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if name != "node" {
			continue
		}
		volume := l.path("node/pods/11111111-2222-3333-4444-555555555555/volumes/kubernetes.io~empty-dir/m")
		if err := os.MkdirAll(volume, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := linux.Tmpfs(volume, 1<<20, 0o777, 0); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(volume, unix.MNT_DETACH) }) // unless Down has
	}
	groups, err := linux.Cgroups()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(groups.Path("memory", l.instance+"/kubepods/besteffort"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = groups.Remove(context.Background(), l.instance) }) // unless Down has
	return l
}
