// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/images"
	imagearchive "github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"
)

// layersAtOnce bounds how many blobs of one image are fetched in parallel.
const layersAtOnce = 3

// Auth are the credentials for one registry.
type Auth struct {
	Username, Password string
	// IdentityToken is an OAuth2 refresh token, used instead of a password.
	IdentityToken string
}

func (a *Auth) credentials(string) (string, string, error) {
	switch {
	case a == nil:
		return "", "", nil
	case a.IdentityToken != "":
		return "", a.IdentityToken, nil
	}
	return a.Username, a.Password, nil
}

// Progress is told how many of how many known bytes have arrived.
type Progress func(done, total int64)

// Pull brings an image from its registry. What is there already is not fetched
// again; nothing half fetched is ever visible.
func (s *Store) Pull(ctx context.Context, ref string, auth *Auth, progress Progress) (Image, error) {
	name, err := Normalize(ref)
	if err != nil {
		return Image{}, err
	}
	defer s.unpacks.lock("pull " + name)()
	var out Image
	err = s.add(func() (err error) {
		out, err = s.pull(ctx, name, auth, progress)
		return err
	})
	if err != nil {
		// What a broken pull fetched is of no use to anybody.
		return Image{}, errors.Join(fmt.Errorf("failed to pull and unpack image %q: %w", name, err), s.Collect())
	}
	return out, s.Collect()
}

func (s *Store) pull(ctx context.Context, name string, auth *Auth, progress Progress) (Image, error) {
	resolver := s.resolver(auth)
	resolved, desc, err := resolver.Resolve(ctx, name)
	if err != nil {
		return Image{}, fmt.Errorf("failed to resolve image: %w", err)
	}
	fetcher, err := resolver.Fetcher(ctx, resolved)
	if err != nil {
		return Image{}, err
	}
	count := &counter{report: progress}
	fetch := remotes.FetchHandler(s.content, countingFetcher{fetcher, count})
	match := platforms.Default()
	children := images.FilterPlatforms(images.ChildrenHandler(s.content), match)
	children = images.LimitManifests(children, match, 1)
	err = images.Dispatch(ctx, images.Handlers(fetch, count.expect(children)), semaphore.NewWeighted(layersAtOnce), desc)
	if err != nil {
		return Image{}, err
	}
	tag, repo, err := tagOf(name)
	if err != nil {
		return Image{}, err
	}
	r, err := s.unpackMatching(ctx, desc, match)
	if err != nil {
		return Image{}, err
	}
	if tag != "" {
		r.Tags = []string{tag}
	}
	r.Digests = []string{repo + "@" + desc.Digest.String()}
	if err := s.save(r); err != nil {
		return Image{}, err
	}
	return r.image(), nil
}

// unpackMatching unpacks the manifest of this machine's platform under desc.
func (s *Store) unpackMatching(ctx context.Context, desc ispecs.Descriptor, match platforms.MatchComparer) (record, error) {
	if images.IsManifestType(desc.MediaType) {
		return s.unpack(ctx, desc)
	}
	index, err := readJSON[ispecs.Index](ctx, s.content, desc)
	if err != nil {
		return record{}, fmt.Errorf("cannot read index %s: %w", desc.Digest, err)
	}
	var best *ispecs.Descriptor
	for i, m := range index.Manifests {
		if m.Platform != nil && !match.Match(*m.Platform) {
			continue
		}
		if best == nil || m.Platform != nil && best.Platform != nil && match.Less(*m.Platform, *best.Platform) {
			best = &index.Manifests[i]
		}
	}
	if best == nil {
		return record{}, fmt.Errorf("no match for platform %s in manifest: %w", platforms.Format(platforms.DefaultSpec()), errdefs.ErrNotFound)
	}
	return s.unpackMatching(ctx, *best, match)
}

