// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/peapod/peapod/api/certificate"
)

// forSigner says whether a user may do something in the name of a signer, or of
// all signers of its domain.
func (o Objects) forSigner(ctx context.Context, u user.Info, verb, signer string) bool {
	domain, _, _ := strings.Cut(signer, "/")
	signers := certificatesv1.Resource("signers")
	return o.Allowed(ctx, u, verb, signers, "", signer) || o.Allowed(ctx, u, verb, signers, "", domain+"/*")
}

// attest lets only those write the trust anchors of a signer who may attest for
// it (ClusterTrustBundleAttest).
type attest struct {
	*admission.Handler
	Objects
}

// Validate looks at the new object: the signer cannot change.
func (t attest) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != certificatesv1.Resource("clustertrustbundles") {
		return nil
	}
	b, ok := a.GetObject().(*certificatesv1.ClusterTrustBundle)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("expected type ClusterTrustBundle, got: %T", a.GetOldObject()))
	}
	if b.Spec.SignerName == "" || a.GetOperation() == admission.Update && OnlyCollected(b, a.GetOldObject()) {
		return nil
	}
	if !t.forSigner(ctx, a.GetUserInfo(), "attest", b.Spec.SignerName) {
		return admission.NewForbidden(a, fmt.Errorf("user not permitted to attest for signerName %q", b.Spec.SignerName))
	}
	return nil
}

// approve lets only those answer a request who may approve for its signer
// (CertificateApproval).
type approve struct {
	*admission.Handler
	Objects
}

// Validate looks at the old object: the signer cannot change.
func (t approve) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != signingRequests || a.GetSubresource() != "approval" {
		return nil
	}
	c, ok := a.GetOldObject().(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return noRequest(a, a.GetOldObject())
	}
	if !t.forSigner(ctx, a.GetUserInfo(), "approve", c.Spec.SignerName) {
		return admission.NewForbidden(a, fmt.Errorf("user not permitted to approve requests with signerName %q", c.Spec.SignerName))
	}
	return nil
}

// sign lets only those write a certificate, or that there is none, who may sign
// for the signer (CertificateSigning).
type sign struct {
	*admission.Handler
	Objects
}

// Validate looks at the old object: the signer cannot change.
func (t sign) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != signingRequests || a.GetSubresource() != "status" {
		return nil
	}
	old, ok := a.GetOldObject().(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return noRequest(a, a.GetOldObject())
	}
	c, ok := a.GetObject().(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return noRequest(a, a.GetObject())
	}
	if bytes.Equal(old.Status.Certificate, c.Status.Certificate) && equality.Semantic.DeepEqual(old.Status.Conditions, c.Status.Conditions) {
		return nil
	}
	if !t.forSigner(ctx, a.GetUserInfo(), "sign", old.Spec.SignerName) {
		return admission.NewForbidden(a, fmt.Errorf("user not permitted to sign requests with signerName %q", old.Spec.SignerName))
	}
	return nil
}

// restrictSubject refuses requests to become system:masters, whom nothing is
// refused (CertificateSubjectRestriction).
type restrictSubject struct{ *admission.Handler }

// Validate reads the request as the signer will.
func (restrictSubject) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != signingRequests || a.GetSubresource() != "" {
		return nil
	}
	c, ok := a.GetObject().(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return noRequest(a, a.GetObject())
	}
	if c.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	r, err := certificate.Parse(c.Spec.Request)
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("failed to parse CSR: %w", err))
	}
	if slices.Contains(r.Subject.Organization, user.SystemPrivilegedGroup) {
		return admission.NewForbidden(a, fmt.Errorf("use of %s signer with system:masters group is not allowed", c.Spec.SignerName))
	}
	return nil
}

var signingRequests = certificatesv1.Resource("certificatesigningrequests")

func noRequest(a admission.Attributes, o runtime.Object) error {
	return admission.NewForbidden(a, fmt.Errorf("expected type CertificateSigningRequest, got: %T", o))
}

// OnlyCollected says whether a change touches only what the garbage collector
// reads, or nothing, as a migration of storage does.
func OnlyCollected(o, old runtime.Object) bool {
	o = o.DeepCopyObject()
	m, err := meta.Accessor(o)
	was, oldErr := meta.Accessor(old)
	if err != nil || oldErr != nil {
		return false
	}
	m.SetOwnerReferences(was.GetOwnerReferences())
	m.SetFinalizers(was.GetFinalizers())
	m.SetManagedFields(was.GetManagedFields())
	return equality.Semantic.DeepEqual(o, old)
}
