// SPDX-License-Identifier: Apache-2.0

package defaults

import (
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// PrepareService drops what does not fit the new type of a Service and was not
// changed with it. What a client did change stays, for validation to refuse.
func PrepareService(s, old *corev1.Service) {
	if old == nil {
		return
	}
	now, was := &s.Spec, &old.Spec
	if was.Type != corev1.ServiceTypeExternalName && now.Type == corev1.ServiceTypeExternalName {
		if was.ClusterIP == now.ClusterIP && slices.Equal(was.ClusterIPs, now.ClusterIPs) {
			now.ClusterIP, now.ClusterIPs = "", nil
		}
		if reflect.DeepEqual(was.IPFamilies, now.IPFamilies) {
			now.IPFamilies = nil
		}
		dropSame(&now.IPFamilyPolicy, was.IPFamilyPolicy)
	}
	if onNodes(old) && !onNodes(s) && !newNodePorts(s, old) {
		for i := range now.Ports {
			now.Ports[i].NodePort = 0
		}
	}
	if healthChecked(old) && !healthChecked(s) && was.HealthCheckNodePort == now.HealthCheckNodePort {
		now.HealthCheckNodePort = 0
	}
	if was.Type == corev1.ServiceTypeLoadBalancer && now.Type != corev1.ServiceTypeLoadBalancer {
		dropSame(&now.AllocateLoadBalancerNodePorts, was.AllocateLoadBalancerNodePorts)
		dropSame(&now.LoadBalancerClass, was.LoadBalancerClass)
	}
	if reachable(old) && !reachable(s) && was.ExternalTrafficPolicy == now.ExternalTrafficPolicy {
		now.ExternalTrafficPolicy = ""
	}
	if now.Type != corev1.ServiceTypeLoadBalancer {
		s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
}

// dropSame drops a value that was not changed.
func dropSame[T comparable](now **T, was *T) {
	if *now != nil && was != nil && **now == *was {
		*now = nil
	}
}

func onNodes(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
}

// reachable says whether a Service is reached from outside the cluster.
func reachable(s *corev1.Service) bool {
	return onNodes(s) || s.Spec.Type == corev1.ServiceTypeClusterIP && len(s.Spec.ExternalIPs) > 0
}

func healthChecked(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// newNodePorts says whether s names a node port that old did not have.
func newNodePorts(s, old *corev1.Service) bool {
	return slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool {
		return p.NodePort != 0 && !slices.ContainsFunc(old.Spec.Ports, func(q corev1.ServicePort) bool { return q.NodePort == p.NodePort })
	})
}
