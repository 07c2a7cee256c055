// SPDX-License-Identifier: Apache-2.0

package table

import (
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ClusterTrustBundle are the columns of bundles of trust anchors.
func ClusterTrustBundle() Columns[certificatesv1.ClusterTrustBundle] {
	return Columns[certificatesv1.ClusterTrustBundle]{
		Definitions: []metav1.TableColumnDefinition{name(), text("SignerName", certificatesv1.ClusterTrustBundleSpec{}.SwaggerDoc()["signerName"])},
		Cells: func(b *certificatesv1.ClusterTrustBundle, _ time.Time) []any {
			return []any{b.Name, orNone(b.Spec.SignerName)}
		},
	}
}
