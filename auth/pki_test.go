// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"bytes"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

// state is every file of a PKI by name; it fails on one that others can read.
func state(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", e.Name(), info.Mode(), err)
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = b
	}
	return out
}

func TestPKILivesOn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	now := time.Unix(1_800_000_000, 0)
	open := func(n Names) *PKI {
		t.Helper()
		p, err := EnsurePKI(dir, n, func() time.Time { return now })
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	names := Names{Node: "n1", IPs: []net.IP{net.IPv4(10, 0, 0, 1)}}
	open(names)
	first := state(t, dir)
	if len(first) != 11 {
		t.Errorf("%d files", len(first))
	}
	changed := func() (out []string) {
		for name, b := range state(t, dir) {
			if !bytes.Equal(first[name], b) {
				out = append(out, name)
			}
		}
		return out
	}
	open(names)
	if c := changed(); len(c) != 0 {
		t.Errorf("a second start changed %v", c)
	}
	names.IPs = append(names.IPs, net.IPv4(10, 0, 0, 2))
	p := open(names)
	if c := changed(); len(c) != 2 {
		t.Errorf("a new address changed %v, not the two serving certificates", c)
	}
	serving, _, err := readCertificate(filepath.Join(dir, "apiserver.crt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"localhost", "kubernetes.default.svc", "127.0.0.1", "10.0.0.2"} {
		if _, err := serving.Verify(x509.VerifyOptions{Roots: p.Pool(), DNSName: host, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	// Some months on: all certificates are new, all keys and the CA as before.
	now = now.Add(certLifetime - renewBefore + time.Hour)
	open(names)
	for name, b := range state(t, dir) {
		same := bytes.Equal(first[name], b)
		if renewed := filepath.Ext(name) == ".crt" && name != "ca.crt"; renewed == same {
			t.Errorf("%s: the same is %v", name, same)
		}
	}
}

func TestKubeconfig(t *testing.T) {
	dir := t.TempDir()
	p, err := EnsurePKI(dir, Names{Node: "n1"}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "admin.kubeconfig")
	if err := p.WriteKubeconfig(path, "admin", "https://127.0.0.1:6443"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	c, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil || c.Host != "https://127.0.0.1:6443" || len(c.CertData) == 0 || len(c.KeyData) == 0 || !bytes.Equal(c.CAData, p.CAPEM) {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestDamagedKeysAreNamed(t *testing.T) {
	for _, name := range []string{"ca.key", "ca.crt", "admin.crt", "service-account.key"} {
		dir := t.TempDir()
		if _, err := EnsurePKI(dir, Names{Node: "n1"}, time.Now); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("rubbish"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := EnsurePKI(dir, Names{Node: "n1"}, time.Now); err == nil || !bytes.Contains([]byte(err.Error()), []byte(path)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
