// SPDX-License-Identifier: Apache-2.0

package node

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// authority signs certificates of a test.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	a := authority{t: t}
	a.key, a.cert = a.issue(pkix.Name{CommonName: "test"}, func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.BasicConstraintsValid = true, x509.KeyUsageCertSign, true
	})
	return a
}

func (a authority) issue(name pkix.Name, change func(*x509.Certificate)) (*ecdsa.PrivateKey, *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: name, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	change(c)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		a.t.Fatal(err)
	}
	return key, c
}

// client has a certificate of that name.
func (a authority) client(name string, change func(*x509.Certificate)) *tls.Certificate {
	a.t.Helper()
	key, cert := a.issue(pkix.Name{CommonName: name}, change)
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// TestGuard: who has no certificate of the cluster is not known, who has one
// may not ask unless allowed, and nothing is told to either.
func TestGuard(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	secret := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "secret") })
	guarded := Guard(secret, func(n pkix.Name) bool { return n.CommonName == "friend" })
	s := httptest.NewUnstartedServer(guarded)
	pool := x509.NewCertPool()
	pool.AddCert(ours.cert)
	s.TLS = &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	as := func(*x509.Certificate) {}
	for name, tt := range map[string]struct {
		cert *tls.Certificate
		want string
	}{
		"nobody":                      {nil, "401 Unauthorized"},
		"a friend":                    {ours.client("friend", as), "200 secret"},
		"another":                     {ours.client("foe", as), "403 Forbidden"},
		"a friend of another cluster": {theirs.client("friend", as), "!"},
		"a friend whose time is over": {ours.client("friend", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "!"},
		"a server of that name":       {ours.client("friend", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), "!"},
	} {
		t.Run(name, func(t *testing.T) {
			transport := s.Client().Transport.(*http.Transport).Clone()
			defer transport.CloseIdleConnections()
			transport.DisableKeepAlives = true
			if tt.cert != nil {
				// Whether or not the server would like it.
				transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return tt.cert, nil }
			}
			for _, path := range []string{"/pods", "/exec/default/p/c?command=id", "/healthz"} {
				r, err := (&http.Client{Transport: transport}).Get(s.URL + path)
				if err != nil {
					if tt.want != "!" {
						t.Errorf("%s: %v", path, err)
					}
					continue
				}
				b, err := io.ReadAll(r.Body)
				r.Body.Close()
				if got := r.Status[:4] + strings.TrimSpace(string(b)); got != tt.want || err != nil {
					t.Errorf("%s: %s, %v; want %s", path, got, err, tt.want)
				}
			}
		})
	}
	// Without TLS there is nobody to know.
	w := httptest.NewRecorder()
	guarded.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/pods", nil))
	if w.Code != http.StatusUnauthorized || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("without TLS: %d %s", w.Code, w.Body)
	}
}

// TestEndpoint: what the node answers, and refuses in upstream's words.
func TestEndpoint(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create(podOf("p", 30, corev1.Container{Name: "a"}, corev1.Container{Name: "b", Image: "example.com/none:1", ImagePullPolicy: corev1.PullNever}))
		w.pass(time.Second)
		path := filepath.Join(w.dir, "a", "0.log")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(minute(0, "stdout", "F", "hello")), 0o600); err != nil {
			t.Fatal(err)
		}
		h := w.agent.handler()
		ask := func(method, path string) string {
			r := httptest.NewRecorder()
			h.ServeHTTP(r, httptest.NewRequest(method, path, nil))
			return r.Result().Status[:4] + strings.TrimSpace(r.Body.String())
		}
		for path, want := range map[string]string{
			"/healthz":                                                  "200 ok",
			"/containerLogs/default/p/a":                                "200 hello",
			"/containerLogs/default/p/a?tailLines=x":                    `400 tailLines: strconv.ParseInt: parsing "x": invalid syntax`,
			"/containerLogs/default/p/a?previous=true":                  `400 previous terminated container "a" in pod "p" not found`,
			"/containerLogs/default/p/b":                                `400 container "b" in pod "p" is waiting to start: ErrImageNeverPull`,
			"/containerLogs/default/p/c":                                "404 container not found in pod",
			"/containerLogs/default/q/a":                                "404 pod default/q not found",
			"/exec/default/q/a?command=id":                              "404 pod default/q not found",
			"/exec/default/p/b?command=id":                              `404 container not found ("b")`,
			"/attach/default/p/c":                                       `404 container not found ("c")`,
			"/portForward/other/p?port=1":                               "404 pod other/p not found",
			"/exec/default/p":                                           "404 404 page not found",
			"/containerLogs/default/p/a?sinceTime=noon":                 `400 sinceTime: parsing time "noon" as "2006-01-02T15:04:05.999999999Z07:00": cannot parse "noon" as "2006"`,
			"/containerLogs/default/p/a?sinceTime=2100-01-01T00:00:00Z": "200",
			"/containerLogs/default/p/a?limitBytes=2":                   "200 he",
			"/containerLogs/default/p/a?timestamps=true":                "200 2026-01-02T12:00:00.000000000Z hello",
		} {
			if got := strings.TrimSpace(ask(http.MethodGet, path)); got != want {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
		if got := ask(http.MethodDelete, "/pods"); !strings.HasPrefix(got, "405") {
			t.Errorf("DELETE /pods: %s", got)
		}
		var list corev1.PodList
		if err := json.Unmarshal([]byte(strings.TrimPrefix(ask(http.MethodGet, "/pods"), "200 ")), &list); err != nil || list.Kind != "PodList" || len(list.Items) != 1 || list.Items[0].Name != "p" {
			t.Errorf("/pods gives %+v, %v", list, err)
		}
	})
}
