// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"regexp"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
)

// secretOf answers with one Secret.
type secretOf struct {
	Objects
	secret *corev1.Secret
}

func (s secretOf) Secret(_ context.Context, namespace, name string) (*corev1.Secret, error) {
	if namespace != s.secret.Namespace || name != s.secret.Name {
		return nil, apierrors.NewNotFound(corev1.Resource("secrets"), name)
	}
	return s.secret, nil
}

func TestBootstrapTokens(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	const token = "abcdef.0123456789abcdef"
	set := func(key, value string) func(*corev1.Secret) {
		return func(s *corev1.Secret) { s.Data[key] = []byte(value) }
	}
	for name, c := range map[string]struct {
		spoil  func(*corev1.Secret)
		token  string
		groups []string
	}{
		"a token":             {nil, token, []string{"system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token"}},
		"without groups":      {set(bootstrapapi.BootstrapTokenExtraGroupsKey, ""), token, []string{"system:bootstrappers"}},
		"a wrong group":       {set(bootstrapapi.BootstrapTokenExtraGroupsKey, "system:masters"), token, nil},
		"a wrong secret":      {nil, "abcdef.0123456789abcdee", nil},
		"another token":       {nil, "fedcba.0123456789abcdef", nil},
		"another's form":      {nil, "abcdef", nil},
		"a wrong ID":          {set(bootstrapapi.BootstrapTokenIDKey, "fedcba"), token, nil},
		"over":                {set(bootstrapapi.BootstrapTokenExpirationKey, now.Format(time.RFC3339)), token, nil},
		"an unreadable time":  {set(bootstrapapi.BootstrapTokenExpirationKey, "soon"), token, nil},
		"not to authenticate": {set(bootstrapapi.BootstrapTokenUsageAuthentication, "yes"), token, nil},
		"another type":        {func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }, token, nil},
		"going":               {func(s *corev1.Secret) { s.DeletionTimestamp = &metav1.Time{Time: now} }, token, nil},
	} {
		s, err := BootstrapSecret(token, "for a test", now.Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		if c.spoil != nil {
			c.spoil(s)
		}
		got, ok, err := BootstrapTokens{secretOf{secret: s}, func() time.Time { return now }}.AuthenticateToken(t.Context(), c.token)
		if err != nil || ok != (c.groups != nil) {
			t.Errorf("%s: known %t, %v", name, ok, err)
			continue
		}
		if ok && (got.User.GetName() != "system:bootstrap:abcdef" || !slices.Equal(got.User.GetGroups(), c.groups)) {
			t.Errorf("%s: %+v", name, got.User)
		}
	}
}

// The signature is the one that k8s.io/cluster-bootstrap/token/jws makes.
func TestSignDetached(t *testing.T) {
	const content, signature = "apiVersion: v1\n", "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..K1chermAQEq0rdqy-ehj0VDfmA_ytv8Wzh9g26FldrE"
	if got := SignDetached(content, "abcdef", "0123456789abcdef"); got != signature {
		t.Errorf("got  %s\nwant %s", got, signature)
	}
	for token, want := range map[string]bool{"abcdef.0123456789abcdef": true, "abcdef.0123456789abcdee": false, "fedcba.0123456789abcdef": false, "abcdef": false} {
		if got := SignedDetached(signature, content, token); got != want {
			t.Errorf("%s has signed: %t", token, got)
		}
	}
}

func TestNewBootstrapToken(t *testing.T) {
	a, err := NewBootstrapToken()
	if err != nil || !regexp.MustCompile(bootstrapapi.BootstrapTokenPattern).MatchString(a) {
		t.Errorf("%q, %v", a, err)
	}
	if b, err := NewBootstrapToken(); err != nil || a == b {
		t.Errorf("%q again, %v", b, err)
	}
}

func TestCheckHash(t *testing.T) {
	p, err := EnsurePKI(t.TempDir(), Names{Node: "n1"}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	all, err := Hashes(p.CAPEM)
	if err != nil {
		t.Fatal(err)
	}
	hash := all[0]
	for h, ok := range map[string]bool{hash: true, hash[7:]: false, hash[:20]: false, "sha256:" + hash[8:] + "x": false, "md5" + hash[6:]: false} {
		if err := CheckHash(h); (err == nil) != ok {
			t.Errorf("%q: %v", h, err)
		}
	}
}

// A bundle has a hash of each CA: kubeadm's --discovery-token-ca-cert-hash of it.
func TestHashes(t *testing.T) {
	var bundle []byte
	var want []string
	for range 2 {
		p, err := EnsurePKI(t.TempDir(), Names{Node: "n"}, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		key, err := x509.MarshalPKIXPublicKey(p.CA.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		bundle, want = append(bundle, p.CAPEM...), append(want, fmt.Sprintf("sha256:%x", sha256.Sum256(key)))
	}
	if got, err := Hashes(bundle); err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	if got, err := Hashes(nil); err == nil {
		t.Errorf("%q of nothing", got)
	}
}
