// SPDX-License-Identifier: Apache-2.0

package defaults

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PrepareCertificateSigningRequest keeps what was asked and answered as it is;
// who asks is set by the server, and nobody asks with an answer.
func PrepareCertificateSigningRequest(c, old *certificatesv1.CertificateSigningRequest) {
	if old != nil {
		c.Spec = old.Spec
		return
	}
	c.Spec.Username, c.Spec.UID, c.Spec.Groups, c.Spec.Extra = "", "", nil, nil
}

// PrepareCertificateSigningRequestStatus keeps the approval, when it is there
// as often as before.
func PrepareCertificateSigningRequestStatus(c, old *certificatesv1.CertificateSigningRequest) {
	c.Spec = old.Spec
	for _, kind := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied} {
		was, is := conditionsAt(old, kind), conditionsAt(c, kind)
		if len(was) != len(is) {
			continue // validation refuses it
		}
		for i, k := range is {
			c.Status.Conditions[k] = old.Status.Conditions[was[i]]
		}
	}
	stampConditions(c, old)
}

// PrepareCertificateSigningRequestApproval takes the conditions alone.
func PrepareCertificateSigningRequestApproval(c, old *certificatesv1.CertificateSigningRequest) {
	stampConditions(c, old)
	conditions := c.Status.Conditions
	c.Spec, c.Status = old.Spec, old.Status
	c.Status.Conditions = conditions
}

func conditionsAt(c *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) (at []int) {
	for i, x := range c.Status.Conditions {
		if x.Type == kind {
			at = append(at, i)
		}
	}
	return at
}

// stampConditions fills in the times that a writer left away.
func stampConditions(c, old *certificatesv1.CertificateSigningRequest) {
	now := metav1.Now()
	for i := range c.Status.Conditions {
		x := &c.Status.Conditions[i]
		if x.LastUpdateTime.IsZero() {
			x.LastUpdateTime = now
		}
		if !x.LastTransitionTime.IsZero() {
			continue
		}
		x.LastTransitionTime = now
		for _, was := range old.Status.Conditions {
			if was.Type == x.Type && was.Status == x.Status && !was.LastTransitionTime.IsZero() {
				x.LastTransitionTime = was.LastTransitionTime
				break
			}
		}
	}
}
