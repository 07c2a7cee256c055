// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/peapod/peapod/auth"
)

// flagged is a server of its own with kube-apiserver's flags, and an
// administrator's client of it.
type flagged struct {
	*process
	config *rest.Config
	kubernetes.Interface
}

func serve(t *testing.T, dir string, flags ...string) *flagged {
	t.Helper()
	s := connect(t, dir, spawn(t, dir, childFlags+"="+strings.Join(flags, "\n")))
	s.read(t, "found", 0)
	return s
}

// connect is a client of a server in a process of its own.
func connect(t *testing.T, dir string, p *process) *flagged {
	t.Helper()
	address := p.address(t) // the server makes the keys first
	pki, err := auth.EnsurePKI(filepath.Join(dir, "pki"), auth.Names{Node: "n1"}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := pki.Pair("admin")
	s := &flagged{process: p, config: &rest.Config{
		Host: "https://" + address, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAData: pki.CAPEM, CertFile: cert, KeyFile: key},
	}}
	if s.Interface, err = kubernetes.NewForConfig(s.config); err != nil {
		t.Fatal(err)
	}
	return s
}

// end stops the server in good order.
func (s *flagged) end(t *testing.T) {
	t.Helper()
	s.in.Close()
	for s.lines.Scan() {
	}
	if err := s.Wait(); err != nil {
		t.Fatalf("the server ended: %v, %s", err, s.fault)
	}
}

// with is a client of the server that says who it is in another way.
func (s *flagged) with(t *testing.T, change func(*rest.Config)) kubernetes.Interface {
	t.Helper()
	config := rest.CopyConfig(s.config)
	change(config)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// asker has no certificate but this token.
func (s *flagged) asker(t *testing.T, token string) kubernetes.Interface {
	t.Helper()
	return s.with(t, func(c *rest.Config) {
		c.CertFile, c.KeyFile, c.BearerToken = "", "", token
	})
}

// written is a new file with this content, put in place at once.
func written(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	return path
}

// until asks for the metrics until a line of them begins and goes on like this.
func (s *flagged) until(t *testing.T, begins, has string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		b, err := s.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
		if err != nil {
			t.Fatalf("no %q with %q yet, and %v", begins, has, err)
		}
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, begins) && strings.Contains(line, has) {
				return
			}
		}
	}
}
