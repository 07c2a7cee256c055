// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// PodStatusWarnings are the notes on odd addresses.
func PodStatusWarnings(p, _ *corev1.Pod) (out []string) {
	for i, a := range p.Status.PodIPs {
		out = append(out, validation.GetWarningsForIP(field.NewPath("status", "podIPs").Index(i).Child("ip"), a.IP)...)
	}
	for i, a := range p.Status.HostIPs {
		out = append(out, validation.GetWarningsForIP(field.NewPath("status", "hostIPs").Index(i).Child("ip"), a.IP)...)
	}
	return out
}

func podStatus(p, old *corev1.Pod, at *field.Path) (errs field.ErrorList) {
	now, was := &p.Status, &old.Status
	for i, c := range now.Conditions {
		condition := at.Child("conditions").Index(i)
		if c.ObservedGeneration < 0 {
			errs = append(errs, field.Invalid(condition.Child("observedGeneration"), c.ObservedGeneration, "must be a non-negative integer"))
		}
		switch c.Type {
		case corev1.PodScheduled, corev1.PodReady, corev1.PodInitialized:
		default:
			errs = append(errs, invalidAll(condition.Child("Type"), string(c.Type), validation.IsQualifiedName(string(c.Type)))...)
		}
	}
	if p.Spec.NodeName != old.Spec.NodeName {
		errs = append(errs, field.Forbidden(at.Child("nodeName"), "may not be changed directly"))
	}
	if n := now.NominatedNodeName; n != "" && n != was.NominatedNodeName {
		errs = append(errs, invalidAll(at.Child("nominatedNodeName"), n, apivalidation.NameIsDNSSubdomain(n, false))...)
		if old.Spec.NodeName != "" {
			errs = append(errs, field.Forbidden(at.Child("nominatedNodeName"), "may not be set on pods that are already bound to a node"))
		}
	}
	if now.ObservedGeneration < 0 {
		errs = append(errs, field.Invalid(at.Child("observedGeneration"), now.ObservedGeneration, "must be a non-negative integer"))
	}
	errs = append(errs, apivalidation.ValidateImmutableField(now.QOSClass, was.QOSClass, at.Child("qosClass"))...)
	errs = append(errs, noRevival(now.ContainerStatuses, was.ContainerStatuses, &old.Spec, old.Spec.Containers, at.Child("containerStatuses"))...)
	errs = append(errs, noRevival(now.InitContainerStatuses, was.InitContainerStatuses, &old.Spec, old.Spec.InitContainers, at.Child("initContainerStatuses"))...)
	errs = append(errs, noRevival(now.EphemeralContainerStatuses, was.EphemeralContainerStatuses, nil, nil, at.Child("ephemeralContainerStatuses"))...)
	errs = append(errs, claimStatuses(now.ResourceClaimStatuses, p.Spec.ResourceClaims, at.Child("resourceClaimStatuses"))...)
	errs = append(errs, extendedClaim(now.ExtendedResourceClaimStatus, &p.Spec, at.Child("extendedResourceClaimStatus"))...)
	errs = append(errs, podIPs(now, was, at.Child("podIPs"))...)
	errs = append(errs, hostIPs(now, was, at.Child("hostIPs"))...)
	for _, l := range []struct {
		name string
		list []corev1.ContainerStatus
	}{{"containerStatuses", now.ContainerStatuses}, {"initContainerStatuses", now.InitContainerStatuses}, {"ephemeralContainerStatuses", now.EphemeralContainerStatuses}} {
		errs = append(errs, statusUsers(l.list, p.Spec.OS, at.Child(l.name))...)
	}
	errs = append(errs, allocated(now.ContainerStatuses, p.Spec.Containers, now.ExtendedResourceClaimStatus, at.Child("containerStatuses"))...)
	errs = append(errs, allocated(now.InitContainerStatuses, p.Spec.InitContainers, now.ExtendedResourceClaimStatus, at.Child("initContainerStatuses"))...)
	for i, s := range now.EphemeralContainerStatuses {
		if s.AllocatedResourcesStatus != nil {
			errs = append(errs, field.Forbidden(at.Child("ephemeralContainerStatuses").Index(i).Child("allocatedResourcesStatus"), "allocatedResourcesStatus cannot be set for ephemeral containers"))
		}
	}
	return errs
}

