// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/test/registry"
)

func file(name, content string) registry.Entry { return registry.File(name, content) }

// noise is content that does not compress.
func noise(n int) string {
	var b strings.Builder
	x := uint64(88172645463325252)
	for b.Len() < n {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		fmt.Fprintf(&b, "%016x", x)
	}
	return b.String()[:n]
}

// lower reads a file of an image through its layers, as overlay would.
func lower(t *testing.T, s *Store, ref, name string) string {
	t.Helper()
	dirs, err := s.Hold(t.Context(), "test", ref)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release("test")
	for _, d := range dirs {
		if b, err := os.ReadFile(filepath.Join(d, name)); err == nil {
			return string(b)
		}
	}
	return ""
}

// onlyUsed fails if the store keeps anything but what its images need.
func onlyUsed(t *testing.T, s *Store) {
	t.Helper()
	layers, blobs, err := s.needed()
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"layers", "content/ingest", "content/blobs/sha256", "holds", "partial"} {
		entries, err := os.ReadDir(filepath.Join(s.dir, folder))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range entries {
			used := layers[e.Name()]
			for d := range blobs {
				used = used || d.Encoded() == e.Name()
			}
			if !used {
				t.Errorf("left over: %s/%s", folder, e.Name())
			}
		}
	}
}

func TestPullForms(t *testing.T) {
	for _, c := range []struct {
		name  string
		image registry.Image
	}{
		{"OCI plain", registry.Image{}},
		{"OCI gzip", registry.Image{Compression: "gzip"}},
		{"OCI zstd", registry.Image{Compression: "zstd"}},
		{"docker schema 2", registry.Image{Docker: true, Compression: "gzip"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			reg := registry.New(t)
			c.image.Layers = [][]byte{registry.Layer(file("a", "lower"), file("gone", "x")), registry.Layer(file("b", "upper"), file(".wh.gone", ""))}
			c.image.Config = ispecs.ImageConfig{
				Entrypoint: []string{"/e"}, Cmd: []string{"c"}, Env: []string{"A=1"}, User: "7:8", WorkingDir: "/w", StopSignal: "SIGUSR1",
				Volumes: map[string]struct{}{"/v": {}}, Labels: map[string]string{"l": "1"}, ExposedPorts: map[string]struct{}{"80/tcp": {}},
			}
			desc := reg.Push("team/app", "1", c.image)
			s := openStore(t, t.TempDir())
			ref := reg.Host() + "/team/app:1"
			var last, total int64
			got, err := s.Pull(t.Context(), ref, nil, func(done, all int64) { last, total = done, all })
			if err != nil {
				t.Fatal(err)
			}
			if last != total || total == 0 {
				t.Errorf("progress ended at %d of %d", last, total)
			}
			wantDigest := reg.Host() + "/team/app@" + desc.Digest.String()
			if len(got.RepoTags) != 1 || got.RepoTags[0] != ref || len(got.RepoDigests) != 1 || got.RepoDigests[0] != wantDigest {
				t.Errorf("names %v %v, want %s %s", got.RepoTags, got.RepoDigests, ref, wantDigest)
			}
			a, _ := json.Marshal(got.Config)
			b, _ := json.Marshal(c.image.Config)
			if string(a) != string(b) {
				t.Errorf("configuration %s, want %s", a, b)
			}
			if lower(t, s, ref, "a") != "lower" || lower(t, s, got.ID, "b") != "upper" {
				t.Error("content is wrong")
			}
			dirs, err := s.Hold(t.Context(), "x", wantDigest)
			if err != nil {
				t.Fatal(err)
			}
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(dirs[0], "gone"), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
				t.Errorf("no whiteout in overlay's form: %o %v", st.Mode, err)
			}
			if err := s.Release("x"); err != nil {
				t.Fatal(err)
			}
			onlyUsed(t, s)
		})
	}
}

