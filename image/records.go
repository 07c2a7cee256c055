// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
)

// Image is what a store knows of one image. It is shared: do not change what
// its fields point to.
type Image struct {
	// ID is the digest of the image's configuration.
	ID          string
	RepoTags    []string
	RepoDigests []string
	// Size is the size of the layers as they travel and of the configuration,
	// in bytes.
	Size   int64
	Config ispecs.ImageConfig
	// Pinned images are not for a node's own clean-up.
	Pinned bool
}

// record is an image on disk. Layers are chain IDs, bottom first.
type record struct {
	Version  int                `json:"version"`
	ID       digest.Digest      `json:"id"`
	Manifest digest.Digest      `json:"manifest"`
	Tags     []string           `json:"tags,omitempty"`
	Digests  []string           `json:"digests,omitempty"`
	Layers   []digest.Digest    `json:"layers"`
	Size     int64              `json:"size"`
	Config   ispecs.ImageConfig `json:"config"`
	Pinned   bool               `json:"pinned,omitempty"`
}

func (r record) image() Image {
	return Image{ID: r.ID.String(), RepoTags: r.Tags, RepoDigests: r.Digests, Size: r.Size, Config: r.Config, Pinned: r.Pinned}
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

// Get finds an image by ID, a unique prefix of it of at least four digits,
// name, or digest reference. A missing one is errdefs.ErrNotFound.
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
	}
	if r, ok := byPrefix(records, ref); ok {
		return r, nil
	}
	return record{}, fmt.Errorf("image %q: %w", ref, errdefs.ErrNotFound)
}

// byPrefix finds the one image whose ID begins like this.
func byPrefix(records []record, ref string) (record, bool) {
	prefix := strings.TrimPrefix(ref, "sha256:")
	if len(prefix) < 4 {
		return record{}, false
	}
	var match []record
	for _, r := range records {
		if strings.HasPrefix(r.ID.Encoded(), prefix) {
			match = append(match, r)
		}
	}
	if len(match) != 1 {
		return record{}, false
	}
	return match[0], true
}

// recordCache holds the records as of a modification of their folder. Every
// change of a record is a rename or a removal in it, which the folder's time
// shows to all processes.
type recordCache struct {
	mu      sync.Mutex // guards the fields below
	records []record
	folder  unix.Timespec
	valid   bool
}

// racy is how long after a change of a folder another change might show the
// same time: a clock tick of the kernel, with room to spare.
const racy = 50 * time.Millisecond

// records are all images, by ID; the slice is shared.
func (s *Store) records() ([]record, error) {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(s.dir, "records"), &st); err != nil {
		return nil, fmt.Errorf("cannot list images: %w", err)
	}
	if s.cache.valid && st.Mtim == s.cache.folder {
		return s.cache.records, nil
	}
	read := time.Now()
	records, err := s.readRecords()
	if err != nil {
		return nil, err
	}
	age := read.Sub(time.Unix(st.Mtim.Unix()))
	s.cache.records, s.cache.folder, s.cache.valid = records, st.Mtim, age > racy
	return records, nil
}

func (s *Store) readRecords() ([]record, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "records"))
	if err != nil {
		return nil, fmt.Errorf("cannot list images: %w", err)
	}
	var out []record
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".json" || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(s.dir, "records", e.Name())
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed by another process just now
		}
		var r record
		if err == nil {
			err = json.Unmarshal(b, &r)
		}
		if err == nil {
			err = r.check()
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read image record %s: %w", path, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// check refuses what would name files outside the store.
func (r record) check() error {
	for _, d := range append([]digest.Digest{r.ID, r.Manifest}, r.Layers...) {
		if err := d.Validate(); err != nil {
			return fmt.Errorf("%q: %w", d, err)
		}
	}
	return nil
}

func (s *Store) recordPath(id digest.Digest) string {
	return filepath.Join(s.dir, "records", id.Encoded()+".json")
}

// change lets one caller at a time, among all processes, change records.
func (s *Store) change(f func(all []record) error) error {
	lock, err := s.lockFile("records", unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close()
	all, err := s.readRecords()
	if err != nil {
		return err
	}
	return f(all)
}

// save writes a record, joins it with what is known of the same image, and
// takes its names away from any other.
func (s *Store) save(r record) (record, error) {
	err := s.change(func(all []record) error {
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
	})
	return r, err
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

// Pin says whether a node's own clean-up has to leave an image alone.
func (s *Store) Pin(_ context.Context, ref string, pinned bool) error {
	found, err := s.find(ref)
	if err != nil {
		return err
	}
	return s.change(func(all []record) error {
		for _, r := range all {
			if r.ID == found.ID {
				r.Pinned = pinned
				return s.write(r)
			}
		}
		return fmt.Errorf("image %q: %w", ref, errdefs.ErrNotFound)
	})
}

// Remove removes an image by ID with all its names, or one name of it. The
// layers nobody uses go with the last name.
func (s *Store) Remove(_ context.Context, ref string) error {
	found, err := s.find(ref)
	if err != nil {
		return err
	}
	named, _ := Normalize(ref)
	err = s.change(func(all []record) error {
		for _, r := range all {
			if r.ID != found.ID {
				continue
			}
			left := slices.DeleteFunc(slices.Clone(r.Tags), func(t string) bool { return t == named })
			if len(left) > 0 && len(left) < len(r.Tags) {
				r.Tags = left
				return s.write(r)
			}
			return os.Remove(s.recordPath(r.ID))
		}
		return nil // somebody was faster
	})
	if err != nil {
		return fmt.Errorf("cannot remove image %s: %w", ref, err)
	}
	return s.Collect()
}
