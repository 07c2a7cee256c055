// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/certificate"
)

type (
	signingRequest = certificatesv1.CertificateSigningRequest
	answerType     = certificatesv1.RequestConditionType
	keyUsage       = certificatesv1.KeyUsage
)

// tolerated are faults that a request had already, and may keep.
type tolerated struct {
	certificate, legacySigner, unknownUsages, usagesTwice bool
	typesTwice, noType                                    bool
}

// CertificateSigningRequest checks a new request.
func CertificateSigningRequest(c *signingRequest) field.ErrorList {
	return wholeRequest(c, tolerated{})
}

// CertificateSigningRequestUpdate checks a change of the metadata.
func CertificateSigningRequestUpdate(c, old *signingRequest) field.ErrorList {
	return requestUpdate(c, old, false, false)
}

// CertificateSigningRequestStatusUpdate checks what a signer writes: the
// certificate, once, and other conditions than the approval.
func CertificateSigningRequestStatusUpdate(c, old *signingRequest) field.ErrorList {
	return requestUpdate(c, old, false, true)
}

// CertificateSigningRequestApproval checks what an approver writes.
func CertificateSigningRequestApproval(c, old *signingRequest) field.ErrorList {
	return requestUpdate(c, old, true, false)
}

func wholeRequest(c *signingRequest, ok tolerated) field.ErrorList {
	errs := meta(&c.ObjectMeta, false, func(string, bool) []string { return nil })
	if err := signedRequest(c.Spec.Request); err != nil {
		errs = append(errs, field.Invalid(spec.Child("request"), c.Spec.Request, err.Error()))
	}
	errs = append(errs, usages(c.Spec.Usages, ok, spec.Child("usages"))...)
	if !ok.legacySigner && c.Spec.SignerName == certificatesv1beta1.LegacyUnknownSignerName {
		errs = append(errs, field.Invalid(spec.Child("signerName"), c.Spec.SignerName, "the legacy signerName is not allowed via this API version"))
	} else {
		errs = append(errs, signerName(c.Spec.SignerName, spec.Child("signerName"))...)
	}
	if s := c.Spec.ExpirationSeconds; s != nil && *s < tenMinutes {
		errs = append(errs, field.Invalid(spec.Child("expirationSeconds"), *s, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	errs = append(errs, answers(c.Status.Conditions, ok, field.NewPath("status", "conditions"))...)
	if !ok.certificate {
		if err := issued(c.Status.Certificate); err != nil {
			errs = append(errs, field.Invalid(field.NewPath("status", "certificate"), "<certificate data>", err.Error()))
		}
	}
	return errs
}

func signedRequest(request []byte) error {
	r, err := certificate.Parse(request)
	if err != nil {
		return err
	}
	return r.CheckSignature()
}

// knownUsages are all there are, sorted.
var knownUsages = []keyUsage{
	certificatesv1.UsageAny, certificatesv1.UsageCertSign, certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning, certificatesv1.UsageContentCommitment,
	certificatesv1.UsageCRLSign, certificatesv1.UsageDataEncipherment, certificatesv1.UsageDecipherOnly, certificatesv1.UsageDigitalSignature,
	certificatesv1.UsageEmailProtection, certificatesv1.UsageEncipherOnly, certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel,
	certificatesv1.UsageIPsecUser, certificatesv1.UsageKeyAgreement, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageMicrosoftSGC,
	certificatesv1.UsageNetscapeSGC, certificatesv1.UsageOCSPSigning, certificatesv1.UsageSMIME, certificatesv1.UsageServerAuth,
	certificatesv1.UsageSigning, certificatesv1.UsageTimestamping,
}

func usages(list []keyUsage, ok tolerated, at *field.Path) (errs field.ErrorList) {
	if len(list) == 0 {
		errs = append(errs, field.Required(at, ""))
	}
	if !ok.unknownUsages {
		for i, u := range list {
			errs = append(errs, supported(u, at.Index(i), knownUsages...)...)
		}
	}
	if !ok.usagesTwice {
		for i, u := range list {
			if slices.Contains(list[:i], u) {
				errs = append(errs, field.Duplicate(at.Index(i), u))
			}
		}
	}
	return errs
}

// finalAnswers are true once they are there, and stay.
var finalAnswers = []answerType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed}

func answers(list []certificatesv1.CertificateSigningRequestCondition, ok tolerated, at *field.Path) (errs field.ErrorList) {
	seen := map[answerType]bool{}
	for i, c := range list {
		if c.Type == "" && !ok.noType {
			errs = append(errs, field.Required(at.Index(i).Child("type"), ""))
		}
		allowed := []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
		if slices.Contains(finalAnswers, c.Type) {
			allowed = []corev1.ConditionStatus{corev1.ConditionTrue}
		}
		if c.Status == "" {
			errs = append(errs, field.Required(at.Index(i).Child("status"), ""))
		} else {
			errs = append(errs, supported(c.Status, at.Index(i).Child("status"), allowed...)...)
		}
		if seen[c.Type] && !ok.typesTwice {
			errs = append(errs, field.Duplicate(at.Index(i).Child("type"), c.Type))
		}
		seen[c.Type] = true
	}
	return errs
}

// issued refuses what is no chain of certificates.
func issued(chain []byte) error {
	if len(chain) == 0 {
		return nil
	}
	block, rest := pem.Decode(chain)
	if block == nil {
		return errors.New("must contain at least one CERTIFICATE PEM block")
	}
	for ; block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		if len(block.Headers) != 0 {
			return errors.New("no PEM block headers are permitted")
		}
		certs, err := x509.ParseCertificates(block.Bytes)
		if err != nil {
			return err
		}
		if len(certs) == 0 {
			return errors.New("found CERTIFICATE PEM block containing 0 certificates")
		}
	}
	return nil
}

func requestUpdate(c, old *signingRequest, approve, sign bool) field.ErrorList {
	errs := wholeRequest(c, toleratedOf(c, old))
	at := field.NewPath("status", "conditions")
	for _, kind := range finalAnswers {
		if len(answersOf(c, kind)) < len(answersOf(old, kind)) {
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("updates may not remove a condition of type %q", kind)))
		}
	}
	if !approve {
		errs = append(errs, approvalKept(c, old, at)...)
	}
	if !bytes.Equal(c.Status.Certificate, old.Status.Certificate) {
		at := field.NewPath("status", "certificate")
		if !sign {
			errs = append(errs, field.Forbidden(at, "updates may not set certificate content"))
		} else if len(old.Status.Certificate) > 0 {
			errs = append(errs, field.Forbidden(at, "updates may not modify existing certificate content"))
		}
	}
	errs = append(errs, metaUpdate(&c.ObjectMeta, &old.ObjectMeta)...)
	if bothAnswers(c) && !bothAnswers(old) {
		return reported(errs, field.ErrorList{field.Invalid(at, `{conditions[{"type": "Approved"}], conditions[{"type": "Denied"}]}`,
			"must specify at most one of: `conditions[{\"type\": \"Approved\"}]`, `conditions[{\"type\": \"Denied\"}]`")})
	}
	return errs
}