func TestPullAgainFetchesNothing(t *testing.T) {
	reg := registry.New(t)
	base := registry.Layer(file("base", "b"))
	desc := reg.Push("app", "1", registry.Image{Layers: [][]byte{base, registry.Layer(file("one", "1"))}})
	reg.Push("app", "2", registry.Image{Layers: [][]byte{base, registry.Layer(file("two", "2"))}})
	s := openStore(t, t.TempDir())
	for _, tag := range []string{":1", ":1", ":2", ":2", "@" + desc.Digest.String()} {
		if _, err := s.Pull(t.Context(), reg.Host()+"/app"+tag, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	// Two manifests, two configurations, and each of three layers once.
	if n := reg.Gets(""); n != 7 {
		t.Errorf("%d fetches", n)
	}
	got, err := s.Get(t.Context(), reg.Host()+"/app@"+desc.Digest.String())
	if err != nil || len(got.RepoTags) != 1 || !strings.HasSuffix(got.RepoTags[0], ":1") {
		t.Errorf("Get by digest: %+v, %v", got, err)
	}
}

func TestPullIndex(t *testing.T) {
	reg := registry.New(t)
	var list []ispecs.Descriptor
	for _, arch := range []string{"arm64", "amd64", "s390x"} {
		list = append(list, reg.Push("app", arch, registry.Image{Layers: [][]byte{registry.Layer(file("arch", arch))}, Platform: ispecs.Platform{OS: "linux", Architecture: arch}}))
	}
	attestation := reg.Push("app", "attestation", registry.Image{Platform: ispecs.Platform{OS: "unknown", Architecture: "unknown"}})
	index := reg.PushIndex("app", "1", append(list, attestation)...)
	foreign := reg.PushIndex("app", "foreign", list[0])
	s := openStore(t, t.TempDir())
	got, err := s.Pull(t.Context(), reg.Host()+"/app:1", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c := lower(t, s, got.ID, "arch"); c != "amd64" {
		t.Errorf("pulled for %q", c)
	}
	if want := reg.Host() + "/app@" + index.String(); got.RepoDigests[0] != want {
		t.Errorf("RepoDigests %v, want %s", got.RepoDigests, want)
	}
	_, err = s.Pull(t.Context(), reg.Host()+"/app:foreign", nil, nil)
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "no match for platform in manifest "+foreign.String()) {
		t.Errorf("foreign platform: %v", err)
	}
	onlyUsed(t, s)
}

func TestPullErrors(t *testing.T) {
	reg := registry.New(t)
	reg.Guard = func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.Contains(r.URL.Path, "/private/"):
			w.Header().Set("Www-Authenticate", `Basic realm="r"`)
			w.WriteHeader(http.StatusUnauthorized)
		case strings.Contains(r.URL.Path, "/forbidden/"):
			w.WriteHeader(http.StatusForbidden)
		case strings.Contains(r.URL.Path, "/broken/"):
			w.WriteHeader(http.StatusInternalServerError)
		default:
			return false
		}
		return true
	}
	host := reg.Host()
	s := openStore(t, t.TempDir())
	for _, c := range []struct {
		ref, text string
		is        func(error) bool
	}{
		{host + "/nope:1", `failed to pull and unpack image "` + host + `/nope:1": failed to resolve reference "` + host + `/nope:1": ` + host + "/nope:1: not found", errdefs.IsNotFound},
		{host + "/private/x:1", "401 Unauthorized", errdefs.IsUnauthorized},
		{host + "/forbidden/x:1", "403 Forbidden", errdefs.IsPermissionDenied},
		{host + "/broken/x:1", "500 Internal Server Error", errdefs.IsUnavailable},
		{"127.0.0.1:1/x:1", "connection refused", func(error) bool { return true }},
		{"Upper/Case", `cannot read image reference "Upper/Case": `, errdefs.IsInvalidArgument},
		{"", "cannot read image reference", errdefs.IsInvalidArgument},
	} {
		_, err := s.Pull(t.Context(), c.ref, nil, nil)
		if err == nil || !strings.Contains(err.Error(), c.text) || !c.is(err) {
			t.Errorf("%s: %v\nwant %s", c.ref, err, c.text)
		}
	}
	onlyUsed(t, s)
}

