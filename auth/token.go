// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
)

// Issuer is the default issuer of service account tokens, and the audience
// that the API server itself answers to.
const Issuer = "https://kubernetes.default.svc.cluster.local"

const (
	// expirationExtension lets a Pod that reads its token once live on for a
	// year; warnAfter is when the API server starts to warn (KEP-1205).
	expirationExtension = 365 * 24 * time.Hour
	warnAfter           = 3607 * time.Second
	bindingGrace        = 60 * time.Second
)

// Objects are what a token can be bound to. A get of a missing object returns
// a NotFound error.
type Objects interface {
	ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)
	Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	Node(ctx context.Context, name string) (*corev1.Node, error)
}

// Tokens signs and verifies service account tokens.
type Tokens struct {
	key     *ecdsa.PrivateKey
	keyID   string
	objects Objects
	now     func() time.Time
}

// NewTokens signs with key; objects answer whether what a token is bound to is
// still there.
func NewTokens(key *ecdsa.PrivateKey, objects Objects, now func() time.Time) (*Tokens, error) {
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("cannot name the service account key: %w", err)
	}
	sum := sha256.Sum256(der)
	return &Tokens{key: key, keyID: base64.RawURLEncoding.EncodeToString(sum[:]), objects: objects, now: now}, nil
}

// reference is an object that a token is bound to.
type reference struct {
	Name string    `json:"name"`
	UID  types.UID `json:"uid,omitempty"`
}

// privateClaims are those under "kubernetes.io".
type privateClaims struct {
	Namespace      string           `json:"namespace,omitempty"`
	ServiceAccount reference        `json:"serviceaccount,omitzero"`
	Pod            *reference       `json:"pod,omitempty"`
	Secret         *reference       `json:"secret,omitempty"`
	Node           *reference       `json:"node,omitempty"`
	WarnAfter      *jwt.NumericDate `json:"warnafter,omitempty"`
}

type claims struct {
	jwt.Claims
	Kubernetes privateClaims `json:"kubernetes.io"`
}

// Request is a token to be signed. Pod, Secret and Node bind it.
type Request struct {
	Account   *corev1.ServiceAccount
	Audiences []string
	Seconds   int64
	Pod       *corev1.Pod
	Secret    *corev1.Secret
	Node      *corev1.Node
}

// Sign makes a token and says when it expires for the caller, which may be
// sooner than it stops being accepted.
func (t *Tokens) Sign(r Request) (token string, expires time.Time, err error) {
	now := t.now()
	expires = now.Add(time.Duration(r.Seconds) * time.Second)
	c := claims{Claims: jwt.Claims{
		Issuer: Issuer, Subject: serviceaccount.MakeUsername(r.Account.Namespace, r.Account.Name),
		Audience: jwt.Audience(r.Audiences), ID: uuid.NewString(),
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(expires),
	}}
	c.Kubernetes = privateClaims{Namespace: r.Account.Namespace, ServiceAccount: reference{r.Account.Name, r.Account.UID}}
	if len(c.Audience) == 0 {
		c.Audience = jwt.Audience{Issuer}
	}
	switch {
	case r.Pod != nil:
		c.Kubernetes.Pod = &reference{r.Pod.Name, r.Pod.UID}
	case r.Secret != nil:
		c.Kubernetes.Secret = &reference{r.Secret.Name, r.Secret.UID}
	}
	if r.Node != nil {
		c.Kubernetes.Node = &reference{r.Node.Name, r.Node.UID}
	}
	if r.Seconds == int64(warnAfter.Seconds()) && r.Pod != nil && slices.Equal(c.Audience, jwt.Audience{Issuer}) {
		c.Kubernetes.WarnAfter = jwt.NewNumericDate(expires)
		c.Expiry = jwt.NewNumericDate(now.Add(expirationExtension))
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: t.key, KeyID: t.keyID}}, nil)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("cannot sign a service account token: %w", err)
	}
	token, err = jwt.Signed(signer).Claims(c).Serialize()
	if err != nil {
		return "", time.Time{}, fmt.Errorf("cannot sign a service account token: %w", err)
	}
	return token, expires, nil
}

