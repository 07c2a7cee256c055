// SPDX-License-Identifier: Apache-2.0

// Package certificate owns what several rooms have to know of
// CertificateSigningRequests: what they hold, how they were answered, and what
// a node may ask for.
package certificate

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
)

// Parse reads a request in PEM. Its signature is not looked at.
func Parse(request []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}

// Has says whether a request was answered so. Approved, Denied and Failed are
// never false once they are there.
func Has(c *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(c.Status.Conditions, func(x certificatesv1.CertificateSigningRequestCondition) bool {
		return x.Type == kind && (x.Status == "" || x.Status == corev1.ConditionTrue)
	})
}

// ForNodeClient refuses what is no certificate of a node as a client.
func ForNodeClient(r *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	if err := nodes(r); err != nil {
		return err
	}
	switch {
	case len(r.DNSNames) > 0:
		return errors.New("DNS subjectAltNames are not allowed")
	case len(r.EmailAddresses) > 0:
		return errors.New("Email subjectAltNames are not allowed") //nolint:staticcheck // upstream's text
	case len(r.IPAddresses) > 0:
		return errors.New("IP subjectAltNames are not allowed")
	case len(r.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	case !strings.HasPrefix(r.Subject.CommonName, nodePrefix):
		return errNoNode
	}
	return nodeUsages(usages, certificatesv1.UsageClientAuth)
}

// ForNodeServing refuses what is no certificate of a node's server.
func ForNodeServing(r *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	if err := nodes(r); err != nil {
		return err
	}
	switch {
	case len(r.DNSNames) == 0 && len(r.IPAddresses) == 0:
		return errors.New("DNS or IP subjectAltName is required")
	case len(r.EmailAddresses) > 0:
		return errors.New("Email subjectAltNames are not allowed") //nolint:staticcheck // upstream's text
	case len(r.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	}
	if err := nodeUsages(usages, certificatesv1.UsageServerAuth); err != nil {
		return err
	}
	if !strings.HasPrefix(r.Subject.CommonName, nodePrefix) {
		return errNoNode
	}
	return nil
}

// NodeName is the node that a request is for which is one of the two.
func NodeName(r *x509.CertificateRequest) string {
	return strings.TrimPrefix(r.Subject.CommonName, nodePrefix)
}

const nodePrefix = "system:node:"

var errNoNode = errors.New("subject common name does not begin with system:node:")

func nodes(r *x509.CertificateRequest) error {
	if !slices.Equal(r.Subject.Organization, []string{"system:nodes"}) {
		return errors.New("subject organization is not system:nodes")
	}
	return nil
}

// nodeUsages are exactly these; keys that are not RSA have nothing to encipher.
func nodeUsages(usages []certificatesv1.KeyUsage, auth certificatesv1.KeyUsage) error {
	has := map[certificatesv1.KeyUsage]bool{}
	for _, u := range usages {
		has[u] = true
	}
	want := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, auth}
	for i, u := range want {
		if !has[u] && i != 1 {
			return mismatch(want)
		}
		delete(has, u)
	}
	if len(has) > 0 {
		return mismatch(want)
	}
	return nil
}

func mismatch(want []certificatesv1.KeyUsage) error {
	slices.Sort(want)
	return fmt.Errorf("usages did not match %v", want)
}