// noRevival keeps what has terminated terminated where nothing restarts it.
// spec is nil for containers that never are.
func noRevival(now, was []corev1.ContainerStatus, spec *corev1.PodSpec, containers []corev1.Container, at *field.Path) (errs field.ErrorList) {
	if spec != nil && restartsAll(spec) {
		return nil
	}
	for i, o := range was {
		if o.State.Terminated == nil {
			continue
		}
		for _, n := range now {
			if n.Name != o.Name || n.State.Terminated != nil {
				continue
			}
			if spec == nil || !mayRestart(o.Name, o.State.Terminated.ExitCode, spec, containers) {
				errs = append(errs, field.Forbidden(at.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
			}
			break
		}
	}
	return errs
}

// restartsAll: a rule of one container may restart all of them.
func restartsAll(s *corev1.PodSpec) bool {
	for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for _, k := range list {
			for _, r := range k.RestartPolicyRules {
				if r.Action == corev1.ContainerRestartRuleActionRestartAllContainers {
					return true
				}
			}
		}
	}
	return false
}

// mayRestart asks the container's rules, then its policy, then the Pod's.
func mayRestart(name string, code int32, s *corev1.PodSpec, containers []corev1.Container) bool {
	for _, k := range containers {
		if k.Name != name {
			continue
		}
		policy := string(s.RestartPolicy)
		if k.RestartPolicy != nil {
			if ruled(k.RestartPolicyRules, code) {
				return true
			}
			policy = string(*k.RestartPolicy)
		}
		return policy != "Never" && (policy != "OnFailure" || code != 0)
	}
	return false
}

// ruled says whether the first rule for an exit code restarts the container.
func ruled(rules []corev1.ContainerRestartRule, code int32) bool {
	for _, r := range rules {
		if r.ExitCodes == nil {
			continue
		}
		in := false
		for _, v := range r.ExitCodes.Values {
			in = in || v == code
		}
		if in == (r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
			return r.Action == corev1.ContainerRestartRuleActionRestart
		}
	}
	return false
}

func claimStatuses(list []corev1.PodResourceClaimStatus, claims []corev1.PodResourceClaim, at *field.Path) (errs field.ErrorList) {
	known, names := map[string]bool{}, &unique{}
	for _, k := range claims {
		known[k.Name] = true
	}
	for i, s := range list {
		p := at.Index(i)
		if !known[s.Name] {
			errs = append(errs, field.Invalid(p.Child("name"), s.Name, "must match the name of an entry in `spec.resourceClaims`"))
		}
		errs = append(errs, names.add(s.Name, p.Child("name"))...)
		if n := s.ResourceClaimName; n != nil {
			errs = append(errs, invalidAll(p.Child("resourceClaimName"), n, apivalidation.NameIsDNSSubdomain(*n, false))...)
		}
	}
	return errs
}

// extendedClaim checks the claim made for the extended resources of containers:
// each request stands for one resource that its container asks for.
func extendedClaim(s *corev1.PodExtendedResourceClaimStatus, spec *corev1.PodSpec, at *field.Path) (errs field.ErrorList) {
	if s == nil {
		return nil
	}
	mappings := at.Child("requestMappings")
	if len(s.RequestMappings) == 0 {
		errs = append(errs, field.Required(mappings, "at least one request mapping is required"))
	}
	containers := map[string]corev1.ResourceList{}
	for _, k := range slices.Concat(spec.InitContainers, spec.Containers) {
		containers[k.Name] = k.Resources.Requests
	}
	seen := map[corev1.ContainerExtendedResourceRequest]bool{}
	for i, m := range s.RequestMappings {
		p := mappings.Index(i)
		if requests, ok := containers[m.ContainerName]; !ok {
			errs = append(errs, field.Invalid(p.Child("containerName"), m.ContainerName, "must match the name of an entry in spec.initContainers.name or spec.containers.name"))
		} else if _, ok := requests[corev1.ResourceName(m.ResourceName)]; !ok {
			errs = append(errs, field.Invalid(p.Child("resourceName"), m.ResourceName, "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests"))
		}
		errs = append(errs, invalidAll(at.Child("requestName"), m.RequestName, validation.IsDNS1123Label(m.RequestName))...)
		if seen[m] {
			errs = append(errs, field.Duplicate(p.Child("containerName"), m.ContainerName), field.Duplicate(p.Child("resourceName"), m.ResourceName), field.Duplicate(p.Child("requestName"), m.RequestName))
		}
		seen[m] = true
	}
	return append(errs, requiredAnd(s.ResourceClaimName, at.Child("resourceClaimName"), func(n string) []string { return apivalidation.NameIsDNSSubdomain(n, false) })...)
}

// requestOf says whether a device's name, claim:CLAIM/REQUEST, is a request made
// for one of the container's extended resources.
func requestOf(name corev1.ResourceName, k *corev1.Container, s *corev1.PodExtendedResourceClaimStatus) bool {
	claim, request, ok := strings.Cut(strings.TrimPrefix(string(name), "claim:"), "/")
	if s == nil || !ok || request == "" || claim != s.ResourceClaimName {
		return false
	}
	return slices.ContainsFunc(s.RequestMappings, func(m corev1.ContainerExtendedResourceRequest) bool {
		q := k.Resources.Requests[corev1.ResourceName(m.ResourceName)]
		return m.ContainerName == k.Name && m.RequestName == request && !q.IsZero()
	})
}

func podIPs(now, was *corev1.PodStatus, at *field.Path) (errs field.ErrorList) {
	var old, list []string
	for _, a := range was.PodIPs {
		old = append(old, a.IP)
	}
	for i, a := range now.PodIPs {
		list = append(list, a.IP)
		errs = append(errs, ip(a.IP, at.Index(i), old...)...)
	}
	errs = append(errs, onePerFamily(list, now.PodIPs, at)...)
	switch {
	case (now.PodIP == "") != (len(list) == 0):
		errs = append(errs, field.Invalid(at, goFields{now.PodIPs}, "podIP and podIPs must either both be set or both be unset"))
	case len(list) > 0 && list[0] != now.PodIP:
		errs = append(errs, field.Invalid(at.Index(0).Child("ip"), list[0], "must be equal to `podIP`"))
	}
	return errs
}

func hostIPs(now, was *corev1.PodStatus, at *field.Path) (errs field.ErrorList) {
	var old, list []string
	if len(now.HostIPs) > 0 && now.HostIP != now.HostIPs[0].IP {
		errs = append(errs, field.Invalid(at.Index(0).Child("ip"), now.HostIPs[0].IP, "must be equal to `hostIP`"))
	}
	for _, a := range was.HostIPs {
		old = append(old, a.IP)
	}
	for i, a := range now.HostIPs {
		list = append(list, a.IP)
		errs = append(errs, ip(a.IP, at.Index(i), old...)...)
	}
	return append(errs, onePerFamily(list, now.HostIPs, at)...)
}

func onePerFamily(list []string, shown any, at *field.Path) field.ErrorList {
	if len(list) < 2 {
		return nil
	}
	four, six := 0, 0
	for _, s := range list {
		a, err := netip.ParseAddr(s)
		if err != nil {
			err := fmt.Errorf("failed to check for dual stack with error:%w", fmt.Errorf("invalid IP: %v", s))
			return field.ErrorList{field.InternalError(at, err), field.Invalid(at, goFields{shown}, "may specify no more than one IP for each IP family")}
		}
		if a.Unmap().Is4() {
			four++
		} else {
			six++
		}
	}
	if four != 1 || six != 1 {
		return field.ErrorList{field.Invalid(at, goFields{shown}, "may specify no more than one IP for each IP family")}
	}
	return nil
}

// statusUsers: the runtime tells who a process runs as, in the terms of the
// Pod's operating system.
func statusUsers(list []corev1.ContainerStatus, os *corev1.PodOS, at *field.Path) (errs field.ErrorList) {
	for i, s := range list {
		if s.User == nil || s.User.Linux == nil {
			continue
		}
		u, p := s.User.Linux, at.Index(i).Child("user", "linux")
		if os != nil && os.Name == corev1.Windows {
			errs = append(errs, field.Forbidden(p, "cannot be set for a windows pod"))
			continue
		}
		if u.UID < 0 || u.UID > math.MaxUint32 {
			errs = append(errs, field.Invalid(p.Child("uid"), u.UID, fmt.Sprintf("must be between 0 and %d, inclusive", int64(math.MaxUint32))))
		}
		errs = append(errs, groupID(&u.GID, p.Child("gid"))...)
		for j := range u.SupplementalGroups {
			errs = append(errs, groupID(&u.SupplementalGroups[j], p.Child("supplementalGroups").Index(j))...)
		}
	}
	return errs
}

// allocated checks the health of devices: they are the container's.
func allocated(list []corev1.ContainerStatus, containers []corev1.Container, extended *corev1.PodExtendedResourceClaimStatus, at *field.Path) (errs field.ErrorList) {
	for i, s := range list {
		for j, r := range s.AllocatedResourcesStatus {
			p := at.Index(i).Child("allocatedResourcesStatus").Index(j)
			for _, k := range containers {
				if k.Name == s.Name {
					errs = append(errs, ownsResource(r.Name, &k, extended, p.Child("name"))...)
					break
				}
			}
			ids := &unique{}
			for n, d := range r.Resources {
				device := p.Child("resources").Index(n)
				errs = append(errs, supported(d.Health, device.Child("health"), corev1.ResourceHealthStatusHealthy, corev1.ResourceHealthStatusUnhealthy, corev1.ResourceHealthStatusUnknown)...)
				if m := d.Message; m != nil && *m == "" {
					errs = append(errs, field.Required(device.Child("message"), "must be non-empty if specified"))
				} else if m != nil && len(*m) > corev1.ResourceHealthMessageMaxLength {
					errs = append(errs, field.TooLong(device.Child("message"), *m, corev1.ResourceHealthMessageMaxLength))
				}
				errs = append(errs, ids.add(string(d.ResourceID), device.Child("resourceID"))...)
			}
		}
	}
	return errs
}

func ownsResource(name corev1.ResourceName, k *corev1.Container, extended *corev1.PodExtendedResourceClaimStatus, at *field.Path) field.ErrorList {
	if strings.HasPrefix(string(name), "claim:") {
		for _, c := range k.Resources.Claims {
			full := "claim:" + c.Name
			if c.Request != "" {
				full += "/" + c.Request
			}
			if string(name) == full {
				return nil
			}
		}
		if requestOf(name, k, extended) {
			return nil
		}
		return field.ErrorList{field.Invalid(at, name, "must match one of the container's resource claims as 'claim:<claimName>/<requestName>' when container.resources.claims[*].request is set or 'claim:<claimName>' when it is empty")}
	}
	if _, ok := k.Resources.Requests[name]; !ok {
		return field.ErrorList{field.Invalid(at, name, "must match one of the container's resource requests")}
	}
	return nil
}
