// SPDX-License-Identifier: Apache-2.0

package table

import (
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
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

// CertificateSigningRequest are the columns of requests.
func CertificateSigningRequest() Columns[certificatesv1.CertificateSigningRequest] {
	doc := certificatesv1beta1.CertificateSigningRequestSpec{}.SwaggerDoc()
	return Columns[certificatesv1.CertificateSigningRequest]{
		Definitions: []metav1.TableColumnDefinition{
			name(), ageColumn(), text("SignerName", doc["signerName"]), text("Requestor", doc["request"]), text("RequestedDuration", doc["expirationSeconds"]),
			text("Condition", certificatesv1beta1.CertificateSigningRequestStatus{}.SwaggerDoc()["conditions"]),
		},
		Cells: func(c *certificatesv1.CertificateSigningRequest, now time.Time) []any {
			asked := none
			if s := c.Spec.ExpirationSeconds; s != nil {
				asked = duration.HumanDuration(time.Duration(*s) * time.Second)
			}
			return []any{c.Name, age(c.CreationTimestamp, now), orNone(c.Spec.SignerName), c.Spec.Username, asked, answer(c)}
		},
	}
}

// answer is how far a request has come.
func answer(c *certificatesv1.CertificateSigningRequest) string {
	has := map[certificatesv1.RequestConditionType]bool{}
	for _, x := range c.Status.Conditions {
		has[x.Type] = true
	}
	out := "Pending"
	switch {
	case has[certificatesv1.CertificateDenied]:
		out = "Denied"
	case has[certificatesv1.CertificateApproved]:
		out = "Approved"
	}
	if has[certificatesv1.CertificateFailed] {
		out += ",Failed"
	}
	if len(c.Status.Certificate) > 0 {
		out += ",Issued"
	}
	return out
}
