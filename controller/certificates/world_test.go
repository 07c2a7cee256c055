// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/api/certificate"
	"github.com/peapod/peapod/controller/world"
)

// signingRequest is a request to a signer.
func signingRequest(t *testing.T, signer string, template x509.CertificateRequest, usages ...certificatesv1.KeyUsage) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: signer, Usages: append(usages, certificatesv1.UsageDigitalSignature),
		},
	}
}

func nodeSubject(name string) pkix.Name {
	return pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}}
}

// awaitAnswer waits until a request is answered so.
func awaitAnswer(t *testing.T, c *certificatesv1.CertificateSigningRequest, what string, so func(*certificatesv1.CertificateSigningRequest) bool) {
	t.Helper()
	var list certificatesv1.CertificateSigningRequestList
	world.Until(t, what, &list, func() bool { return len(list.Items) == 1 && so(&list.Items[0]) }, client.MatchingFields{"metadata.name": c.Name})
	*c = list.Items[0]
}

func issued(c *certificatesv1.CertificateSigningRequest) bool { return len(c.Status.Certificate) > 0 }

// approve does what a person does.
func approve(t *testing.T, c *certificatesv1.CertificateSigningRequest) {
	t.Helper()
	c.Status.Conditions = append(c.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"})
	if err := world.Client.SubResource("approval").Update(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// A node's client certificate is approved and signed without anybody.
func TestNodeCertificates(t *testing.T) {
	c := signingRequest(t, certificatesv1.KubeAPIServerClientKubeletSignerName, x509.CertificateRequest{Subject: nodeSubject("far")}, certificatesv1.UsageClientAuth)
	world.Put(t, c)
	awaitAnswer(t, c, "the certificate is there", issued)
	if x := c.Status.Conditions; len(x) != 1 || x[0].Reason != "AutoApproved" || x[0].Message != "Auto approving kubelet client certificate after SubjectAccessReview." {
		t.Errorf("conditions: %+v", x)
	}
	block, _ := pem.Decode(c.Status.Certificate)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if s := cert.Subject.String(); s != "CN=system:node:far,O=system:nodes" || len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || cert.IsCA {
		t.Errorf("certificate of %s for %v", s, cert.ExtKeyUsage)
	}
}

// Those who may not ask for it have none, until they may.
func TestNodeCertificatesOfThoseWhoMay(t *testing.T) {
	user := "joiner"
	bind := func(role string) {
		world.Put(t, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: user}},
		})
	}
	bind("system:node-bootstrapper")
	config := rest.CopyConfig(world.Config)
	config.Impersonate.UserName = user
	joiner, err := client.New(config, client.Options{Scheme: clientscheme.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	c := signingRequest(t, certificatesv1.KubeAPIServerClientKubeletSignerName, x509.CertificateRequest{Subject: nodeSubject("far")}, certificatesv1.UsageClientAuth)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for err = joiner.Create(ctx, c); apierrors.IsForbidden(err); err = joiner.Create(ctx, c) {
		// The authorizer has not seen the binding yet.
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := world.Client.Delete(context.Background(), c); err != nil {
			t.Error(err)
		}
	})
	if c.Spec.Username != user {
		t.Errorf("it was asked by %q", c.Spec.Username)
	}
	bind("system:certificates.k8s.io:certificatesigningrequests:nodeclient")
	awaitAnswer(t, c, "the certificate is there", issued)
}

// What a person has approved is signed by the signer that was asked, as long as
// that signer gives such certificates.
func TestApprovedCertificates(t *testing.T) {
	client := pkix.Name{CommonName: "jane", Organization: []string{"devs"}}
	for name, x := range map[string]struct {
		signer   string
		template x509.CertificateRequest
		usage    certificatesv1.KeyUsage
		refusal  string
		untouch  bool
	}{
		"a client":           {certificatesv1.KubeAPIServerClientSignerName, x509.CertificateRequest{Subject: client}, certificatesv1.UsageClientAuth, "", false},
		"a client as server": {certificatesv1.KubeAPIServerClientSignerName, x509.CertificateRequest{Subject: client}, certificatesv1.UsageServerAuth, "invalid usage for client certificate: server auth", false},
		"a node's server":    {certificatesv1.KubeletServingSignerName, x509.CertificateRequest{Subject: nodeSubject("far"), IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)}}, certificatesv1.UsageServerAuth, "", false},
		"a server of none":   {certificatesv1.KubeletServingSignerName, x509.CertificateRequest{Subject: nodeSubject("far")}, certificatesv1.UsageServerAuth, "DNS or IP subjectAltName is required", false},
		"another's signer":   {"example.com/a", x509.CertificateRequest{Subject: client}, certificatesv1.UsageClientAuth, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			c := signingRequest(t, x.signer, x.template, x.usage)
			world.Put(t, c)
			approve(t, c)
			if x.untouch {
				other := signingRequest(t, certificatesv1.KubeAPIServerClientSignerName, x.template, x.usage)
				world.Put(t, other)
				approve(t, other)
				awaitAnswer(t, other, "a later one is signed", issued)
				awaitAnswer(t, c, "this one is there", func(c *certificatesv1.CertificateSigningRequest) bool { return true })
				if issued(c) || len(c.Status.Conditions) != 1 {
					t.Errorf("answered for another: %+v", c.Status)
				}
				return
			}
			awaitAnswer(t, c, "it is answered", func(c *certificatesv1.CertificateSigningRequest) bool {
				return issued(c) || certificate.Has(c, certificatesv1.CertificateFailed)
			})
			if x.refusal == "" {
				if !issued(c) {
					t.Errorf("refused: %+v", c.Status.Conditions)
				}
				return
			}
			if last := c.Status.Conditions[len(c.Status.Conditions)-1]; issued(c) || last.Reason != "SignerValidationFailure" || last.Message != x.refusal {
				t.Errorf("refused with %+v", last)
			}
		})
	}
}
