// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const tenMinutes = 10 * 60

// projection is a projected volume while its sources are checked: no two may
// write the same path.
type projection struct {
	at    *field.Path
	paths unique
	errs  field.ErrorList
}

func (p *projection) add(errs field.ErrorList) { p.errs = append(p.errs, errs...) }

// claim takes a path. value is what stands in the message when it is taken.
func (p *projection) claim(path, value string) {
	if p.paths.again(path) {
		p.add(field.ErrorList{field.Invalid(p.at, value, "conflicting duplicate paths")})
	}
}

func (c *context) projected(v *corev1.ProjectedVolumeSource, at *field.Path) field.ErrorList {
	p := &projection{at: at}
	p.add(mode(v.DefaultMode, at.Child("defaultMode")))
	for i, s := range v.Sources {
		from, n := at.Child("sources").Index(i), 0
		if s.Secret != nil {
			n++
			p.keys(s.Secret.Name, s.Secret.Items, from.Child("secret"))
		}
		if s.ConfigMap != nil {
			n++
			p.keys(s.ConfigMap.Name, s.ConfigMap.Items, from.Child("configMap"))
		}
		if s.DownwardAPI != nil {
			n++
			for _, f := range s.DownwardAPI.Items {
				p.add(downwardFile(f, from.Child("downwardAPI")))
				if f.Path != "" {
					p.claim(f.Path, f.Path)
				}
			}
		}
		if s.ServiceAccountToken != nil {
			n++
			p.token(s.ServiceAccountToken, c.old != nil && strayToken(c.old), from.Child("serviceAccountToken"))
		}
		if s.ClusterTrustBundle != nil {
			n++
			p.trustBundle(s.ClusterTrustBundle, from.Child("clusterTrustBundle"))
		}
		if s.PodCertificate != nil {
			n++
			p.certificate(s.PodCertificate, from.Child("podCertificate"))
		}
		if n > 1 {
			p.add(field.ErrorList{field.Forbidden(from, "may not specify more than 1 volume type per source")})
		}
	}
	return p.errs
}

func (p *projection) keys(name string, items []corev1.KeyToPath, at *field.Path) {
	p.add(required(name, at.Child("name")))
	for i, k := range items {
		p.add(keyPath(k, at.Child("items").Index(i)))
		if k.Path != "" {
			p.claim(k.Path, name)
		}
	}
}

func (p *projection) token(t *corev1.ServiceAccountTokenProjection, anyPath bool, at *field.Path) {
	life := at.Child("expirationSeconds")
	switch s := t.ExpirationSeconds; {
	case s == nil:
		p.add(field.ErrorList{field.Required(life, "")})
	case *s < tenMinutes:
		p.add(field.ErrorList{field.Invalid(life, *s, "may not specify a duration less than 10 minutes")})
	case *s > 1<<32:
		p.add(field.ErrorList{field.Invalid(life, *s, "may not specify a duration larger than 2^32 seconds")})
	}
	p.add(required(t.Path, p.at.Child("path")))
	if !anyPath {
		p.add(unreservedPath(t.Path, p.at.Child("path")))
	}
}

// strayToken: the Pod was accepted when a token could leave its volume.
func strayToken(s *corev1.PodSpec) bool {
	for _, v := range s.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, from := range v.Projected.Sources {
			if t := from.ServiceAccountToken; t != nil && len(unreservedPath(t.Path, nil)) > 0 {
				return true
			}
		}
	}
	return false
}

func (p *projection) trustBundle(b *corev1.ClusterTrustBundleProjection, at *field.Path) {
	switch {
	case b.Name != nil && b.SignerName != nil:
		p.add(field.ErrorList{field.Invalid(at, goFields{b}, "only one of name and signerName may be used")})
	case b.Name != nil:
		if *b.Name == "" {
			p.add(field.ErrorList{field.Required(at.Child("name"), "must be a valid object name")})
		}
		for _, problem := range bundleNameProblems(*b.Name) {
			p.add(field.ErrorList{field.Invalid(at.Child("name"), *b.Name, "not a valid clustertrustbundlename: "+problem)})
		}
		if b.LabelSelector != nil {
			p.add(field.ErrorList{field.Invalid(at.Child("labelSelector"), b.LabelSelector, "labelSelector must be unset if name is specified")})
		}
	case b.SignerName != nil:
		if *b.SignerName == "" {
			p.add(field.ErrorList{field.Required(at.Child("signerName"), "must be a valid signer name")})
		}
		p.add(signerName(*b.SignerName, at.Child("signerName")))
		p.add(labelSelector(b.LabelSelector, false, at.Child("labelSelector")))
	default:
		p.add(field.ErrorList{field.Required(at, "either name or signerName must be specified")})
	}
	p.add(required(b.Path, at.Child("path")))
	p.add(unreservedPath(b.Path, at.Child("path")))
	p.claim(b.Path, b.Path)
}

