// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	imagearchive "github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Import reads an OCI layout folder, an OCI archive or a docker archive, plain
// or compressed with gzip or zstd, and returns the images in it that fit this
// machine.
func (s *Store) Import(ctx context.Context, path string) ([]Image, error) {
	stream, err := openArchive(path)
	if err != nil {
		return nil, fmt.Errorf("cannot import %s: %w", path, err)
	}
	defer stream.Close()
	base, _, _ := strings.Cut(filepath.Base(path), ".")
	out, err := s.ImportStream(ctx, base, stream)
	if err != nil {
		return nil, fmt.Errorf("cannot import %s: %w", path, err)
	}
	return out, nil
}

// ImportStream is Import from a stream, such as standard input. An OCI layout
// may name an image by a tag alone: base is the repository of such.
func (s *Store) ImportStream(ctx context.Context, base string, r io.Reader) ([]Image, error) {
	prefix, err := s.ingestPrefix()
	if err != nil {
		return nil, err
	}
	// An archive's names of blobs mean nothing beyond it.
	s.mu.Lock()
	s.imports++
	prefix += "import-" + strconv.Itoa(s.imports) + "/"
	s.mu.Unlock()
	var out []Image
	err = s.add(func() (err error) {
		out, err = s.importArchive(s.quiet(ctx), base, r, ingester{s.content, prefix, func(int64) {}})
		return err
	})
	s.tidy()
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Store) importArchive(ctx context.Context, base string, r io.Reader, in ingester) ([]Image, error) {
	plain, err := compression.DecompressStream(r)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	desc, err := imagearchive.ImportIndex(ctx, in, cancelable(ctx, plain))
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("not an image archive, or not all of one: %w", err)
	}
	if err != nil {
		return nil, err
	}
	here := func(context.Context, ispecs.Descriptor) error { return nil }
	if err := s.document(ctx, desc, here); err != nil {
		return nil, err
	}
	list, err := images.Children(ctx, s.content, desc)
	if err != nil {
		return nil, fmt.Errorf("cannot read index: %w", err)
	}
	var out []Image
	foreign := 0
	for _, m := range list {
		if m.Platform != nil && !platforms.Default().Match(*m.Platform) {
			foreign++
			continue
		}
		i, err := s.importOne(ctx, base, m, here)
		if errors.Is(err, errPlatform) {
			foreign++
			continue
		}
		if err != nil {
			return nil, err
		}
		// One image with several names is several entries.
		out = append(slices.DeleteFunc(out, func(o Image) bool { return o.ID == i.ID }), i)
	}
	switch {
	case len(out) == 0 && foreign > 0:
		return nil, noMatch(desc.Digest, list)
	case len(out) == 0:
		return nil, fmt.Errorf("no image in it: %w", errdefs.ErrNotFound)
	}
	return out, nil
}

func (s *Store) importOne(ctx context.Context, base string, m ispecs.Descriptor, here func(context.Context, ispecs.Descriptor) error) (Image, error) {
	d, err := s.describe(ctx, m, here)
	if err != nil {
		return Image{}, err
	}
	err = s.assemble(ctx, d, &meter{}, func(ctx context.Context, blob ispecs.Descriptor) error {
		if _, err := s.content.Info(ctx, blob.Digest); err != nil {
			return fmt.Errorf("layer %s is not in the archive: %w", blob.Digest, errdefs.ErrInvalidArgument)
		}
		return nil
	})
	if err != nil {
		return Image{}, err
	}
	r := d.record()
	if name := nameIn(m, base); name != "" {
		if r.Tags, r.Digests, err = names(name, m.Digest.String()); err != nil {
			return Image{}, err
		}
	}
	if r, err = s.save(r); err != nil {
		return Image{}, err
	}
	return r.image(), nil
}

// nameIn is what an archive calls an image: containerd's and docker's annotation
// has the whole name, that of OCI often the tag alone.
func nameIn(m ispecs.Descriptor, base string) string {
	if name := m.Annotations[images.AnnotationImageName]; name != "" {
		return name
	}
	name := m.Annotations[ispecs.AnnotationRefName]
	if name == "" || strings.ContainsAny(name, ":/@") {
		return name
	}
	named := strings.ToLower(base) + ":" + name
	if _, err := parse(named); err != nil {
		return "" // it is there by its ID
	}
	return named
}

// readFunc is a reader that is a function.
type readFunc func([]byte) (int, error)

func (f readFunc) Read(b []byte) (int, error) { return f(b) }

// cancelable reads r until ctx ends: an archive may be long.
func cancelable(ctx context.Context, r io.Reader) io.Reader {
	return readFunc(func(b []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return r.Read(b)
	})
}

// openArchive opens a file, or a folder as if it were a tar of itself.
func openArchive(path string) (io.ReadCloser, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, errors.Unwrap(err) // a PathError, and the path is told by Import
	}
	if !info.IsDir() {
		return os.Open(path)
	}
	if _, err := os.Stat(filepath.Join(path, ispecs.ImageLayoutFile)); err != nil {
		return nil, fmt.Errorf("not an OCI layout: it has no file %q: %w", ispecs.ImageLayoutFile, errdefs.ErrInvalidArgument)
	}
	r, w := io.Pipe()
	go func() { // ends when all is read, or r is closed
		t := tar.NewWriter(w)
		err := t.AddFS(os.DirFS(path))
		if err == nil {
			err = t.Close()
		}
		w.CloseWithError(err)
	}()
	return r, nil
}

var _ content.Store = ingester{}