// TestHostileManifests: whatever a registry says, it is an error and leaves
// nothing.
func TestHostileManifests(t *testing.T) {
	plain := registry.Layer(file("a", strings.Repeat("x", 5000)))
	for name, c := range map[string]struct {
		image registry.Image
		lie   func(*registry.Registry, ispecs.Descriptor)
	}{
		"layer differs from its digest": {registry.Image{Layers: [][]byte{plain}}, func(r *registry.Registry, _ ispecs.Descriptor) {
			m, _ := registry.Pack(registry.Image{Layers: [][]byte{plain}})
			r.Replace(m.Layers[0].Digest, []byte(strings.Repeat("y", len(plain))))
		}},
		"layer is longer than it says":  {registry.Image{Layers: [][]byte{plain}, Change: func(m *ispecs.Manifest) { m.Layers[0].Size -= 10 }}, nil},
		"layer is shorter than it says": {registry.Image{Layers: [][]byte{plain}, Change: func(m *ispecs.Manifest) { m.Layers[0].Size += 10 }}, nil},
		"negative size":                 {registry.Image{Layers: [][]byte{plain}, Change: func(m *ispecs.Manifest) { m.Layers[0].Size = -1 }}, nil},
		"huge configuration":            {registry.Image{Layers: [][]byte{plain}, Change: func(m *ispecs.Manifest) { m.Config.Size = 1 << 40 }}, nil},
		"more layers than diff IDs":     {registry.Image{Layers: [][]byte{plain}, Change: func(m *ispecs.Manifest) { m.Layers = append(m.Layers, m.Layers[0]) }}, nil},
		"digest is a path":              {registry.Image{Layers: [][]byte{plain}, Change: func(m *ispecs.Manifest) { m.Layers[0].Digest = "sha256:../../../../../tmp/x" }}, nil},
		"configuration digest is empty": {registry.Image{Layers: [][]byte{plain}, Change: func(m *ispecs.Manifest) { m.Config.Digest = "" }}, nil},
		"index and manifest at once":    {registry.Image{Layers: [][]byte{plain}, Change: func(m *ispecs.Manifest) { m.MediaType = ispecs.MediaTypeImageIndex }}, nil},
		"layer is no tar":               {registry.Image{Layers: [][]byte{[]byte(noise(3000))}}, nil},
		"gzip is cut": {registry.Image{Layers: [][]byte{plain}, Compression: "gzip", Change: func(m *ispecs.Manifest) {}}, func(r *registry.Registry, _ ispecs.Descriptor) {
			m, blobs := registry.Pack(registry.Image{Layers: [][]byte{plain}, Compression: "gzip"})
			r.Replace(m.Layers[0].Digest, blobs[1][:len(blobs[1])/2])
		}},
	} {
		t.Run(name, func(t *testing.T) {
			reg := registry.New(t)
			desc := reg.Push("app", "1", c.image)
			if c.lie != nil {
				c.lie(reg, desc)
			}
			s := openStore(t, t.TempDir())
			s.options.KeepPartial = time.Nanosecond
			for range 2 {
				if _, err := s.Pull(t.Context(), reg.Host()+"/app:1", nil, nil); err == nil {
					t.Fatal("pulled")
				}
			}
			if all, err := s.List(t.Context()); err != nil || len(all) != 0 {
				t.Errorf("images: %v, %v", all, err)
			}
			s.options.Now = func() time.Time { return time.Now().Add(time.Hour) }
			if err := s.Collect(); err != nil {
				t.Fatal(err)
			}
			onlyUsed(t, s)
		})
	}
}

// TestWrongContentThenRight: what was refused once does not stand in the way.
func TestWrongContentThenRight(t *testing.T) {
	reg := registry.New(t)
	plain := registry.Layer(file("a", strings.Repeat("x", 50_000)))
	m, _ := registry.Pack(registry.Image{Layers: [][]byte{plain}})
	reg.Push("app", "1", registry.Image{Layers: [][]byte{plain}})
	reg.Replace(m.Layers[0].Digest, []byte(strings.Repeat("y", len(plain))))
	s := openStore(t, t.TempDir())
	if _, err := s.Pull(t.Context(), reg.Host()+"/app:1", nil, nil); err == nil || !strings.Contains(err.Error(), m.Layers[0].Digest.String()) {
		t.Fatalf("wrong content: %v", err)
	}
	reg.Replace(m.Layers[0].Digest, plain)
	if _, err := s.Pull(t.Context(), reg.Host()+"/app:1", nil, nil); err != nil {
		t.Fatal(err)
	}
	onlyUsed(t, s)
}

