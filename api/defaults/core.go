// SPDX-License-Identifier: Apache-2.0

package defaults

import (
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Namespace fills in the phase, and labels a namespace with its own name
// (KEP-2161).
func Namespace(n *corev1.Namespace) {
	zero(&n.Status.Phase, corev1.NamespaceActive)
	// A generated name is not known yet; the API server labels it later.
	if n.Name == "" {
		return
	}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[corev1.LabelMetadataName] = n.Name
}

// Node fills in a Node: allocatable is the capacity unless said otherwise. Of
// podCIDR and podCIDRs the first is believed, for older clients.
func Node(n *corev1.Node) {
	switch s := &n.Spec; {
	case s.PodCIDR != "" && (len(s.PodCIDRs) == 0 || s.PodCIDRs[0] != s.PodCIDR):
		s.PodCIDRs = []string{s.PodCIDR}
	case s.PodCIDR == "" && len(s.PodCIDRs) > 0:
		s.PodCIDR = s.PodCIDRs[0]
	}
	limits(n.Status.Capacity)
	limits(n.Status.Allocatable)
	if n.Status.Allocatable == nil && len(n.Status.Capacity) > 0 {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
}

// ConfigMap makes the data, so that a patch finds it.
func ConfigMap(c *corev1.ConfigMap) {
	if c.Data == nil {
		c.Data = map[string]string{}
	}
}

// Secret fills in the type, and moves the write-only strings into the data.
func Secret(s *corev1.Secret) {
	zero(&s.Type, corev1.SecretTypeOpaque)
	for k, v := range s.StringData {
		if s.Data == nil {
			s.Data = map[string][]byte{}
		}
		s.Data[k] = []byte(v)
	}
	s.StringData = nil
}

// Endpoints fills in the protocol of ports.
func Endpoints(e *corev1.Endpoints) {
	for i := range e.Subsets {
		for j := range e.Subsets[i].Ports {
			zero(&e.Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
		}
	}
}

// EndpointSlice fills in names and protocols of ports.
func EndpointSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		set(&s.Ports[i].Name, "")
		set(&s.Ports[i].Protocol, corev1.ProtocolTCP)
	}
}

// Service fills in a Service as far as it does not need an allocation.
func Service(s *corev1.Service) {
	zero(&s.Spec.SessionAffinity, corev1.ServiceAffinityNone)
	zero(&s.Spec.Type, corev1.ServiceTypeClusterIP)
	if s.Spec.SessionAffinity == corev1.ServiceAffinityNone {
		s.Spec.SessionAffinityConfig = nil
	}
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		if s.Spec.SessionAffinityConfig == nil {
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{}
		}
		if s.Spec.SessionAffinityConfig.ClientIP == nil {
			s.Spec.SessionAffinityConfig.ClientIP = &corev1.ClientIPConfig{}
		}
		set(&s.Spec.SessionAffinityConfig.ClientIP.TimeoutSeconds, corev1.DefaultClientIPServiceAffinitySeconds)
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		zero(&p.Protocol, corev1.ProtocolTCP)
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if reachable(s) {
		zero(&s.Spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if onNodes(s) || s.Spec.Type == corev1.ServiceTypeClusterIP {
		set(&s.Spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		set(&s.Spec.AllocateLoadBalancerNodePorts, true)
		for i := range s.Status.LoadBalancer.Ingress {
			if s.Status.LoadBalancer.Ingress[i].IP != "" {
				set(&s.Status.LoadBalancer.Ingress[i].IPMode, corev1.LoadBalancerIPModeVIP)
			}
		}
	}
}

// ReplicationController takes labels and selector from the template.
func ReplicationController(r *corev1.ReplicationController) {
	if t := r.Spec.Template; t != nil {
		if t.Labels != nil {
			if len(r.Spec.Selector) == 0 {
				r.Spec.Selector = maps.Clone(t.Labels)
			}
			if len(r.Labels) == 0 {
				r.Labels = maps.Clone(t.Labels)
			}
		}
		PodTemplateSpec(t)
	}
	set(&r.Spec.Replicas, 1)
}

// ReplicaSet fills in the number of replicas and the template.
func ReplicaSet(r *appsv1.ReplicaSet) {
	set(&r.Spec.Replicas, 1)
	PodTemplateSpec(&r.Spec.Template)
}

// PodTemplate fills in the template.
func PodTemplate(t *corev1.PodTemplate) { PodTemplateSpec(&t.Template) }

// PriorityClass fills in the preemption policy.
func PriorityClass(p *schedulingv1.PriorityClass) {
	set(&p.PreemptionPolicy, corev1.PreemptLowerPriority)
}

// RuntimeClass rounds the overhead.
func RuntimeClass(r *nodev1.RuntimeClass) {
	if r.Overhead != nil {
		limits(r.Overhead.PodFixed)
	}
}

// IngressClass says that its parameters are the cluster's.
func IngressClass(c *networkingv1.IngressClass) {
	if p := c.Spec.Parameters; p != nil {
		set(&p.Scope, networkingv1.IngressClassParametersReferenceScopeCluster)
	}
}

// NetworkPolicy names the protocol of ports, and the directions that it is about.
func NetworkPolicy(n *networkingv1.NetworkPolicy) {
	ports := func(list []networkingv1.NetworkPolicyPort) {
		for i := range list {
			set(&list[i].Protocol, corev1.ProtocolTCP)
		}
	}
	for _, in := range n.Spec.Ingress {
		ports(in.Ports)
	}
	for _, out := range n.Spec.Egress {
		ports(out.Ports)
	}
	if len(n.Spec.PolicyTypes) == 0 {
		n.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(n.Spec.Egress) > 0 {
			n.Spec.PolicyTypes = append(n.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
}

// RoleBinding fills in API groups of the role and subjects.
func RoleBinding(b *rbacv1.RoleBinding) { bind(&b.RoleRef, b.Subjects) }

// ClusterRoleBinding fills in API groups of the role and subjects.
func ClusterRoleBinding(b *rbacv1.ClusterRoleBinding) { bind(&b.RoleRef, b.Subjects) }

func bind(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	zero(&ref.APIGroup, rbacv1.GroupName)
	for i := range subjects {
		if k := subjects[i].Kind; k == rbacv1.UserKind || k == rbacv1.GroupKind {
			zero(&subjects[i].APIGroup, rbacv1.GroupName)
		}
	}
}
