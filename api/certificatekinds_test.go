// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

func certificateKinds() map[string]kind {
	return map[string]kind{
		"CertificateSigningRequest": of(rules[certificatesv1.CertificateSigningRequest]{
			cluster: true, prepare: defaults.PrepareCertificateSigningRequest, check: validation.CertificateSigningRequest, change: validation.CertificateSigningRequestUpdate, columns: table.CertificateSigningRequest(),
			parts: map[string]part[certificatesv1.CertificateSigningRequest]{
				"status":   {prepare: defaults.PrepareCertificateSigningRequestStatus, check: validation.CertificateSigningRequestStatusUpdate},
				"approval": {prepare: defaults.PrepareCertificateSigningRequestApproval, check: validation.CertificateSigningRequestApproval},
			},
		}),
		"ClusterTrustBundle": of(rules[certificatesv1.ClusterTrustBundle]{cluster: true, check: validation.ClusterTrustBundle, change: validation.ClusterTrustBundleUpdate, columns: table.ClusterTrustBundle()}),
	}
}
