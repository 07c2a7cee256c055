// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// oidcProvider is an OpenID Connect provider with a key of its own, over TLS.
type oidcProvider struct {
	*httptest.Server
	key *ecdsa.PrivateKey
}

func newProvider(t *testing.T) *oidcProvider {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &oidcProvider{key: key}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		var out any = map[string]string{"issuer": p.URL, "jwks_uri": p.URL + "/keys"}
		if r.URL.Path == "/keys" {
			out = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "k", Algorithm: "ES256", Use: "sig"}}}
		}
		_ = json.NewEncoder(w).Encode(out)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *oidcProvider) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}))
}

// token is one that the provider signs for jane, with these claims too.
func (p *oidcProvider) token(t *testing.T, key *ecdsa.PrivateKey, more map[string]any) string {
	t.Helper()
	claims := map[string]any{"iss": p.URL, "aud": "peapod", "sub": "jane", "groups": []string{"dev"}, "exp": time.Now().Add(time.Hour).Unix()}
	for name, value := range more {
		claims[name] = value
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// whoami is the caller as the server knows it.
func whoami(ctx context.Context, c kubernetes.Interface) (authenticationv1.UserInfo, error) {
	r, err := c.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return authenticationv1.UserInfo{}, err
	}
	return r.Status.UserInfo, nil
}

// known waits until a token is known, as its issuer's keys are fetched beside
// the start.
func (s *flagged) known(t *testing.T, token string) authenticationv1.UserInfo {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c := s.asker(t, token)
	for {
		u, err := whoami(ctx, c)
		if err == nil {
			return u
		}
		if !apierrors.IsUnauthorized(err) {
			t.Fatal(err)
		}
	}
}

func (s *flagged) unknown(t *testing.T, what, token string) {
	t.Helper()
	if u, err := whoami(t.Context(), s.asker(t, token)); !apierrors.IsUnauthorized(err) {
		t.Errorf("%s: %+v, %v", what, u, err)
	}
}

// A provider's users come in by the flags, with what is put before their names.
func TestOIDCByFlags(t *testing.T) {
	dir, p := t.TempDir(), newProvider(t)
	ca := written(t, filepath.Join(dir, "ca.pem"), p.ca())
	s := serve(t, dir, "--oidc-issuer-url="+p.URL, "--oidc-client-id=peapod", "--oidc-ca-file="+ca, "--oidc-signing-algs=ES256",
		"--oidc-groups-claim=groups", "--oidc-groups-prefix=oidc:", "--oidc-required-claim=tier=gold")
	good := map[string]any{"tier": "gold"}
	u := s.known(t, p.token(t, p.key, good))
	if u.Username != p.URL+"#jane" || !slices.Contains(u.Groups, "oidc:dev") || !slices.Contains(u.Groups, "system:authenticated") {
		t.Errorf("jane is %+v", u)
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s.unknown(t, "another's signature", p.token(t, stranger, good))
	s.unknown(t, "without the claim", p.token(t, p.key, nil))
	s.unknown(t, "for another audience", p.token(t, p.key, map[string]any{"tier": "gold", "aud": "others"}))
	s.unknown(t, "of yesterday", p.token(t, p.key, map[string]any{"tier": "gold", "exp": time.Now().Add(-24 * time.Hour).Unix()}))
	// This cluster's own tokens are as good as before.
	own, err := s.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if u := s.known(t, own.Status.Token); u.Username != "system:serviceaccount:default:default" {
		t.Errorf("the account is %+v", u)
	}
	s.end(t)
}

func authenticationFile(anonymous string, providers ...*oidcProvider) string {
	var b strings.Builder
	b.WriteString("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n" + anonymous)
	if len(providers) > 0 {
		b.WriteString("jwt:\n")
	}
	for i, p := range providers {
		ca := strings.ReplaceAll(strings.TrimSpace(p.ca()), "\n", "\n      ")
		fmt.Fprintf(&b, "- issuer:\n    url: %s\n    audiences: [peapod]\n    certificateAuthority: |\n      %s\n", p.URL, ca)
		fmt.Fprintf(&b, "  claimMappings:\n    username: {expression: '\"p%d:\" + claims.sub'}\n    groups: {expression: 'claims.groups'}\n", i)
		b.WriteString("  userValidationRules:\n  - {expression: \"!user.username.endsWith(':root')\", message: nobody is root}\n")
	}
	return b.String()
}

// The file says it in the long form, and another provider comes in without a
// restart; a file that is wrong changes nothing.
func TestAuthenticationConfiguration(t *testing.T) {
	dir, first, second := t.TempDir(), newProvider(t), newProvider(t)
	const open = "anonymous: {enabled: true, conditions: [{path: /livez}, {path: /version}]}\n"
	file := written(t, filepath.Join(dir, "authentication.yaml"), authenticationFile(open, first))
	s := serve(t, dir, "--authentication-config="+file)
	jane := first.token(t, first.key, nil)
	if u := s.known(t, jane); u.Username != "p0:jane" || !slices.Contains(u.Groups, "dev") {
		t.Errorf("jane is %+v", u)
	}
	s.unknown(t, "root", first.token(t, first.key, map[string]any{"sub": "root"}))
	anybody := s.asker(t, "").Discovery().RESTClient()
	for path, reached := range map[string]bool{"/livez": true, "/version": true, "/readyz": false, "/api": false} {
		if _, err := anybody.Get().AbsPath(path).DoRaw(t.Context()); apierrors.IsUnauthorized(err) == reached {
			t.Errorf("an anonymous caller at %s: %v", path, err)
		}
	}
	const reloads = "apiserver_authentication_config_controller_automatic_reloads_total{"
	written(t, file, authenticationFile(open, first, second))
	s.until(t, reloads, `status="success"} 1`)
	if u := s.known(t, second.token(t, second.key, nil)); u.Username != "p1:jane" {
		t.Errorf("the other jane is %+v", u)
	}
	written(t, file, authenticationFile("", second))
	s.until(t, reloads, `status="failure"} 1`)
	if u := s.known(t, jane); u.Username != "p0:jane" {
		t.Errorf("after a wrong file jane is %+v", u)
	}
	written(t, file, authenticationFile(open, second))
	s.until(t, reloads, `status="success"} 2`)
	s.unknown(t, "a provider that has gone", jane)
	s.end(t)
}

// A wrong configuration is named, and nothing starts.
func TestWrongAuthentication(t *testing.T) {
	dir := t.TempDir()
	file := written(t, filepath.Join(dir, "authentication.yaml"), "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt: [{issuer: {url: 'http://x', audiences: [a]}, claimMappings: {username: {claim: sub, prefix: ''}}}]\n")
	if said := failure(t, dir, childFlags+"=--authentication-config="+file); !strings.Contains(said, `cannot authenticate as asked for: jwt[0].issuer.url: Invalid value: "http://x": URL scheme must be https`) {
		t.Errorf("it said %s", said)
	}
}

// A service of the user's says whose a token is.
func TestTokenWebhook(t *testing.T) {
	dir := t.TempDir()
	hook := hookTo(t, dir, func(w http.ResponseWriter, r *http.Request) {
		var review authenticationv1.TokenReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.APIVersion != "authentication.k8s.io/v1" {
			t.Errorf("asked %+v, %v", review, err)
		}
		if review.Spec.Token == "open-sesame" {
			review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: "ali", Groups: []string{"thieves"}}}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	})
	s := serve(t, dir, "--authentication-token-webhook-config-file="+hook, "--authentication-token-webhook-version=v1")
	if u, err := whoami(t.Context(), s.asker(t, "open-sesame")); err != nil || u.Username != "ali" || !slices.Contains(u.Groups, "thieves") {
		t.Errorf("ali is %+v, %v", u, err)
	}
	s.unknown(t, "another word", "open-wheat")
	s.end(t)
}
