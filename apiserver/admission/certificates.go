// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
)

// forSigner says whether a user may do something in the name of a signer, or of
// all signers of its domain.
func (o Objects) forSigner(ctx context.Context, u user.Info, verb, signer string) bool {
	domain, _, _ := strings.Cut(signer, "/")
	signers := certificatesv1.Resource("signers")
	return o.Allowed(ctx, u, verb, signers, signer) || o.Allowed(ctx, u, verb, signers, domain+"/*")
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
