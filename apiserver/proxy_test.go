// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"k8s.io/apiserver/pkg/registry/rest"
)

// TestProxyPaths says what the target is asked for, or where the caller is sent.
func TestProxyPaths(t *testing.T) {
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Method+" "+r.URL.RequestURI())
	}))
	defer target.Close()
	const here = "/api/v1/namespaces/n/pods/p/proxy"
	for _, c := range []struct {
		method, asked, path string
		code                int
		location, got       string
	}{
		{"GET", here + "?a=b", "", 301, here + "/?a=b", ""},
		{"HEAD", here, "", 301, here + "/", ""},
		{"POST", here + "?a=b", "", 200, "", "POST /?a=b"},
		{"GET", here + "/", "/", 200, "", "GET /"},
		{"GET", here + "/a/b", "/a/b", 200, "", "GET /a/b"},
		{"GET", here + "/a/b/?c=d", "/a/b/", 200, "", "GET /a/b/?c=d"},
	} {
		u, err := url.Parse(target.URL)
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		proxyTo(u, c.path, plainTransport(), rest.Responder(nil)).ServeHTTP(w, httptest.NewRequest(c.method, c.asked, nil))
		if w.Code != c.code || w.Header().Get("Location") != c.location || w.Body.String() != c.got {
			t.Errorf("%s %s: %d, to %q, target asked for %q", c.method, c.asked, w.Code, w.Header().Get("Location"), w.Body)
		}
	}
}
