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
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
)

// partial is the list of blobs for which an unfinished pull has use.
type partial struct {
	Version int             `json:"version"`
	Name    string          `json:"name"`
	Blobs   []digest.Digest `json:"blobs"`
}

func (s *Store) partialPath(name string) string {
	return filepath.Join(s.dir, "partial", digest.FromString(name).Encoded()+".json")
}

// notePartial keeps what a pull fetches from Collect, should the pull break
// off, for Options.KeepPartial.
func (s *Store) notePartial(name string, documents []digest.Digest, d description) error {
	p := partial{1, name, documents}
	for _, l := range d.layers {
		p.Blobs = append(p.Blobs, l.blob.Digest)
	}
	b, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("cannot note pull of %s: %w", name, err)
	}
	return linux.ReplaceFile(s.partialPath(name), append(b, '\n'), 0o600)
}

func (s *Store) dropPartial(name string) error {
	if err := os.Remove(s.partialPath(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot end pull of %s: %w", name, err)
	}
	return nil
}

// tidy collects after work that has succeeded or failed already; what it could
// not remove, the next collection will.
func (s *Store) tidy() {
	if err := s.Collect(); err != nil {
		s.options.Log.Warn("cannot tidy up images", "op", "collect", "err", err)
	}
}

// Collect removes layers and blobs that no image, hold or unfinished pull
// needs, and what dead processes left. It does nothing while something is
// being added, by this or another process: whoever ends last collects.
func (s *Store) Collect() error {
	if !s.adding.TryLock() {
		return nil
	}
	defer s.adding.Unlock()
	lock, err := s.lockFile("store", unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	layers, blobs, err := s.needed()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(s.dir, "layers"))
	if err != nil {
		return fmt.Errorf("cannot collect layers: %w", err)
	}
	for _, e := range entries {
		if !layers[e.Name()] {
			if err := s.removeLayer(e.Name()); err != nil {
				return fmt.Errorf("cannot collect layers: %w", err)
			}
		}
	}
	if err := s.collectBlobs(blobs); err != nil {
		return fmt.Errorf("cannot collect blobs: %w", err)
	}
	return nil
}

// removeLayer takes a layer from its place first, so that half of one is never
// found there.
func (s *Store) removeLayer(name string) error {
	path := filepath.Join(s.dir, "layers", name)
	if !strings.HasPrefix(name, ".") {
		gone := filepath.Join(s.dir, "layers", ".gone-"+name)
		if err := os.RemoveAll(gone); err != nil {
			return err
		}
		if err := os.Rename(path, gone); err != nil {
			return err
		}
		path = gone
	}
	return os.RemoveAll(path)
}

func (s *Store) collectBlobs(needed map[digest.Digest]bool) error {
	ctx := s.quiet(context.Background())
	var gone []digest.Digest
	err := s.content.Walk(ctx, func(i content.Info) error {
		if !needed[i.Digest] {
			gone = append(gone, i.Digest)
		}
		return nil
	})
	for _, d := range gone {
		err = errors.Join(err, s.content.Delete(ctx, d))
	}
	unfinished, lerr := os.ReadDir(filepath.Join(s.dir, "content", "ingest"))
	if lerr != nil && !errors.Is(lerr, fs.ErrNotExist) {
		err = errors.Join(err, lerr)
	}
	for _, e := range unfinished {
		path := filepath.Join(s.dir, "content", "ingest", e.Name())
		ref, rerr := os.ReadFile(filepath.Join(path, "ref"))
		if rerr == nil && needed[refDigest(string(ref))] {
			continue
		}
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}

// refDigest is the digest at the end of the name of an unfinished blob.
func refDigest(ref string) digest.Digest {
	i := strings.LastIndex(ref, "-")
	return digest.Digest(ref[i+1:])
}

// needed are the layer folders and blobs in use. Blobs of layers are not, but
// for unfinished pulls: their folders have taken their place.
func (s *Store) needed() (layers map[string]bool, blobs map[digest.Digest]bool, err error) {
	layers, blobs = map[string]bool{}, map[digest.Digest]bool{}
	err = s.change(func(all []record) error {
		for _, r := range all {
			blobs[r.ID], blobs[r.Manifest] = true, true
			for _, l := range r.Layers {
				layers[l.Encoded()] = true
			}
		}
		return s.eachFile("records", func(string) error { return nil })
	})
	if err != nil {
		return nil, nil, err
	}
	err = s.eachFile("holds", func(path string) error {
		h, err := readHold(path)
		for _, l := range h.Layers {
			if l.Validate() == nil {
				layers[l.Encoded()] = true
			}
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	err = s.eachFile("partial", func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if s.options.Now().Sub(info.ModTime()) > s.options.KeepPartial {
			return os.Remove(path)
		}
		var p partial
		b, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(b, &p)
		}
		for _, d := range p.Blobs {
			blobs[d] = true
		}
		return err
	})
	return layers, blobs, err
}

// eachFile calls f for the JSON files of a folder and removes those that a dead
// process had not finished. Holds and partials are not written through to the
// disk, so after a power failure one may be empty or cut: what it spoke of has
// not survived either, and it is removed too.
func (s *Store) eachFile(folder string, f func(path string) error) error {
	entries, err := os.ReadDir(filepath.Join(s.dir, folder))
	if err != nil {
		return fmt.Errorf("cannot collect: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(s.dir, folder, e.Name())
		if strings.HasPrefix(e.Name(), ".") {
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("cannot collect: %w", err)
			}
			continue
		}
		err := f(path)
		if isCut(err) {
			s.options.Log.Warn("removed an unreadable file", "op", "collect", "file", path, "err", err)
			err = os.Remove(path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot collect: %w", err)
		}
	}
	return nil
}

func isCut(err error) bool {
	_, cut := errors.AsType[*json.SyntaxError](err)
	return cut
}

// Usage is what the store takes of its file system, and how that stands.
type Usage struct {
	Path string
	// Bytes and Inodes of all unpacked layers.
	Bytes, Inodes int64
	// Capacity and Available bytes of the file system, and its inodes; those
	// are 0 where it has no fixed number.
	Capacity, Available            int64
	InodeCapacity, InodesAvailable int64
}

// FSInfo sums up the unpacked layers and asks their file system.
func (s *Store) FSInfo() (Usage, error) {
	u := Usage{Path: s.dir}
	entries, err := os.ReadDir(filepath.Join(s.dir, "layers"))
	if err != nil {
		return u, fmt.Errorf("cannot measure images: %w", err)
	}
	for _, e := range entries {
		var l layerInfo
		b, err := os.ReadFile(filepath.Join(s.dir, "layers", e.Name(), "layer.json"))
		if errors.Is(err, fs.ErrNotExist) {
			continue // on its way in or out
		}
		if err == nil {
			err = json.Unmarshal(b, &l)
		}
		if err != nil {
			return u, fmt.Errorf("cannot measure images: %w", err)
		}
		u.Bytes += l.Bytes
		u.Inodes += l.Inodes
	}
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return u, fmt.Errorf("cannot measure images: %w", err)
	}
	u.Capacity, u.Available = int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize
	u.InodeCapacity, u.InodesAvailable = int64(st.Files), int64(st.Ffree)
	return u, nil
}