// TestPullGoesOn: the connection breaks in the middle of a layer; the next
// pull, also of another process, asks for the rest only.
func TestPullGoesOn(t *testing.T) {
	reg := registry.New(t)
	big := registry.Layer(file("big", noise(2<<20)))
	reg.Push("app", "1", registry.Image{Layers: [][]byte{registry.Layer(file("small", "s")), big}})
	m, _ := registry.Pack(registry.Image{Layers: [][]byte{big}})
	var broken atomic.Bool
	var ranges sync.Map
	reg.Guard = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, m.Layers[0].Digest.String()) {
			return false
		}
		ranges.Store(r.Header.Get("Range"), true)
		if broken.Load() {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(big)))
		w.Write(big[:1<<20])
		w.(http.Flusher).Flush()
		<-r.Context().Done() // until the pull is given up
		panic(http.ErrAbortHandler)
	}
	ctx, cancel := context.WithCancel(t.Context())
	dir := t.TempDir()
	s := openStore(t, dir)
	if _, err := s.Pull(ctx, reg.Host()+"/app:1", nil, func(done, _ int64) {
		if done > 900_000 {
			cancel()
		}
	}); !errors.Is(err, context.Canceled) {
		t.Fatalf("broken pull: %v", err)
	}
	if all, _ := s.List(t.Context()); len(all) != 0 {
		t.Errorf("half an image is visible: %v", all)
	}
	s.Close()
	ranges.Clear()
	s = openStore(t, dir)
	broken.Store(true)
	if _, err := s.Pull(t.Context(), reg.Host()+"/app:1", nil, nil); err != nil {
		t.Fatal(err)
	}
	resumed := false
	ranges.Range(func(k, _ any) bool {
		resumed = resumed || strings.HasPrefix(k.(string), "bytes=") && !strings.HasPrefix(k.(string), "bytes=0-")
		return true
	})
	if !resumed {
		t.Error("the second pull fetched the layer from its beginning")
	}
	onlyUsed(t, s)
}

func TestPullStalls(t *testing.T) {
	reg := registry.New(t)
	desc := reg.Push("app", "1", registry.Image{Layers: [][]byte{registry.Layer(file("a", "a"))}})
	hung := make(chan struct{})
	t.Cleanup(func() { close(hung) })
	reg.Guard = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			select {
			case <-hung:
			case <-r.Context().Done():
			}
		}
		return false
	}
	s := openStore(t, t.TempDir())
	s.options.Stall = 100 * time.Millisecond
	_, err := s.Pull(t.Context(), reg.Host()+"/app:1", nil, nil)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "the registry sent nothing for 100ms") {
		t.Errorf("stalled pull of %s: %v", desc.Digest, err)
	}
}

func TestConcurrentPulls(t *testing.T) {
	reg := registry.New(t)
	base := registry.Layer(file("base", noise(300_000)))
	for i := range 4 {
		reg.Push("app", fmt.Sprint(i), registry.Image{Layers: [][]byte{base, registry.Layer(file("own", fmt.Sprint(i)))}})
	}
	dir := t.TempDir()
	s := openStore(t, dir)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			if _, err := s.Pull(t.Context(), fmt.Sprintf("%s/app:%d", reg.Host(), i%4), nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	m, _ := registry.Pack(registry.Image{Layers: [][]byte{base}})
	if n := reg.Gets(m.Layers[0].Digest.String()); n != 1 {
		t.Errorf("the shared layer was fetched %d times", n)
	}
	if all, err := s.List(t.Context()); err != nil || len(all) != 4 {
		t.Errorf("%d images, %v", len(all), err)
	}
	for i := range 4 {
		ref := fmt.Sprintf("%s/app:%d", reg.Host(), i)
		if got := lower(t, s, ref, "own"); got != fmt.Sprint(i) {
			t.Errorf("%s has %q", ref, got)
		}
	}
	onlyUsed(t, s)
}

// TestPullFullDisk: a clear error, and room again.
func TestPullFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	reg := registry.New(t)
	reg.Push("app", "fetch", registry.Image{Layers: [][]byte{registry.Layer(file("a", "a")), registry.Layer(file("big", noise(2<<20)))}})
	reg.Push("app", "unpack", registry.Image{Compression: "gzip", Layers: [][]byte{registry.Layer(file("a", "a")), registry.Layer(file("big", strings.Repeat("0", 4<<20)))}})
	reg.Push("app", "fits", registry.Image{Layers: [][]byte{registry.Layer(file("ok", noise(200_000)))}})
	s := openStore(t, dir)
	for _, tag := range []string{"fetch", "unpack"} {
		_, err := s.Pull(t.Context(), reg.Host()+"/app:"+tag, nil, nil)
		if !errors.Is(err, unix.ENOSPC) || !strings.HasSuffix(err.Error(), "no space left on device") {
			t.Fatalf("%s on a full disk: %v", tag, err)
		}
		onlyUsed(t, s)
	}
	if _, err := s.Pull(t.Context(), reg.Host()+"/app:fits", nil, nil); err != nil {
		t.Errorf("after a full disk: %v", err)
	}
}

