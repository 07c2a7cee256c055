// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/test/registry"
)

func entry(name string, kind byte, mode int64, change func(*tar.Header)) registry.Entry {
	e := registry.Entry{Header: tar.Header{Name: name, Typeflag: kind, Mode: mode}}
	if change != nil {
		change(&e.Header)
	}
	return e
}

// layersOf pulls an image of these layers, bottom first, and returns their
// folders in the same order.
func layersOf(t *testing.T, layers ...[]byte) []string {
	t.Helper()
	reg := registry.New(t)
	reg.Push("app", "1", registry.Image{Layers: layers, Compression: "gzip"})
	s := openStore(t, t.TempDir())
	if _, err := s.Pull(t.Context(), reg.Host()+"/app:1", nil, nil); err != nil {
		t.Fatal(err)
	}
	dirs, err := s.Hold(t.Context(), "c", reg.Host()+"/app:1")
	if err != nil || len(dirs) != len(layers) {
		t.Fatalf("layers %v, %v", dirs, err)
	}
	for i, j := 0, len(dirs)-1; i < j; i, j = i+1, j-1 {
		dirs[i], dirs[j] = dirs[j], dirs[i]
	}
	return dirs
}

func stat(t *testing.T, path string) *syscall.Stat_t {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t)
}

func xattr(path, name string) string {
	b := make([]byte, 100)
	n, err := unix.Lgetxattr(path, name, b)
	if err != nil {
		return err.Error()
	}
	return string(b[:n])
}

