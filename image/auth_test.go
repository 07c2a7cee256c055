// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/peapod/peapod/test/registry"
)

// tokens is a token server that gives out "good" to who has a right to it.
func tokens(t *testing.T) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, ok := r.BasicAuth()
		basic := ok && user == "ann" && password == "secret"
		refresh := r.Method == http.MethodPost && r.FormValue("grant_type") == "refresh_token" && r.FormValue("refresh_token") == "identity"
		posted := r.Method == http.MethodPost && r.FormValue("username") == "ann" && r.FormValue("password") == "secret"
		if !basic && !refresh && !posted {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		json.NewEncoder(w).Encode(map[string]any{"token": "good", "access_token": "good"})
	}))
	t.Cleanup(s.Close)
	return s
}

func TestAuth(t *testing.T) {
	basic := func(w http.ResponseWriter, r *http.Request) bool {
		if user, password, ok := r.BasicAuth(); ok && user == "ann" && password == "secret" {
			return false
		}
		w.Header().Set("Www-Authenticate", `Basic realm="registry"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	realm := tokens(t)
	bearer := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == "Bearer good" {
			return false
		}
		w.Header().Set("Www-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="registry",scope="repository:app:pull"`, realm.URL+"/token"))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	for _, c := range []struct {
		name  string
		guard func(http.ResponseWriter, *http.Request) bool
		auth  *Auth
		ok    bool
	}{
		{"basic", basic, &Auth{Username: "ann", Password: "secret"}, true},
		{"basic, wrong password", basic, &Auth{Username: "ann", Password: "guess"}, false},
		{"basic, none", basic, nil, false},
		{"token for a password", bearer, &Auth{Username: "ann", Password: "secret"}, true},
		{"token, wrong password", bearer, &Auth{Username: "ann", Password: "guess"}, false},
		{"token, none", bearer, nil, false},
		{"identity token", bearer, &Auth{IdentityToken: "identity"}, true},
		{"registry token", bearer, &Auth{RegistryToken: "good"}, true},
		{"registry token, wrong", bearer, &Auth{RegistryToken: "bad"}, false},
		{"for another registry", basic, &Auth{Username: "ann", Password: "secret", ServerAddress: "example.com"}, false},
		{"registry token for another registry", bearer, &Auth{RegistryToken: "good", ServerAddress: "https://example.com/v1/"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			reg := registry.New(t)
			reg.Push("app", "1", registry.Image{Layers: [][]byte{registry.Layer(file("a", "a"))}})
			reg.Guard = c.guard
			_, err := openStore(t, t.TempDir()).Pull(t.Context(), reg.Host()+"/app:1", c.auth, nil)
			if (err == nil) != c.ok {
				t.Fatalf("Pull: %v", err)
			}
			if err != nil && (!errdefs.IsUnauthorized(err) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "guess")) {
				t.Errorf("Pull: %v", err)
			}
		})
	}
}

func TestAuthHost(t *testing.T) {
	for _, c := range []struct{ ref, server, want string }{
		{"busybox", "", "registry-1.docker.io"},
		{"example.com:5000/x", "", "example.com:5000"},
		{"busybox", "https://index.docker.io/v1/", "registry-1.docker.io"},
		{"busybox", "example.com", "example.com"},
		{"busybox", "http://example.com:81/v2", "example.com:81"},
		{"busybox", "example.com/team", "example.com"},
	} {
		named, err := parse(c.ref)
		if err != nil {
			t.Fatal(err)
		}
		if got := (&Auth{ServerAddress: c.server}).host(named); got != c.want {
			t.Errorf("credentials of %q for %s go to %s, want %s", c.server, c.ref, got, c.want)
		}
	}
}

// TestMirror: a mirror named in hosts.toml is asked first and is not shown the
// credentials of the registry; if it does not have the image, the registry is
// asked.
func TestMirror(t *testing.T) {
	origin, mirror := registry.New(t), registry.New(t)
	layer := [][]byte{registry.Layer(file("a", "a"))}
	origin.Push("app", "1", registry.Image{Layers: layer})
	origin.Push("app", "2", registry.Image{Layers: [][]byte{registry.Layer(file("b", "b"))}})
	mirror.Push("app", "1", registry.Image{Layers: layer})
	mirror.Guard = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("the mirror was sent %s", r.URL.Path+" with credentials")
		}
		return false
	}
	origin.Guard = func(w http.ResponseWriter, r *http.Request) bool {
		if _, _, ok := r.BasicAuth(); ok {
			return false
		}
		w.Header().Set("Www-Authenticate", `Basic realm="registry"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	hosts := t.TempDir()
	dir := filepath.Join(hosts, strings.ReplaceAll(origin.Host(), ":", "_")+"_")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	toml := fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", origin.Server.URL, mirror.Server.URL)
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s, err := Open(t.TempDir(), Options{HostsDir: hosts, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	auth := &Auth{Username: "ann", Password: "secret"}
	if _, err := s.Pull(t.Context(), origin.Host()+"/app:1", auth, nil); err != nil {
		t.Fatal(err)
	}
	if origin.Gets("") != 0 || mirror.Gets("") == 0 {
		t.Errorf("%d fetches from the registry, %d from its mirror", origin.Gets(""), mirror.Gets(""))
	}
	if got, err := s.Pull(t.Context(), origin.Host()+"/app:2", auth, nil); err != nil || got.RepoTags[0] != origin.Host()+"/app:2" {
		t.Fatalf("what the mirror does not have: %v, %v", got.RepoTags, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte("server = ["), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), origin.Host()+"/app:2", auth, nil); err != nil || !strings.Contains(log.String(), "hosts.toml") {
		t.Errorf("damaged settings: %v, log %q", err, log.String())
	}
}
