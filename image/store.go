// SPDX-License-Identifier: Apache-2.0

// Package image owns the images of one node: references, pulls, imports, the
// unpacked layers that containers mount, and their removal. It does not mount
// anything and knows neither containers nor Pods.
//
// All state is files, so that `peapod image import` works while a node runs:
//
//	content/               blobs, as an OCI content store
//	records/<config>.json  one per image: names, layers, size
//	layers/<chain ID>/     an unpacked layer, shared by images (overlay form)
//	holds/<name>.json      the layers somebody uses, whatever becomes of the image
//	lock                   shared while something is added, exclusive to collect
package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
)

// Options change how a store behaves.
type Options struct {
	// HostsDir holds registry settings as containerd's hosts.toml files
	// (mirrors, certificates); it need not exist.
	HostsDir string
	Log      *slog.Logger
}

// Image is what a store knows of one image.
type Image struct {
	// ID is the digest of the image's configuration.
	ID          string
	RepoTags    []string
	RepoDigests []string
	// Size is the compressed size of the layers and configuration, in bytes.
	Size   int64
	Config ispecs.ImageConfig
	Pinned bool
}

// record is an image on disk. Layers are bottom first.
type record struct {
	Version  int                `json:"version"`
	ID       digest.Digest      `json:"id"`
	Manifest digest.Digest      `json:"manifest"`
	Tags     []string           `json:"tags,omitempty"`
	Digests  []string           `json:"digests,omitempty"`
	Layers   []digest.Digest    `json:"layers"` // chain IDs
	Size     int64              `json:"size"`
	Unpacked int64              `json:"unpacked"` // bytes on disk of all layers
	Config   ispecs.ImageConfig `json:"config"`
	Pinned   bool               `json:"pinned,omitempty"`
}

func (r record) image() Image {
	return Image{ID: r.ID.String(), RepoTags: r.Tags, RepoDigests: r.Digests, Size: r.Size, Config: r.Config, Pinned: r.Pinned}
}

// Store is the images in one folder. It is safe for concurrent use, also by
// several processes.
type Store struct {
	dir      string
	options  Options
	content  content.Store
	mu       sync.Mutex // guards records and holds on disk against this process
	unpacks  keyed
	lockFile *os.File
	adding   sync.RWMutex // held shared while adding, exclusively to collect
}

// Open opens the store in dir and makes it if it is not there.
func Open(dir string, o Options) (*Store, error) {
	for _, sub := range []string{"records", "layers", "holds"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("cannot open image store: %w", err)
		}
	}
	c, err := local.NewStore(filepath.Join(dir, "content"))
	if err != nil {
		return nil, fmt.Errorf("cannot open image store: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open image store: %w", err)
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &Store{dir: dir, options: o, content: c, lockFile: lock}, nil
}

// Close lets go of the store's files.
func (s *Store) Close() error { return s.lockFile.Close() }

// add keeps collectors, of this and other processes, away while f runs.
func (s *Store) add(f func() error) error {
	s.adding.RLock()
	defer s.adding.RUnlock()
	file, err := os.Open(s.lockFile.Name())
	if err != nil {
		return fmt.Errorf("cannot lock image store: %w", err)
	}
	defer file.Close()
	if err := unix.Flock(int(file.Fd()), unix.LOCK_SH); err != nil {
		return fmt.Errorf("cannot lock image store: %w", err)
	}
	return f()
}

// List returns all images, by ID.
func (s *Store) List(context.Context) ([]Image, error) {
	records, err := s.records()
	if err != nil {
		return nil, err
	}
	out := make([]Image, len(records))
	for i, r := range records {
		out[i] = r.image()
	}
	return out, nil
}

// Get finds an image by ID, a unique prefix of it, name, or digest reference.
// A missing one is errdefs.ErrNotFound.
func (s *Store) Get(_ context.Context, ref string) (Image, error) {
	r, err := s.find(ref)
	if err != nil {
		return Image{}, err
	}
	return r.image(), nil
}

