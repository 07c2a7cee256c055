// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
)

// userWith is a client of a user that a ClusterRole with these rules is for.
func userWith(t *testing.T, name string, rules ...rbacv1.PolicyRule) kubernetes.Interface {
	t.Helper()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
	bound := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: name}},
	}
	if _, err := admin.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.RbacV1().ClusterRoleBindings().Create(t.Context(), bound, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the role of "+name+" is known", func() bool {
		gr := certificatesv1.Resource(rules[0].Resources[0])
		return server.allowed(t.Context(), &user.DefaultInfo{Name: name}, "get", gr, "", "")
	})
	return as(t, name)
}

func certificateRule(verb, resource string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{certificatesv1.GroupName}, Verbs: []string{verb}, Resources: []string{resource}, ResourceNames: names}
}

// Who writes the anchors of a signer has to attest for it, or for its domain;
// what the garbage collector writes is no anchor.
func TestAttest(t *testing.T) {
	write := certificateRule("*", "clustertrustbundles")
	bundle := func(signer string) *certificatesv1.ClusterTrustBundle {
		b := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "attested"}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: string(server.config.PKI.CAPEM)}}
		if signer != "" {
			b.Name = strings.ReplaceAll(signer, "/", ":") + ":attested"
		}
		return b
	}
	for name, c := range map[string]struct {
		rules []rbacv1.PolicyRule
		made  map[string]bool
	}{
		"ctb-writer": {[]rbacv1.PolicyRule{write}, map[string]bool{"": true, "example.com/a": false}},
		"ctb-signer": {[]rbacv1.PolicyRule{write, certificateRule("attest", "signers", "example.com/a")}, map[string]bool{"example.com/a": true, "example.com/b": false}},
		"ctb-domain": {[]rbacv1.PolicyRule{write, certificateRule("attest", "signers", "example.com/*")}, map[string]bool{"example.com/a": true, "example.com/b": true, "example.org/a": false}},
	} {
		client := userWith(t, name, c.rules...).CertificatesV1().ClusterTrustBundles()
		for signer, may := range c.made {
			b := bundle(signer)
			_, err := client.Create(t.Context(), b, metav1.CreateOptions{DryRun: []string{"All"}})
			want := `clustertrustbundles.certificates.k8s.io "` + b.Name + `" is forbidden: user not permitted to attest for signerName "` + signer + `"`
			if may && err != nil || !may && (!apierrors.IsForbidden(err) || err.Error() != want) {
				t.Errorf("%s for %q: %v", name, signer, err)
			}
		}
	}
	writer := as(t, "ctb-writer")
	b, err := admin.CertificatesV1().ClusterTrustBundles().Create(t.Context(), bundle("example.com/a"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	patch := func(text string) error {
		_, err := writer.CertificatesV1().ClusterTrustBundles().Patch(t.Context(), b.Name, types.MergePatchType, []byte(text), metav1.PatchOptions{})
		return err
	}
	if err := patch(`{"metadata":{"finalizers":["example.com/f"]}}`); err != nil {
		t.Errorf("a finalizer: %v", err)
	}
	if err := patch(`{"metadata":{"labels":{"a":"b"}}}`); !apierrors.IsForbidden(err) {
		t.Errorf("a label: %v", err)
	}
	found, err := admin.CertificatesV1().ClusterTrustBundles().List(t.Context(), metav1.ListOptions{FieldSelector: "spec.signerName=example.com/a"})
	if err != nil || len(found.Items) != 1 {
		t.Errorf("found by signer: %v, %v", found, err)
	}
}
