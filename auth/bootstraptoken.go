// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/cert"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	bootstrapsecrets "k8s.io/cluster-bootstrap/util/secrets"
	bootstraptokens "k8s.io/cluster-bootstrap/util/tokens"
)

// Bootstrap tokens are what a machine shows that has no certificate yet: Secrets
// of kube-system, each for a while. A token has two parts, ID.SECRET; who has
// one is system:bootstrap:ID, and knows whether what the cluster says of itself
// was signed by somebody who has it too.

// joiners is the group of the tokens that machines join with, as kubeadm calls it.
const joiners = "system:bootstrappers:kubeadm:default-node-token"

// BootstrapTokens authenticates by bootstrap tokens.
type BootstrapTokens struct {
	Objects Objects
	Now     func() time.Time
}

// AuthenticateToken knows tokens that have a Secret which is not over and says
// that it is for this.
func (b BootstrapTokens) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	id, secret, err := bootstraptokens.ParseToken(token)
	if err != nil {
		return nil, false, nil // another kind of token
	}
	s, err := b.Objects.Secret(ctx, metav1.NamespaceSystem, bootstrapapi.BootstrapTokenSecretPrefix+id)
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("cannot look up a bootstrap token: %w", err)
	}
	if s.DeletionTimestamp != nil || s.Type != bootstrapapi.SecretTypeBootstrapToken ||
		subtle.ConstantTimeCompare(s.Data[bootstrapapi.BootstrapTokenSecretKey], []byte(secret)) != 1 ||
		string(s.Data[bootstrapapi.BootstrapTokenIDKey]) != id || bootstrapsecrets.HasExpired(s, b.Now()) ||
		string(s.Data[bootstrapapi.BootstrapTokenUsageAuthentication]) != "true" {
		return nil, false, nil
	}
	groups, err := bootstrapsecrets.GetGroups(s)
	if err != nil {
		return nil, false, nil
	}
	return &authenticator.Response{User: &user.DefaultInfo{Name: bootstrapapi.BootstrapUserPrefix + id, Groups: groups}}, true, nil
}

// SigningToken is the token of a Secret if it signs at that time.
func SigningToken(s *corev1.Secret, now time.Time) (id, secret string, ok bool) {
	name, named := bootstrapsecrets.ParseName(s.Name)
	id, secret = string(s.Data[bootstrapapi.BootstrapTokenIDKey]), string(s.Data[bootstrapapi.BootstrapTokenSecretKey])
	ok = named && name == id && secret != "" && s.Type == bootstrapapi.SecretTypeBootstrapToken &&
		!bootstrapsecrets.HasExpired(s, now) && string(s.Data[bootstrapapi.BootstrapTokenUsageSigningKey]) == "true"
	return id, secret, ok
}

// SignDetached signs content with a token: a JWS by HS256 whose payload is left
// out (RFC 7515, appendix F).
func SignDetached(content, id, secret string) string {
	encode := base64.RawURLEncoding.EncodeToString
	header := encode([]byte(`{"alg":"HS256","kid":"` + id + `"}`)) // an ID needs no escaping
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(header + "." + encode([]byte(content))))
	return header + ".." + encode(mac.Sum(nil))
}

// SignedDetached says whether a token has signed content.
func SignedDetached(signature, content, token string) bool {
	id, secret, err := bootstraptokens.ParseToken(token)
	return err == nil && hmac.Equal([]byte(signature), []byte(SignDetached(content, id, secret)))
}

// NewBootstrapToken makes a token.
func NewBootstrapToken() (string, error) {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	token := make([]byte, 0, 22)
	for len(token) < bootstrapapi.BootstrapTokenIDBytes+bootstrapapi.BootstrapTokenSecretBytes {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(letters))))
		if err != nil {
			return "", fmt.Errorf("cannot make a token: %w", err)
		}
		token = append(token, letters[n.Int64()])
	}
	return string(token[:bootstrapapi.BootstrapTokenIDBytes]) + "." + string(token[bootstrapapi.BootstrapTokenIDBytes:]), nil
}