// TestLayerKeepsAttributes: what a tar says of a file is so on disk, but for
// the attributes by which overlayfs keeps its own book.
func TestLayerKeepsAttributes(t *testing.T) {
	// capability(7) as security.capability holds it: revision 2, cap_net_raw.
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	at := time.Unix(1_234_567_890, 0)
	dir := layersOf(t, registry.Layer(
		entry("bin/", tar.TypeDir, 0o755, nil),
		entry("bin/su", tar.TypeReg, 0o4755, nil),
		entry("bin/wall", tar.TypeReg, 0o2755, func(h *tar.Header) { h.Uid, h.Gid, h.ModTime = 1000, 70000, at }),
		entry("tmp/", tar.TypeDir, 0o1777, nil),
		entry("bin/ping", tar.TypeReg, 0o755, func(h *tar.Header) {
			h.PAXRecords = map[string]string{
				"SCHILY.xattr.security.capability": capability, "SCHILY.xattr.user.note": "kept",
				"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.user.overlay.opaque": "y",
			}
		}),
		entry("bin/su2", tar.TypeLink, 0o4755, func(h *tar.Header) { h.Linkname = "bin/su" }),
		entry("bin/sulink", tar.TypeSymlink, 0o777, func(h *tar.Header) { h.Linkname, h.Uid = "/bin/su", 1000 }),
		entry("bin/pipe", tar.TypeFifo, 0o620, nil),
	))[0]
	for name, want := range map[string]uint32{
		"bin/su": unix.S_IFREG | 0o4755, "bin/wall": unix.S_IFREG | 0o2755, "tmp": unix.S_IFDIR | 0o1777, "bin/pipe": unix.S_IFIFO | 0o620,
	} {
		if st := stat(t, filepath.Join(dir, name)); st.Mode != want {
			t.Errorf("%s has mode %o, want %o", name, st.Mode, want)
		}
	}
	su, other, link, wall := stat(t, dir+"/bin/su"), stat(t, dir+"/bin/su2"), stat(t, dir+"/bin/sulink"), stat(t, dir+"/bin/wall")
	if su.Ino != other.Ino || su.Nlink != 2 {
		t.Errorf("the hard link is a file of its own: %d %d", su.Ino, other.Ino)
	}
	if wall.Mtim.Sec != at.Unix() {
		t.Errorf("modified at %d", wall.Mtim.Sec)
	}
	if wall.Uid != 1000 || wall.Gid != 70000 || link.Uid != 1000 {
		t.Errorf("owners %d:%d, %d", wall.Uid, wall.Gid, link.Uid)
	}
	ping := dir + "/bin/ping"
	for name, want := range map[string]string{
		"security.capability": capability, "user.note": "kept",
		"trusted.overlay.redirect": unix.ENODATA.Error(), "user.overlay.opaque": unix.ENODATA.Error(),
	} {
		if got := xattr(ping, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// TestWhiteouts: what a layer takes away is said in overlayfs' own form, and
// its files are not there.
func TestWhiteouts(t *testing.T) {
	dirs := layersOf(t,
		registry.Layer(entry("etc/", tar.TypeDir, 0o711, nil), file("etc/old", "old"), entry("var/", tar.TypeDir, 0o755, nil), file("var/old", "old"), file("etc/keep", "keep")),
		registry.Layer(file("etc/.wh.old", ""), file("var/.wh..wh..opq", ""), file("var/new", "new")))
	top := dirs[1]
	gone := stat(t, filepath.Join(top, "etc/old"))
	if gone.Mode&unix.S_IFMT != unix.S_IFCHR || gone.Rdev != 0 {
		t.Errorf("the whiteout is mode %o, device %d", gone.Mode, gone.Rdev)
	}
	if got := xattr(filepath.Join(top, "var"), "trusted.overlay.opaque"); got != "y" {
		t.Errorf("var is opaque %q", got)
	}
	if got := xattr(filepath.Join(top, "etc"), "trusted.overlay.opaque"); got == "y" {
		t.Error("etc is opaque too")
	}
	// The tar names no folder etc: it is as the layer below has it.
	if st := stat(t, filepath.Join(top, "etc")); st.Mode&0o7777 != 0o711 {
		t.Errorf("the folder that the tar implies has mode %o", st.Mode)
	}
	for _, d := range dirs {
		_ = filepath.WalkDir(d, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || strings.HasPrefix(filepath.Base(path), ".wh.") {
				t.Errorf("%s is there, %v", path, err)
			}
			return nil
		})
	}
}

// TestDeviceNodes: they are made as the layer says; that they cannot be opened
// is the container's device cgroup's part (docs/decisions).
func TestDeviceNodes(t *testing.T) {
	dir := layersOf(t, registry.Layer(
		entry("null", tar.TypeChar, 0o666, func(h *tar.Header) { h.Devmajor, h.Devminor = 1, 3 }),
		entry("disk", tar.TypeBlock, 0o640, func(h *tar.Header) { h.Devmajor, h.Devminor, h.Gid = 8, 0, 6 })))[0]
	null, disk := stat(t, dir+"/null"), stat(t, dir+"/disk")
	if null.Mode != unix.S_IFCHR|0o666 || null.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("null is mode %o, device %x", null.Mode, null.Rdev)
	}
	if disk.Mode != unix.S_IFBLK|0o640 || disk.Rdev != unix.Mkdev(8, 0) || disk.Gid != 6 {
		t.Errorf("disk is mode %o, device %x, group %d", disk.Mode, disk.Rdev, disk.Gid)
	}
	// Nobody but root comes to them on the machine.
	if st := stat(t, filepath.Join(dir, "../..")); st.Mode&0o077 != 0 {
		t.Errorf("layers/ has mode %o", st.Mode)
	}
}

// TestRefusedLayers: a layer that cannot be unpacked as it says is refused with
// the image's name, the layer's digest and the reason, and leaves nothing.
func TestRefusedLayers(t *testing.T) {
	base := registry.Layer(file("etc/passwd", "root"))
	for name, c := range map[string]struct {
		entries []registry.Entry
		reason  string
	}{
		"hard link out":            {[]registry.Entry{entry("h", tar.TypeLink, 0o644, func(h *tar.Header) { h.Linkname = "../../../../../../etc/hostname" })}, "no such file or directory"},
		"hard link to layer below": {[]registry.Entry{entry("h", tar.TypeLink, 0o644, func(h *tar.Header) { h.Linkname = "etc/passwd" })}, "no such file or directory"},
		"file as folder":           {[]registry.Entry{file("f", "x"), file("f/g", "x")}, "not a directory"},
		"unknown kind":             {[]registry.Entry{entry("odd", 'Z', 0o644, nil)}, "unhandled tar header type"},
		"cut short":                {nil, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			layer := registry.Layer(c.entries...)
			if c.entries == nil {
				layer = registry.Layer(file("big", strings.Repeat("x", 5000)))[:3000]
			}
			reg := registry.New(t)
			reg.Push("app", "1", registry.Image{Layers: [][]byte{base, layer}})
			m, _ := registry.Pack(registry.Image{Layers: [][]byte{layer}})
			s := openStore(t, t.TempDir())
			_, err := s.Pull(t.Context(), reg.Host()+"/app:1", nil, nil)
			begin := `failed to pull and unpack image "` + reg.Host() + `/app:1": cannot unpack layer ` + m.Layers[0].Digest.String() + ": "
			if err == nil || !strings.HasPrefix(err.Error(), begin) || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("refused with %v\nwant %s... %s", err, begin, c.reason)
			}
			if all, _ := s.List(t.Context()); len(all) != 0 {
				t.Errorf("images left: %v", all)
			}
			if left, err := os.ReadDir(filepath.Join(s.dir, "layers")); err != nil || len(left) != 0 {
				t.Errorf("layers left: %v, %v", left, err)
			}
		})
	}
}
