// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/node/util/sysctl"
)

// podSecurity checks the security context of the Pod.
func (c *context) podSecurity(at *field.Path) (errs field.ErrorList) {
	sc := c.spec.SecurityContext
	if sc == nil {
		return nil
	}
	errs = append(errs, groupID(sc.FSGroup, at.Child("fsGroup"))...)
	errs = append(errs, userID(sc.RunAsUser, at.Child("runAsUser"))...)
	errs = append(errs, groupID(sc.RunAsGroup, at.Child("runAsGroup"))...)
	for i := range sc.SupplementalGroups {
		errs = append(errs, groupID(&sc.SupplementalGroups[i], at.Child("supplementalGroups").Index(i))...)
	}
	errs = append(errs, c.sysctls(sc.Sysctls, at.Child("sysctls"))...)
	errs = append(errs, supportedIfSet(sc.FSGroupChangePolicy, at.Child("fsGroupChangePolicy"), corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)...)
	errs = append(errs, seccomp(sc.SeccompProfile, at.Child("seccompProfile"))...)
	errs = append(errs, windowsOptions(sc.WindowsOptions, at.Child("windowsOptions"))...)
	errs = append(errs, appArmor(sc.AppArmorProfile, at.Child("appArmorProfile"))...)
	errs = append(errs, supportedIfSet(sc.SupplementalGroupsPolicy, at.Child("supplementalGroupsPolicy"), corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)...)
	return append(errs, supportedIfSet(sc.SELinuxChangePolicy, at.Child("seLinuxChangePolicy"), corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive)...)
}

func userID(id *int64, at *field.Path) field.ErrorList {
	if id == nil {
		return nil
	}
	return invalidAll(at, *id, validation.IsValidUserID(*id))
}

func groupID(id *int64, at *field.Path) field.ErrorList {
	if id == nil {
		return nil
	}
	return invalidAll(at, *id, validation.IsValidGroupID(*id))
}

const (
	sysctlSegment   = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
	maxSysctlLength = 253
)

const sysctlName = "^(" + sysctlSegment + `[\./])*` + sysctlSegment + "$"

func (c *context) sysctls(list []corev1.Sysctl, at *field.Path) (errs field.ErrorList) {
	names := map[string]bool{}
	for i, s := range list {
		p := at.Index(i).Child("name")
		switch {
		case s.Name == "":
			errs = append(errs, field.Required(p, ""))
		case len(s.Name) > maxSysctlLength || !matches(sysctlName, s.Name):
			errs = append(errs, field.Invalid(p, s.Name, fmt.Sprintf("must have at most %d characters and match regex %s", maxSysctlLength, sysctlName)))
		case names[s.Name]:
			errs = append(errs, field.Duplicate(p, s.Name))
		}
		if c.old == nil || !hasHostSysctl(c.old) {
			errs = append(errs, hostSysctl(s.Name, c.spec, p)...)
		}
		names[s.Name] = true
	}
	return errs
}

// hostSysctl: a setting of a namespace needs a namespace of one's own.
func hostSysctl(name string, s *corev1.PodSpec, at *field.Path) field.ErrorList {
	ns, _, _ := sysctl.GetNamespace(name)
	switch {
	case s.HostNetwork && ns == sysctl.NetNamespace:
		return field.ErrorList{field.Invalid(at, name, "may not be specified when 'hostNetwork' is true")}
	case s.HostIPC && ns == sysctl.IPCNamespace:
		return field.ErrorList{field.Invalid(at, name, "may not be specified when 'hostIPC' is true")}
	}
	return nil
}

func hasHostSysctl(s *corev1.PodSpec) bool {
	if s.SecurityContext == nil {
		return false
	}
	for _, v := range s.SecurityContext.Sysctls {
		if len(hostSysctl(v.Name, s, nil)) > 0 {
			return true
		}
	}
	return false
}

