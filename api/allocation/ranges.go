// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// DefaultRange is the ServiceCIDR of the range that the cluster began with.
	DefaultRange = "kubernetes"
	// RangeFinalizer keeps a ServiceCIDR whose addresses are in use.
	RangeFinalizer = "networking.k8s.io/service-cidr-finalizer"
	// manager is who keeps the IPAddresses of Services, under upstream's name.
	manager = "ipallocator.k8s.io"
)

// Ranges are those that addresses are given from: the cluster's own first, then
// the others by name. A ServiceCIDR counts when it is ready and not going. The
// cluster's own does also before its ServiceCIDR is there.
func Ranges(own netip.Prefix, all []networkingv1.ServiceCIDR) (out []netip.Prefix) {
	own = own.Masked()
	if !slices.ContainsFunc(all, func(c networkingv1.ServiceCIDR) bool {
		return slices.Contains(Prefixes(&c), own) && (c.DeletionTimestamp != nil || meta.IsStatusConditionFalse(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady))
	}) {
		out = append(out, own)
	}
	for _, c := range slices.SortedFunc(slices.Values(all), func(a, b networkingv1.ServiceCIDR) int { return strings.Compare(a.Name, b.Name) }) {
		if c.DeletionTimestamp != nil || !meta.IsStatusConditionTrue(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady) {
			continue
		}
		for _, p := range Prefixes(&c) {
			if p.Addr().Is4() && !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out
}

// Prefixes are the ranges of a ServiceCIDR.
func Prefixes(c *networkingv1.ServiceCIDR) (out []netip.Prefix) {
	for _, text := range c.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

// Contains says whether an address of a range can be given out: the network
// itself and its broadcast cannot.
func Contains(r netip.Prefix, a netip.Addr) bool {
	if !r.Contains(a) || a == r.Masked().Addr() {
		return false
	}
	return !a.Is4() || a != at(r.Masked(), size(r)-1)
}

// IPAddress is the object that says that a Service has an address.
func IPAddress(a netip.Addr, s *corev1.Service) *networkingv1.IPAddress {
	family := corev1.IPv4Protocol
	if a.Is6() {
		family = corev1.IPv6Protocol
	}
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: a.String(), Labels: map[string]string{networkingv1.LabelIPAddressFamily: string(family), networkingv1.LabelManagedBy: manager}},
		Spec:       networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: s.Namespace, Name: s.Name}},
	}
}

// OfService says whether an IPAddress is one of those that come and go with
// Services.
func OfService(labels map[string]string) bool { return labels[networkingv1.LabelManagedBy] == manager }