// bundleNameProblems: a bundle of a signer is named domain:path:name.
func bundleNameProblems(name string) []string {
	return apivalidation.NameIsDNSSubdomain(name[strings.LastIndex(name, ":")+1:], false)
}

// signerName checks domain/path.
func signerName(name string, at *field.Path) (errs field.ErrorList) {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	domain, path, ok := strings.Cut(name, "/")
	if !ok || strings.Contains(path, "/") {
		return field.ErrorList{field.Invalid(at, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	if len(domain) > validation.DNS1123SubdomainMaxLength {
		errs = append(errs, field.TooLong(at, "" /* unused */, validation.DNS1123SubdomainMaxLength))
	}
	labels := func(part string, check func(string) []string) {
		for _, l := range strings.Split(part, ".") {
			if problems := check(l); len(problems) > 0 {
				for _, problem := range problems {
					errs = append(errs, field.Invalid(at, part, fmt.Sprintf("validating label %q: %s", l, problem)))
				}
				return // one bad label is enough
			}
		}
	}
	labels(domain, validation.IsDNS1123Label)
	if !strings.Contains(domain, ".") {
		errs = append(errs, field.Invalid(at, domain, "should be a domain with at least two segments separated by dots"))
	}
	labels(path, validation.IsDNS1123Subdomain)
	if most := 2*validation.DNS1123SubdomainMaxLength + validation.DNS1123LabelMaxLength + 2; len(name) > most {
		errs = append(errs, field.TooLong(at, "" /* unused */, most))
	}
	return errs
}

// How long a Pod's certificate may live: an hour to 91 days, a day at most
// where Kubernetes itself signs.
const (
	minCertificate           = 3600
	maxCertificate           = 91 * 24 * 3600
	maxKubernetesCertificate = 24 * 3600
)

func (p *projection) certificate(c *corev1.PodCertificateProjection, at *field.Path) {
	p.add(signerName(c.SignerName, at.Child("signerName")))
	notes := at.Child("userAnnotations")
	for _, k := range sorted(c.UserAnnotations) {
		p.add(validation.IsDomainPrefixedKey(notes, strings.ToLower(k)))
	}
	if apivalidation.ValidateAnnotationsSize(c.UserAnnotations) != nil {
		p.add(field.ErrorList{field.TooLong(notes, "" /* unused */, apivalidation.TotalAnnotationSizeLimitB)})
	}
	p.add(supported(c.KeyType, at.Child("keyType"), "RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"))
	if s := c.MaxExpirationSeconds; s != nil {
		life, most := at.Child("maxExpirationSeconds"), int32(maxCertificate)
		if domain, _, _ := strings.Cut(c.SignerName, "/"); domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") {
			most = maxKubernetesCertificate
		}
		if *s < minCertificate {
			p.add(field.ErrorList{field.Invalid(life, *s, "if provided, maxExpirationSeconds must be >= 3600")})
		}
		if *s > most {
			p.add(field.ErrorList{field.Invalid(life, *s, fmt.Sprintf("if provided, maxExpirationSeconds must be <= %d", most))})
		}
	}
	some := false
	for _, f := range []need{{"credentialBundlePath", c.CredentialBundlePath}, {"keyPath", c.KeyPath}, {"certificateChainPath", c.CertificateChainPath}} {
		if f.value != "" {
			some = true
			p.add(unreservedPath(f.value, at.Child(f.name)))
			p.claim(f.value, f.value)
		}
	}
	if !some {
		p.add(field.ErrorList{field.Required(at, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath")})
	}
}
