// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

// certificateRows are what is asked of signers, and whom to trust. Who may
// speak for a signer is seen to by admission.
func (s *Server) certificateRows() []*row {
	gv := certificatesv1.SchemeGroupVersion
	return []*row{
		resource[certificatesv1.CertificateSigningRequest, certificatesv1.CertificateSigningRequestList](gv, "CertificateSigningRequest", "certificatesigningrequests", "certificatesigningrequest", hooks[certificatesv1.CertificateSigningRequest]{
			Prepare: prepareSigningRequest, PrepareStatus: defaults.PrepareCertificateSigningRequestStatus,
			Validate: validation.CertificateSigningRequest, ValidateUpdate: validation.CertificateSigningRequestUpdate,
			ValidateStatus: validation.CertificateSigningRequestStatusUpdate, Columns: table.CertificateSigningRequest(),
			Selectable: func(c *certificatesv1.CertificateSigningRequest) fields.Set {
				return fields.Set{"spec.signerName": c.Spec.SignerName}
			},
			Extend: func(_ *stores, main *registry.Store) map[string]rest.Storage {
				return map[string]rest.Storage{"approval": s.approvalStore(main)}
			},
		}, shortNames("csr"), clusterScoped, withoutGeneration, specKept, func(r *row) { r.resetByStatus = []string{"conditions"} }),
		resource[certificatesv1.ClusterTrustBundle, certificatesv1.ClusterTrustBundleList](gv, "ClusterTrustBundle", "clustertrustbundles", "clustertrustbundle", hooks[certificatesv1.ClusterTrustBundle]{
			Validate: validation.ClusterTrustBundle, ValidateUpdate: validation.ClusterTrustBundleUpdate, Columns: table.ClusterTrustBundle(),
			Selectable: func(b *certificatesv1.ClusterTrustBundle) fields.Set {
				return fields.Set{"spec.signerName": b.Spec.SignerName}
			},
		}, clusterScoped, withoutGeneration, strictUpdate),
	}
}

// prepareSigningRequest writes who asks into what is asked.
func prepareSigningRequest(ctx context.Context, c, old *certificatesv1.CertificateSigningRequest) {
	defaults.PrepareCertificateSigningRequest(c, old)
	u, ok := genericapirequest.UserFrom(ctx)
	if old != nil || !ok {
		return
	}
	c.Spec.Username, c.Spec.UID, c.Spec.Groups = u.GetName(), u.GetUID(), u.GetGroups()
	for k, v := range u.GetExtra() {
		if c.Spec.Extra == nil {
			c.Spec.Extra = map[string]certificatesv1.ExtraValue{}
		}
		c.Spec.Extra[k] = v
	}
}

// approvalStore is certificatesigningrequests/approval: it alone approves and
// denies.
func (s *Server) approvalStore(main *registry.Store) rest.Storage {
	part := *main
	base := strategy{s.scheme, names.SimpleNameGenerator, s.rowOf("certificatesigningrequests")}
	u := approvalStrategy{halfStrategy{base,
		func(o, old runtime.Object) {
			defaults.PrepareCertificateSigningRequestApproval(o.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest))
		},
		func(o, old runtime.Object) field.ErrorList {
			return validation.CertificateSigningRequestApproval(o.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest))
		},
	}}
	part.UpdateStrategy, part.ResetFieldsStrategy = u, u
	return partStore{&part}
}

// approvalStrategy: an approver cannot own what is asked, nor the certificate.
type approvalStrategy struct{ halfStrategy }

func (a approvalStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	resets := a.row.resets("spec")
	resets[fieldpath.APIVersion(a.row.gv.String())].Insert(fieldpath.MakePathOrDie("status", "certificate"))
	return resets
}
