// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Pull brings an image from its registry. What is there already is not fetched
// again, pulls of the same image or of shared layers wait for each other, and
// nothing half fetched is ever visible. A pull that broke off goes on where it
// stopped; one that filled the disk leaves nothing.
//
// Errors carry classes of errdefs: ErrInvalidArgument for a reference that
// cannot be read, ErrNotFound, ErrUnauthenticated, ErrPermissionDenied.
func (s *Store) Pull(ctx context.Context, ref string, auth *Auth, progress Progress) (Image, error) {
	named, err := parse(ref)
	if err != nil {
		return Image{}, err
	}
	fail := func(err error) (Image, error) {
		return Image{}, fmt.Errorf("failed to pull and unpack image %q: %w", named, remoteClass(err))
	}
	unlock, err := s.busy.lock(ctx, "pull "+named.String())
	if err != nil {
		return fail(err)
	}
	defer unlock()
	var r record
	err = s.add(func() (err error) {
		r, err = s.pull(s.quiet(ctx), named, auth, &meter{report: progress})
		return err
	})
	s.tidy()
	if err != nil {
		return fail(err)
	}
	return r.image(), nil
}

func (s *Store) pull(ctx context.Context, named reference.Named, auth *Auth, m *meter) (record, error) {
	resolver := s.resolver(ctx, named, auth)
	top, err := s.resolve(ctx, resolver, named.String())
	if err != nil {
		return record{}, err
	}
	tags, digests, err := names(named.String(), top.Digest.String())
	if err != nil {
		return record{}, err
	}
	r, ok, err := s.have(top.Digest)
	if err != nil {
		return record{}, err
	}
	if !ok {
		from, err := resolver.Fetcher(ctx, named.String())
		if err != nil {
			return record{}, err
		}
		if r, err = s.bring(ctx, named.String(), top, from, m); err != nil {
			return record{}, err
		}
	}
	r.Tags, r.Digests = tags, digests
	if r, err = s.save(r); err != nil {
		return record{}, err
	}
	return r, s.dropPartial(named.String())
}

func (s *Store) resolve(ctx context.Context, r remotes.Resolver, name string) (ispecs.Descriptor, error) {
	ctx, _, stop := stalling(ctx, s.options.Stall)
	defer stop()
	_, top, err := r.Resolve(ctx, name)
	if err != nil {
		return ispecs.Descriptor{}, fmt.Errorf("failed to resolve reference %q: %w", name, stalled(ctx, err))
	}
	return top, nil
}

// have finds a whole image that came from this manifest or index.
func (s *Store) have(top digest.Digest) (record, bool, error) {
	all, err := s.records()
	if err != nil {
		return record{}, false, err
	}
	for _, r := range all {
		if r.Manifest != top && !slices.ContainsFunc(r.Digests, func(d string) bool { return strings.HasSuffix(d, "@"+top.String()) }) {
			continue
		}
		if !slices.ContainsFunc(r.Layers, func(chain digest.Digest) bool { return !s.unpacked(chain) }) {
			r.Tags, r.Digests = nil, nil
			return r, true, nil
		}
	}
	return record{}, false, nil
}

// bring fetches the documents and the missing layers of an image and unpacks
// them, each as soon as it and those below it are there.
func (s *Store) bring(ctx context.Context, name string, top ispecs.Descriptor, from remotes.Fetcher, m *meter) (record, error) {
	var documents []digest.Digest
	d, err := s.describe(ctx, top, func(ctx context.Context, d ispecs.Descriptor) error {
		documents = append(documents, d.Digest)
		m.expect(d.Size)
		return s.fetch(ctx, from, d, m)
	})
	if err != nil {
		return record{}, err
	}
	if err := s.notePartial(name, documents, d); err != nil {
		return record{}, err
	}
	err = s.assemble(ctx, d, m, func(ctx context.Context, blob ispecs.Descriptor) error { return s.fetch(ctx, from, blob, m) })
	if outOfSpace(err) {
		// Room is wanted more than a quick next try.
		if derr := s.dropPartial(name); derr != nil {
			return record{}, derr
		}
	}
	if err != nil {
		return record{}, err
	}
	return d.record(), nil
}