// AuthenticateToken accepts tokens this cluster signed, whose audience is asked
// for and whose bound objects still exist under the same UID.
func (t *Tokens) AuthenticateToken(ctx context.Context, raw string) (*authenticator.Response, bool, error) {
	if !ours(raw) {
		return nil, false, nil
	}
	parsed, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, false, nil
	}
	var c claims
	if err := parsed.Claims(&t.key.PublicKey, &c); err != nil {
		return nil, false, fmt.Errorf("invalid bearer token: %w", err)
	}
	now := t.now()
	if err := c.ValidateWithLeeway(jwt.Expected{Time: now}, 0); err != nil {
		if errors.Is(err, jwt.ErrExpired) {
			return nil, false, errors.New("service account token has expired")
		}
		return nil, false, fmt.Errorf("service account token is not valid: %w", err)
	}
	audiences := authenticator.Audiences(c.Audience)
	asked, ok := authenticator.AudiencesFrom(ctx)
	if !ok {
		asked = authenticator.Audiences{Issuer}
	}
	agreed := audiences.Intersect(asked)
	if len(agreed) == 0 {
		return nil, false, fmt.Errorf("token audiences %q is invalid for the target audiences %q", audiences, asked)
	}
	info, err := t.bound(ctx, c, now)
	if err != nil {
		return nil, false, err
	}
	return &authenticator.Response{User: info.UserInfo(), Audiences: agreed}, true, nil
}

// ours looks at the issuer without verifying, so that other authenticators get
// their tokens.
func ours(raw string) bool {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return false
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return false
	}
	var c struct {
		Issuer string `json:"iss"`
	}
	return json.Unmarshal(b, &c) == nil && c.Issuer == Issuer
}

// bound checks the account and what the token is bound to.
func (t *Tokens) bound(ctx context.Context, c claims, now time.Time) (*serviceaccount.ServiceAccountInfo, error) {
	k := c.Kubernetes
	account, err := t.objects.ServiceAccount(ctx, k.Namespace, k.ServiceAccount.Name)
	if err != nil {
		return nil, err
	}
	if account.UID != k.ServiceAccount.UID {
		return nil, fmt.Errorf("service account UID (%s) does not match claim (%s)", account.UID, k.ServiceAccount.UID)
	}
	if deleted := account.DeletionTimestamp; deleted != nil && now.After(deleted.Add(bindingGrace)) {
		return nil, errors.New("service account has been deleted")
	}
	info := &serviceaccount.ServiceAccountInfo{Namespace: k.Namespace, Name: account.Name, UID: string(account.UID), CredentialID: "JTI=" + c.ID}
	if k.Pod != nil {
		pod, err := t.objects.Pod(ctx, k.Namespace, k.Pod.Name)
		if err == nil && pod.UID != k.Pod.UID {
			err = fmt.Errorf("pod UID (%s) does not match service account pod ref claim (%s)", pod.UID, k.Pod.UID)
		}
		if err == nil && pod.DeletionTimestamp != nil && now.After(pod.DeletionTimestamp.Add(bindingGrace)) {
			err = errors.New("pod of the service account token has been deleted")
		}
		if err != nil {
			return nil, err
		}
		info.PodName, info.PodUID = pod.Name, string(pod.UID)
	}
	if k.Secret != nil {
		secret, err := t.objects.Secret(ctx, k.Namespace, k.Secret.Name)
		if err != nil {
			return nil, err
		}
		if secret.UID != k.Secret.UID {
			return nil, fmt.Errorf("secret UID (%s) does not match service account secret ref claim (%s)", secret.UID, k.Secret.UID)
		}
	}
	if k.Node != nil {
		node, err := t.objects.Node(ctx, k.Node.Name)
		if err == nil && node.UID != k.Node.UID {
			err = fmt.Errorf("node UID (%s) does not match service account node ref claim (%s)", node.UID, k.Node.UID)
		}
		// A Pod's token outlives its Node object; one bound to the node alone does not.
		if err != nil && (k.Pod == nil || !apierrors.IsNotFound(err)) {
			return nil, err
		}
		info.NodeName, info.NodeUID = k.Node.Name, string(k.Node.UID)
	}
	return info, nil
}

// ServeHTTP answers OIDC discovery: who signs, and with which key
// (OpenID Connect Discovery 1.0; KEP-1393).
func (t *Tokens) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var out any = map[string]any{
		"issuer": Issuer, "jwks_uri": Issuer + "/openid/v1/jwks",
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{string(jose.ES256)},
	}
	w.Header().Set("Content-Type", "application/json")
	if strings.HasSuffix(r.URL.Path, "/jwks") {
		w.Header().Set("Content-Type", "application/jwk-set+json")
		out = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &t.key.PublicKey, KeyID: t.keyID, Algorithm: string(jose.ES256), Use: "sig"}}}
	}
	w.Header().Set("Cache-Control", "public, max-age=3600")
	_ = json.NewEncoder(w).Encode(out) // a client that left needs no answer
}

// TokenStatus is the answer to a TokenRequest.
func TokenStatus(token string, expires time.Time) authenticationv1.TokenRequestStatus {
	s := authenticationv1.TokenRequestStatus{Token: token}
	s.ExpirationTimestamp.Time = expires
	return s
}
