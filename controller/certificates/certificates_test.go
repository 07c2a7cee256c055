// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"slices"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// ending is a certificate that ends so long after noon.
func ending(t *testing.T, after time.Duration) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a"}, NotAfter: noon.Add(after)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestRequestsGo(t *testing.T) {
	year, minute := ending(t, 365*24*time.Hour), ending(t, time.Minute)
	for name, c := range map[string]struct {
		conditions []certificatesv1.RequestConditionType
		chain      []byte
		after      time.Duration // from noon, when it was made and answered; 0 is never
	}{
		"open":                {nil, nil, 24 * time.Hour},
		"denied":              {[]certificatesv1.RequestConditionType{"Denied"}, nil, time.Hour},
		"approved":            {[]certificatesv1.RequestConditionType{"Approved"}, nil, 24 * time.Hour},
		"issued":              {[]certificatesv1.RequestConditionType{"Approved"}, year, time.Hour},
		"issued and expired":  {[]certificatesv1.RequestConditionType{"Approved"}, minute, time.Minute},
		"unreadable":          {[]certificatesv1.RequestConditionType{"Approved"}, []byte("x"), time.Hour},
		"failed":              {[]certificatesv1.RequestConditionType{"Approved", "Failed"}, nil, time.Hour},
		"another's condition": {[]certificatesv1.RequestConditionType{"Seen"}, nil, 0},
	} {
		r := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(noon)}}
		for _, kind := range c.conditions {
			r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: kind, Status: "True", LastUpdateTime: metav1.NewTime(noon)})
		}
		r.Status.Certificate = c.chain
		want := noon.Add(c.after)
		if c.after == 0 {
			want = time.Time{}
		}
		if got := endOf(r); !got.Equal(want) {
			t.Errorf("%s: goes at %v, want %v", name, got, want)
		}
	}
}

func TestClientUsages(t *testing.T) {
	for want, usages := range map[string][]certificatesv1.KeyUsage{
		"": {"client auth", "digital signature", "key encipherment"},
		"invalid usage for client certificate: server auth":          {"client auth", "server auth"},
		"missing required usage for client certificate: client auth": {"digital signature"},
	} {
		got := ""
		if err := forClient(nil, usages); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%v: %q, want %q", usages, got, want)
		}
	}
}

// A node that renews its own certificate is known before one that may ask for
// any.
func TestWays(t *testing.T) {
	r := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:a"}}
	for user, want := range map[string][]string{
		"system:node:a": {"selfnodeclient", "nodeclient"}, "system:bootstrap:abcdef": {"nodeclient"},
	} {
		var got []string
		for _, w := range waysFor(&certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{Username: user}}, r) {
			got = append(got, w.subresource)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", user, got, want)
		}
	}
}

// A node serves by its own name and addresses only.
func TestOwnNames(t *testing.T) {
	node := func(name string, addresses ...string) (n corev1.Node) {
		n.Name = name
		for _, a := range addresses {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
		}
		return n
	}
	nodes := []corev1.Node{node("a", "192.0.2.1", "2001:db8::1", "192.0.2.3", "10.96.0.1", "a.example"), node("b", "192.0.2.2", "192.0.2.3")}
	services := []corev1.Service{{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"}, Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.96.0.1"}}}}
	for name, c := range map[string]struct {
		dns     []string
		ip      string
		refusal string
	}{
		"its own":            {[]string{"a"}, "192.0.2.1", ""},
		"of the other kind":  {nil, "2001:db8:0::1", ""},
		"another's":          {nil, "192.0.2.2", `192.0.2.2 belongs to ["node b"], not to node a alone`},
		"of two":             {nil, "192.0.2.3", `192.0.2.3 belongs to ["node a" "node b"], not to node a alone`},
		"a Service's":        {nil, "10.96.0.1", `10.96.0.1 belongs to ["node a" "service default/kubernetes"], not to node a alone`},
		"nobody's":           {nil, "192.0.2.9", `192.0.2.9 belongs to [], not to node a alone`},
		"the API's name":     {[]string{"kubernetes.default.svc"}, "192.0.2.1", "kubernetes.default.svc is not the name of node a"},
		"a name it claims":   {[]string{"a.example"}, "192.0.2.1", "a.example is not the name of node a"},
		"another node's one": {[]string{"b"}, "192.0.2.1", "b is not the name of node a"},
	} {
		r := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:a"}, DNSNames: c.dns, IPAddresses: []net.IP{net.ParseIP(c.ip)}}
		got := ""
		if err := ownNames(r, nodes, services); err != nil {
			got = err.Error()
		}
		if got != c.refusal {
			t.Errorf("%s: %q, want %q", name, got, c.refusal)
		}
	}
}