func bothAnswers(c *signingRequest) bool {
	return len(answersOf(c, certificatesv1.CertificateApproved)) > 0 && len(answersOf(c, certificatesv1.CertificateDenied)) > 0
}

func approvalKept(c, old *signingRequest, at *field.Path) (errs field.ErrorList) {
	for _, kind := range finalAnswers[:2] {
		was, is := answersOf(old, kind), answersOf(c, kind)
		switch {
		case len(is) > len(was):
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("updates may not add a condition of type %q", kind)))
		case len(is) == len(was) && !equality.Semantic.DeepEqual(was, is):
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("updates may not modify a condition of type %q\n%v", kind, diff.Diff(was, is))))
		}
	}
	return errs
}

func answersOf(c *signingRequest, kind answerType) (out []certificatesv1.CertificateSigningRequestCondition) {
	for _, x := range c.Status.Conditions {
		if x.Type == kind {
			out = append(out, x)
		}
	}
	return out
}

// toleratedOf is what the old object shows.
func toleratedOf(c, old *signingRequest) tolerated {
	types := map[answerType]int{}
	ok := tolerated{
		certificate:  bytes.Equal(c.Status.Certificate, old.Status.Certificate) || issued(old.Status.Certificate) != nil,
		legacySigner: old.Spec.SignerName == certificatesv1beta1.LegacyUnknownSignerName,
	}
	for _, x := range old.Status.Conditions {
		types[x.Type]++
		ok.typesTwice = ok.typesTwice || types[x.Type] > 1
	}
	ok.noType = types[""] > 0
	for i, u := range old.Spec.Usages {
		ok.unknownUsages = ok.unknownUsages || !slices.Contains(knownUsages, u)
		ok.usagesTwice = ok.usagesTwice || slices.Contains(old.Spec.Usages[:i], u)
	}
	return ok
}
