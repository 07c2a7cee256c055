// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// Service checks a new Service.
func Service(s *corev1.Service) field.ErrorList {
	return append(meta(&s.ObjectMeta, true, apivalidation.NameIsDNSLabel), service(s, nil)...)
}

// ServiceUpdate checks a change; the first address and family stay.
func ServiceUpdate(s, old *corev1.Service) field.ErrorList {
	errs := metaUpdate(&s.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, addressesKept(s, old)...)
	errs = append(errs, familiesKept(s, old)...)
	at := field.NewPath("spec", "loadBalancerClass")
	if balanced(s) && balanced(old) && !sameString(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		errs = append(errs, field.Invalid(at, s.Spec.LoadBalancerClass, "may not change once set"))
	}
	errs = append(errs, balancerClass(s, at)...)
	if healthChecked(old) && healthChecked(s) && s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "healthCheckNodePort"), "field is immutable"))
	}
	return append(errs, service(s, old)...)
}

func balanced(s *corev1.Service) bool { return s.Spec.Type == corev1.ServiceTypeLoadBalancer }

func named(s *corev1.Service) bool { return s.Spec.Type == corev1.ServiceTypeExternalName }

func headless(s *corev1.Service) bool {
	return len(s.Spec.ClusterIPs) == 1 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

// reachable says whether a Service is reached from outside the cluster.
func reachable(s *corev1.Service) bool {
	return balanced(s) || s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeClusterIP && len(s.Spec.ExternalIPs) > 0
}

func healthChecked(s *corev1.Service) bool {
	return balanced(s) && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func sameString(a, b *string) bool { return a == nil && b == nil || a != nil && b != nil && *a == *b }

func service(s, old *corev1.Service) (errs field.ErrorList) {
	spec := field.NewPath("spec")
	hints, hinted := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	if mode, ok := s.Annotations[corev1.AnnotationTopologyMode]; ok && hinted && mode != hints {
		errs = append(errs, field.Invalid(metadata.Child("annotations").Key(corev1.AnnotationTopologyMode), mode, fmt.Sprintf("must match annotations[%s] when both are specified", corev1.DeprecatedAnnotationTopologyAwareHints)))
	}
	if len(s.Spec.Ports) == 0 && !headless(s) && !named(s) {
		errs = append(errs, field.Required(spec.Child("ports"), ""))
	}
	switch {
	case headless(s) && (balanced(s) || s.Spec.Type == corev1.ServiceTypeNodePort):
		errs = append(errs, field.Invalid(spec.Child("clusterIPs").Index(0), s.Spec.ClusterIPs[0], "may not be set to 'None' for "+string(s.Spec.Type)+" services"))
	case named(s):
		errs = append(errs, externalName(s, spec)...)
	}
	errs = append(errs, servicePorts(s, spec.Child("ports"))...)
	errs = append(errs, metavalidation.ValidateLabels(s.Spec.Selector, spec.Child("selector"))...)
	errs = append(errs, affinityOf(s, spec)...)
	errs = append(errs, ServiceAddresses(s, old)...)
	var known []string
	if old != nil {
		known = old.Spec.ExternalIPs
	}
	for i, a := range s.Spec.ExternalIPs {
		at := spec.Child("externalIPs").Index(i)
		if bad := ip(a, at, known...); len(bad) > 0 {
			errs = append(errs, bad...)
		} else {
			errs = append(errs, ordinaryIP(a, at)...)
		}
	}
	errs = append(errs, oneOf(s.Spec.Type, spec.Child("type"), corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)...)
	errs = append(errs, portsOnce(s, spec.Child("ports"))...)
	errs = append(errs, sourceRanges(s, old, spec.Child("LoadBalancerSourceRanges"))...)
	if s.Spec.AllocateLoadBalancerNodePorts != nil && !balanced(s) {
		errs = append(errs, field.Forbidden(spec.Child("allocateLoadBalancerNodePorts"), "may only be used when `type` is 'LoadBalancer'"))
	}
	if s.Spec.AllocateLoadBalancerNodePorts == nil && balanced(s) {
		errs = append(errs, field.Required(field.NewPath("allocateLoadBalancerNodePorts"), ""))
	}
	errs = append(errs, balancerClass(s, spec.Child("loadBalancerClass"))...)
	return append(errs, policies(s, spec)...)
}

// externalName: such a Service is a name in the DNS and nothing else.
func externalName(s *corev1.Service, spec *field.Path) (errs field.ErrorList) {
	const text = "may not be set for ExternalName services"
	errs = forbidden([]unset{{"clusterIPs", len(s.Spec.ClusterIPs) > 0}, {"ipFamilies", len(s.Spec.IPFamilies) > 0}, {"ipFamilyPolicy", s.Spec.IPFamilyPolicy != nil}}, text, spec)
	return append(errs, requiredAnd(strings.TrimSuffix(s.Spec.ExternalName, "."), spec.Child("externalName"), validation.IsDNS1123Subdomain)...)
}

func servicePorts(s *corev1.Service, at *field.Path) (errs field.ErrorList) {
	names := &unique{}
	for i, p := range s.Spec.Ports {
		index := at.Index(i)
		if len(s.Spec.Ports) > 1 && p.Name == "" {
			errs = append(errs, field.Required(index.Child("name"), ""))
		} else if p.Name != "" {
			errs = append(errs, invalidAll(index.Child("name"), p.Name, validation.IsDNS1123Label(p.Name))...)
			errs = append(errs, names.add(p.Name, index.Child("name"))...)
		}
		errs = append(errs, port(p.Port, index.Child("port"))...)
		errs = append(errs, oneOf(p.Protocol, index.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		errs = append(errs, portOrName(p.TargetPort, index.Child("targetPort"))...)
		if p.AppProtocol != nil {
			errs = append(errs, invalidAll(index.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol))...)
		}
	}
	return errs
}

// portsOnce: no port twice, of the Service or of the nodes.
func portsOnce(s *corev1.Service, at *field.Path) (errs field.ErrorList) {
	for i, p := range s.Spec.Ports {
		if s.Spec.Type == corev1.ServiceTypeClusterIP && p.NodePort != 0 {
			errs = append(errs, field.Forbidden(at.Index(i).Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
		}
	}
	onNodes, own := &unique{}, &unique{}
	for i, p := range s.Spec.Ports {
		if p.NodePort != 0 && onNodes.again(fmt.Sprint(p.Protocol, p.NodePort)) {
			errs = append(errs, field.Duplicate(at.Index(i).Child("nodePort"), p.NodePort))
		}
	}
	for i, p := range s.Spec.Ports {
		if own.again(fmt.Sprint(p.Protocol, p.Port)) {
			errs = append(errs, field.Duplicate(at.Index(i), goFields{corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}}))
		}
	}
	return errs
}

func affinityOf(s *corev1.Service, spec *field.Path) field.ErrorList {
	errs := oneOf(s.Spec.SessionAffinity, spec.Child("sessionAffinity"), corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	at, c := spec.Child("sessionAffinityConfig"), s.Spec.SessionAffinityConfig
	if s.Spec.SessionAffinity == corev1.ServiceAffinityNone && c != nil {
		errs = append(errs, field.Forbidden(at, "must not be set when session affinity is None"))
	}
	if s.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return errs
	}
	const needed, day = "when session affinity type is ClientIP", 86400
	switch {
	case c == nil:
		return append(errs, field.Required(at, needed))
	case c.ClientIP == nil:
		return append(errs, field.Required(at.Child("clientIP"), needed))
	case c.ClientIP.TimeoutSeconds == nil:
		return append(errs, field.Required(at.Child("clientIP", "timeoutSeconds"), needed))
	case *c.ClientIP.TimeoutSeconds <= 0 || *c.ClientIP.TimeoutSeconds > day:
		return append(errs, field.Invalid(at.Child("clientIP", "timeoutSeconds"), c.ClientIP.TimeoutSeconds, fmt.Sprintf("must be greater than 0 and less than %d", day)))
	}
	return errs
}

// ServiceAddresses checks the cluster addresses and their families. What gives
// them out asks it too, before it does; old may be nil.
func ServiceAddresses(s, old *corev1.Service) (errs field.ErrorList) {
	if named(s) {
		return nil
	}
	spec := field.NewPath("spec")
	at, list := spec.Child("clusterIPs"), s.Spec.ClusterIPs
	switch first := s.Spec.ClusterIP; {
	case first != "" && len(list) == 0:
		errs = append(errs, field.Required(at, ""))
	case first != "" && list[0] != first:
		errs = append(errs, field.Invalid(at, list, "first value must match `clusterIP`"))
	case first == "" && len(list) > 0:
		errs = append(errs, field.Invalid(at, list, "must be empty when `clusterIP` is not specified"))
	}
	families := &unique{}
	for i, f := range s.Spec.IPFamilies {
		p := spec.Child("ipFamilies").Index(i)
		errs = append(errs, supported(f, p, corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		if families.again(string(f)) {
			errs = append(errs, field.Duplicate(p, f))
		}
	}
	errs = append(errs, supportedIfSet(s.Spec.IPFamilyPolicy, spec.Child("ipFamilyPolicy"), corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)...)
	var known []string
	if old != nil {
		known = old.Spec.ClusterIPs
	}
	broken := false
	for i, a := range list {
		if i == 0 && a == corev1.ClusterIPNone {
			if len(list) > 1 {
				broken = true
				errs = append(errs, field.Invalid(at, list, "'None' must be the first and only value"))
			}
			continue
		}
		bad := ip(a, at.Index(i), known...)
		broken = broken || len(bad) > 0
		errs = append(errs, bad...)
	}
	if len(list) > 2 {
		errs = append(errs, field.Invalid(at, list, "may only hold up to 2 values"))
	}
	if broken {
		return errs
	}
	if len(list) > 1 {
		if both, err := netutils.IsDualStackIPStrings(list); err == nil && !both {
			errs = append(errs, field.Invalid(at, list, "may specify no more than one IP for each IP family"))
		}
	}
	if headless(s) {
		return errs
	}
	for i := range min(len(list), len(s.Spec.IPFamilies)) {
		f := s.Spec.IPFamilies[i]
		if six := netutils.IsIPv6String(list[i]); f == corev1.IPv4Protocol && six || f == corev1.IPv6Protocol && !six {
			errs = append(errs, field.Invalid(at.Index(i), list[i], fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%v]`", f, i)))
		}
	}
	return errs
}

func sourceRanges(s, old *corev1.Service, at *field.Path) (errs field.ErrorList) {
	const text = "may only be used when `type` is 'LoadBalancer'"
	if len(s.Spec.LoadBalancerSourceRanges) > 0 {
		if !balanced(s) {
			errs = append(errs, field.Forbidden(at, text))
		}
		var known []string
		if old != nil {
			for _, r := range old.Spec.LoadBalancerSourceRanges {
				known = append(known, strings.TrimSpace(r))
			}
		}
		for i, r := range s.Spec.LoadBalancerSourceRanges {
			errs = append(errs, validation.IsValidCIDRForLegacyField(at.Index(i), strings.TrimSpace(r), true, known)...)
		}
		return errs
	}
	const key = corev1.AnnotationLoadBalancerSourceRangesKey
	list, ok := s.Annotations[key]
	if !ok {
		return nil
	}
	at = metadata.Child("annotations").Key(key)
	if !balanced(s) {
		errs = append(errs, field.Forbidden(at, text))
	}
	if strings.TrimSpace(list) == "" || old != nil && old.Annotations[key] == list {
		return errs
	}
	for _, r := range strings.Split(strings.TrimSpace(list), ",") {
		errs = append(errs, validation.IsValidCIDRForLegacyField(at, strings.TrimSpace(r), true, nil)...)
	}
	return errs
}

func balancerClass(s *corev1.Service, at *field.Path) field.ErrorList {
	c := s.Spec.LoadBalancerClass
	switch {
	case c == nil:
		return nil
	case !balanced(s):
		return field.ErrorList{field.Forbidden(at, "may only be used when `type` is 'LoadBalancer'")}
	}
	return invalidAll(at, *c, validation.IsQualifiedName(*c))
}

// policies checks how traffic is routed, from outside and from inside.
func policies(s *corev1.Service, spec *field.Path) (errs field.ErrorList) {
	external := spec.Child("externalTrafficPolicy")
	if reachable(s) {
		errs = append(errs, oneOf(s.Spec.ExternalTrafficPolicy, external, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
	} else if s.Spec.ExternalTrafficPolicy != "" {
		errs = append(errs, field.Invalid(external, s.Spec.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
	}
	health := spec.Child("healthCheckNodePort")
	switch n := s.Spec.HealthCheckNodePort; {
	case !healthChecked(s) && n != 0:
		errs = append(errs, field.Invalid(health, n, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
	case healthChecked(s) && n == 0:
		errs = append(errs, field.Required(health, ""))
	case healthChecked(s):
		errs = append(errs, port(n, health)...)
	}
	internal := spec.Child("internalTrafficPolicy")
	if s.Spec.InternalTrafficPolicy == nil && (balanced(s) || s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeClusterIP) {
		errs = append(errs, field.Required(internal, ""))
	}
	errs = append(errs, supportedIfSet(s.Spec.InternalTrafficPolicy, internal, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	return append(errs, supportedIfSet(s.Spec.TrafficDistribution, spec.Child("trafficDistribution"), corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)...)
}

// addressesKept: the first address stays while there is one; the second may
// come, and go when the Service asks for one family.
func addressesKept(s, old *corev1.Service) (errs field.ErrorList) {
	if named(s) || named(old) || headless(s) && headless(old) {
		return nil
	}
	at, now, was := field.NewPath("spec", "clusterIPs"), s.Spec.ClusterIPs, old.Spec.ClusterIPs
	changed := func(i int) { errs = append(errs, field.Invalid(at.Index(i), now, "may not change once set")) }
	switch {
	case len(was) == len(now):
		for i := range was {
			if was[i] != now[i] {
				changed(i)
			}
		}
		return errs
	case len(now) == 0:
		errs = append(errs, field.Invalid(at.Index(0), now, "primary clusterIP can not be unset"))
	case len(was) > 0 && now[0] != was[0]:
		changed(0)
	}
	if len(was) > len(now) && len(now) == 1 {
		errs = append(errs, singleStack(s, "clusterIP")...)
	}
	return errs
}

func familiesKept(s, old *corev1.Service) (errs field.ErrorList) {
	if named(s) || named(old) || headless(s) || headless(old) {
		return nil
	}
	at, now, was := field.NewPath("spec", "ipFamilies").Index(0), s.Spec.IPFamilies, old.Spec.IPFamilies
	if len(was) == len(now) {
		for i := range was {
			if was[i] != now[i] {
				errs = append(errs, field.Invalid(at, now, "may not change once set"))
			}
		}
		return errs
	}
	if len(was) > len(now) && len(s.Spec.ClusterIPs) == 0 {
		errs = append(errs, field.Invalid(at, now, "primary ipFamily can not be unset"))
	}
	if len(was) > 0 && len(now) > 0 && was[0] != now[0] {
		errs = append(errs, field.Invalid(at, s.Spec.ClusterIPs, "may not change once set"))
	}
	if len(was) > len(now) && len(now) == 1 {
		errs = append(errs, singleStack(s, "ipFamily")...)
	}
	return errs
}

func singleStack(s *corev1.Service, what string) field.ErrorList {
	if p := s.Spec.IPFamilyPolicy; p != nil && *p == corev1.IPFamilyPolicySingleStack {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("spec", "ipFamilyPolicy"), s.Spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary "+what)}
}

// ServiceStatusUpdate checks the addresses of the load balancer.
func ServiceStatusUpdate(s, old *corev1.Service) field.ErrorList {
	errs := metaUpdate(&s.ObjectMeta, &old.ObjectMeta)
	at := field.NewPath("status", "loadBalancer", "ingress")
	if !balanced(s) && len(s.Status.LoadBalancer.Ingress) > 0 {
		return append(errs, field.Forbidden(at, "may only be used when `spec.type` is 'LoadBalancer'"))
	}
	var known []string
	for _, i := range old.Status.LoadBalancer.Ingress {
		known = append(known, i.IP)
	}
	known = slices.DeleteFunc(known, func(a string) bool { return a == "" })
	for i, in := range s.Status.LoadBalancer.Ingress {
		p := at.Index(i)
		if in.IP != "" {
			errs = append(errs, ip(in.IP, p.Child("ip"), known...)...)
		}
		switch {
		case in.IPMode == nil && in.IP != "":
			errs = append(errs, field.Required(p.Child("ipMode"), "must be specified when `ip` is set"))
		case in.IPMode != nil && in.IP == "":
			errs = append(errs, field.Forbidden(p.Child("ipMode"), "may not be specified when `ip` is not set"))
		default:
			errs = append(errs, supportedIfSet(in.IPMode, p.Child("ipMode"), corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)...)
		}
		if in.Hostname != "" {
			errs = append(errs, invalidAll(p.Child("hostname"), in.Hostname, validation.IsDNS1123Subdomain(in.Hostname))...)
			if netutils.ParseIPSloppy(in.Hostname) != nil {
				errs = append(errs, field.Invalid(p.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address"))
			}
		}
	}
	return errs
}

// ServiceStatusWarnings are the notes on addresses that others may read
// otherwise.
func ServiceStatusWarnings(s, _ *corev1.Service) (out []string) {
	at := field.NewPath("status", "loadBalancer", "ingress")
	for i, in := range s.Status.LoadBalancer.Ingress {
		if in.IP != "" {
			out = append(out, validation.GetWarningsForIP(at.Index(i), in.IP)...)
		}
	}
	return out
}

// ServiceWarnings are the notes on fields that do nothing, or not for long.
func ServiceWarnings(s, _ *corev1.Service) []string {
	n, spec := notes{}, field.NewPath("spec")
	if _, ok := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]; ok {
		n = append(n, fmt.Sprintf("annotation %s is deprecated, please use %s instead", corev1.DeprecatedAnnotationTopologyAwareHints, corev1.AnnotationTopologyMode))
	}
	if s.Spec.ClusterIP != corev1.ClusterIPNone && s.Spec.ClusterIP != "" {
		for i, a := range s.Spec.ClusterIPs {
			n = append(n, validation.GetWarningsForIP(spec.Child("clusterIPs").Index(i), a)...)
		}
	}
	if headless(s) {
		if s.Spec.LoadBalancerIP != "" {
			n = append(n, "spec.loadBalancerIP is ignored for headless services")
		}
		if len(s.Spec.ExternalIPs) > 0 {
			n = append(n, "spec.externalIPs is ignored for headless services")
		}
		if s.Spec.SessionAffinity != corev1.ServiceAffinityNone {
			n = append(n, "spec.SessionAffinity is ignored for headless services")
		}
	}
	for i, a := range s.Spec.ExternalIPs {
		n = append(n, validation.GetWarningsForIP(spec.Child("externalIPs").Index(i), a)...)
	}
	if len(s.Spec.ExternalIPs) > 0 && !headless(s) && !named(s) {
		n = append(n, "spec.externalIPs is deprecated and may no longer be implemented in some clusters")
	}
	if s.Spec.LoadBalancerIP != "" {
		n = append(n, validation.GetWarningsForIP(spec.Child("loadBalancerIP"), s.Spec.LoadBalancerIP)...)
	}
	for i, r := range s.Spec.LoadBalancerSourceRanges {
		n = append(n, validation.GetWarningsForCIDR(spec.Child("loadBalancerSourceRanges").Index(i), r)...)
	}
	if named(s) && len(s.Spec.ExternalIPs) > 0 {
		n = append(n, `spec.externalIPs is ignored when spec.type is "ExternalName"`)
	}
	if !named(s) && s.Spec.ExternalName != "" {
		n = append(n, `spec.externalName is ignored when spec.type is not "ExternalName"`)
	}
	if d := s.Spec.TrafficDistribution; d != nil && *d == corev1.ServiceTrafficDistributionPreferClose {
		n.add(spec.Child("trafficDistribution"), "%q is deprecated; use %q", *d, corev1.ServiceTrafficDistributionPreferSameZone)
	}
	return n
}
