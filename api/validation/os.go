// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// osRules refuses what the Pod's operating system does not have.
func (c *context) osRules(at *field.Path) field.ErrorList {
	os := c.spec.OS
	switch {
	case os == nil:
		return nil
	case os.Name == "":
		return field.ErrorList{field.Required(at.Child("os", "name"), "")}
	case os.Name == corev1.Linux:
		return linuxRules(c.spec, at)
	case os.Name == corev1.Windows:
		return windowsRules(c.spec, at)
	}
	return field.ErrorList{field.NotSupported(at.Child("os"), os.Name, []corev1.OSName{corev1.Linux, corev1.Windows})}
}

func linuxRules(s *corev1.PodSpec, at *field.Path) (errs field.ErrorList) {
	const text = "windows options cannot be set for a linux pod"
	if s.SecurityContext != nil && s.SecurityContext.WindowsOptions != nil {
		errs = append(errs, field.Forbidden(at.Child("securityContext", "windowsOptions"), text))
	}
	eachContainer(s, at, func(k *corev1.Container, at *field.Path) {
		if k.SecurityContext != nil && k.SecurityContext.WindowsOptions != nil {
			errs = append(errs, field.Forbidden(at.Child("securityContext", "windowsOptions"), text))
		}
	})
	return errs
}

// unset is a field that must not be there.
type unset struct {
	name string
	set  bool
}

func forbidden(list []unset, text string, at *field.Path) (errs field.ErrorList) {
	for _, f := range list {
		if f.set {
			errs = append(errs, field.Forbidden(at.Child(f.name), text))
		}
	}
	return errs
}

func windowsRules(s *corev1.PodSpec, at *field.Path) (errs field.ErrorList) {
	const text = "cannot be set for a windows pod"
	if sc := s.SecurityContext; sc != nil {
		errs = append(errs, forbidden([]unset{
			{"appArmorProfile", sc.AppArmorProfile != nil}, {"seLinuxOptions", sc.SELinuxOptions != nil}, {"seccompProfile", sc.SeccompProfile != nil},
			{"fsGroup", sc.FSGroup != nil}, {"fsGroupChangePolicy", sc.FSGroupChangePolicy != nil}, {"sysctls", len(sc.Sysctls) > 0},
			{"runAsUser", sc.RunAsUser != nil}, {"runAsGroup", sc.RunAsGroup != nil}, {"supplementalGroups", sc.SupplementalGroups != nil},
			{"supplementalGroupsPolicy", sc.SupplementalGroupsPolicy != nil}, {"seLinuxChangePolicy", sc.SELinuxChangePolicy != nil},
		}, text, at.Child("securityContext"))...)
	}
	errs = append(errs, forbidden([]unset{
		{"hostUsers", s.HostUsers != nil}, {"hostPID", s.HostPID}, {"hostIPC", s.HostIPC}, {"shareProcessNamespace", s.ShareProcessNamespace != nil},
	}, text, at)...)
	eachContainer(s, at, func(k *corev1.Container, at *field.Path) {
		sc := k.SecurityContext
		if sc == nil {
			return
		}
		errs = append(errs, forbidden([]unset{
			{"appArmorProfile", sc.AppArmorProfile != nil}, {"seLinuxOptions", sc.SELinuxOptions != nil}, {"seccompProfile", sc.SeccompProfile != nil},
			{"capabilities", sc.Capabilities != nil}, {"readOnlyRootFilesystem", sc.ReadOnlyRootFilesystem != nil}, {"privileged", sc.Privileged != nil},
			{"allowPrivilegeEscalation", sc.AllowPrivilegeEscalation != nil}, {"procMount", sc.ProcMount != nil}, {"runAsUser", sc.RunAsUser != nil},
			{"runAsGroup", sc.RunAsGroup != nil},
		}, text, at.Child("securityContext"))...)
	})
	return errs
}

