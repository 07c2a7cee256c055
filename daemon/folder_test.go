// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
)

func folder(t *testing.T, names ...string) layout {
	t.Helper()
	l, err := newLayout(filepath.Join(t.TempDir(), "d"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path := l.path(name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func TestLayout(t *testing.T) {
	for dir, want := range map[string]string{"": "is empty", "/": "root folder", "/.././": "root folder", "/" + strings.Repeat("x", 94): "95 bytes long"} {
		if _, err := newLayout(dir); !errors.Is(err, ErrOptions) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", dir, err)
		}
	}
	def, err := newLayout("/var/lib/peapod/")
	if err != nil || def.instance != "peapod" || def.podLogs() != "/var/log/pods" {
		t.Errorf("%+v, %v", def, err)
	}
	a, _ := newLayout("/srv/a")
	b, _ := newLayout("/srv/b/../a")
	c, _ := newLayout("/srv/c")
	if a != b || a.instance == c.instance || a.podLogs() != "/srv/a/log/pods" {
		t.Errorf("%+v %+v %+v", a, b, c)
	}
}

func TestClaim(t *testing.T) {
	l := folder(t)
	if _, err := l.readMarker(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing folder: %v", err)
	}
	if _, err := l.claim(); err != nil {
		t.Fatal(err)
	}
	if m, err := l.claim(); err != nil || m.Version != 1 {
		t.Errorf("again: %+v, %v", m, err)
	}
	info, err := os.Stat(l.root)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	// What users put there first is not in the way; what we would overwrite is.
	l = folder(t, "registries/docker.io/hosts.toml", "notes")
	if _, err := l.claim(); err != nil {
		t.Errorf("a folder with registry settings: %v", err)
	}
	for _, name := range slices.Concat(passing, lasting) {
		l = folder(t, name)
		if _, err := l.claim(); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), name) {
			t.Errorf("a folder with %s: %v", name, err)
		}
		if _, err := os.Stat(l.path(markerName)); err == nil {
			t.Errorf("a folder with %s has been marked", name)
		}
	}
	l = folder(t, markerName) // its content is no JSON
	if _, err := l.claim(); err == nil || !strings.Contains(err.Error(), markerName) {
		t.Errorf("a broken marker: %v", err)
	}
}

func TestPurge(t *testing.T) {
	l := folder(t, "images/x", "volumes/pvc-1/x", "etcd/member/x", "registries/x", "seccomp/x", "log/pods/a/b", "mine", "notes/x", "."+markerName+".123")
	if err := l.writeMarker(marker{Version: 1}); err != nil {
		t.Fatal(err)
	}
	foreign, err := l.purge()
	if err != nil || !slices.Equal(foreign, []string{"mine", "notes"}) {
		t.Errorf("left %v, %v", foreign, err)
	}
	entries, err := os.ReadDir(l.root)
	if err != nil || len(entries) != 2 {
		t.Errorf("entries %v, %v", entries, err)
	}
	l = folder(t, "pki/ca.crt")
	if err := l.writeMarker(marker{Version: 1}); err != nil {
		t.Fatal(err)
	}
	if foreign, err := l.purge(); err != nil || foreign != nil {
		t.Errorf("left %v, %v", foreign, err)
	}
	if _, err := os.Stat(l.root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
}

// TestPurgeLooksOutForMounts: what is mounted in the folder is somebody else's.
func TestPurgeLooksOutForMounts(t *testing.T) {
	l := folder(t, "runtime/volume/x", markerName)
	precious := filepath.Join(t.TempDir(), "precious")
	if err := os.MkdirAll(filepath.Join(precious, "year"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := linux.Bind(precious, l.path("runtime", "volume"), false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(l.path("runtime", "volume"), unix.MNT_DETACH) })
	if _, err := l.purge(); err == nil || !strings.Contains(err.Error(), "mounted at "+l.path("runtime", "volume")) {
		t.Errorf("purge: %v", err)
	}
	if _, err := os.Stat(filepath.Join(precious, "year")); err != nil {
		t.Errorf("purge went through a mount: %v", err)
	}
}

// TestPurgeOfMountPoint: a data folder on its own file system is emptied.
func TestPurgeOfMountPoint(t *testing.T) {
	l := folder(t)
	if err := os.MkdirAll(l.root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", l.root, "tmpfs", 0, "size=1m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(l.root, unix.MNT_DETACH) })
	if _, err := l.claim(); err != nil {
		t.Fatal(err)
	}
	if foreign, err := l.purge(); err != nil || foreign != nil {
		t.Errorf("left %v, %v", foreign, err)
	}
	if !l.empty() {
		t.Error("the mount point is not empty")
	}
}

func TestLock(t *testing.T) {
	l := folder(t)
	if _, err := l.claim(); err != nil {
		t.Fatal(err)
	}
	unlock, err := l.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.lock(); !errors.Is(err, errInUse) || !strings.Contains(err.Error(), "peapod (pid ") {
		t.Errorf("a second lock: %v", err)
	}
	p, pid, err := l.holder()
	if err != nil || pid != os.Getpid() {
		t.Errorf("holder %d, %v", pid, err)
	} else {
		p.Close()
	}
	unlock()
	// A process with the same number that has started later is another one.
	if err := os.WriteFile(l.lockFile(), []byte("1 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, pid, err := l.holder(); err == nil {
		p.Close()
		t.Errorf("process %d is taken for the holder", pid)
	}
	unlock, err = l.lock()
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

func TestFindImages(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	l := folder(t)
	for range 2 { // first a missing folder, then an empty one
		if _, err := FindImages(l.root, quiet); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("without a folder: %v", err)
		}
		if err := os.MkdirAll(l.root, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if !l.empty() {
		t.Error("looking for images has made something")
	}
	s, err := OpenImages(l.root, quiet)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if s, err = FindImages(l.root, quiet); err != nil {
		t.Fatal(err)
	}
	s.Close()
}
