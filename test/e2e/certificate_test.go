// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestCertificates: a person asks for a client certificate, an administrator
// approves it with kubectl, and with what the signer made the API knows the
// person; what is denied is not signed.
func TestCertificates(t *testing.T) {
	t.Parallel()
	key := requestCertificate(t, "jane")
	requestCertificate(t, "eve")
	row := func(name, condition string) bool {
		return regexp.MustCompile(`(?m)^` + name + ` +\S+ +kubernetes.io/kube-apiserver-client +kubernetes-admin +60m +` + condition + `$`).MatchString(must(t, "get", "csr"))
	}
	if !row("jane", "Pending") {
		t.Errorf("csr:\n%s", must(t, "get", "csr"))
	}
	if got, want := must(t, "certificate", "approve", "jane"), "certificatesigningrequest.certificates.k8s.io/jane approved\n"; got != want {
		t.Errorf("approve: %q", got)
	}
	if got, want := must(t, "certificate", "deny", "eve"), "certificatesigningrequest.certificates.k8s.io/eve denied\n"; got != want {
		t.Errorf("deny: %q", got)
	}
	must(t, "wait", "--for=jsonpath={.status.certificate}", "csr/jane", "--timeout=30s")
	if !row("jane", "Approved,Issued") || !row("eve", "Denied") {
		t.Errorf("csr:\n%s", must(t, "get", "csr"))
	}
	chain, err := base64.StdEncoding.DecodeString(must(t, "get", "csr", "jane", "-o", "jsonpath={.status.certificate}"))
	if err != nil {
		t.Fatal(err)
	}
	cert := filepath.Join(filepath.Dir(key), "cert")
	if err := os.WriteFile(cert, chain, 0o600); err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(c.dir, "pki", "ca.crt")
	who := must(t, "--kubeconfig", os.DevNull, "--server", "https://127.0.0.1:17443", "--certificate-authority", ca, "--client-certificate", cert, "--client-key", key,
		"auth", "whoami", "-o", "jsonpath={.status.userInfo.username} {.status.userInfo.groups}")
	if who != `jane ["devs","system:authenticated"]` {
		t.Errorf("the API knows %s", who)
	}
}

// requestCertificate asks for a client certificate of an hour; the answer is
// the file of its key.
func requestCertificate(t *testing.T, name string) (file string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	der, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name, Organization: []string{"devs"}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	request := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	manifest := `{"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "` + name + `"},
		"spec": {"request": "` + request + `", "signerName": "kubernetes.io/kube-apiserver-client", "expirationSeconds": 3600, "usages": ["client auth"]}}`
	if out, err := kubectlIn(t, manifest, "create", "-f", "-"); err != nil {
		t.Fatalf("create: %v\n%s", err, out)
	}
	removeLater(t, "csr/"+name)
	return file
}