// hostProcess: processes of a Windows host are all or nothing in a Pod.
func hostProcess(s *corev1.PodSpec, at *field.Path) (errs field.ErrorList) {
	own := func(o *corev1.WindowsSecurityContextOptions) *bool {
		if o == nil {
			return nil
		}
		return o.HostProcess
	}
	var whole *bool
	if s.SecurityContext != nil {
		whole = own(s.SecurityContext.WindowsOptions)
	}
	all, host := 0, 0
	eachContainer(s, at, func(k *corev1.Container, at *field.Path) {
		all++
		var mine *bool
		if k.SecurityContext != nil {
			mine = own(k.SecurityContext.WindowsOptions)
		}
		if whole != nil && mine != nil && *whole != *mine {
			errs = append(errs, field.Invalid(at.Child("securityContext", "windowsOptions", "hostProcess"), *mine, fmt.Sprintf("pod hostProcess value must be identical if both are specified, was %v", *whole)))
		}
		if yes(mine) || mine == nil && yes(whole) {
			host++
		}
	})
	if host == 0 {
		return errs
	}
	if host != all {
		errs = append(errs, field.Invalid(at, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers"))
	}
	if !s.HostNetwork {
		errs = append(errs, field.Invalid(at.Child("hostNetwork"), s.HostNetwork, "hostNetwork must be true if pod contains any hostProcess containers"))
	}
	return errs
}

// How long names of Windows may be.
const (
	maxCredentialSpec = 64 << 10
	maxUserDomain     = 256
	maxUserName       = 104
)

const windowsLabel = `[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?`

const (
	controlCharacters = `[[:cntrl:]]+`
	netBiosDomain     = `^[^\\/:\*\?"<>|\.][^\\/:\*\?"<>|]{0,14}$`
	dnsDomain         = `^` + windowsLabel + `(?:\.` + windowsLabel + `)*$`
	badUserCharacters = `["/\\:;|=,\+\*\?<>@\[\]]`
	dotsAndSpaces     = `^[\. ]+$`
)

func windowsOptions(o *corev1.WindowsSecurityContextOptions, at *field.Path) (errs field.ErrorList) {
	if o == nil {
		return nil
	}
	if n := o.GMSACredentialSpecName; n != nil {
		errs = append(errs, invalidAll(at.Child("gmsaCredentialSpecName"), n, validation.IsDNS1123Subdomain(*n))...)
	}
	if c := o.GMSACredentialSpec; c != nil {
		if *c == "" {
			errs = append(errs, field.Invalid(at.Child("gmsaCredentialSpec"), c, "gmsaCredentialSpec cannot be an empty string"))
		} else if len(*c) > maxCredentialSpec {
			errs = append(errs, field.Invalid(at.Child("gmsaCredentialSpec"), c, "gmsaCredentialSpec size must be under 64 KiB"))
		}
	}
	if u := o.RunAsUserName; u != nil {
		for _, text := range userNameProblems(*u) {
			errs = append(errs, field.Invalid(at.Child("runAsUserName"), u, text))
		}
	}
	return errs
}

// userNameProblems checks DOMAIN\USER, where the domain may be missing.
func userNameProblems(name string) (out []string) {
	domain, user, hasDomain := strings.Cut(name, `\`)
	switch {
	case name == "":
		return []string{"runAsUserName cannot be an empty string"}
	case matches(controlCharacters, name):
		return []string{"runAsUserName cannot contain control characters"}
	case strings.Contains(user, `\`):
		return []string{"runAsUserName cannot contain more than one backslash"}
	}
	if !hasDomain {
		domain, user = "", name
	}
	if len(domain) >= maxUserDomain {
		out = append(out, fmt.Sprintf("runAsUserName's Domain length must be under %d characters", maxUserDomain))
	}
	if hasDomain && !matches(netBiosDomain, domain) && !matches(dnsDomain, domain) {
		out = append(out, "runAsUserName's Domain doesn't match the NetBios nor the DNS format")
	}
	if user == "" {
		out = append(out, "runAsUserName's User cannot be empty")
	} else if len(user) > maxUserName {
		out = append(out, fmt.Sprintf("runAsUserName's User length must not be longer than %d characters", maxUserName))
	}
	if matches(dotsAndSpaces, user) {
		out = append(out, "runAsUserName's User cannot contain only periods or spaces")
	}
	if matches(badUserCharacters, user) {
		out = append(out, `runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]`)
	}
	return out
}
