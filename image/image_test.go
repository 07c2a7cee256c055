// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/test/imagefile"
)

func openStore(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir, Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func archiveOf(t *testing.T, i imagefile.Image) string {
	t.Helper()
	var b bytes.Buffer
	if err := imagefile.Write(&b, i); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func small(ref, content string) imagefile.Image {
	return imagefile.Image{Ref: ref, Entries: []imagefile.Entry{{Path: "/etc", Dir: true, Mode: 0o755}, {Path: "/etc/motd", Data: []byte(content), Mode: 0o644}}, Config: ispecs.ImageConfig{Cmd: []string{"/hello"}, StopSignal: "SIGQUIT"}}
}

func TestImportAndUse(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	got, err := s.Import(t.Context(), archiveOf(t, small("example.com/small:1", "one")))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].RepoTags[0] != "example.com/small:1" || got[0].Config.StopSignal != "SIGQUIT" {
		t.Fatalf("imported %+v", got)
	}
	// Another process finds it, by each of its names.
	other := openStore(t, dir)
	for _, ref := range []string{"example.com/small:1", got[0].ID, got[0].ID[7:19], got[0].RepoDigests[0]} {
		if i, err := other.Get(t.Context(), ref); err != nil || i.ID != got[0].ID {
			t.Errorf("Get(%s): %v, %v", ref, i.ID, err)
		}
	}
	lower, err := s.Hold(t.Context(), "c1", "example.com/small:1")
	if err != nil || len(lower) != 1 {
		t.Fatalf("Hold: %v, %v", lower, err)
	}
	if err := other.Remove(t.Context(), "example.com/small:1"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(lower[0], "etc/motd")); err != nil || string(b) != "one" {
		t.Errorf("a held layer after removal: %q, %v", b, err)
	}
	if _, err := s.Get(t.Context(), "example.com/small:1"); !errdefs.IsNotFound(err) {
		t.Errorf("Get after Remove: %v", err)
	}
	if err := s.Release("c1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Collect(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "layers"))
	if err != nil || len(left) != 0 {
		t.Errorf("layers left: %v, %v", left, err)
	}
}

func TestANewImageTakesTheName(t *testing.T) {
	s := openStore(t, t.TempDir())
	for _, content := range []string{"one", "two"} {
		if _, err := s.Import(t.Context(), archiveOf(t, small("small:1", content))); err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.List(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("List: %v, %v", all, err)
	}
	named := 0
	for _, i := range all {
		named += len(i.RepoTags)
	}
	if named != 1 {
		t.Errorf("%d images carry the name", named)
	}
}

// TestHostileLayers: whatever a layer says, it stays in its folder.
func TestHostileLayers(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.MkdirAll(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, headers := range map[string][]*tar.Header{
		"dotdot":        {{Name: "../../../../../../../../" + outside + "/a", Mode: 0o644}},
		"absolute":      {{Name: outside + "/b", Mode: 0o644}},
		"through link":  {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "l/c", Mode: 0o644}},
		"up link":       {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../../../../../../.." + outside}, {Name: "l/d", Mode: 0o644}},
		"hard link out": {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../../../../../../../../etc/passwd"}},
		"whiteout out":  {{Name: "../../../.wh.layers", Mode: 0o644}},
	} {
		t.Run(name, func(t *testing.T) {
			var layer, file bytes.Buffer
			w := tar.NewWriter(&layer)
			for _, h := range headers {
				if err := w.WriteHeader(h); err != nil {
					t.Fatal(err)
				}
			}
			w.Close()
			if err := imagefile.WriteLayer(&file, "hostile:1", layer.Bytes(), ispecs.ImageConfig{}); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "hostile.tar")
			if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			s := openStore(t, dir)
			_, err := s.Import(t.Context(), path) // refused or contained, both are fine
			if left, _ := os.ReadDir(outside); len(left) > 0 {
				t.Errorf("written outside: %v (import said %v)", left, err)
			}
			if _, err := os.Stat(filepath.Join(dir, "layers")); err != nil {
				t.Error("the store's own folder is gone")
			}
		})
	}
}

func TestDamagedArchives(t *testing.T) {
	good, err := os.ReadFile(archiveOf(t, small("small:1", strings.Repeat("x", 100_000))))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := openStore(t, dir)
	for name, b := range map[string][]byte{"empty": nil, "cut": good[:len(good)/2], "noise": bytes.Repeat([]byte("noise"), 1000)} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Import(t.Context(), path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v does not name the file", name, err)
		}
	}
	if all, err := s.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("images after damaged imports: %v, %v", all, err)
	}
}

// TestFullDisk: no space is an error that says so, and leaves nothing.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=300k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	s := openStore(t, dir)
	_, err := s.Import(t.Context(), archiveOf(t, small("big:1", strings.Repeat("x", 200_000))))
	if !errors.Is(err, unix.ENOSPC) && (err == nil || !strings.Contains(err.Error(), "no space left on device")) {
		t.Fatalf("import on a full disk: %v", err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "layers")); len(left) != 0 {
		t.Errorf("layers left: %v", left)
	}
	if all, _ := s.List(t.Context()); len(all) != 0 {
		t.Errorf("images left: %v", all)
	}
}