// resolver finds registries: by hosts.toml where there is one, over plain HTTP
// on loopback.
func (s *Store) resolver(auth *Auth) remotes.Resolver {
	o := config.HostOptions{Credentials: auth.credentials, DefaultScheme: "https"}
	if s.options.HostsDir != "" {
		o.HostDir = config.HostDirFromRoot(s.options.HostsDir)
	}
	hosts := config.ConfigureHosts(context.Background(), o)
	return docker.NewResolver(docker.ResolverOptions{Hosts: func(host string) ([]docker.RegistryHost, error) {
		list, err := hosts(host)
		if local, lerr := docker.MatchLocalhost(host); lerr == nil && local {
			for i := range list {
				list[i].Scheme = "http"
			}
		}
		return list, err
	}, Headers: http.Header{"User-Agent": {"peapod"}}})
}

// counter adds up what a pull has fetched.
type counter struct {
	done, total atomic.Int64
	report      Progress
}

func (c *counter) expect(children images.HandlerFunc) images.HandlerFunc {
	return func(ctx context.Context, d ispecs.Descriptor) ([]ispecs.Descriptor, error) {
		next, err := children(ctx, d)
		for _, n := range next {
			c.total.Add(n.Size)
		}
		return next, err
	}
}

type countingFetcher struct {
	remotes.Fetcher
	*counter
}

func (f countingFetcher) Fetch(ctx context.Context, d ispecs.Descriptor) (io.ReadCloser, error) {
	r, err := f.Fetcher.Fetch(ctx, d)
	if err != nil || f.report == nil {
		return r, err
	}
	return countingReader{r, f.counter}, nil
}

type countingReader struct {
	io.ReadCloser
	*counter
}

func (r countingReader) Read(b []byte) (int, error) {
	n, err := r.ReadCloser.Read(b)
	r.report(r.done.Add(int64(n)), r.total.Load())
	return n, err
}

// Import reads an OCI layout folder, an OCI archive or a docker archive, plain
// or compressed, and returns the images in it.
func (s *Store) Import(ctx context.Context, path string) ([]Image, error) {
	stream, err := openArchive(path)
	if err != nil {
		return nil, fmt.Errorf("cannot import %s: %w", path, err)
	}
	defer stream.Close()
	var out []Image
	err = s.add(func() (err error) {
		out, err = s.importArchive(ctx, stream)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot import %s: %w", path, err), s.Collect())
	}
	return out, s.Collect()
}

func (s *Store) importArchive(ctx context.Context, r io.Reader) ([]Image, error) {
	plain, err := compression.DecompressStream(r)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	desc, err := imagearchive.ImportIndex(ctx, s.content, plain)
	if err != nil {
		return nil, err
	}
	index, err := readJSON[ispecs.Index](ctx, s.content, desc)
	if err != nil {
		return nil, err
	}
	var out []Image
	for _, m := range index.Manifests {
		rec, err := s.unpackMatching(ctx, m, platforms.Default())
		if errdefs.IsNotFound(err) && len(index.Manifests) > 1 {
			continue // an image for another platform
		}
		if err != nil {
			return nil, err
		}
		if err := nameImported(&rec, m); err != nil {
			return nil, err
		}
		if err := s.save(rec); err != nil {
			return nil, err
		}
		out = append(out, rec.image())
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no image for platform %s: %w", platforms.Format(platforms.DefaultSpec()), errdefs.ErrNotFound)
	}
	return out, nil
}

func nameImported(r *record, m ispecs.Descriptor) error {
	name := m.Annotations[images.AnnotationImageName]
	if name == "" {
		name = m.Annotations[ispecs.AnnotationRefName]
	}
	if name == "" {
		return nil
	}
	tag, repo, err := tagOf(name)
	if err != nil {
		return err
	}
	if tag != "" {
		r.Tags = []string{tag}
	}
	r.Digests = []string{repo + "@" + m.Digest.String()}
	return nil
}

// openArchive opens a file, or a folder as if it were a tar of itself.
func openArchive(path string) (io.ReadCloser, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return os.Open(path)
	}
	if _, err := os.Stat(filepath.Join(path, ispecs.ImageLayoutFile)); err != nil {
		return nil, fmt.Errorf("not an OCI layout: %w", err)
	}
	r, w := io.Pipe()
	go func() {
		t := tar.NewWriter(w)
		err := t.AddFS(os.DirFS(path))
		if err == nil {
			err = t.Close()
		}
		w.CloseWithError(err)
	}()
	return r, nil
}
