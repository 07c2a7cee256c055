// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// ordinaryIP refuses addresses that no other machine can be reached at.
func ordinaryIP(a string, at *field.Path) (errs field.ErrorList) {
	parsed := netutils.ParseIPSloppy(a)
	if parsed == nil {
		return field.ErrorList{field.Invalid(at, a, "must be a valid IP address")}
	}
	for _, c := range []struct {
		is   bool
		text string
	}{
		{parsed.IsUnspecified(), fmt.Sprintf("may not be unspecified (%v)", a)},
		{parsed.IsLoopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)"},
		{parsed.IsLinkLocalUnicast(), "may not be in the link-local range (169.254.0.0/16, fe80::/10)"},
		{parsed.IsLinkLocalMulticast(), "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"},
	} {
		if c.is {
			errs = append(errs, field.Invalid(at, a, c.text))
		}
	}
	return errs
}

// Endpoints checks addresses and ports.
func Endpoints(e *corev1.Endpoints) field.ErrorList { return endpoints(e, nil) }

// EndpointsUpdate checks a change.
func EndpointsUpdate(e, old *corev1.Endpoints) field.ErrorList {
	return append(metaUpdate(&e.ObjectMeta, &old.ObjectMeta), endpoints(e, old)...)
}

func endpoints(e, old *corev1.Endpoints) field.ErrorList {
	errs := meta(&e.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	var bad field.ErrorList
	for i, s := range e.Subsets {
		at := field.NewPath("subsets").Index(i)
		if len(s.Addresses)+len(s.NotReadyAddresses) == 0 {
			bad = append(bad, field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j, a := range s.Addresses {
			bad = append(bad, endpointAddress(a, at.Child("addresses").Index(j))...)
		}
		for j, a := range s.NotReadyAddresses {
			bad = append(bad, endpointAddress(a, at.Child("notReadyAddresses").Index(j))...)
		}
		for j, p := range s.Ports {
			bad = append(bad, endpointPort(p, len(s.Ports) > 1, at.Child("ports").Index(j))...)
		}
	}
	if old != nil && equality.Semantic.DeepEqual(old.Subsets, e.Subsets) {
		return errs // accepted once
	}
	return append(errs, bad...)
}

func endpointAddress(a corev1.EndpointAddress, at *field.Path) field.ErrorList {
	errs := ip(a.IP, at.Child("ip"))
	errs = append(errs, ifSet(a.Hostname, at.Child("hostname"), validation.IsDNS1123Label)...)
	if a.NodeName != nil {
		errs = append(errs, invalidAll(at.Child("nodeName"), *a.NodeName, apivalidation.NameIsDNSSubdomain(*a.NodeName, false))...)
	}
	return append(errs, ordinaryIP(a.IP, at.Child("ip"))...)
}

func endpointPort(p corev1.EndpointPort, needName bool, at *field.Path) (errs field.ErrorList) {
	if needName {
		errs = required(p.Name, at.Child("name"))
	}
	errs = append(errs, ifSet(p.Name, at.Child("name"), validation.IsDNS1123Label)...)
	errs = append(errs, port(p.Port, at.Child("port"))...)
	errs = append(errs, oneOf(p.Protocol, at.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
	if p.AppProtocol != nil {
		errs = append(errs, invalidAll(at.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol))...)
	}
	return errs
}

// EndpointsWarnings are the notes on odd addresses of hand-made objects.
func EndpointsWarnings(e, _ *corev1.Endpoints) (out []string) {
	if e.Labels["endpoints.kubernetes.io/managed-by"] == "endpoint-controller" {
		return nil
	}
	for i, s := range e.Subsets {
		at := field.NewPath("subsets").Index(i)
		for j, a := range s.Addresses {
			out = append(out, validation.GetWarningsForIP(at.Child("addresses").Index(j).Child("ip"), a.IP)...)
		}
		for j, a := range s.NotReadyAddresses {
			out = append(out, validation.GetWarningsForIP(at.Child("notReadyAddresses").Index(j).Child("ip"), a.IP)...)
		}
	}
	return out
}

// How large a slice and its parts may be.
const (
	maxSlicePorts      = 20000
	maxSliceEndpoints  = 1000
	maxSliceAddresses  = 100
	maxSliceTopology   = 16
	maxSliceHints      = 8
	deprecatedTopology = "deprecatedTopology"
)

// EndpointSlice checks a new slice.
func EndpointSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	errs, declared := endpointSlice(s, nil)
	return reported(errs, declared)
}

// EndpointSliceUpdate checks a change; the type of addresses stays.
func EndpointSliceUpdate(s, old *discoveryv1.EndpointSlice) field.ErrorList {
	errs, declared := endpointSlice(s, old)
	kept := declaredKept(s.AddressType != old.AddressType, field.NewPath("addressType"))
	return reported(errs, append(kept, declared...))
}

func endpointSlice(s, old *discoveryv1.EndpointSlice) (errs, declared field.ErrorList) {
	errs = meta(&s.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	declared = oneOf(s.AddressType, field.NewPath("addressType"), discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	errs = append(errs, slicePorts(s.Ports, field.NewPath("ports"))...)
	bad, more := sliceEndpoints(s, field.NewPath("endpoints"))
	if len(bad) > 0 && old != nil && equality.Semantic.DeepEqual(old.Endpoints, s.Endpoints) {
		bad = nil // accepted once
	}
	return append(errs, bad...), append(declared, more...)
}

func slicePorts(list []discoveryv1.EndpointPort, at *field.Path) (errs field.ErrorList) {
	if len(list) > maxSlicePorts {
		return field.ErrorList{field.TooMany(at, len(list), maxSlicePorts)}
	}
	names := &unique{}
	for i, p := range list {
		index, name := at.Index(i), ""
		if p.Name != nil {
			name = *p.Name
		}
		errs = append(errs, ifSet(name, index.Child("name"), validation.IsDNS1123Label)...)
		errs = append(errs, names.add(name, index.Child("name"))...)
		if p.Protocol == nil {
			errs = append(errs, field.Required(index.Child("protocol"), ""))
		}
		errs = append(errs, supportedIfSet(p.Protocol, index.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		if p.AppProtocol != nil {
			errs = append(errs, invalidAll(index.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol))...)
		}
	}
	return errs
}

func sliceEndpoints(s *discoveryv1.EndpointSlice, at *field.Path) (errs, declared field.ErrorList) {
	if n := len(s.Endpoints); n > maxSliceEndpoints {
		return field.ErrorList{field.TooMany(at, n, maxSliceEndpoints)}, nil
	}
	for i, e := range s.Endpoints {
		p := at.Index(i)
		if n := len(e.Addresses); n == 0 {
			declared = append(declared, field.Required(p.Child("addresses"), ""))
		} else if n > maxSliceAddresses {
			declared = append(declared, field.TooMany(p.Child("addresses"), n, maxSliceAddresses))
		}
		for j, a := range e.Addresses {
			errs = append(errs, sliceAddress(s.AddressType, a, p.Child("addresses"), j)...)
		}
		if e.NodeName != nil {
			errs = append(errs, invalidAll(p.Child("nodeName"), *e.NodeName, apivalidation.NameIsDNSSubdomain(*e.NodeName, false))...)
		}
		if n := len(e.DeprecatedTopology); n > maxSliceTopology {
			errs = append(errs, field.TooMany(p.Child(deprecatedTopology), n, maxSliceTopology))
		}
		errs = append(errs, metavalidation.ValidateLabels(e.DeprecatedTopology, p.Child(deprecatedTopology))...)
		if e.Hostname != nil {
			errs = append(errs, invalidAll(p.Child("hostname"), *e.Hostname, validation.IsDNS1123Label(*e.Hostname))...)
		}
		if e.Hints != nil {
			errs = append(errs, hints(e.Hints, p.Child("hints"))...)
		}
	}
	return errs, declared
}

func sliceAddress(kind discoveryv1.AddressType, a string, at *field.Path, i int) (errs field.ErrorList) {
	six := netutils.IsIPv6String(a)
	switch kind {
	case discoveryv1.AddressTypeIPv4:
		errs = ip(a, at.Index(i))
	case discoveryv1.AddressTypeIPv6:
		errs = validation.IsValidIP(at.Index(i), a)
	case discoveryv1.AddressTypeFQDN:
		return validation.IsFullyQualifiedDomainName(at.Index(i), a)
	default:
		return nil // another kind is refused as a whole
	}
	if len(errs) > 0 {
		return errs
	}
	if six != (kind == discoveryv1.AddressTypeIPv6) {
		errs = append(errs, field.Invalid(at, a, "must be an "+string(kind)+" address"))
	}
	return append(errs, ordinaryIP(a, at.Index(i))...)
}

func hints(h *discoveryv1.EndpointHints, at *field.Path) (errs field.ErrorList) {
	if n := len(h.ForZones); n > maxSliceHints {
		return field.ErrorList{field.TooMany(at.Child("forZones"), n, maxSliceHints)}
	}
	names := &unique{}
	for i, z := range h.ForZones {
		p := at.Child("forZones").Index(i).Child("name")
		errs = append(errs, names.add(z.Name, p)...)
		errs = append(errs, invalidAll(p, z.Name, validation.IsValidLabelValue(z.Name))...)
	}
	if n := len(h.ForNodes); n > maxSliceHints {
		return append(errs, field.TooMany(at.Child("forNodes"), n, maxSliceHints))
	}
	names = &unique{}
	for i, n := range h.ForNodes {
		p := at.Child("forNodes").Index(i).Child("name")
		errs = append(errs, names.add(n.Name, p)...)
		errs = append(errs, invalidAll(p, n.Name, apivalidation.NameIsDNSSubdomain(n.Name, false))...)
	}
	return errs
}

// EndpointSliceWarnings are the notes on odd addresses of hand-made slices,
// and on the kind that lapses.
func EndpointSliceWarnings(s, old *discoveryv1.EndpointSlice) []string {
	n := notes{}
	if old == nil && s.AddressType == discoveryv1.AddressTypeFQDN {
		n.add(field.NewPath("spec", "addressType"), "FQDN endpoints are deprecated")
	}
	switch s.Labels[discoveryv1.LabelManagedBy] {
	case "endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io":
		return n
	}
	for i, e := range s.Endpoints {
		for j, a := range e.Addresses {
			n = append(n, validation.GetWarningsForIP(field.NewPath("endpoints").Index(i).Child("addresses").Index(j), a)...)
		}
	}
	return n
}
