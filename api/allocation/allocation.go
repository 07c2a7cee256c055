// SPDX-License-Identifier: Apache-2.0

// Package allocation decides what a Service is given: its IP families, its
// cluster address and its node ports, and what it keeps when it changes. It is
// pure: what is free is in a Book. It does not own the rules that a Service
// must obey; those are validation's.
//
// The API server calls Create or Update before it prepares and validates a
// Service, as Kubernetes does: what cannot be given out is the first thing a
// user hears of.
package allocation

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Create fills in what a new Service is given.
func Create(s *corev1.Service, b *Book) error {
	// A client that knows one address only has said all there is to say.
	if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0 {
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	}
	if err := families(s, nil, b); err != nil {
		return err
	}
	if err := address(s, b); err != nil {
		return err
	}
	if external(s) {
		if err := newNodePorts(s, b); err != nil {
			return err
		}
	}
	if healthChecked(s) {
		return healthPort(s, b)
	}
	return nil
}

// Update keeps what s was given before and does not mention, and gives it what
// it newly needs. What it gives up is free once it is written.
func Update(s, old *corev1.Service, b *Book) error {
	Complete(old, b.Family())
	keep(s, old)
	syncAddresses(s, old)
	if err := families(s, old, b); err != nil {
		return err
	}
	if named(old) && !named(s) {
		if err := address(s, b); err != nil {
			return err
		}
	}
	if external(s) {
		if err := nodePorts(s, old, b); err != nil {
			return err
		}
	}
	if healthChecked(s) && !healthChecked(old) {
		return healthPort(s, b)
	}
	return nil
}

// Complete shows a stored Service with the fields that are linked to others:
// those that older writers left away, and not those that mean nothing for its
// type.
func Complete(s *corev1.Service, primary corev1.IPFamily) {
	if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0 {
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	}
	if named(s) {
		s.Spec.InternalTrafficPolicy = nil
		return
	}
	if len(s.Spec.IPFamilies) > 0 {
		return
	}
	switch {
	case s.Spec.ClusterIP == corev1.ClusterIPNone && len(s.Spec.Selector) == 0:
		s.Spec.IPFamilies = []corev1.IPFamily{primary, other(primary)}
	case s.Spec.ClusterIP == corev1.ClusterIPNone:
		s.Spec.IPFamilies = []corev1.IPFamily{primary}
	default:
		for _, ip := range s.Spec.ClusterIPs {
			s.Spec.IPFamilies = append(s.Spec.IPFamilies, familyOf(ip))
		}
	}
	switch len(s.Spec.IPFamilies) {
	case 1:
		s.Spec.IPFamilyPolicy = new(corev1.IPFamilyPolicySingleStack)
	case 2:
		s.Spec.IPFamilyPolicy = new(corev1.IPFamilyPolicyRequireDualStack)
	}
}

// keep spares clients from reading before they write: what was given out and is
// not mentioned stays. A node port follows the name of its port.
func keep(s, old *corev1.Service) {
	if !named(old) && !named(s) {
		if s.Spec.ClusterIP == "" {
			s.Spec.ClusterIP = old.Spec.ClusterIP
		}
		if len(s.Spec.ClusterIPs) == 0 && len(old.Spec.ClusterIPs) > 0 {
			s.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
	}
	if wantsNodePorts(old) && wantsNodePorts(s) {
		held, asked, byName := portsOf(old), portsOf(s), map[string]int32{}
		for _, p := range old.Spec.Ports {
			byName[p.Name] = p.NodePort
		}
		for i := range s.Spec.Ports {
			p := &s.Spec.Ports[i]
			was := byName[p.Name]
			if p.NodePort == 0 && !(slices.Contains(held, was) && slices.Contains(asked, was)) {
				p.NodePort = was
			}
		}
	}
	if healthChecked(old) && healthChecked(s) && s.Spec.HealthCheckNodePort == 0 {
		s.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
}

// syncAddresses makes clusterIPs follow a client that changed clusterIP alone.
func syncAddresses(s, old *corev1.Service) {
	now, was := &s.Spec, &old.Spec
	if len(was.ClusterIPs) > 0 && len(now.ClusterIPs) == 0 && was.ClusterIP == now.ClusterIP {
		now.ClusterIPs = slices.Clone(was.ClusterIPs)
	}
	if was.ClusterIP == now.ClusterIP || !slices.Equal(was.ClusterIPs, now.ClusterIPs) {
		return
	}
	if was.ClusterIP != "" && now.ClusterIP == "" {
		now.ClusterIPs = nil
	} else {
		now.ClusterIPs = []string{now.ClusterIP}
	}
}

func named(s *corev1.Service) bool { return s.Spec.Type == corev1.ServiceTypeExternalName }

// external says whether a Service can have node ports.
func external(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
}

// wantsNodePorts says whether a Service is given the node ports that it does
// not name.
func wantsNodePorts(s *corev1.Service) bool {
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		return s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts
	}
	return s.Spec.Type == corev1.ServiceTypeNodePort
}

func healthChecked(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// portsOf are the node ports of a Service.
func portsOf(s *corev1.Service) (out []int32) {
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			out = append(out, p.NodePort)
		}
	}
	return out
}

func refuse(s *corev1.Service, errs ...*field.Error) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), s.Name, errs)
}
