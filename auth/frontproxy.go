// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
)

// FrontProxy is how the API server shows an extension server that it asks for
// somebody else: a client certificate of an authority of its own, which signs
// nothing else.
type FrontProxy struct{ CA, Cert, Key []byte }

// frontProxyName is the subject that extension servers believe.
const frontProxyName = "front-proxy-client"

// FrontProxy opens these keys, and makes what is missing or will soon expire.
func (p *PKI) FrontProxy() (*FrontProxy, error) {
	own := &PKI{dir: p.dir, now: p.now}
	if err := own.ensureCA("front-proxy-ca", "front-proxy-ca"); err != nil {
		return nil, err
	}
	if err := own.ensure(request{file: frontProxyName, subject: pkix.Name{CommonName: frontProxyName}, client: true}); err != nil {
		return nil, fmt.Errorf("cannot make certificate %s: %w", frontProxyName, err)
	}
	cert, key, err := own.readPair(frontProxyName)
	if err != nil {
		return nil, fmt.Errorf("cannot read the front proxy's certificate: %w", err)
	}
	return &FrontProxy{CA: own.CAPEM, Cert: cert, Key: key}, nil
}

// extensionAuthentication is the name under which extension servers look for
// whom to believe.
const extensionAuthentication = "extension-apiserver-authentication"

// ExtensionAuthentication tells extension servers which clients of the cluster
// there are, and by which certificate and headers they know whom the API server
// asks for.
func ExtensionAuthentication(clientCA []byte, f *FrontProxy) *corev1.ConfigMap {
	list := func(words ...string) string {
		b, _ := json.Marshal(words) // a list of words
		return string(b)
	}
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: extensionAuthentication, Namespace: metav1.NamespaceSystem}, Data: map[string]string{
		"client-ca-file":                     string(clientCA),
		"requestheader-client-ca-file":       string(f.CA),
		"requestheader-allowed-names":        list(frontProxyName),
		"requestheader-username-headers":     list("X-Remote-User"),
		"requestheader-uid-headers":          list("X-Remote-Uid"),
		"requestheader-group-headers":        list("X-Remote-Group"),
		"requestheader-extra-headers-prefix": list("X-Remote-Extra-"),
	}}
}

// ExtensionReader is the role of those who may read that, and who has it.
func ExtensionReader() (*rbacv1.Role, *rbacv1.RoleBinding) {
	const name = extensionAuthentication + "-reader"
	meta := func(name string) metav1.ObjectMeta {
		m := bootstrapMeta(name)
		m.Namespace = metav1.NamespaceSystem
		return m
	}
	binding := &rbacv1.RoleBinding{ObjectMeta: meta("system::" + name), RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name}}
	for _, u := range []string{user.KubeControllerManager, user.KubeScheduler} {
		binding.Subjects = append(binding.Subjects, subject(rbacv1.UserKind, u))
	}
	return &rbacv1.Role{ObjectMeta: meta(name), Rules: []rbacv1.PolicyRule{named(on("", readVerbs, "configmaps"), extensionAuthentication)}}, binding
}
