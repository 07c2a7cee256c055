// SPDX-License-Identifier: Apache-2.0

package validation

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	unversionedvalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// peerRules are the rules of a NetworkPolicy with what an older server let
// through and may stay.
type peerRules struct {
	selectors unversionedvalidation.LabelSelectorValidationOptions
	cidrs     []string
}

// NetworkPolicy checks a new policy.
func NetworkPolicy(n *networkingv1.NetworkPolicy) field.ErrorList {
	return append(plainMeta(&n.ObjectMeta, true), peerRules{}.spec(&n.Spec, field.NewPath("spec"))...)
}

// NetworkPolicyUpdate checks a change of a policy.
func NetworkPolicyUpdate(n, old *networkingv1.NetworkPolicy) field.ErrorList {
	var r peerRules
	r.selectors.AllowInvalidLabelValueInSelector = len(unversionedvalidation.ValidateLabelSelector(&old.Spec.PodSelector, r.selectors, nil)) > 0
	eachBlock(old, func(b *networkingv1.IPBlock, _ *field.Path) {
		r.cidrs = append(append(r.cidrs, b.CIDR), b.Except...)
	})
	errs := apivalidation.ValidateObjectMetaUpdate(&n.ObjectMeta, &old.ObjectMeta, metadata)
	return append(errs, r.spec(&n.Spec, field.NewPath("spec"))...)
}

// NetworkPolicyWarnings are the notes on addresses that are written unusually.
func NetworkPolicyWarnings(n, _ *networkingv1.NetworkPolicy) (out []string) {
	eachBlock(n, func(b *networkingv1.IPBlock, at *field.Path) {
		out = append(out, validation.GetWarningsForCIDR(at.Child("cidr"), b.CIDR)...)
		for i, e := range b.Except {
			out = append(out, validation.GetWarningsForCIDR(at.Child("except").Index(i), e)...)
		}
	})
	return out
}

// eachBlock visits the blocks of addresses of a policy.
func eachBlock(n *networkingv1.NetworkPolicy, visit func(b *networkingv1.IPBlock, at *field.Path)) {
	peers := func(list []networkingv1.NetworkPolicyPeer, at *field.Path) {
		for i, p := range list {
			if p.IPBlock != nil {
				visit(p.IPBlock, at.Index(i).Child("ipBlock"))
			}
		}
	}
	at := field.NewPath("spec")
	for i, rule := range n.Spec.Ingress {
		peers(rule.From, at.Child("ingress").Index(i).Child("from"))
	}
	for i, rule := range n.Spec.Egress {
		peers(rule.To, at.Child("egress").Index(i).Child("to"))
	}
}

func (r peerRules) spec(s *networkingv1.NetworkPolicySpec, at *field.Path) field.ErrorList {
	errs := unversionedvalidation.ValidateLabelSelector(&s.PodSelector, r.selectors, at.Child("podSelector"))
	rule := func(ports []networkingv1.NetworkPolicyPort, peers []networkingv1.NetworkPolicyPeer, at *field.Path, direction string) {
		for i := range ports {
			errs = append(errs, policyPort(&ports[i], at.Child("ports").Index(i))...)
		}
		for i := range peers {
			errs = append(errs, r.peer(&peers[i], at.Child(direction).Index(i))...)
		}
	}
	for i, in := range s.Ingress {
		rule(in.Ports, in.From, at.Child("ingress").Index(i), "from")
	}
	for i, out := range s.Egress {
		rule(out.Ports, out.To, at.Child("egress").Index(i), "to")
	}
	types := at.Child("policyTypes")
	if len(s.PolicyTypes) > 2 {
		return append(errs, field.Invalid(types, &s.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range s.PolicyTypes {
		errs = append(errs, supported(t, types.Index(i), networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)...)
	}
	return errs
}

// policyPort is a port, a range of them or a name.
func policyPort(p *networkingv1.NetworkPolicyPort, at *field.Path) field.ErrorList {
	errs := supportedIfSet(p.Protocol, at.Child("protocol"), corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
	end := at.Child("endPort")
	switch {
	case p.Port == nil && p.EndPort != nil:
		return append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is not specified"))
	case p.Port == nil:
		return errs
	case p.Port.Type == intstr.String:
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is non-numeric"))
		}
		return append(errs, invalidAll(at.Child("port"), p.Port.StrVal, validation.IsValidPortName(p.Port.StrVal))...)
	}
	errs = append(errs, port(p.Port.IntVal, at.Child("port"))...)
	if p.EndPort == nil {
		return errs
	}
	if *p.EndPort < p.Port.IntVal {
		errs = append(errs, field.Invalid(end, *p.EndPort, "must be greater than or equal to `port`"))
	}
	return append(errs, port(*p.EndPort, end)...)
}

// peer is a selection of Pods or a block of addresses.
func (r peerRules) peer(p *networkingv1.NetworkPolicyPeer, at *field.Path) (errs field.ErrorList) {
	if p.PodSelector != nil {
		errs = append(errs, unversionedvalidation.ValidateLabelSelector(p.PodSelector, r.selectors, at.Child("podSelector"))...)
	}
	if p.NamespaceSelector != nil {
		errs = append(errs, unversionedvalidation.ValidateLabelSelector(p.NamespaceSelector, r.selectors, at.Child("namespaceSelector"))...)
	}
	if p.IPBlock != nil {
		errs = append(errs, r.block(p.IPBlock, at.Child("ipBlock"))...)
	}
	selects := p.PodSelector != nil || p.NamespaceSelector != nil
	switch {
	case p.IPBlock == nil && !selects:
		return append(errs, field.Required(at, "must specify a peer"))
	case p.IPBlock != nil && selects:
		return append(errs, field.Forbidden(at, "may not specify both ipBlock and another peer"))
	}
	return errs
}

// block is a range of addresses without some smaller ranges.
func (r peerRules) block(b *networkingv1.IPBlock, at *field.Path) field.ErrorList {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(at.Child("cidr"), "")}
	}
	errs := validation.IsValidCIDRForLegacyField(at.Child("cidr"), b.CIDR, true, r.cidrs)
	_, whole, err := netutils.ParseCIDRSloppy(b.CIDR)
	if err != nil {
		return errs // and said so
	}
	length, _ := whole.Mask.Size()
	for i, e := range b.Except {
		p := at.Child("except").Index(i)
		errs = append(errs, validation.IsValidCIDRForLegacyField(p, e, true, r.cidrs)...)
		_, part, err := netutils.ParseCIDRSloppy(e)
		if err != nil {
			continue
		}
		if partLength, _ := part.Mask.Size(); !whole.Contains(part.IP) || length >= partLength {
			errs = append(errs, field.Invalid(p, e, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}
