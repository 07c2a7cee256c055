// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
)

// unpack turns the layers of a manifest into folders and returns the record of
// the image, without names.
func (s *Store) unpack(ctx context.Context, manifest ispecs.Descriptor) (record, error) {
	m, err := readJSON[ispecs.Manifest](ctx, s.content, manifest)
	if err != nil {
		return record{}, fmt.Errorf("cannot read manifest %s: %w", manifest.Digest, err)
	}
	config, err := readJSON[ispecs.Image](ctx, s.content, m.Config)
	if err != nil {
		return record{}, fmt.Errorf("cannot read image configuration %s: %w", m.Config.Digest, err)
	}
	diffs := config.RootFS.DiffIDs
	if len(diffs) != len(m.Layers) {
		return record{}, fmt.Errorf("cannot unpack image %s: %d layers but %d diff IDs", manifest.Digest, len(m.Layers), len(diffs))
	}
	r := record{Version: 1, ID: m.Config.Digest, Manifest: manifest.Digest, Size: m.Config.Size, Config: config.Config}
	for i, l := range m.Layers {
		chain := identity.ChainID(slices.Clone(diffs[:i+1]))
		n, err := s.unpackLayer(ctx, l, diffs[i], chain)
		if err != nil {
			return record{}, fmt.Errorf("cannot unpack layer %s: %w", l.Digest, err)
		}
		r.Layers = append(r.Layers, chain)
		r.Size += l.Size
		r.Unpacked += n
	}
	return r, nil
}

func readJSON[T any](ctx context.Context, p content.Provider, d ispecs.Descriptor) (out T, err error) {
	b, err := content.ReadBlob(ctx, p, d)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	return out, err
}

func (s *Store) layerPath(chain digest.Digest) string {
	return filepath.Join(s.dir, "layers", chain.Encoded())
}

// unpackLayer makes one layer's folder, once for all images that share it. It
// comes into being by a rename, complete and verified, or not at all.
func (s *Store) unpackLayer(ctx context.Context, l ispecs.Descriptor, diff, chain digest.Digest) (int64, error) {
	defer s.unpacks.lock(chain.String())()
	target := s.layerPath(chain)
	if n, err := readSize(target); err == nil {
		return n, nil
	}
	tmp, err := os.MkdirTemp(filepath.Join(s.dir, "layers"), ".unpack-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(tmp)
	if err := os.Mkdir(filepath.Join(tmp, "fs"), 0o755); err != nil {
		return 0, err
	}
	n, err := s.apply(ctx, l, diff, filepath.Join(tmp, "fs"))
	if err != nil {
		return 0, err
	}
	if err := linux.WriteFile(filepath.Join(tmp, "size"), fmt.Appendf(nil, "%d\n", n), 0o600); err != nil {
		return 0, err
	}
	if err := syncFS(tmp); err != nil {
		return 0, err
	}
	if err := os.Chmod(tmp, 0o700); err != nil {
		return 0, err
	}
	if err := os.Rename(tmp, target); err != nil && !errors.Is(err, fs.ErrExist) {
		return 0, err
	}
	return n, nil
}

// apply writes a layer's files. The library resolves every path inside root,
// so that "..", absolute links and the like stay there; whiteouts become
// overlay's own form.
func (s *Store) apply(ctx context.Context, l ispecs.Descriptor, diff digest.Digest, root string) (int64, error) {
	ra, err := s.content.ReaderAt(ctx, l)
	if err != nil {
		return 0, err
	}
	defer ra.Close()
	plain, err := compression.DecompressStream(content.NewReader(ra))
	if err != nil {
		return 0, err
	}
	defer plain.Close()
	verify := diff.Verifier()
	tee := io.TeeReader(plain, verify)
	n, err := archive.Apply(ctx, root, tee, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout))
	if err != nil {
		return 0, err
	}
	// The tar's padding is part of the digest.
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return 0, err
	}
	if !verify.Verified() {
		return 0, fmt.Errorf("content does not have the digest %s its image names", diff)
	}
	return n, nil
}

