// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	continuity "github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// layersAtOnce bounds how many layers of one image are fetched in parallel.
const layersAtOnce = 3

// layerInfo is what an unpacked layer takes.
type layerInfo struct {
	Version int   `json:"version"`
	Bytes   int64 `json:"bytes"`
	Inodes  int64 `json:"inodes"`
}

func (s *Store) layerPath(chain digest.Digest) string {
	return filepath.Join(s.dir, "layers", chain.Encoded())
}

// unpacked says whether a layer is there, whole.
func (s *Store) unpacked(chain digest.Digest) bool {
	_, err := os.Lstat(filepath.Join(s.layerPath(chain), "layer.json"))
	return err == nil
}

// staged is a layer on its way: unpacked, not yet in its place.
type staged struct{ tmp, target string }

// assemble unpacks the layers of an image that are not there; get brings their
// blobs, in parallel with the unpacking.
func (s *Store) assemble(ctx context.Context, d description, m *meter, get func(context.Context, ispecs.Descriptor) error) (err error) {
	group, gctx := errgroup.WithContext(ctx)
	arrived := make([]chan struct{}, len(d.layers))
	fetches := make(chan struct{}, layersAtOnce)
	for i, l := range d.layers {
		arrived[i] = make(chan struct{})
		if s.unpacked(l.chain) {
			close(arrived[i])
			continue
		}
		m.expect(l.blob.Size)
		group.Go(func() error {
			select {
			case fetches <- struct{}{}:
				defer func() { <-fetches }()
			case <-gctx.Done():
				return context.Cause(gctx)
			}
			defer close(arrived[i])
			return get(gctx, l.blob)
		})
	}
	group.Go(func() error { return s.unpack(gctx, d.layers, arrived) })
	return group.Wait()
}

// unpack puts layers in their places, all that were missing at once: the disk
// is waited for once for an image, not once for a layer.
func (s *Store) unpack(ctx context.Context, layers []layer, arrived []chan struct{}) (err error) {
	var done []staged
	var unlocks []func()
	defer func() {
		for _, l := range done {
			err = errors.Join(err, os.RemoveAll(l.tmp))
		}
		for _, unlock := range unlocks {
			unlock()
		}
	}()
	var lower []string // topmost first
	for i, l := range layers {
		select {
		case <-arrived[i]:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		// Stacks only ever share their lower part, so that everybody takes
		// these locks in one order.
		unlock, err := s.busy.lock(ctx, "layer "+l.chain.String())
		if err != nil {
			return err
		}
		unlocks = append(unlocks, unlock)
		place := s.layerPath(l.chain)
		if !s.unpacked(l.chain) {
			tmp, err := os.MkdirTemp(filepath.Join(s.dir, "layers"), ".unpack-")
			if err != nil {
				return fmt.Errorf("cannot unpack layer %s: %w", l.blob.Digest, err)
			}
			done = append(done, staged{tmp, place})
			place = tmp
			if err := s.unpackLayer(ctx, l, tmp, lower); err != nil {
				return fmt.Errorf("cannot unpack layer %s: %w", l.blob.Digest, err)
			}
		}
		lower = append([]string{filepath.Join(place, "fs")}, lower...)
	}
	return s.settle(done)
}

// settle makes staged layers visible, after they are on disk.
func (s *Store) settle(done []staged) error {
	if len(done) == 0 {
		return nil
	}
	dir, err := os.Open(filepath.Join(s.dir, "layers"))
	if err != nil {
		return fmt.Errorf("cannot keep layers: %w", err)
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("cannot keep layers: %w", err)
	}
	for _, l := range done {
		err := os.Rename(l.tmp, l.target)
		if errors.Is(err, fs.ErrExist) {
			if _, serr := os.Lstat(filepath.Join(l.target, "layer.json")); serr == nil {
				continue // another process was faster with the same content
			}
			// Somebody has damaged the layer.
			if err = s.removeLayer(filepath.Base(l.target)); err == nil {
				err = os.Rename(l.tmp, l.target)
			}
		}
		if err != nil {
			return fmt.Errorf("cannot keep layers: %w", err)
		}
	}
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("cannot keep layers: %w", err)
	}
	return nil
}

// unpackLayer fills a staged layer; lower are the folders of the layers below,
// from which folders that the tar only implies take their owner and mode.
func (s *Store) unpackLayer(ctx context.Context, l layer, tmp string, lower []string) error {
	root := filepath.Join(tmp, "fs")
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	if err := s.apply(ctx, l, root, lower); err != nil {
		return err
	}
	usage, err := continuity.DiskUsage(ctx, root)
	if err != nil {
		return err
	}
	b, err := json.Marshal(layerInfo{1, usage.Size, usage.Inodes})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(tmp, "layer.json"), append(b, '\n'), 0o600)
}

// apply writes a layer's files. The library resolves every path inside root,
// so that "..", absolute links and the like stay there; whiteouts become
// overlay's own form. Device nodes and set-user-ID programs are made as the
// layer says: only root can reach them below layers/.
func (s *Store) apply(ctx context.Context, l layer, root string, lower []string) error {
	ra, err := s.content.ReaderAt(ctx, l.blob)
	if err != nil {
		return err
	}
	defer ra.Close()
	plain, err := compression.DecompressStream(content.NewReader(ra))
	if err != nil {
		return err
	}
	defer plain.Close()
	verify := l.diff.Verifier()
	tee := io.TeeReader(plain, verify)
	_, err = archive.Apply(ctx, root, tee, archive.WithFilter(foreignAttributes), archive.WithParents(lower),
		archive.WithConvertWhiteout(archive.OverlayConvertWhiteout))
	if err != nil {
		return err
	}
	// The tar's padding is part of the digest.
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return err
	}
	if !verify.Verified() {
		return fmt.Errorf("content does not have the digest %s that its image names: %w", l.diff, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// foreignAttributes drops the extended attributes by which overlayfs itself
// keeps book: a layer has no say in where its files are looked up.
func foreignAttributes(h *tar.Header) (bool, error) {
	for key := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if ok && (strings.HasPrefix(name, "trusted.") || strings.HasPrefix(name, "user.overlay.")) {
			delete(h.PAXRecords, key)
		}
	}
	return true, nil
}
