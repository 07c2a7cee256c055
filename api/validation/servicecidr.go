// SPDX-License-Identifier: Apache-2.0

package validation

import (
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// ServiceCIDR checks a range of addresses of Services.
func ServiceCIDR(c *networkingv1.ServiceCIDR) field.ErrorList {
	return append(meta(&c.ObjectMeta, false, apivalidation.NameIsDNSSubdomain), cidrs(&c.Spec)...)
}

// ServiceCIDRUpdate checks a change: a range stays; one of the other family may
// come to it.
func ServiceCIDRUpdate(c, old *networkingv1.ServiceCIDR) field.ErrorList {
	errs := metaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	now, was, at := c.Spec.CIDRs, old.Spec.CIDRs, spec.Child("cidrs")
	more := len(was) == 1 && len(now) == 2
	if len(now) != len(was) && !more {
		return append(errs, field.Invalid(at, now, immutable))
	}
	for i := range was {
		if now[i] != was[i] {
			errs = append(errs, field.Invalid(at.Index(i), now[i], immutable))
		}
	}
	if more {
		errs = append(errs, cidrs(&c.Spec)...)
	}
	return errs
}

// ServiceCIDRStatusUpdate checks the metadata alone.
func ServiceCIDRStatusUpdate(c, old *networkingv1.ServiceCIDR) field.ErrorList {
	return metaUpdate(&c.ObjectMeta, &old.ObjectMeta)
}

func cidrs(s *networkingv1.ServiceCIDRSpec) (errs field.ErrorList) {
	at := spec.Child("cidrs")
	switch n := len(s.CIDRs); {
	case n == 0:
		return field.ErrorList{field.Required(at, "at least one CIDR required")}
	case n > 2:
		return field.ErrorList{field.Invalid(at, goFields{s}, "may only hold up to 2 values")}
	}
	for i, c := range s.CIDRs {
		errs = append(errs, validation.IsValidCIDR(at.Index(i), c)...)
	}
	if len(s.CIDRs) == 2 {
		if f := netutils.IPFamilyOfCIDRString(s.CIDRs[0]); f == netutils.IPFamilyOfCIDRString(s.CIDRs[1]) && f != netutils.IPFamilyUnknown {
			errs = append(errs, field.Invalid(at, s.CIDRs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
		}
	}
	return errs
}

// IPAddress checks that an address says whose it is.
func IPAddress(a *networkingv1.IPAddress) field.ErrorList {
	return reported(ipAddress(a), parentNamed(a))
}

// IPAddressUpdate checks a change; whose it is stays.
func IPAddressUpdate(a, old *networkingv1.IPAddress) field.ErrorList {
	errs := append(ipAddress(a), metaUpdate(&a.ObjectMeta, &old.ObjectMeta)...)
	if equality.Semantic.DeepEqual(a.Spec.ParentRef, old.Spec.ParentRef) {
		return errs
	}
	declared := declaredKept(true, spec.Child("parentRef"))
	if a.Spec.ParentRef == nil {
		declared = append(parentNamed(a), declared...)
	}
	return reported(errs, declared)
}

func ipAddress(a *networkingv1.IPAddress) field.ErrorList {
	errs := meta(&a.ObjectMeta, false, func(name string, _ bool) (problems []string) {
		for _, err := range validation.IsValidIP(nil, name) {
			problems = append(problems, err.Detail)
		}
		return problems
	})
	p, at := a.Spec.ParentRef, spec.Child("parentRef")
	if p == nil {
		return errs
	}
	errs = append(errs, ifSet(p.Group, at.Child("group"), validation.IsDNS1123Subdomain)...)
	errs = append(errs, ifSet(p.Resource, at.Child("resource"), content.IsPathSegmentName)...)
	errs = append(errs, ifSet(p.Name, at.Child("name"), content.IsPathSegmentName)...)
	return append(errs, ifSet(p.Namespace, at.Child("namespace"), content.IsPathSegmentName)...)
}

// parentNamed is the part that the types say.
func parentNamed(a *networkingv1.IPAddress) field.ErrorList {
	p, at := a.Spec.ParentRef, spec.Child("parentRef")
	if p == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	return append(required(p.Resource, at.Child("resource")), required(p.Name, at.Child("name"))...)
}
