// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Limits on what an image may say. Documents are read into memory whole;
// overlayfs takes 500 lower folders.
const (
	maxDocument = 8 << 20
	maxLayers   = 500
	maxNesting  = 4 // indexes in indexes
)

// description is an image as its manifest and configuration tell it, checked.
type description struct {
	manifest ispecs.Descriptor
	config   ispecs.Descriptor
	image    ispecs.Image
	layers   []layer // bottom first
}

// layer is one step of an image.
type layer struct {
	blob ispecs.Descriptor
	// diff is the digest of the tar, chain that of the whole stack up to here.
	diff, chain digest.Digest
}

// describe goes from a manifest or an index to the manifest for this machine
// and reads it with its configuration. It calls get for each document before
// it reads it.
func (s *Store) describe(ctx context.Context, d ispecs.Descriptor, get func(context.Context, ispecs.Descriptor) error) (description, error) {
	for range maxNesting {
		if err := s.document(ctx, d, get); err != nil {
			return description{}, err
		}
		next, err := images.Children(ctx, s.content, d)
		if err != nil {
			return description{}, fmt.Errorf("cannot read manifest %s: %w", d.Digest, err)
		}
		switch {
		case images.IsManifestType(d.MediaType):
			return s.describeManifest(ctx, d, next[0], next[1:], get)
		case !images.IsIndexType(d.MediaType):
			return description{}, fmt.Errorf("%s has the media type %q, which is no image: %w", d.Digest, d.MediaType, errdefs.ErrInvalidArgument)
		}
		if d, err = forThisMachine(d, next); err != nil {
			return description{}, err
		}
	}
	return description{}, fmt.Errorf("indexes are nested more than %d deep: %w", maxNesting, errdefs.ErrInvalidArgument)
}

// document makes sure that a small document is there and is small.
func (s *Store) document(ctx context.Context, d ispecs.Descriptor, get func(context.Context, ispecs.Descriptor) error) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("%q: %w", d.Digest, err)
	}
	if d.Size > maxDocument {
		return fmt.Errorf("%s is %d bytes, more than the %d a manifest or configuration may have: %w", d.Digest, d.Size, maxDocument, errdefs.ErrInvalidArgument)
	}
	if err := get(ctx, d); err != nil {
		return err
	}
	info, err := s.content.Info(ctx, d.Digest)
	if err == nil && info.Size > maxDocument {
		err = errdefs.ErrInvalidArgument
	}
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", d.Digest, err)
	}
	return nil
}

func (s *Store) describeManifest(ctx context.Context, d, config ispecs.Descriptor, blobs []ispecs.Descriptor, get func(context.Context, ispecs.Descriptor) error) (description, error) {
	fail := func(err error) (description, error) {
		return description{}, fmt.Errorf("cannot read image %s: %w", d.Digest, err)
	}
	if err := s.document(ctx, config, get); err != nil {
		return fail(err)
	}
	out := description{manifest: d, config: config}
	b, err := content.ReadBlob(ctx, s.content, config)
	if err == nil {
		err = json.Unmarshal(b, &out.image)
	}
	if err != nil {
		return fail(fmt.Errorf("configuration %s: %w", config.Digest, err))
	}
	diffs := out.image.RootFS.DiffIDs
	switch {
	case len(diffs) != len(blobs):
		return fail(fmt.Errorf("%d layers, but its configuration (%s) names %d: %w", len(blobs), config.MediaType, len(diffs), errdefs.ErrInvalidArgument))
	case len(blobs) > maxLayers:
		return fail(fmt.Errorf("%d layers, more than the %d that can be mounted: %w", len(blobs), maxLayers, errdefs.ErrInvalidArgument))
	}
	for i, blob := range blobs {
		// Digests become file names: those of a manifest are anybody's text.
		for _, name := range []digest.Digest{blob.Digest, diffs[i]} {
			if err := name.Validate(); err != nil {
				return fail(fmt.Errorf("layer %d: %q: %w", i, name, err))
			}
		}
		out.layers = append(out.layers, layer{blob: ispecs.Descriptor{MediaType: blob.MediaType, Digest: blob.Digest, Size: blob.Size, URLs: blob.URLs}, diff: diffs[i]})
	}
	for i, chain := range identity.ChainIDs(slices.Clone(diffs)) {
		out.layers[i].chain = chain
	}
	return out, nil
}

// errPlatform is that an image is there, but not for this machine.
var errPlatform = errors.New("no match for platform in manifest")

func noMatch(index digest.Digest, list []ispecs.Descriptor) error {
	var have []string
	for _, m := range list {
		if m.Platform != nil && m.Platform.OS != "unknown" { // attestations are entries too
			have = append(have, platforms.Format(*m.Platform))
		}
	}
	return fmt.Errorf("%w %s, it is for %s, this machine is %s: %w", errPlatform, index, strings.Join(have, ", "), platforms.Format(platforms.DefaultSpec()), errdefs.ErrNotFound)
}

// forThisMachine picks the manifest of an index that fits this machine best.
func forThisMachine(index ispecs.Descriptor, list []ispecs.Descriptor) (ispecs.Descriptor, error) {
	match := platforms.Default()
	var best *ispecs.Descriptor
	for i, m := range list {
		if m.Platform != nil && !match.Match(*m.Platform) {
			continue
		}
		if best == nil || m.Platform != nil && (best.Platform == nil || match.Less(*m.Platform, *best.Platform)) {
			best = &list[i]
		}
	}
	if best == nil {
		return ispecs.Descriptor{}, noMatch(index.Digest, list)
	}
	return *best, nil
}

// record is what is kept of an image.
func (d description) record() record {
	r := record{Version: 1, ID: d.config.Digest, Manifest: d.manifest.Digest, Size: d.config.Size, Config: d.image.Config}
	for _, l := range d.layers {
		r.Layers = append(r.Layers, l.chain)
		r.Size += l.blob.Size
	}
	return r
}
