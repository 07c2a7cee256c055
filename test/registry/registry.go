// SPDX-License-Identifier: Apache-2.0

// Package registry is a small OCI registry on loopback, for tests: images are
// pushed to it by function calls and pulled from it over HTTP. It serves what a
// pull needs of the distribution specification and nothing else.
package registry

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Registry holds images in memory. Its fields are to be set before the first
// request.
type Registry struct {
	Server *httptest.Server
	// Guard may answer a request itself and return true: to ask for
	// credentials, to fail.
	Guard func(w http.ResponseWriter, r *http.Request) bool

	mu    sync.Mutex // guards the fields below
	docs  map[string]document
	blobs map[digest.Digest][]byte
	gets  map[string]int
}

type document struct {
	mediaType string
	data      []byte
}

// New starts a registry that ends with the test.
func New(t testing.TB) *Registry {
	r := Start()
	t.Cleanup(r.Server.Close)
	return r
}

// Start starts a registry that ends with the Close of its Server.
func Start() *Registry {
	r := &Registry{docs: map[string]document{}, blobs: map[digest.Digest][]byte{}, gets: map[string]int{}}
	r.Server = httptest.NewServer(r)
	return r
}

// Host is the registry's address as image names have it.
func (r *Registry) Host() string { return strings.TrimPrefix(r.Server.URL, "http://") }

// Gets is how often a path, or a digest, was fetched whole or in part.
func (r *Registry) Gets(what string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for path, count := range r.gets {
		if strings.HasSuffix(path, what) {
			n += count
		}
	}
	return n
}

// ServeHTTP answers GET and HEAD of manifests and blobs.
func (r *Registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if r.Guard != nil && r.Guard(w, q) {
		return
	}
	path := strings.TrimPrefix(q.URL.Path, "/v2/")
	r.mu.Lock()
	if q.Method == http.MethodGet {
		r.gets[path]++
	}
	doc, isDoc := r.docs[path]
	_, name, _ := strings.Cut(path, "/blobs/")
	blob, isBlob := r.blobs[digest.Digest(name)]
	r.mu.Unlock()
	switch {
	case isDoc:
		w.Header().Set("Content-Type", doc.mediaType)
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(doc.data).String())
		http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(doc.data))
	case isBlob:
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(blob))
	default:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintln(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`)
	}
}

// Image is an image to push.
type Image struct {
	// Layers are tars, bottom first.
	Layers [][]byte
	Config ispecs.ImageConfig
	// Docker uses docker's media types instead of OCI's.
	Docker bool
	// Compression is "", "gzip" or "zstd".
	Compression string
	// Platform is linux/amd64 if empty.
	Platform ispecs.Platform
	// Change may alter the manifest before it is stored.
	Change func(*ispecs.Manifest)
}

// Push stores an image and returns the descriptor of its manifest.
func (r *Registry) Push(repo, tag string, i Image) ispecs.Descriptor {
	m, blobs := Pack(i)
	for _, b := range blobs {
		r.Blob(b)
	}
	b := encode(m)
	r.document(repo, tag, m.MediaType, b)
	return ispecs.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(b), Size: int64(len(b)), Platform: &i.Platform}
}

// PushIndex stores an index of manifests that were pushed before.
func (r *Registry) PushIndex(repo, tag string, manifests ...ispecs.Descriptor) digest.Digest {
	b := encode(ispecs.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ispecs.MediaTypeImageIndex, Manifests: manifests})
	r.document(repo, tag, ispecs.MediaTypeImageIndex, b)
	return digest.FromBytes(b)
}

// Blob stores a blob.
func (r *Registry) Blob(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[digest.FromBytes(b)] = b
}

// Replace makes the registry lie: it sends b for a digest.
func (r *Registry) Replace(d digest.Digest, b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[d] = b
}

func (r *Registry) document(repo, tag, mediaType string, b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.docs[repo+"/manifests/"+tag] = document{mediaType, b}
	r.docs[repo+"/manifests/"+digest.FromBytes(b).String()] = document{mediaType, b}
}

// Pack makes an image's manifest and the blobs that it names: the
// configuration first, then the layers, bottom first.
func Pack(i Image) (ispecs.Manifest, [][]byte) {
	layerType, configType, manifestType := ispecs.MediaTypeImageLayer, ispecs.MediaTypeImageConfig, ispecs.MediaTypeImageManifest
	if i.Docker {
		layerType, configType, manifestType = "application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.container.image.v1+json", "application/vnd.docker.distribution.manifest.v2+json"
	}
	if i.Compression != "" {
		if i.Docker {
			layerType += "." + i.Compression
		} else {
			layerType += "+" + i.Compression
		}
	}
	platform := i.Platform
	if platform.OS == "" {
		platform = ispecs.Platform{OS: "linux", Architecture: "amd64"}
	}
	config := ispecs.Image{Platform: platform, Config: i.Config, RootFS: ispecs.RootFS{Type: "layers"}}
	m := ispecs.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: manifestType}
	blobs := [][]byte{nil}
	for _, l := range i.Layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l))
		b := compress(i.Compression, l)
		m.Layers = append(m.Layers, ispecs.Descriptor{MediaType: layerType, Digest: digest.FromBytes(b), Size: int64(len(b))})
		blobs = append(blobs, b)
	}
	blobs[0] = encode(config)
	m.Config = ispecs.Descriptor{MediaType: configType, Digest: digest.FromBytes(blobs[0]), Size: int64(len(blobs[0]))}
	if i.Change != nil {
		i.Change(&m)
	}
	return m, blobs
}

// Entry is one thing in a layer.
type Entry struct {
	tar.Header
	Data string
}

// File is a regular file.
func File(name, content string) Entry {
	return Entry{tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg}, content}
}

// Layer is the tar of some entries.
func Layer(entries ...Entry) []byte {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		h.Size = int64(len(e.Data))
		must(t.WriteHeader(&h))
		_, err := t.Write([]byte(e.Data))
		must(err)
	}
	must(t.Close())
	return b.Bytes()
}

func compress(how string, b []byte) []byte {
	var out bytes.Buffer
	switch how {
	case "gzip":
		w := gzip.NewWriter(&out)
		_, err := w.Write(b)
		must(err)
		must(w.Close())
	case "zstd":
		w, err := zstd.NewWriter(&out)
		must(err)
		_, err = w.Write(b)
		must(err)
		must(w.Close())
	default:
		return b
	}
	return out.Bytes()
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	must(err)
	return b
}

// must is for what cannot fail in memory.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