func (s *Store) find(ref string) (record, error) {
	records, err := s.records()
	if err != nil {
		return record{}, err
	}
	want := ref
	if named, err := Normalize(ref); err == nil {
		want = named
	}
	for _, r := range records {
		if r.ID.String() == ref || slices.Contains(r.Tags, want) || slices.Contains(r.Digests, want) {
			return r, nil
		}
		if _, d, ok := strings.Cut(want, "@"); ok && slices.ContainsFunc(r.Digests, func(have string) bool {
			return strings.HasSuffix(have, "@"+d) && repository(have) == repository(want)
		}) {
			return r, nil
		}
	}
	var match []record
	for _, r := range records {
		if len(ref) >= 4 && strings.HasPrefix(r.ID.Encoded(), strings.TrimPrefix(ref, "sha256:")) {
			match = append(match, r)
		}
	}
	if len(match) == 1 {
		return match[0], nil
	}
	return record{}, fmt.Errorf("image %q: %w", ref, errdefs.ErrNotFound)
}

func repository(ref string) string {
	name, _, _ := strings.Cut(ref, "@")
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		name = name[:i]
	}
	return name
}

func (s *Store) records() ([]record, error) {
	files, err := filepath.Glob(filepath.Join(s.dir, "records", "*.json"))
	if err != nil {
		return nil, fmt.Errorf("cannot list images: %w", err)
	}
	var out []record
	for _, f := range files {
		b, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed by another process just now
		}
		var r record
		if err == nil {
			err = json.Unmarshal(b, &r)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read image record %s: %w", f, err)
		}
		out = append(out, r)
	}
	return out, nil
}

func (s *Store) recordPath(id digest.Digest) string {
	return filepath.Join(s.dir, "records", id.Encoded()+".json")
}

// save writes a record and takes its names away from any other image.
func (s *Store) save(r record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	all, err := s.records()
	if err != nil {
		return err
	}
	for _, o := range all {
		if o.ID == r.ID {
			r.Tags, r.Digests = union(o.Tags, r.Tags), union(o.Digests, r.Digests)
			r.Pinned = r.Pinned || o.Pinned
			continue
		}
		kept := slices.DeleteFunc(slices.Clone(o.Tags), func(t string) bool { return slices.Contains(r.Tags, t) })
		if len(kept) != len(o.Tags) {
			o.Tags = kept
			if err := s.write(o); err != nil {
				return err
			}
		}
	}
	return s.write(r)
}

func union(a, b []string) []string {
	out := slices.Concat(a, b)
	slices.Sort(out)
	return slices.Compact(out)
}

func (s *Store) write(r record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write image record: %w", err)
	}
	if err := linux.WriteFile(s.recordPath(r.ID), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("cannot write image record: %w", err)
	}
	return nil
}

// Remove removes an image by ID with all its names, or one name of it. The
// layers nobody uses go with the last name.
func (s *Store) Remove(_ context.Context, ref string) error {
	r, err := s.find(ref)
	if err != nil {
		return err
	}
	s.mu.Lock()
	named, nerr := Normalize(ref)
	left := slices.DeleteFunc(slices.Clone(r.Tags), func(t string) bool { return t == named })
	if nerr == nil && ref != r.ID.String() && len(left) > 0 && len(left) < len(r.Tags) {
		r.Tags = left
		err = s.write(r)
	} else {
		err = os.Remove(s.recordPath(r.ID))
	}
	s.mu.Unlock()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove image %s: %w", ref, err)
	}
	return s.Collect()
}

// keyed lets one caller at a time work on each key.
type keyed struct {
	mu    sync.Mutex
	locks map[string]*sync.Mutex
}

func (k *keyed) lock(key string) (unlock func()) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*sync.Mutex{}
	}
	l := k.locks[key]
	if l == nil {
		l = &sync.Mutex{}
		k.locks[key] = l
	}
	k.mu.Unlock()
	l.Lock()
	return l.Unlock
}