func syncFS(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

func readSize(layer string) (n int64, err error) {
	b, err := os.ReadFile(filepath.Join(layer, "size"))
	if err != nil {
		return 0, err
	}
	_, err = fmt.Sscan(string(b), &n)
	return n, err
}

// hold is what one user of layers has written down.
type hold struct {
	Version int             `json:"version"`
	Image   digest.Digest   `json:"image"`
	Layers  []digest.Digest `json:"layers"`
}

// Hold keeps the layers of an image for a user with this name until Release,
// also when the image is removed, and returns them as overlay lower folders,
// topmost first. Repeating it is no error.
func (s *Store) Hold(ctx context.Context, name, ref string) (lower []string, err error) {
	err = s.add(func() error {
		r, err := s.find(ref)
		if err != nil {
			return err
		}
		b, err := json.Marshal(hold{1, r.ID, r.Layers})
		if err != nil {
			return err
		}
		if err := linux.ReplaceFile(s.holdPath(name), append(b, '\n'), 0o600); err != nil {
			return err
		}
		for _, chain := range slices.Backward(r.Layers) {
			lower = append(lower, filepath.Join(s.layerPath(chain), "fs"))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot use image %s: %w", ref, err)
	}
	return lower, nil
}

func (s *Store) holdPath(name string) string {
	return filepath.Join(s.dir, "holds", filepath.Base(name)+".json")
}

// Release ends a Hold. An unknown name is no error.
func (s *Store) Release(name string) error {
	if err := os.Remove(s.holdPath(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot release layers of %s: %w", name, err)
	}
	return nil
}

// Collect removes layers and blobs that no image and no hold needs, and what
// interrupted pulls left. It does nothing while something is being added.
func (s *Store) Collect() error {
	if !s.adding.TryLock() {
		return nil
	}
	defer s.adding.Unlock()
	if err := unix.Flock(int(s.lockFile.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil // another process is adding; it collects when it removes
	}
	defer unix.Flock(int(s.lockFile.Fd()), unix.LOCK_UN)
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
			if err := os.RemoveAll(filepath.Join(s.dir, "layers", e.Name())); err != nil {
				return fmt.Errorf("cannot collect layers: %w", err)
			}
		}
	}
	ctx := context.Background()
	var gone []digest.Digest
	err = s.content.Walk(ctx, func(i content.Info) error {
		if !blobs[i.Digest] {
			gone = append(gone, i.Digest)
		}
		return nil
	})
	for _, d := range gone {
		err = errors.Join(err, s.content.Delete(ctx, d))
	}
	if err != nil {
		return fmt.Errorf("cannot collect blobs: %w", err)
	}
	return nil
}

// needed are the layer folders and blobs in use. Layer blobs are not: their
// folders have taken their place.
func (s *Store) needed() (layers map[string]bool, blobs map[digest.Digest]bool, err error) {
	layers, blobs = map[string]bool{}, map[digest.Digest]bool{}
	records, err := s.records()
	if err != nil {
		return nil, nil, err
	}
	for _, r := range records {
		blobs[r.ID], blobs[r.Manifest] = true, true
		for _, l := range r.Layers {
			layers[l.Encoded()] = true
		}
	}
	holds, err := filepath.Glob(filepath.Join(s.dir, "holds", "*.json"))
	if err != nil {
		return nil, nil, err
	}
	for _, f := range holds {
		b, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var h hold
		if err == nil {
			err = json.Unmarshal(b, &h)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("cannot read hold %s: %w", f, err)
		}
		for _, l := range h.Layers {
			layers[l.Encoded()] = true
		}
	}
	return layers, blobs, nil
}

// Usage is what the store takes of its file system.
type Usage struct {
	Path  string
	Bytes int64
}

// FSInfo sums up the unpacked layers.
func (s *Store) FSInfo() (Usage, error) {
	u := Usage{Path: s.dir}
	entries, err := os.ReadDir(filepath.Join(s.dir, "layers"))
	if err != nil {
		return u, fmt.Errorf("cannot measure images: %w", err)
	}
	for _, e := range entries {
		if n, err := readSize(filepath.Join(s.dir, "layers", e.Name())); err == nil {
			u.Bytes += n
		}
	}
	return u, nil
}
