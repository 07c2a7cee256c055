// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/peapod/peapod/api/validation"
)

// families settles the IP families of a Service in a cluster that has one.
func families(s, old *corev1.Service, b *Book) error {
	if named(s) || unchangedPreference(s, old) {
		return nil
	}
	if s.Spec.IPFamilyPolicy == nil {
		s.Spec.IPFamilyPolicy = new(policy(s, old))
	}
	if errs := validation.ServiceAddresses(s, old); len(errs) > 0 {
		return refuse(s, errs...)
	}
	errs := reduced(s, old)
	errs = append(errs, overdone(s)...)
	for i, ip := range s.Spec.ClusterIPs {
		if ip == corev1.ClusterIPNone {
			break
		}
		if i < len(s.Spec.IPFamilies) {
			continue
		}
		if f := familyOf(ip); f != b.Family() {
			errs = append(errs, field.Invalid(field.NewPath("spec", "clusterIPs").Index(i), s.Spec.ClusterIPs, fmt.Sprintf("%s is not configured on this cluster", f)))
		} else {
			s.Spec.IPFamilies = append(s.Spec.IPFamilies, f)
		}
	}
	if len(errs) > 0 {
		return refuse(s, errs...)
	}
	// Without selector nobody knows what the endpoints will be, so that both
	// families are allowed even where the cluster has one.
	if s.Spec.ClusterIP == corev1.ClusterIPNone && len(s.Spec.Selector) == 0 {
		if len(s.Spec.IPFamilies) == 0 {
			s.Spec.IPFamilies = []corev1.IPFamily{b.Family()}
		}
		if len(s.Spec.IPFamilies) == 1 && *s.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
			s.Spec.IPFamilies = append(s.Spec.IPFamilies, other(s.Spec.IPFamilies[0]))
		}
		return nil
	}
	return configured(s, b)
}

// configured holds a Service to the family that the cluster has.
func configured(s *corev1.Service, b *Book) error {
	var errs field.ErrorList
	if *s.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack {
		errs = append(errs, field.Invalid(field.NewPath("spec", "ipFamilyPolicy"), s.Spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, f := range s.Spec.IPFamilies {
		if f != b.Family() {
			errs = append(errs, field.Invalid(field.NewPath("spec", "ipFamilies").Index(i), f, "not configured on this cluster"))
		}
	}
	if len(errs) > 0 {
		return refuse(s, errs...)
	}
	if len(s.Spec.IPFamilies) == 0 {
		s.Spec.IPFamilies = []corev1.IPFamily{b.Family()}
	}
	return nil
}

// policy is that of a Service which names none.
func policy(s, old *corev1.Service) corev1.IPFamilyPolicy {
	switch {
	case old != nil && old.Spec.IPFamilyPolicy != nil:
		return *old.Spec.IPFamilyPolicy
	case s.Spec.ClusterIP == corev1.ClusterIPNone && len(s.Spec.Selector) == 0:
		return corev1.IPFamilyPolicyRequireDualStack
	}
	return corev1.IPFamilyPolicySingleStack
}

// reduced lets go of the second family when the policy says so, and refuses to
// guess that it should.
func reduced(s, old *corev1.Service) (errs field.ErrorList) {
	if old == nil {
		return nil
	}
	now, was := &s.Spec, &old.Spec
	if *now.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack {
		if slices.Equal(was.ClusterIPs, now.ClusterIPs) && len(now.ClusterIPs) > 1 {
			now.ClusterIPs = now.ClusterIPs[:1]
		}
		if slices.Equal(was.IPFamilies, now.IPFamilies) && len(now.IPFamilies) > 1 {
			now.IPFamilies = now.IPFamilies[:1]
		}
		return nil
	}
	at := field.NewPath("spec", "ipFamilyPolicy")
	if n := len(now.ClusterIPs); n > 0 && n < len(was.ClusterIPs) {
		errs = append(errs, field.Invalid(at, now.IPFamilyPolicy, "must be 'SingleStack' to release the secondary cluster IP"))
	}
	if n := len(now.IPFamilies); n > 0 && n < len(was.IPFamilies) {
		errs = append(errs, field.Invalid(at, now.IPFamilyPolicy, "must be 'SingleStack' to release the secondary IP family"))
	}
	return errs
}

// overdone is more than one of anything for a Service of one family.
func overdone(s *corev1.Service) (errs field.ErrorList) {
	if *s.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		return nil
	}
	at := field.NewPath("spec", "ipFamilyPolicy")
	if len(s.Spec.ClusterIPs) == 2 {
		errs = append(errs, field.Invalid(at, s.Spec.IPFamilyPolicy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified"))
	}
	if len(s.Spec.IPFamilies) == 2 {
		errs = append(errs, field.Invalid(at, s.Spec.IPFamilyPolicy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"))
	}
	return errs
}

// unchangedPreference: a Service that prefers two families is left as it is
// when the cluster's families have changed and nothing of its own has.
func unchangedPreference(s, old *corev1.Service) bool {
	const prefer = corev1.IPFamilyPolicyPreferDualStack
	return old != nil && s.Spec.IPFamilyPolicy != nil && *s.Spec.IPFamilyPolicy == prefer &&
		(old.Spec.IPFamilyPolicy == nil || *old.Spec.IPFamilyPolicy == prefer) &&
		s.Spec.Type == old.Spec.Type && (external(s) || s.Spec.Type == corev1.ServiceTypeClusterIP) &&
		slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) && slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies)
}

// address gives a Service its cluster address, or the one that it asks for.
func address(s *corev1.Service, b *Book) error {
	if named(s) || len(s.Spec.ClusterIPs) > 0 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone {
		return nil
	}
	at := field.NewPath("spec", "clusterIPs")
	if len(s.Spec.ClusterIPs) > 0 {
		asked := s.Spec.ClusterIPs[0]
		if err := b.takeAddress(asked); err != nil {
			return refuse(s, field.Invalid(at, s.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %v: %v", asked, err)))
		}
		return nil
	}
	ip, err := b.anyAddress()
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP for Service %q: %w", s.Name, err))
	}
	s.Spec.ClusterIP, s.Spec.ClusterIPs = ip, []string{ip}
	return nil
}

func familyOf(ip string) corev1.IPFamily {
	switch {
	case netutils.IsIPv4String(ip):
		return corev1.IPv4Protocol
	case netutils.IsIPv6String(ip):
		return corev1.IPv6Protocol
	}
	return "unknown"
}

func other(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}
