// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/peapod/peapod/test/imagefile"
	"github.com/peapod/peapod/test/registry"
)

// layoutOf writes an OCI layout with one image that has these annotations.
func layoutOf(t *testing.T, dir string, annotations map[string]string) {
	t.Helper()
	manifest, blobs := registry.Pack(registry.Image{Layers: [][]byte{registry.Layer(file("motd", "hello"))}, Compression: "gzip"})
	encode := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	write := func(name string, b []byte) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m := encode(manifest)
	for _, b := range append(blobs, m) {
		write("blobs/sha256/"+digest.FromBytes(b).Encoded(), b)
	}
	write(ispecs.ImageLayoutFile, encode(ispecs.ImageLayout{Version: ispecs.ImageLayoutVersion}))
	write(ispecs.ImageIndexFile, encode(ispecs.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ispecs.Descriptor{{
		MediaType: ispecs.MediaTypeImageManifest, Digest: digest.FromBytes(m), Size: int64(len(m)), Annotations: annotations,
	}}}))
}

// TestImportLayouts: folders and archives in OCI's form, under each of the
// names by which tools know their images.
func TestImportLayouts(t *testing.T) {
	for what, c := range map[string]struct {
		annotations map[string]string
		tags        []string
	}{
		"docker's annotation":  {map[string]string{images.AnnotationImageName: "docker.io/library/web:2", ispecs.AnnotationRefName: "2"}, []string{"docker.io/library/web:2"}},
		"OCI's with the name":  {map[string]string{ispecs.AnnotationRefName: "example.com/a/web:3"}, []string{"example.com/a/web:3"}},
		"OCI's with a tag":     {map[string]string{ispecs.AnnotationRefName: "v1.2"}, []string{"docker.io/library/site:v1.2"}},
		"a tag that is none":   {map[string]string{ispecs.AnnotationRefName: "not a tag"}, nil},
		"no name at all":       {nil, nil},
		"an empty annotation":  {map[string]string{ispecs.AnnotationRefName: ""}, nil},
		"a name of a registry": {map[string]string{ispecs.AnnotationRefName: "localhost:5000/web:4"}, []string{"localhost:5000/web:4"}},
	} {
		t.Run(what, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "Site.oci")
			layoutOf(t, dir, c.annotations)
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			if err := w.AddFS(os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			archive := filepath.Join(t.TempDir(), "site.tar.x")
			if err := os.WriteFile(archive, b.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{dir, archive} {
				s := openStore(t, t.TempDir())
				got, err := s.Import(t.Context(), path)
				if err != nil || len(got) != 1 || !slices.Equal(got[0].RepoTags, c.tags) {
					t.Fatalf("%s: %+v, %v", path, got, err)
				}
				lower, err := s.Hold(t.Context(), "c", got[0].ID)
				if err != nil {
					t.Fatal(err)
				}
				if b, err := os.ReadFile(filepath.Join(lower[0], "motd")); err != nil || string(b) != "hello" {
					t.Errorf("the layer holds %q, %v", b, err)
				}
			}
		})
	}
}

// FuzzNormalize: what comes out of any text is a reference that stays itself,
// and whose names are names.
func FuzzNormalize(f *testing.F) {
	for _, s := range []string{"nginx", "nginx:1.29", "localhost:5000/a/b", "a@sha256:" + strings.Repeat("0", 64), "a:b@sha256:" + strings.Repeat("f", 64), "[::1]:5000/x", "UPPER/x", "a/../b", "docker.io/library/x", ":", "@", "sha256:" + strings.Repeat("a", 64), "x:\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := Normalize(s)
		if err != nil {
			return
		}
		if again, err := Normalize(n); err != nil || again != n {
			t.Errorf("%q is %q, which is %q, %v", s, n, again, err)
		}
		tags, digests, err := names(s, "sha256:"+strings.Repeat("0", 64))
		if err != nil || len(digests) != 1 || len(tags) > 1 {
			t.Errorf("names of %q: %v %v %v", s, tags, digests, err)
		}
		if strings.ContainsAny(n, "\x00\n ") || strings.Contains(n, "..") && strings.Contains(n, "/../") {
			t.Errorf("%q is %q", s, n)
		}
	})
}

// FuzzLayer: no tar, however broken, touches anything outside its folder or
// leaves an image behind that did not arrive whole.
func FuzzLayer(f *testing.F) {
	seed := func(headers ...tar.Header) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			if err := w.WriteHeader(&h); err != nil {
				f.Fatal(err)
			}
		}
		w.Close()
		f.Add(b.Bytes())
	}
	seed(tar.Header{Name: "a/b", Mode: 0o4755})
	seed(tar.Header{Name: "../../outside/x", Mode: 0o644})
	seed(tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../../../outside"}, tar.Header{Name: "l/x", Mode: 0o644}, tar.Header{Name: "l/.wh.kept"})
	seed(tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "../../../outside/kept"})
	seed(tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}, tar.Header{Name: "d/.wh..wh..opq"}, tar.Header{Name: ".wh.."})
	seed(tar.Header{Name: "dev", Typeflag: tar.TypeBlock, Devmajor: 254}, tar.Header{Name: "p", Typeflag: tar.TypeFifo})
	f.Fuzz(func(t *testing.T, layer []byte) {
		top := t.TempDir()
		outside := filepath.Join(top, "outside")
		if err := os.MkdirAll(outside, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(outside, "kept"), []byte("kept"), 0o600); err != nil {
			t.Fatal(err)
		}
		s := openStore(t, filepath.Join(top, "images"))
		got, err := s.Import(t.Context(), archiveWith(t, layer))
		all, lerr := s.List(t.Context())
		if lerr != nil || (err == nil) != (len(all) == 1) || err == nil && len(got) != 1 {
			t.Errorf("import said %v, the store has %d images, %v", err, len(all), lerr)
		}
		entries, rerr := os.ReadDir(top)
		inside, ierr := os.ReadDir(outside)
		b, kerr := os.ReadFile(filepath.Join(outside, "kept"))
		if rerr != nil || ierr != nil || kerr != nil || len(entries) != 2 || len(inside) != 1 || string(b) != "kept" {
			t.Errorf("outside of the store: %v %v %q", entries, inside, b)
		}
	})
}

func archiveWith(t *testing.T, layer []byte) string {
	t.Helper()
	var b bytes.Buffer
	if err := imagefile.WriteLayer(&b, "fuzz:1", layer, ispecs.ImageConfig{}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "fuzz.tar")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
