// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Node checks a new node.
func Node(n *corev1.Node) field.ErrorList {
	errs := meta(&n.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	return append(errs, taints(n.Spec.Taints, field.NewPath("spec", "taints"))...)
}

func taints(list []corev1.Taint, path *field.Path) (errs field.ErrorList) {
	seen := &unique{}
	for i, t := range list {
		at := path.Index(i)
		errs = append(errs, invalidAll(at.Child("key"), t.Key, validation.IsQualifiedName(t.Key))...)
		errs = append(errs, invalidAll(at.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))...)
		errs = append(errs, oneOf(t.Effect, at.Child("effect"), corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)...)
		for range seen.add(t.Key+string(t.Effect), at) {
			dup := field.Duplicate(at, t)
			dup.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, dup)
		}
	}
	return errs
}

// NodeUpdate checks a change; provider and ranges are set once.
func NodeUpdate(n, old *corev1.Node) field.ErrorList {
	errs := metaUpdate(&n.ObjectMeta, &old.ObjectMeta)
	spec := field.NewPath("spec")
	errs = append(errs, taints(n.Spec.Taints, spec.Child("taints"))...)
	if len(old.Spec.PodCIDRs) > 0 && strings.Join(old.Spec.PodCIDRs, ",") != strings.Join(n.Spec.PodCIDRs, ",") {
		errs = append(errs, field.Forbidden(spec.Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
	}
	if old.Spec.ProviderID != "" && old.Spec.ProviderID != n.Spec.ProviderID {
		errs = append(errs, field.Forbidden(spec.Child("providerID"), "node updates may not change providerID except from \"\" to valid"))
	}
	return errs
}

// Lease checks a lease.
func Lease(l *coordinationv1.Lease) field.ErrorList {
	errs := meta(&l.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	spec := field.NewPath("spec")
	if d := l.Spec.LeaseDurationSeconds; d != nil && *d <= 0 {
		errs = append(errs, field.Invalid(spec.Child("leaseDurationSeconds"), *d, "must be greater than 0"))
	}
	if t := l.Spec.LeaseTransitions; t != nil && *t < 0 {
		errs = append(errs, field.Invalid(spec.Child("leaseTransitions"), *t, "must be greater than or equal to 0"))
	}
	return errs
}

// highestUserPriority is where the range of system classes begins.
const highestUserPriority = 1_000_000_000

// PriorityClass checks a class; only the system's own may be above a billion.
func PriorityClass(p *schedulingv1.PriorityClass) field.ErrorList {
	errs := meta(&p.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	if strings.HasPrefix(p.Name, "system-") {
		known := map[string]int32{"system-cluster-critical": 2 * highestUserPriority, "system-node-critical": 2*highestUserPriority + 1000}
		if v, ok := known[p.Name]; !ok || v != p.Value {
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"), "priority class names with 'system-' prefix are reserved for system use only. error: "+p.Name+" is not a known system priority class"))
		}
	} else if p.Value > highestUserPriority {
		errs = append(errs, field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %v", highestUserPriority)))
	}
	if p.PreemptionPolicy != nil {
		errs = append(errs, oneOf(*p.PreemptionPolicy, field.NewPath("preemptionPolicy"), corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	return errs
}

// PriorityClassUpdate checks a change; value and policy stay.
func PriorityClassUpdate(p, old *schedulingv1.PriorityClass) field.ErrorList {
	errs := metaUpdate(&p.ObjectMeta, &old.ObjectMeta)
	if p.Value != old.Value {
		errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
	}
	return append(errs, apivalidation.ValidateImmutableField(p.PreemptionPolicy, old.PreemptionPolicy, field.NewPath("preemptionPolicy"))...)
}

// RuntimeClass checks a class.
func RuntimeClass(r *nodev1.RuntimeClass) field.ErrorList {
	errs := meta(&r.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, invalidAll(field.NewPath("handler"), r.Handler, apivalidation.NameIsDNSLabel(r.Handler, false))...)
	if r.Scheduling != nil {
		errs = append(errs, tolerations(r.Scheduling.Tolerations, field.NewPath("scheduling", "tolerations"))...)
	}
	return errs
}

// RuntimeClassUpdate checks a change; the handler stays.
func RuntimeClassUpdate(r, old *nodev1.RuntimeClass) field.ErrorList {
	errs := metaUpdate(&r.ObjectMeta, &old.ObjectMeta)
	return append(errs, apivalidation.ValidateImmutableField(r.Handler, old.Handler, field.NewPath("handler"))...)
}

// Service checks a new Service before addresses are given out.
func Service(s *corev1.Service) field.ErrorList {
	errs := meta(&s.ObjectMeta, true, apivalidation.NameIsDNS1035Label)
	spec := field.NewPath("spec")
	if len(s.Spec.Ports) == 0 && s.Spec.ClusterIP != corev1.ClusterIPNone && s.Spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(spec.Child("ports"), ""))
	}
	errs = append(errs, oneOf(s.Spec.Type, spec.Child("type"), corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)...)
	errs = append(errs, oneOf(s.Spec.SessionAffinity, spec.Child("sessionAffinity"), corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)...)
	if s.Spec.Type == corev1.ServiceTypeExternalName && s.Spec.ExternalName == "" {
		errs = append(errs, field.Required(spec.Child("externalName"), ""))
	}
	if (s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer) && s.Spec.ClusterIP == corev1.ClusterIPNone {
		errs = append(errs, field.Invalid(spec.Child("clusterIPs").Index(0), s.Spec.ClusterIP, "may not be set to 'None' for "+string(s.Spec.Type)+" services"))
	}
	return append(errs, servicePorts(s, spec.Child("ports"))...)
}

func servicePorts(s *corev1.Service, path *field.Path) (errs field.ErrorList) {
	names, numbers := &unique{}, &unique{}
	for i, p := range s.Spec.Ports {
		at := path.Index(i)
		if len(s.Spec.Ports) > 1 && p.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		} else if p.Name != "" {
			errs = append(errs, invalidAll(at.Child("name"), p.Name, validation.IsDNS1123Label(p.Name))...)
			errs = append(errs, names.add(p.Name, at.Child("name"))...)
		}
		errs = append(errs, port(int(p.Port), at.Child("port"))...)
		errs = append(errs, oneOf(p.Protocol, at.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		if p.TargetPort.Type == intstr.Int || p.TargetPort.StrVal != "" {
			errs = append(errs, portOrName(p.TargetPort, at.Child("targetPort"))...)
		}
		for range numbers.add(fmt.Sprint(p.Protocol, p.Port), at) {
			errs = append(errs, field.Duplicate(at, corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}))
		}
	}
	return errs
}

// ServiceUpdate checks a change; the address of a ClusterIP Service stays.
func ServiceUpdate(s, old *corev1.Service) field.ErrorList {
	errs := metaUpdate(&s.ObjectMeta, &old.ObjectMeta)
	if s.Spec.Type != corev1.ServiceTypeExternalName && old.Spec.Type != corev1.ServiceTypeExternalName && old.Spec.ClusterIP != "" && s.Spec.ClusterIP != old.Spec.ClusterIP {
		errs = append(errs, field.Invalid(field.NewPath("spec", "clusterIPs").Index(0), s.Spec.ClusterIPs, "may not change once set"))
	}
	return append(errs, Service(s)...)
}

// Endpoints checks addresses and ports.
func Endpoints(e *corev1.Endpoints) field.ErrorList {
	errs := meta(&e.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	for i, s := range e.Subsets {
		at := field.NewPath("subsets").Index(i)
		if len(s.Addresses)+len(s.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j, a := range s.Addresses {
			errs = append(errs, ip(a.IP, at.Child("addresses").Index(j).Child("ip"))...)
		}
		for j, p := range s.Ports {
			errs = append(errs, port(int(p.Port), at.Child("ports").Index(j).Child("port"))...)
		}
	}
	return errs
}

// EndpointSlice checks addresses.
func EndpointSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	errs := meta(&s.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, oneOf(s.AddressType, field.NewPath("addressType"), discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)...)
	for i, e := range s.Endpoints {
		at := field.NewPath("endpoints").Index(i).Child("addresses")
		if len(e.Addresses) == 0 {
			errs = append(errs, field.Required(at, "must contain at least 1 address"))
		}
		for j, a := range e.Addresses {
			if s.AddressType != discoveryv1.AddressTypeFQDN {
				errs = append(errs, ip(a, at.Index(j))...)
			}
		}
	}
	return errs
}

// rbacName is the loose rule for names of roles and bindings.
func rbacName(name string, prefix bool) []string { return path.ValidatePathSegmentName(name, prefix) }

// Role checks a namespaced role.
func Role(r *rbacv1.Role) field.ErrorList {
	return append(meta(&r.ObjectMeta, true, rbacName), policyRules(r.Rules, true)...)
}

// ClusterRole checks a role of the cluster.
func ClusterRole(r *rbacv1.ClusterRole) field.ErrorList {
	return append(meta(&r.ObjectMeta, false, rbacName), policyRules(r.Rules, false)...)
}

func policyRules(list []rbacv1.PolicyRule, namespaced bool) (errs field.ErrorList) {
	for i, r := range list {
		at := field.NewPath("rules").Index(i)
		if len(r.Verbs) == 0 {
			errs = append(errs, field.Required(at.Child("verbs"), "verbs must contain at least one value"))
		}
		if len(r.NonResourceURLs) > 0 {
			if namespaced {
				errs = append(errs, field.Invalid(at.Child("nonResourceURLs"), r.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs"))
			}
			if len(r.APIGroups)+len(r.Resources)+len(r.ResourceNames) > 0 {
				errs = append(errs, field.Invalid(at.Child("nonResourceURLs"), r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
			}
			continue
		}
		if len(r.APIGroups) == 0 {
			errs = append(errs, field.Required(at.Child("apiGroups"), "resource rules must supply at least one api group"))
		}
		if len(r.Resources) == 0 {
			errs = append(errs, field.Required(at.Child("resources"), "resource rules must supply at least one resource"))
		}
	}
	return errs
}

// RoleBinding checks a namespaced binding.
func RoleBinding(b *rbacv1.RoleBinding) field.ErrorList {
	return append(meta(&b.ObjectMeta, true, rbacName), roleBinding(b.RoleRef, b.Subjects, true)...)
}

// ClusterRoleBinding checks a binding of the cluster.
func ClusterRoleBinding(b *rbacv1.ClusterRoleBinding) field.ErrorList {
	return append(meta(&b.ObjectMeta, false, rbacName), roleBinding(b.RoleRef, b.Subjects, false)...)
}

func roleBinding(ref rbacv1.RoleRef, subjects []rbacv1.Subject, namespaced bool) (errs field.ErrorList) {
	at := field.NewPath("roleRef")
	if ref.APIGroup != rbacv1.GroupName {
		errs = append(errs, field.NotSupported(at.Child("apiGroup"), ref.APIGroup, []string{rbacv1.GroupName}))
	}
	kinds := []string{"ClusterRole"}
	if namespaced {
		kinds = []string{"Role", "ClusterRole"}
	}
	if ref.Kind != "ClusterRole" && (!namespaced || ref.Kind != "Role") {
		errs = append(errs, field.NotSupported(at.Child("kind"), ref.Kind, kinds))
	}
	if ref.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	for i, s := range subjects {
		sub := field.NewPath("subjects").Index(i)
		if s.Name == "" {
			errs = append(errs, field.Required(sub.Child("name"), ""))
		}
		switch s.Kind {
		case rbacv1.ServiceAccountKind:
			if !namespaced && s.Namespace == "" {
				errs = append(errs, field.Required(sub.Child("namespace"), ""))
			}
		case rbacv1.UserKind, rbacv1.GroupKind:
		default:
			errs = append(errs, field.NotSupported(sub.Child("kind"), s.Kind, []string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
		}
	}
	return errs
}

// RoleBindingUpdate checks a change; the role stays.
func RoleBindingUpdate(b, old *rbacv1.RoleBinding) field.ErrorList {
	return append(append(metaUpdate(&b.ObjectMeta, &old.ObjectMeta), RoleBinding(b)...), roleRefKept(b.RoleRef, old.RoleRef)...)
}

// ClusterRoleBindingUpdate checks a change; the role stays.
func ClusterRoleBindingUpdate(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
	return append(append(metaUpdate(&b.ObjectMeta, &old.ObjectMeta), ClusterRoleBinding(b)...), roleRefKept(b.RoleRef, old.RoleRef)...)
}

func roleRefKept(now, was rbacv1.RoleRef) field.ErrorList {
	if now != was {
		return field.ErrorList{field.Invalid(field.NewPath("roleRef"), now, "cannot change roleRef")}
	}
	return nil
}