func seccomp(p *corev1.SeccompProfile, at *field.Path) (errs field.ErrorList) {
	if p == nil {
		return nil
	}
	if p.Type == "" {
		errs = append(errs, field.Required(at.Child("type"), "type is required when seccompProfile is set"))
	} else {
		errs = append(errs, supported(p.Type, at.Child("type"), corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)...)
	}
	local := at.Child("localhostProfile")
	switch {
	case p.Type != corev1.SeccompProfileTypeLocalhost && p.LocalhostProfile != nil:
		errs = append(errs, field.Invalid(local, goFields{p}, "can only be set when seccomp type is Localhost"))
	case p.Type == corev1.SeccompProfileTypeLocalhost && p.LocalhostProfile == nil:
		errs = append(errs, field.Required(local, "must be set when seccomp type is Localhost"))
	case p.Type == corev1.SeccompProfileTypeLocalhost:
		errs = append(errs, localPath(*p.LocalhostProfile, local)...)
	}
	return errs
}

// maxAppArmorName is the longest path, without its end.
const maxAppArmorName = 4095

func appArmor(p *corev1.AppArmorProfile, at *field.Path) (errs field.ErrorList) {
	if p == nil {
		return nil
	}
	local := at.Child("localhostProfile")
	switch p.Type {
	case "":
		return field.ErrorList{field.Required(at.Child("type"), "type is required when appArmorProfile is set")}
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if p.LocalhostProfile != nil {
			errs = append(errs, field.Invalid(local, p.LocalhostProfile, "can only be set when AppArmor type is Localhost"))
		}
		return errs
	case corev1.AppArmorProfileTypeLocalhost:
	default:
		return supported(p.Type, at.Child("type"), corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	}
	const needed = "must be set when AppArmor type is Localhost"
	if p.LocalhostProfile == nil {
		return field.ErrorList{field.Required(local, needed)}
	}
	name := *p.LocalhostProfile
	if strings.TrimSpace(name) != name {
		errs = append(errs, field.Invalid(local, name, "must not be padded with whitespace"))
	} else if name == "" {
		errs = append(errs, field.Required(local, needed))
	}
	if len(name) > maxAppArmorName {
		errs = append(errs, field.TooLong(local, "" /* unused */, maxAppArmorName))
	}
	return errs
}

// security checks the security context of a container.
func (c *context) security(sc *corev1.SecurityContext, at *field.Path) (errs field.ErrorList) {
	if sc == nil {
		return nil
	}
	errs = append(errs, userID(sc.RunAsUser, at.Child("runAsUser"))...)
	errs = append(errs, groupID(sc.RunAsGroup, at.Child("runAsGroup"))...)
	if m := sc.ProcMount; m != nil {
		errs = append(errs, supported(*m, at.Child("procMount"), corev1.DefaultProcMount, corev1.UnmaskedProcMount)...)
		onHost := c.spec.HostUsers == nil || *c.spec.HostUsers
		if onHost && *m == corev1.UnmaskedProcMount {
			errs = append(errs, field.Invalid(at.Child("procMount"), m, "`hostUsers` must be false to use `Unmasked`"))
		}
	}
	errs = append(errs, seccomp(sc.SeccompProfile, at.Child("seccompProfile"))...)
	if e := sc.AllowPrivilegeEscalation; e != nil && !*e {
		if yes(sc.Privileged) {
			errs = append(errs, field.Invalid(at, goFields{sc}, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if c.old == nil || !escalatesQuietly(c.old) {
			for range adminsAdded(sc) {
				errs = append(errs, field.Invalid(at, goFields{sc}, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
			}
		}
	}
	errs = append(errs, windowsOptions(sc.WindowsOptions, at.Child("windowsOptions"))...)
	return append(errs, appArmor(sc.AppArmorProfile, at.Child("appArmorProfile"))...)
}

// adminsAdded counts how often CAP_SYS_ADMIN is added.
func adminsAdded(sc *corev1.SecurityContext) (n int) {
	if sc.Capabilities == nil {
		return 0
	}
	for _, k := range sc.Capabilities.Add {
		if k == "CAP_SYS_ADMIN" {
			n++
		}
	}
	return n
}

// escalatesQuietly: the Pod was accepted with the capability that defeats
// allowPrivilegeEscalation=false.
func escalatesQuietly(s *corev1.PodSpec) (found bool) {
	eachContainer(s, nil, func(k *corev1.Container, _ *field.Path) {
		sc := k.SecurityContext
		found = found || sc != nil && sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation && adminsAdded(sc) > 0
	})
	return found
}
