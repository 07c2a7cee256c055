// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// ingressClassAnnotation named an Ingress' class before it had a field.
const ingressClassAnnotation = "kubernetes.io/ingress.class"

// Ingress checks a new Ingress.
func Ingress(i *networkingv1.Ingress) field.ErrorList {
	errs := ingress(i, nil)
	if class, ok := i.Annotations[ingressClassAnnotation]; ok && i.Spec.IngressClassName != nil && class != *i.Spec.IngressClassName {
		errs = append(errs, field.Invalid(field.NewPath("annotations").Child(ingressClassAnnotation), class, "must match `ingressClassName` when both are specified"))
	}
	return errs
}

// IngressUpdate checks a change. What an older server let through may stay.
func IngressUpdate(i, old *networkingv1.Ingress) field.ErrorList {
	return append(apivalidation.ValidateObjectMetaUpdate(&i.ObjectMeta, &old.ObjectMeta, metadata), ingress(i, old)...)
}

func ingress(i, old *networkingv1.Ingress) field.ErrorList {
	errs, at := plainMeta(&i.ObjectMeta, true), field.NewPath("spec")
	if len(i.Spec.Rules) == 0 && i.Spec.DefaultBackend == nil {
		errs = append(errs, field.Invalid(at, i.Spec.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if b := i.Spec.DefaultBackend; b != nil {
		errs = append(errs, ingressBackend(b, at.Child("defaultBackend"))...)
	}
	anyWildcard := old != nil && slices.ContainsFunc(old.Spec.Rules, func(r networkingv1.IngressRule) bool {
		return strings.Contains(r.Host, "*") && len(ingressPaths(r.HTTP, nil)) > 0
	})
	for n, r := range i.Spec.Rules {
		p := at.Child("rules").Index(n)
		errs = append(errs, ingressHost(r.Host, p.Child("host"))...)
		if !anyWildcard || !strings.Contains(r.Host, "*") {
			errs = append(errs, ingressPaths(r.HTTP, p.Child("http"))...)
		}
	}
	anySecret := old != nil && slices.ContainsFunc(old.Spec.TLS, func(t networkingv1.IngressTLS) bool { return len(secretName(t.SecretName)) > 0 })
	for n, t := range i.Spec.TLS {
		p := at.Child("tls").Index(n)
		for k, h := range t.Hosts {
			errs = append(errs, wildcardHost(h, p.Child("hosts").Index(k))...)
		}
		if !anySecret {
			errs = append(errs, invalidAll(p.Child("secretName"), t.SecretName, secretName(t.SecretName))...)
		}
	}
	if c := i.Spec.IngressClassName; c != nil {
		errs = append(errs, invalidAll(at.Child("ingressClassName"), *c, apivalidation.NameIsDNSSubdomain(*c, false))...)
	}
	return errs
}

func secretName(name string) []string {
	if name == "" {
		return nil
	}
	return apivalidation.NameIsDNSSubdomain(name, false)
}

// ingressHost is a name, never an address.
func ingressHost(host string, at *field.Path) (errs field.ErrorList) {
	if host == "" {
		return nil
	}
	if netutils.ParseIPSloppy(host) != nil {
		errs = append(errs, field.Invalid(at, host, "must be a DNS name, not an IP address"))
	}
	return append(errs, wildcardHost(host, at)...)
}

func wildcardHost(host string, at *field.Path) field.ErrorList {
	if strings.Contains(host, "*") {
		return invalidAll(at, host, validation.IsWildcardDNS1123Subdomain(host))
	}
	return invalidAll(at, host, validation.IsDNS1123Subdomain(host))
}

func ingressPaths(h *networkingv1.HTTPIngressRuleValue, at *field.Path) (errs field.ErrorList) {
	if h == nil {
		return nil
	}
	if len(h.Paths) == 0 {
		errs = append(errs, field.Required(at.Child("paths"), ""))
	}
	for n := range h.Paths {
		errs = append(errs, ingressPath(&h.Paths[n], at.Child("paths").Index(n))...)
	}
	return errs
}

func ingressPath(h *networkingv1.HTTPIngressPath, at *field.Path) (errs field.ErrorList) {
	if h.PathType == nil {
		return field.ErrorList{field.Required(at.Child("pathType"), "pathType must be specified")}
	}
	p := at.Child("path")
	absolute := func() {
		if !strings.HasPrefix(h.Path, "/") {
			errs = append(errs, field.Invalid(p, h.Path, "must be an absolute path"))
		}
	}
	switch *h.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		absolute()
		for _, part := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(h.Path, part) {
				errs = append(errs, field.Invalid(p, h.Path, fmt.Sprintf("must not contain '%s'", part)))
			}
		}
		for _, end := range []string{"/..", "/."} {
			if strings.HasSuffix(h.Path, end) {
				errs = append(errs, field.Invalid(p, h.Path, fmt.Sprintf("cannot end with '%s'", end)))
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if h.Path != "" {
			absolute()
		}
	default:
		errs = append(errs, field.NotSupported(at.Child("pathType"), *h.PathType, []networkingv1.PathType{networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix}))
	}
	return append(errs, ingressBackend(&h.Backend, at.Child("backend"))...)
}

// ingressBackend is a Service's port or another object, and not both.
func ingressBackend(b *networkingv1.IngressBackend, at *field.Path) (errs field.ErrorList) {
	switch {
	case b.Resource != nil && b.Service != nil:
		return field.ErrorList{field.Invalid(at, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return reference(b.Resource.APIGroup, b.Resource.Kind, b.Resource.Name, at.Child("resource"))
	case b.Service == nil:
		return field.ErrorList{field.Invalid(at, "", "resource or service backend is required")}
	}
	s := at.Child("service")
	errs = append(errs, requiredAnd(b.Service.Name, s.Child("name"), whole(apivalidation.NameIsDNSLabel))...)
	name, number := b.Service.Port.Name, b.Service.Port.Number
	switch {
	case name != "" && number != 0:
		return append(errs, field.Invalid(at, "", "cannot set both port name & port number"))
	case name != "":
		return append(errs, invalidAll(s.Child("port", "name"), name, validation.IsValidPortName(name))...)
	case number != 0:
		return append(errs, port(number, s.Child("port", "number"))...)
	}
	return append(errs, field.Required(at, "port name or number is required"))
}

// reference names an object of any kind.
func reference(group *string, kind, name string, at *field.Path) (errs field.ErrorList) {
	if group != nil {
		errs = append(errs, invalidAll(at.Child("apiGroup"), *group, validation.IsDNS1123Subdomain(*group))...)
	}
	segment := func(s string) []string { return content.IsPathSegmentName(s) }
	errs = append(errs, requiredAnd(kind, at.Child("kind"), segment)...)
	return append(errs, requiredAnd(name, at.Child("name"), segment)...)
}

// IngressWarnings is the note on the class in the annotation of a new Ingress.
func IngressWarnings(i, old *networkingv1.Ingress) []string {
	if _, ok := i.Annotations[ingressClassAnnotation]; !ok || old != nil || i.Spec.IngressClassName != nil {
		return nil
	}
	return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", ingressClassAnnotation)}
}

// IngressStatusUpdate checks where an Ingress is reached.
func IngressStatusUpdate(i, old *networkingv1.Ingress) field.ErrorList {
	errs, at := apivalidation.ValidateObjectMetaUpdate(&i.ObjectMeta, &old.ObjectMeta, metadata), field.NewPath("status", "loadBalancer", "ingress")
	var known []string
	for _, in := range old.Status.LoadBalancer.Ingress {
		if in.IP != "" {
			known = append(known, in.IP)
		}
	}
	for n, in := range i.Status.LoadBalancer.Ingress {
		p := at.Index(n)
		if in.IP != "" {
			errs = append(errs, ip(in.IP, p.Child("ip"), known...)...)
		}
		if h := in.Hostname; h != "" {
			errs = append(errs, invalidAll(p.Child("hostname"), h, validation.IsDNS1123Subdomain(h))...)
			if netutils.ParseIPSloppy(h) != nil {
				errs = append(errs, field.Invalid(p.Child("hostname"), h, "must be a DNS name, not an IP address"))
			}
		}
	}
	return errs
}

// IngressStatusWarnings are the notes on addresses that are written unusually.
func IngressStatusWarnings(i, _ *networkingv1.Ingress) (out []string) {
	for n, in := range i.Status.LoadBalancer.Ingress {
		if in.IP != "" {
			out = append(out, validation.GetWarningsForIP(field.NewPath("status", "loadBalancer", "ingress").Index(n), in.IP)...)
		}
	}
	return out
}

// longestController is how long the name of a class' controller may be.
const longestController = 250

// IngressClass checks a class.
func IngressClass(c *networkingv1.IngressClass) field.ErrorList {
	errs, at := plainMeta(&c.ObjectMeta, false), field.NewPath("spec")
	if len(c.Spec.Controller) > longestController {
		errs = append(errs, field.TooLong(at.Child("controller"), "", longestController))
	}
	errs = append(errs, validation.IsDomainPrefixedPath(at.Child("controller"), c.Spec.Controller)...)
	return append(errs, classParameters(c.Spec.Parameters, at.Child("parameters"))...)
}

// IngressClassUpdate checks a change; the controller stays.
func IngressClassUpdate(c, old *networkingv1.IngressClass) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&c.ObjectMeta, &old.ObjectMeta, metadata)
	errs = append(errs, apivalidation.ValidateImmutableField(c.Spec.Controller, old.Spec.Controller, field.NewPath("spec", "controller"))...)
	return append(errs, IngressClass(c)...)
}

func classParameters(r *networkingv1.IngressClassParametersReference, at *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	errs := reference(r.APIGroup, r.Kind, r.Name, at)
	const namespaced, cluster = networkingv1.IngressClassParametersReferenceScopeNamespace, networkingv1.IngressClassParametersReferenceScopeCluster
	switch {
	case r.Scope == nil:
		return append(errs, field.Required(at.Child("scope"), ""))
	case *r.Scope == namespaced && r.Namespace == nil:
		return append(errs, field.Required(at.Child("namespace"), "`parameters.scope` is set to 'Namespace'"))
	case *r.Scope == namespaced:
		return append(errs, invalidAll(at.Child("namespace"), *r.Namespace, apivalidation.ValidateNamespaceName(*r.Namespace, false))...)
	case *r.Scope == cluster && r.Namespace != nil:
		return append(errs, field.Forbidden(at.Child("namespace"), "`parameters.scope` is set to 'Cluster'"))
	case *r.Scope != cluster:
		errs = append(errs, field.NotSupported(at.Child("scope"), *r.Scope, []string{cluster, namespaced}))
	}
	return errs
}