// TestRegistryIsBusy: a hiccup is got over; what lasts is told with the request
// and the status, after a handful of tries, and leaves nothing.
func TestRegistryIsBusy(t *testing.T) {
	for _, code := range []int{http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout} {
		for _, part := range []string{"/manifests/1", "/blobs/"} {
			t.Run(fmt.Sprint(code, part), func(t *testing.T) {
				reg := registry.New(t)
				layer := registry.Layer(file("a", "a"))
				reg.Push("app", "1", registry.Image{Layers: [][]byte{layer}})
				var refusals atomic.Int64
				var most int64
				reg.Guard = func(w http.ResponseWriter, r *http.Request) bool {
					if !strings.Contains(r.URL.Path, part) || refusals.Load() >= most {
						return false
					}
					refusals.Add(1)
					w.Header().Set("Retry-After", "1")
					w.WriteHeader(code)
					fmt.Fprintln(w, `{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}`)
					return true
				}
				ref := reg.Host() + "/app:1"
				s := openStore(t, t.TempDir())
				most = 1000
				_, err := s.Pull(t.Context(), ref, nil, nil)
				status := fmt.Sprintf(": %d %s", code, http.StatusText(code))
				if part == "/blobs/" { // the answer to HEAD has no words
					status += "\ntoomanyrequests: slow down"
				}
				if err == nil || !strings.HasPrefix(err.Error(), `failed to pull and unpack image "`+ref+`": `) || !strings.Contains(err.Error(), "unexpected status from ") || !strings.HasSuffix(err.Error(), status) {
					t.Errorf("told as %v", err)
				}
				if busy := code == http.StatusTooManyRequests; errdefs.IsResourceExhausted(err) != busy || errdefs.IsUnavailable(err) == busy {
					t.Errorf("%v is of the wrong class", err)
				}
				if n := refusals.Load(); n > 12 {
					t.Errorf("asked %d times", n)
				}
				s.options.KeepPartial = time.Nanosecond
				if err := s.Collect(); err != nil {
					t.Fatal(err)
				}
				onlyUsed(t, s)
				if code == http.StatusBadGateway {
					return // the library does not ask again
				}
				refusals.Store(0)
				most = 1
				if _, err := s.Pull(t.Context(), ref, nil, nil); err != nil {
					t.Errorf("after one refusal: %v", err)
				}
				onlyUsed(t, s)
			})
		}
	}
}

// TestPullGivenUp: of two pulls of an image one is cancelled in the middle of
// its layer; the other one gets it. When it is cancelled too, what came stays
// for the next try and goes when that does not come.
func TestPullGivenUp(t *testing.T) {
	reg := registry.New(t)
	big := registry.Layer(file("big", noise(2<<20)))
	reg.Push("app", "1", registry.Image{Layers: [][]byte{big}})
	m, _ := registry.Pack(registry.Image{Layers: [][]byte{big}})
	var open atomic.Bool
	reg.Guard = func(w http.ResponseWriter, r *http.Request) bool {
		if open.Load() || r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, m.Layers[0].Digest.String()) {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(big)))
		w.Write(big[:1<<20])
		w.(http.Flusher).Flush()
		<-r.Context().Done() // until the pull is given up
		panic(http.ErrAbortHandler)
	}
	s, ref := openStore(t, t.TempDir()), reg.Host()+"/app:1"
	// pull ends in the middle of the layer, unless the registry opens.
	pull := func(stop func()) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		_, err := s.Pull(ctx, ref, nil, func(done, _ int64) {
			if done > 900_000 && !open.Load() {
				stop()
				cancel()
			}
		})
		return err
	}
	if err := pull(func() {}); !errors.Is(err, context.Canceled) {
		t.Fatalf("given up: %v", err)
	}
	if all, _ := s.List(t.Context()); len(all) != 0 {
		t.Errorf("half an image is visible: %v", all)
	}
	if left, err := os.ReadDir(filepath.Join(s.dir, "layers")); err != nil || len(left) != 0 {
		t.Errorf("half a layer is left: %v, %v", left, err)
	}
	s.options.KeepPartial = time.Nanosecond
	if err := s.Collect(); err != nil {
		t.Fatal(err)
	}
	onlyUsed(t, s)
	s.options.KeepPartial = time.Hour
	second := make(chan error, 1)
	first := pull(func() {
		go func() {
			_, err := s.Pull(t.Context(), ref, nil, nil)
			second <- err
		}()
		open.Store(true)
	})
	if !errors.Is(first, context.Canceled) {
		t.Errorf("the first: %v", first)
	}
	if err := <-second; err != nil {
		t.Errorf("the second: %v", err)
	}
	onlyUsed(t, s)
}
