// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// context is what the parts of one Pod spec are checked against.
type context struct {
	spec    *corev1.PodSpec
	pod     *metav1.ObjectMeta // nil for a template
	old     *corev1.PodSpec    // nil for a new object
	volumes map[string]corev1.VolumeSource
}

// podSpec checks what Pods and templates share. pod is nil for a template; old
// is the spec before a change: what was accepted once may stay.
func podSpec(s *corev1.PodSpec, pod *metav1.ObjectMeta, old *corev1.PodSpec, at *field.Path) (errs field.ErrorList) {
	c := &context{spec: s, pod: pod, old: old}
	if s.TerminationGracePeriodSeconds == nil {
		errs = append(errs, field.Required(at.Child("terminationGracePeriodSeconds"), ""))
	}
	volumes, bad := c.volumeSet(at.Child("volumes"))
	c.volumes = volumes
	errs = append(errs, bad...)
	errs = append(errs, c.resourceClaims(at.Child("resourceClaims"))...)
	errs = append(errs, c.containers(at.Child("containers"))...)
	errs = append(errs, c.initContainers(at.Child("initContainers"))...)
	errs = append(errs, c.ephemeralContainers(at.Child("ephemeralContainers"))...)
	errs = append(errs, c.podResources(at.Child("resources"))...)
	errs = append(errs, c.hostNetworkPorts(at.Child("containers"))...)
	errs = append(errs, oneOf(s.RestartPolicy, at.Child("restartPolicy"), corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)...)
	errs = append(errs, oneOf(s.DNSPolicy, at.Child("dnsPolicy"), corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)...)
	errs = append(errs, metavalidation.ValidateLabels(s.NodeSelector, at.Child("nodeSelector"))...)
	errs = append(errs, c.podSecurity(at.Child("securityContext"))...)
	if yes(s.ShareProcessNamespace) && s.HostPID {
		errs = append(errs, field.Invalid(at.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	errs = append(errs, c.affinity(at.Child("affinity"))...)
	errs = append(errs, dnsConfig(s, at.Child("dnsConfig"))...)
	for i, g := range s.ReadinessGates {
		errs = append(errs, invalidAll(at.Child("readinessGates").Index(i).Child("conditionType"), string(g.ConditionType), validation.IsQualifiedName(string(g.ConditionType)))...)
	}
	gates := &unique{}
	for i, g := range s.SchedulingGates {
		gate := at.Child("schedulingGates").Index(i)
		errs = append(errs, invalidAll(gate, g.Name, validation.IsQualifiedName(g.Name))...)
		errs = append(errs, gates.add(g.Name, gate)...)
	}
	errs = append(errs, c.topologySpread(at.Child("topologySpreadConstraints"))...)
	errs = append(errs, hostProcess(s, at)...)
	errs = append(errs, c.hostUsers(at)...)
	errs = append(errs, hostnameOverride(s, at.Child("hostnameOverride"))...)
	errs = append(errs, c.names(at)...)
	errs = append(errs, c.osRules(at)...)
	if g := s.SchedulingGroup; g != nil {
		errs = append(errs, schedulingGroup(g, at.Child("schedulingGroup", "podGroupName"))...)
	}
	return append(errs, fileKeyVolumes(s, at)...)
}

// names checks the names a Pod gives or refers to, and the limits around them.
func (c *context) names(at *field.Path) (errs field.ErrorList) {
	s := c.spec
	errs = append(errs, ifSet(s.ServiceAccountName, at.Child("serviceAccountName"), whole(apivalidation.ValidateServiceAccountName))...)
	if s.DeprecatedServiceAccount != s.ServiceAccountName {
		errs = append(errs, field.Invalid(at.Child("deprecatedServiceAccount"), s.DeprecatedServiceAccount, fmt.Sprintf("must be the same as serviceAccountName: %q", s.ServiceAccountName)))
	}
	errs = append(errs, ifSet(s.NodeName, at.Child("nodeName"), whole(apivalidation.NameIsDNSSubdomain))...)
	if a := s.ActiveDeadlineSeconds; a != nil && (*a < 1 || *a > math.MaxInt32) {
		errs = append(errs, field.Invalid(at.Child("activeDeadlineSeconds"), *a, validation.InclusiveRangeError(1, math.MaxInt32)))
	}
	errs = append(errs, ifSet(s.Hostname, at.Child("hostname"), validation.IsDNS1123Label)...)
	errs = append(errs, ifSet(s.Subdomain, at.Child("subdomain"), validation.IsDNS1123Label)...)
	errs = append(errs, tolerations(s.Tolerations, at.Child("tolerations"))...)
	for i, a := range s.HostAliases {
		alias := at.Child("hostAliases").Index(i)
		errs = append(errs, ip(a.IP, alias.Child("ip"))...)
		for j, h := range a.Hostnames {
			errs = append(errs, invalidAll(alias.Child("hostnames").Index(j), h, validation.IsDNS1123Subdomain(h))...)
		}
	}
	errs = append(errs, ifSet(s.PriorityClassName, at.Child("priorityClassName"), whole(apivalidation.NameIsDNSSubdomain))...)
	if s.RuntimeClassName != nil {
		errs = append(errs, invalidAll(at.Child("runtimeClassName"), *s.RuntimeClassName, apivalidation.NameIsDNSSubdomain(*s.RuntimeClassName, false))...)
	}
	if s.PreemptionPolicy != nil {
		errs = append(errs, oneOf(*s.PreemptionPolicy, at.Child("preemptionPolicy"), corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	if s.Overhead != nil {
		errs = append(errs, c.containerResources(&corev1.ResourceRequirements{Limits: s.Overhead}, at.Child("overhead"))...)
	}
	return errs
}

func hostnameOverride(s *corev1.PodSpec, at *field.Path) (errs field.ErrorList) {
	if s.HostnameOverride == nil {
		return nil
	}
	if yes(s.SetHostnameAsFQDN) {
		errs = append(errs, field.Forbidden(at, "may not be specified when setHostnameAsFQDN is true"))
	}
	if s.HostNetwork {
		errs = append(errs, field.Forbidden(at, "may not be specified when hostNetwork is true"))
	}
	if len(*s.HostnameOverride) > 64 {
		errs = append(errs, field.TooLong(at, "" /* unused */, 64))
	}
	return append(errs, invalidAll(at, *s.HostnameOverride, validation.IsDNS1123Subdomain(*s.HostnameOverride))...)
}

// hostUsers: a user namespace goes with no namespace of the host.
func (c *context) hostUsers(at *field.Path) (errs field.ErrorList) {
	const why = "when `hostUsers` is false"
	own := func(s *corev1.PodSpec) bool { return s != nil && s.HostUsers != nil && !*s.HostUsers }
	if !own(c.spec) {
		return nil
	}
	if c.spec.HostNetwork && !(own(c.old) && c.old.HostNetwork) {
		errs = append(errs, field.Forbidden(at.Child("hostNetwork"), why))
	}
	if c.spec.HostPID {
		errs = append(errs, field.Forbidden(at.Child("HostPID"), why))
	}
	if c.spec.HostIPC {
		errs = append(errs, field.Forbidden(at.Child("HostIPC"), why))
	}
	if own(c.old) && hasDevices(c.old) {
		return errs
	}
	eachContainer(c.spec, at, func(k *corev1.Container, at *field.Path) {
		if len(k.VolumeDevices) > 0 {
			errs = append(errs, field.Forbidden(at.Child("volumeDevices"), why))
		}
	})
	return errs
}

func hasDevices(s *corev1.PodSpec) (found bool) {
	eachContainer(s, nil, func(k *corev1.Container, _ *field.Path) { found = found || len(k.VolumeDevices) > 0 })
	return found
}

// hostNetworkPorts: on the node's network a port is the port of the node.
func (c *context) hostNetworkPorts(at *field.Path) (errs field.ErrorList) {
	if !c.spec.HostNetwork {
		return nil
	}
	for i, k := range c.spec.Containers {
		for j, p := range k.Ports {
			if (c.pod != nil || p.HostPort != 0) && p.HostPort != p.ContainerPort {
				errs = append(errs, field.Invalid(at.Index(i).Child("ports").Index(j).Child("hostPort"), p.HostPort, "must match `containerPort` when `hostNetwork` is true"))
			}
		}
	}
	return errs
}

// Limits of resolv.conf, as the C library reads it.
const (
	maxNameservers  = 3
	maxSearches     = 32
	maxSearchLength = 2048
)

func dnsConfig(s *corev1.PodSpec, at *field.Path) (errs field.ErrorList) {
	c := s.DNSConfig
	if s.DNSPolicy == corev1.DNSNone {
		if c == nil {
			return field.ErrorList{field.Required(at, "must provide `dnsConfig` when `dnsPolicy` is None")}
		}
		if len(c.Nameservers) == 0 {
			return field.ErrorList{field.Required(at.Child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None")}
		}
	}
	if c == nil {
		return nil
	}
	if len(c.Nameservers) > maxNameservers {
		errs = append(errs, field.Invalid(at.Child("nameservers"), c.Nameservers, fmt.Sprintf("must not have more than %v nameservers", maxNameservers)))
	}
	for i, n := range c.Nameservers {
		errs = append(errs, ip(n, at.Child("nameservers").Index(i))...)
	}
	if len(c.Searches) > maxSearches {
		errs = append(errs, field.Invalid(at.Child("searches"), c.Searches, fmt.Sprintf("must not have more than %v search paths", maxSearches)))
	}
	if len(strings.Join(c.Searches, " ")) > maxSearchLength {
		errs = append(errs, field.Invalid(at.Child("searches"), c.Searches, fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", maxSearchLength)))
	}
	for i, d := range c.Searches {
		if d != "." {
			d = strings.TrimSuffix(d, ".")
			errs = append(errs, invalidAll(at.Child("searches").Index(i), d, validation.IsDNS1123SubdomainWithUnderscore(d))...)
		}
	}
	for i, o := range c.Options {
		if o.Name == "" {
			errs = append(errs, field.Required(at.Child("options").Index(i), "must not be empty"))
		}
	}
	return errs
}

func schedulingGroup(g *corev1.PodSchedulingGroup, at *field.Path) field.ErrorList {
	if g.PodGroupName == nil {
		return field.ErrorList{field.Invalid(at, g.PodGroupName, "must specify one of: `podGroupName`")}
	}
	return invalidAll(at, *g.PodGroupName, apivalidation.NameIsDNSSubdomain(*g.PodGroupName, false))
}
