// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"slices"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/utils/ptr"
)

// parsed is a request as a signer sees it.
func parsed(t *testing.T, template x509.CertificateRequest) *x509.CertificateRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	r, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestIssue(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	p, err := EnsurePKI(t.TempDir(), Names{Node: "n1"}, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	template := x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane"}, DNSNames: []string{"a.example"}}
	issue := func(r *x509.CertificateRequest, seconds *int32, usages ...certificatesv1.KeyUsage) (*x509.Certificate, error) {
		chain, err := p.Issue(r, usages, seconds)
		if err != nil {
			return nil, err
		}
		block, _ := pem.Decode(chain)
		return x509.ParseCertificate(block.Bytes)
	}
	for name, c := range map[string]struct {
		seconds *int32
		after   time.Duration
	}{
		"a year":        {nil, 365*24*time.Hour - 5*time.Minute},
		"an hour":       {ptr.To[int32](3600), time.Hour},
		"a day":         {ptr.To[int32](86400), 24*time.Hour - 5*time.Minute},
		"too short":     {ptr.To[int32](1), 10 * time.Minute},
		"longer than a": {ptr.To[int32](2_000_000_000), 365*24*time.Hour - 5*time.Minute},
	} {
		cert, err := issue(parsed(t, template), c.seconds, "digital signature", "s/mime", "client auth", "email protection")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := cert.NotAfter.Sub(now); got != c.after || !cert.NotBefore.Equal(now.Add(-5*time.Minute)) {
			t.Errorf("%s: ends after %v, want %v; begins at %v", name, got, c.after, cert.NotBefore)
		}
		if cert.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageEmailProtection}) {
			t.Errorf("%s: for %v and %v", name, cert.KeyUsage, cert.ExtKeyUsage)
		}
		if err := cert.CheckSignatureFrom(p.CA); err != nil || cert.IsCA || cert.Subject.String() != "CN=jane" || !slices.Equal(cert.DNSNames, template.DNSNames) {
			t.Errorf("%s: %v of %v, %v", name, cert.Subject, cert.DNSNames, err)
		}
	}
	if _, err := issue(parsed(t, template), nil, "to fly"); err == nil {
		t.Error("an unknown usage was signed")
	}
	forged := parsed(t, template)
	forged.Signature[8] ^= 1
	if _, err := issue(forged, nil, "client auth"); err == nil {
		t.Error("a request that its key has not signed was signed")
	}
	now = p.CA.NotAfter.Add(-time.Hour)
	if cert, err := issue(parsed(t, template), nil, "client auth"); err != nil || !cert.NotAfter.Equal(p.CA.NotAfter) {
		t.Errorf("it outlives the CA: %v", err)
	}
	now = p.CA.NotAfter
	if _, err := issue(parsed(t, template), nil, "client auth"); err == nil {
		t.Error("a CA that has ended has signed")
	}
}
