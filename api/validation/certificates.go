// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// mostTrustBundle is how large a bundle may be, in bytes.
const mostTrustBundle = 1 << 20

// ClusterTrustBundle checks a new bundle of trust anchors.
func ClusterTrustBundle(b *certificatesv1.ClusterTrustBundle) field.ErrorList {
	return append(trustBundleNames(b), trustAnchors(b.Spec.TrustBundle, spec.Child("trustBundle"))...)
}

// ClusterTrustBundleUpdate checks a change; the signer stays. Anchors that stay
// are not parsed: what was accepted once may be kept.
func ClusterTrustBundleUpdate(b, old *certificatesv1.ClusterTrustBundle) field.ErrorList {
	errs := trustBundleNames(b)
	if b.Spec.TrustBundle != old.Spec.TrustBundle {
		errs = append(errs, trustAnchors(b.Spec.TrustBundle, spec.Child("trustBundle"))...)
	}
	errs = append(errs, metaUpdate(&b.ObjectMeta, &old.ObjectMeta)...)
	return append(errs, apivalidation.ValidateImmutableField(b.Spec.SignerName, old.Spec.SignerName, spec.Child("signerName"))...)
}

func trustBundleNames(b *certificatesv1.ClusterTrustBundle) field.ErrorList {
	errs := meta(&b.ObjectMeta, false, trustBundleName(b.Spec.SignerName))
	if b.Spec.SignerName != "" {
		errs = append(errs, signerName(b.Spec.SignerName, spec.Child("signerName"))...)
	}
	return errs
}

// trustBundleName: the bundles of a signer begin with its name, of which the
// slash became a colon; no other has a colon.
func trustBundleName(signer string) apivalidation.ValidateNameFunc {
	return func(name string, prefix bool) []string {
		if signer == "" {
			if strings.Contains(name, ":") {
				return []string{`ClusterTrustBundle without signer name must not have ":" in its name`}
			}
			return apivalidation.NameIsDNSSubdomain(name, prefix)
		}
		begin := strings.ReplaceAll(signer, "/", ":") + ":"
		own, ok := strings.CutPrefix(name, begin)
		if !ok {
			return []string{fmt.Sprintf("ClusterTrustBundle for signerName %s must be named with prefix %s", signer, begin)}
		}
		return apivalidation.NameIsDNSSubdomain(own, prefix)
	}
}

// trustAnchors refuses what is no list of different CA certificates in PEM.
func trustAnchors(bundle string, at *field.Path) (errs field.ErrorList) {
	if len(bundle) > mostTrustBundle {
		return field.ErrorList{field.TooLong(at, "" /* unused */, mostTrustBundle)}
	}
	invalid := func(format string, args ...any) {
		errs = append(errs, field.Invalid(at, "<value omitted>", fmt.Sprintf(format, args...)))
	}
	seen := map[string][]int{}
	var order []string
	block, rest := pem.Decode([]byte(bundle))
	for i := 0; block != nil; i++ {
		if problem := anchorProblem(block); problem != "" {
			invalid("entry %d %s", i, problem)
		}
		der := string(block.Bytes)
		if seen[der] == nil {
			order = append(order, der)
		}
		seen[der] = append(seen[der], i)
		block, rest = pem.Decode(rest)
	}
	if len(errs) > 0 {
		return errs
	}
	if len(seen) == 0 {
		invalid("at least one trust anchor must be provided")
	}
	for _, der := range order {
		if at := seen[der]; len(at) > 1 {
			invalid("duplicate trust anchor (indices %v)", at)
		}
	}
	return errs
}

func anchorProblem(b *pem.Block) string {
	if b.Type != "CERTIFICATE" {
		return "has bad block type: " + b.Type
	}
	if len(b.Headers) != 0 {
		return "has PEM block headers"
	}
	cert, err := x509.ParseCertificate(b.Bytes)
	switch {
	case err != nil:
		return "does not parse as X.509"
	case !cert.IsCA:
		return "does not have the CA bit set"
	case !cert.BasicConstraintsValid:
		return "has invalid basic constraints"
	}
	return ""
}
