// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
)

const (
	// shortest and shortLived: a certificate lives for ten minutes at least, and
	// one of less than eight hours is not shortened by what it is backdated.
	shortest   = 10 * time.Minute
	shortLived = 8 * time.Hour
)

// Issue signs what a request asks for, as the signers of kube-controller-manager
// do: its subject and its alternative names, no extensions of its own, for a
// year or what was asked, and no longer than the CA.
func (p *PKI) Issue(r *x509.CertificateRequest, usages []certificatesv1.KeyUsage, seconds *int32) ([]byte, error) {
	if err := r.CheckSignature(); err != nil {
		return nil, fmt.Errorf("cannot sign for %s: its request's signature is wrong: %w", r.Subject.CommonName, err)
	}
	now := p.now()
	if !now.Before(p.CA.NotAfter) {
		return nil, fmt.Errorf("cannot sign for %s: the signer has expired: NotAfter=%v", r.Subject.CommonName, p.CA.NotAfter)
	}
	t := &x509.Certificate{
		Subject: r.Subject, DNSNames: r.DNSNames, IPAddresses: r.IPAddresses, EmailAddresses: r.EmailAddresses, URIs: r.URIs,
		BasicConstraintsValid: true, NotBefore: now.Add(-backdate), NotAfter: now.Add(lifetime(seconds)),
	}
	if t.NotAfter.After(p.CA.NotAfter) {
		t.NotAfter = p.CA.NotAfter
	}
	if err := use(t, usages); err != nil {
		return nil, err
	}
	cert, err := p.certify(t, r.PublicKey, p.CA)
	if err != nil {
		return nil, fmt.Errorf("cannot sign for %s: %w", r.Subject.CommonName, err)
	}
	return cert, nil
}

func lifetime(seconds *int32) time.Duration {
	asked := certLifetime
	if seconds != nil {
		asked = min(max(time.Duration(*seconds)*time.Second, shortest), certLifetime)
	}
	if asked >= shortLived {
		asked -= backdate
	}
	return asked
}

var keyUsages = map[certificatesv1.KeyUsage]x509.KeyUsage{
	certificatesv1.UsageSigning:           x509.KeyUsageDigitalSignature,
	certificatesv1.UsageDigitalSignature:  x509.KeyUsageDigitalSignature,
	certificatesv1.UsageContentCommitment: x509.KeyUsageContentCommitment,
	certificatesv1.UsageKeyEncipherment:   x509.KeyUsageKeyEncipherment,
	certificatesv1.UsageKeyAgreement:      x509.KeyUsageKeyAgreement,
	certificatesv1.UsageDataEncipherment:  x509.KeyUsageDataEncipherment,
	certificatesv1.UsageCertSign:          x509.KeyUsageCertSign,
	certificatesv1.UsageCRLSign:           x509.KeyUsageCRLSign,
	certificatesv1.UsageEncipherOnly:      x509.KeyUsageEncipherOnly,
	certificatesv1.UsageDecipherOnly:      x509.KeyUsageDecipherOnly,
}

var extendedUsages = map[certificatesv1.KeyUsage]x509.ExtKeyUsage{
	certificatesv1.UsageAny:             x509.ExtKeyUsageAny,
	certificatesv1.UsageServerAuth:      x509.ExtKeyUsageServerAuth,
	certificatesv1.UsageClientAuth:      x509.ExtKeyUsageClientAuth,
	certificatesv1.UsageCodeSigning:     x509.ExtKeyUsageCodeSigning,
	certificatesv1.UsageEmailProtection: x509.ExtKeyUsageEmailProtection,
	certificatesv1.UsageSMIME:           x509.ExtKeyUsageEmailProtection,
	certificatesv1.UsageIPsecEndSystem:  x509.ExtKeyUsageIPSECEndSystem,
	certificatesv1.UsageIPsecTunnel:     x509.ExtKeyUsageIPSECTunnel,
	certificatesv1.UsageIPsecUser:       x509.ExtKeyUsageIPSECUser,
	certificatesv1.UsageTimestamping:    x509.ExtKeyUsageTimeStamping,
	certificatesv1.UsageOCSPSigning:     x509.ExtKeyUsageOCSPSigning,
	certificatesv1.UsageMicrosoftSGC:    x509.ExtKeyUsageMicrosoftServerGatedCrypto,
	certificatesv1.UsageNetscapeSGC:     x509.ExtKeyUsageNetscapeServerGatedCrypto,
}

// use sets what the certificate is for.
func use(t *x509.Certificate, usages []certificatesv1.KeyUsage) error {
	for _, u := range usages {
		key, isKey := keyUsages[u]
		extended, isExtended := extendedUsages[u]
		switch {
		case isKey:
			t.KeyUsage |= key
		case !isExtended:
			return fmt.Errorf("cannot sign: unrecognized usage values: %q", u)
		case !slices.Contains(t.ExtKeyUsage, extended):
			t.ExtKeyUsage = append(t.ExtKeyUsage, extended)
		}
	}
	slices.Sort(t.ExtKeyUsage)
	return nil
}
