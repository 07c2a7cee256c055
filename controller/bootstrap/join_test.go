// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/auth"
	"github.com/peapod/peapod/auth/join"
	"github.com/peapod/peapod/controller/world"
)

const (
	joinToken  = "abcdef.0123456789abcdef"
	otherToken = "abcdef.0123456789abcdee"
)

// keys opens the world's keys, with a clock of the test's.
func keys(t *testing.T, now func() time.Time) *auth.PKI {
	t.Helper()
	keys, err := auth.EnsurePKI(world.Keys, auth.Names{Node: "n1"}, now)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// joinable puts what `peapod token create` makes, and waits until the token has
// signed.
func joinable(t *testing.T, keys *auth.PKI) {
	t.Helper()
	bindings, reader, readers := auth.JoinPolicy()
	for i := range bindings {
		world.Put(t, &bindings[i])
	}
	info, err := auth.ClusterInfo(world.URL, keys.CAPEM)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := auth.BootstrapSecret(joinToken, "", time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	world.Put(t, reader, readers, info, secret)
	var about corev1.ConfigMapList
	world.Until(t, "the token has signed", &about, func() bool {
		return len(about.Items) == 1 && about.Items[0].Data[bootstrapapi.JWSSignatureKeyPrefix+"abcdef"] != ""
	}, client.InNamespace("kube-public"), client.MatchingFields{"metadata.name": "cluster-info"})
}

// soon asks again after each write of the world until it is so.
func soon(t *testing.T, what string, so func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for !so() {
		tick := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-public", GenerateName: "tick-"}}
		if err := world.Client.Create(ctx, tick); err != nil {
			t.Fatalf("%s: not yet, and %v", what, err)
		}
		if err := world.Client.Delete(ctx, tick); err != nil {
			t.Fatalf("%s: not yet, and %v", what, err)
		}
	}
}

// A machine with a token becomes a node, serves as that node, and is one
// without the token from then on.
func TestJoin(t *testing.T) {
	keys := keys(t, time.Now)
	joinable(t, keys)
	hashes, err := auth.Hashes(keys.CAPEM)
	if err != nil {
		t.Fatal(err)
	}
	r := join.Request{Server: world.URL, Token: joinToken, CAHashes: hashes, NodeName: "far", Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	for want, spoil := range map[string]func(*join.Request){
		"one that was named":               func(r *join.Request) { r.CAHashes = []string{"sha256:" + strings.Repeat("0", 64)} },
		"does not know the secret":         func(r *join.Request) { r.Token = otherToken },
		"does not know the token fedcba":   func(r *join.Request) { r.Token = "fedcba.0123456789abcdef" },
		"no token":                         func(r *join.Request) { r.Token = "abcdef" },
		"no valid certificate of the clus": func(r *join.Request) { r.Token = "" },
	} {
		bad := r
		bad.Dir = t.TempDir()
		spoil(&bad)
		if _, err := join.Join(t.Context(), bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	var me *join.Identity
	soon(t, "the authorizer has seen the bindings", func() bool {
		var err error
		me, err = join.Join(t.Context(), r)
		if err != nil && !strings.Contains(err.Error(), "forbidden") {
			t.Fatal(err)
		}
		return err == nil
	})
	isNode(t, me)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "far"}}
	world.Put(t, node)
	addresses := client.RawPatch(types.MergePatchType, []byte(`{"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.7"}]}}`))
	if err := world.Client.Status().Patch(t.Context(), node, addresses); err != nil {
		t.Fatal(err)
	}
	keepJoined(t, me, auth.Names{IPs: []net.IP{net.IPv4(192, 0, 2, 7)}, DNS: []string{"far"}})
	soon(t, "the serving certificate is there", func() bool { _, err := me.ServingCertificate(nil); return err == nil })
	serving, err := me.ServingCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := serving.Leaf.Verify(x509.VerifyOptions{Roots: keys.Pool(), DNSName: "192.0.2.7"}); err != nil {
		t.Error(err)
	}
	r.Token = ""
	if me, err = join.Join(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	isNode(t, me)
}

func isNode(t *testing.T, i *join.Identity) {
	t.Helper()
	c, err := kubernetes.NewForConfig(i.Config())
	if err != nil {
		t.Fatal(err)
	}
	who, err := c.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if u := who.Status.UserInfo; u.Username != "system:node:far" || !slices.Contains(u.Groups, "system:nodes") {
		t.Errorf("the API knows it as %+v", u)
	}
}

// keepJoined renews until the end of the test.
func keepJoined(t *testing.T, i *join.Identity, serving auth.Names) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- i.Run(ctx, serving) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A certificate that is nearly over is replaced, and what was opened with it is
// opened anew.
func TestJoinRenews(t *testing.T) {
	clock := time.Now()
	old := keys(t, func() time.Time { return clock })
	joinable(t, old)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:far", Organization: []string{"system:nodes"}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	clock = clock.Add(-340 * 24 * time.Hour) // when it was issued
	cert, err := old.Issue(request, []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if der, err = x509.MarshalECPrivateKey(key); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	kept := filepath.Join(dir, "kubelet-client.pem")
	before := append(cert, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})...)
	for name, b := range map[string][]byte{kept: before, filepath.Join(dir, "ca.crt"): old.CAPEM} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	me, err := join.Join(t.Context(), join.Request{Server: world.URL, NodeName: "far", Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	isNode(t, me)
	keepJoined(t, me, auth.Names{DNS: []string{"far"}})
	soon(t, "the certificate is another", func() bool {
		after, err := os.ReadFile(kept)
		if err != nil {
			t.Fatal(err)
		}
		return string(after) != string(before)
	})
	isNode(t, me)
}

// A token whose time is over goes.
func TestTokensGo(t *testing.T) {
	secret, err := auth.BootstrapSecret("zyxwvu.0123456789abcdef", "", time.Now().Add(-time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if err := world.Client.Create(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	var left corev1.SecretList
	world.Until(t, "the token is gone", &left, func() bool { return len(left.Items) == 0 }, client.InNamespace("kube-system"), client.MatchingFields{"metadata.name": secret.Name})
}