// BootstrapSecret is the Secret of a token that machines join with; a zero
// expiry is never.
func BootstrapSecret(token, description string, expires time.Time) (*corev1.Secret, error) {
	id, secret, err := bootstraptokens.ParseToken(token)
	if err != nil {
		return nil, fmt.Errorf("cannot use this token: %w", err)
	}
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: bootstrapapi.BootstrapTokenSecretPrefix + id},
		Type:       bootstrapapi.SecretTypeBootstrapToken,
		Data: map[string][]byte{
			bootstrapapi.BootstrapTokenIDKey: []byte(id), bootstrapapi.BootstrapTokenSecretKey: []byte(secret),
			bootstrapapi.BootstrapTokenUsageSigningKey: []byte("true"), bootstrapapi.BootstrapTokenUsageAuthentication: []byte("true"),
			bootstrapapi.BootstrapTokenExtraGroupsKey: []byte(joiners),
		},
	}
	if description != "" {
		s.Data[bootstrapapi.BootstrapTokenDescriptionKey] = []byte(description)
	}
	if !expires.IsZero() {
		s.Data[bootstrapapi.BootstrapTokenExpirationKey] = []byte(expires.UTC().Format(time.RFC3339))
	}
	return s, nil
}

// ClusterInfo is what the cluster at a server says of itself to machines that
// join: kube-public/cluster-info.
func ClusterInfo(server string, ca []byte) (*corev1.ConfigMap, error) {
	c := clientcmdapi.NewConfig()
	c.Clusters[""] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	kubeconfig, err := clientcmd.Write(*c)
	if err != nil {
		return nil, fmt.Errorf("cannot describe the cluster: %w", err)
	}
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespacePublic, Name: bootstrapapi.ConfigMapClusterInfo},
		Data:       map[string]string{bootstrapapi.KubeConfigKey: string(kubeconfig)},
	}, nil
}

// pinned is the one form of hashes there is.
const pinned = "sha256:"

// Hashes pin CAs, which are in PEM, by their public keys, in the form of
// kubeadm's --discovery-token-ca-cert-hash. There is one at least.
func Hashes(cas []byte) (out []string, err error) {
	all, err := cert.ParseCertsPEM(cas)
	if err != nil {
		return nil, fmt.Errorf("cannot read the cluster's CA: %w", err)
	}
	for _, c := range all {
		sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
		out = append(out, pinned+hex.EncodeToString(sum[:]))
	}
	return out, nil
}

// CheckHash refuses what is no hash of a CA.
func CheckHash(hash string) error {
	b, err := hex.DecodeString(strings.TrimPrefix(hash, pinned))
	if !strings.HasPrefix(hash, pinned) || err != nil || len(b) != sha256.Size {
		return fmt.Errorf("%q is no hash of a CA: want %sHEX", hash, pinned)
	}
	return nil
}

// JoinPolicy lets machines with tokens read what the cluster says of itself and
// ask for the certificate of a node, and nodes renew theirs, as kubeadm does.
func JoinPolicy() (bindings []rbacv1.ClusterRoleBinding, reader *rbacv1.Role, readers *rbacv1.RoleBinding) {
	bindings = []rbacv1.ClusterRoleBinding{
		bind("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", joiners),
		bind("kubeadm:node-autoapprove-bootstrap", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", joiners),
		bind("kubeadm:node-autoapprove-certificate-rotation", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", user.NodesGroup),
	}
	for i := range bindings { // no server makes these by itself
		bindings[i].Labels, bindings[i].Annotations = nil, nil
	}
	// Nobody shows a token to a server before that has shown that it knows it.
	reader, readers = configReader(metav1.NamespacePublic, "kubeadm:bootstrap-signer-clusterinfo", bootstrapapi.ConfigMapClusterInfo, subject(rbacv1.UserKind, user.Anonymous))
	return bindings, reader, readers
}
