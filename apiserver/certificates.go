// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

// certificateRows are what is asked of signers, and whom to trust. Who may
// speak for a signer is seen to by admission.
func certificateRows() []*row {
	gv := certificatesv1.SchemeGroupVersion
	return []*row{
		resource[certificatesv1.ClusterTrustBundle, certificatesv1.ClusterTrustBundleList](gv, "ClusterTrustBundle", "clustertrustbundles", "clustertrustbundle", hooks[certificatesv1.ClusterTrustBundle]{
			Validate: validation.ClusterTrustBundle, ValidateUpdate: validation.ClusterTrustBundleUpdate, Columns: table.ClusterTrustBundle(),
			Selectable: func(b *certificatesv1.ClusterTrustBundle) fields.Set {
				return fields.Set{"spec.signerName": b.Spec.SignerName}
			},
		}, clusterScoped, withoutGeneration, strictUpdate),
	}
}
