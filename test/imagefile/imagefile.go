// SPDX-License-Identifier: Apache-2.0

// Package imagefile makes container images from files, for tests and examples:
// nothing is pulled, and the same input gives the same image. It writes the
// docker archive form that `docker save` does.
package imagefile

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"

	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Entry is one thing in the image's file system.
type Entry struct {
	Path string // absolute inside the image
	Data []byte
	Mode int64
	Link string // target of a symbolic link
	Dir  bool
}

// Image is what to pack.
type Image struct {
	Ref     string // NAME:TAG
	Entries []Entry
	Config  ispecs.ImageConfig
}

// File is an entry with the content of a file of this machine.
func File(inside, outside string) (Entry, error) {
	b, err := os.ReadFile(outside)
	if err != nil {
		return Entry{}, fmt.Errorf("cannot pack image: %w", err)
	}
	return Entry{Path: inside, Data: b, Mode: 0o755}, nil
}

// Program are the entries of a program that is dynamically linked: itself, its
// loader and its libraries, where ldd says that the loader finds them. What of
// them is below root, a folder where packages were unpacked, is put where it
// would be installed.
func Program(inside, outside, root string) ([]Entry, error) {
	e, err := File(inside, outside)
	if err != nil {
		return nil, err
	}
	needs, err := exec.Command("ldd", outside).Output()
	if err != nil {
		return nil, fmt.Errorf("cannot pack image: ldd %s: %w", outside, err)
	}
	out := []Entry{e}
	for _, library := range regexp.MustCompile(`/\S+`).FindAllString(string(needs), -1) {
		e, err := File(strings.TrimPrefix(library, root), library)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// Busybox are the entries of a small system around a static busybox: the
// program, links for its applets, and the folders programs expect.
func Busybox(program string) ([]Entry, error) {
	bb, err := File("/bin/busybox", program)
	if err != nil {
		return nil, err
	}
	out := []Entry{bb}
	for _, d := range []string{"/etc", "/proc", "/sys", "/dev", "/root", "/usr/bin"} {
		out = append(out, Entry{Path: d, Dir: true, Mode: 0o755})
	}
	out = append(out,
		Entry{Path: "/tmp", Dir: true, Mode: 0o1777},
		Entry{Path: "/etc/passwd", Data: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"), Mode: 0o644},
		Entry{Path: "/etc/group", Data: []byte("root:x:0:\nnogroup:x:65534:\n"), Mode: 0o644})
	applets, err := exec.Command(program, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("cannot pack image: %s --list: %w", program, err)
	}
	for _, a := range strings.Fields(string(applets)) {
		if a == "busybox" {
			continue
		}
		out = append(out, Entry{Path: "/bin/" + a, Link: "busybox"})
	}
	return out, nil
}

// Write packs the image as a docker archive.
func Write(w io.Writer, i Image) error {
	layer, err := layerOf(i.Entries)
	if err != nil {
		return err
	}
	return WriteLayer(w, i.Ref, layer, i.Config)
}

// WriteLayer packs an image around one layer given as a tar.
func WriteLayer(w io.Writer, ref string, layer []byte, c ispecs.ImageConfig) error {
	if !slices.ContainsFunc(c.Env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		c.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, c.Env...)
	}
	diff := "sha256:" + digest(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "config": c, "created": "1970-01-01T00:00:00Z",
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{diff}},
		"history": []map[string]string{{"created_by": "peapod"}},
	})
	if err != nil {
		return fmt.Errorf("cannot pack image %s: %w", ref, err)
	}
	name, layerName := digest(config)+".json", digest(layer)+"/layer.tar"
	manifest, err := json.Marshal([]map[string]any{{"Config": name, "RepoTags": []string{ref}, "Layers": []string{layerName}}})
	if err != nil {
		return fmt.Errorf("cannot pack image %s: %w", ref, err)
	}
	t := tar.NewWriter(w)
	for _, f := range []struct {
		name string
		data []byte
	}{{name, config}, {layerName, layer}, {"manifest.json", manifest}} {
		if err := t.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data))}); err != nil {
			return fmt.Errorf("cannot pack image %s: %w", ref, err)
		}
		if _, err := t.Write(f.data); err != nil {
			return fmt.Errorf("cannot pack image %s: %w", ref, err)
		}
	}
	return t.Close()
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// layerOf is the layer's tar; of entries with one path the last one counts.
func layerOf(entries []Entry) ([]byte, error) {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	last := map[string]int{}
	for i, e := range entries {
		last[path.Clean(e.Path)] = i
	}
	for i, e := range entries {
		if last[path.Clean(e.Path)] != i {
			continue
		}
		h := &tar.Header{Name: strings.TrimPrefix(path.Clean(e.Path), "/"), Mode: e.Mode, Size: int64(len(e.Data)), Typeflag: tar.TypeReg}
		switch {
		case e.Dir:
			h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
		case e.Link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.Link, 0o777
		}
		if err := t.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("cannot pack layer: %w", err)
		}
		if _, err := t.Write(e.Data); err != nil {
			return nil, fmt.Errorf("cannot pack layer: %w", err)
		}
	}
	err := t.Close()
	return b.Bytes(), err
}
