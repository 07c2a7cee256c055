// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// securityContext is what a container may do. Where neither container nor Pod
// says otherwise it gets the runtime's default seccomp profile.
func (a *Agent) securityContext(p *corev1.Pod, c *corev1.Container, image *runtimeapi.Image) (*runtimeapi.LinuxContainerSecurityContext, error) {
	ps, cs := p.Spec.SecurityContext, c.SecurityContext
	if ps == nil {
		ps = &corev1.PodSecurityContext{}
	}
	if cs == nil {
		cs = &corev1.SecurityContext{}
	}
	user := first(cs.RunAsUser, ps.RunAsUser)
	if err := verifyNonRoot(p, c, first(cs.RunAsNonRoot, ps.RunAsNonRoot), user, image); err != nil {
		return nil, err
	}
	out := &runtimeapi.LinuxContainerSecurityContext{
		NamespaceOptions: namespaces(p), RunAsUser: number(user), RunAsGroup: number(first(cs.RunAsGroup, ps.RunAsGroup)),
		SupplementalGroups: supplementalGroups(ps), SupplementalGroupsPolicy: groupsPolicy(ps),
		Privileged: is(cs.Privileged), ReadonlyRootfs: is(cs.ReadOnlyRootFilesystem),
		NoNewPrivs:     cs.AllowPrivilegeEscalation != nil && !*cs.AllowPrivilegeEscalation,
		SelinuxOptions: selinux(first(cs.SELinuxOptions, ps.SELinuxOptions)),
	}
	var err error
	if out.Seccomp, err = a.seccompProfile(first(cs.SeccompProfile, ps.SeccompProfile)); err != nil {
		return nil, err
	}
	out.Apparmor = appArmor(first(cs.AppArmorProfile, ps.AppArmorProfile))
	if cs.Capabilities != nil {
		out.Capabilities = &runtimeapi.Capability{}
		for _, x := range cs.Capabilities.Add {
			out.Capabilities.AddCapabilities = append(out.Capabilities.AddCapabilities, string(x))
		}
		for _, x := range cs.Capabilities.Drop {
			out.Capabilities.DropCapabilities = append(out.Capabilities.DropCapabilities, string(x))
		}
	}
	if cs.ProcMount == nil || *cs.ProcMount == corev1.DefaultProcMount {
		out.MaskedPaths, out.ReadonlyPaths = maskedPaths(), readonlyPaths()
	}
	return out, nil
}

// maskedPaths and readonlyPaths keep what /proc tells of the machine out of
// sight, as container runtimes agree (KEP-4265).
func maskedPaths() []string {
	return []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

func first[T any](list ...*T) *T {
	for _, p := range list {
		if p != nil {
			return p
		}
	}
	return nil
}

func is(b *bool) bool { return b != nil && *b }

// seccompProfile is a profile in CRI's words; local ones are files below
// Config.Seccomp.
func (a *Agent) seccompProfile(s *corev1.SeccompProfile) (*runtimeapi.SecurityProfile, error) {
	switch {
	case s == nil || s.Type == corev1.SeccompProfileTypeRuntimeDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, nil
	case s.Type != corev1.SeccompProfileTypeLocalhost:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, nil
	case s.LocalhostProfile == nil || *s.LocalhostProfile == "":
		return nil, errors.New("localhostProfile must be set if seccompProfile type is Localhost.")
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: filepath.Join(a.cfg.Seccomp, *s.LocalhostProfile)}, nil
}

// appArmor is a profile in CRI's words; the runtime's default is what it gives
// to who names none.
func appArmor(s *corev1.AppArmorProfile) *runtimeapi.SecurityProfile {
	switch {
	case s == nil || s.Type == corev1.AppArmorProfileTypeRuntimeDefault:
		return nil
	case s.Type == corev1.AppArmorProfileTypeLocalhost && s.LocalhostProfile != nil:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: *s.LocalhostProfile}
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
}

func selinux(s *corev1.SELinuxOptions) *runtimeapi.SELinuxOption {
	if s == nil {
		return nil
	}
	return &runtimeapi.SELinuxOption{User: s.User, Role: s.Role, Type: s.Type, Level: s.Level}
}

// supplementalGroups are the Pod's: the owner of its volumes first.
func supplementalGroups(ps *corev1.PodSecurityContext) (out []int64) {
	if ps.FSGroup != nil {
		out = append(out, *ps.FSGroup)
	}
	return append(out, ps.SupplementalGroups...)
}

func groupsPolicy(ps *corev1.PodSecurityContext) runtimeapi.SupplementalGroupsPolicy {
	if p := ps.SupplementalGroupsPolicy; p != nil && *p == corev1.SupplementalGroupsPolicyStrict {
		return runtimeapi.SupplementalGroupsPolicy_Strict
	}
	return runtimeapi.SupplementalGroupsPolicy_Merge
}

// sandboxSecurity is for runtimes that have a process of the sandbox's own.
func sandboxSecurity(p *corev1.Pod) *runtimeapi.LinuxSandboxSecurityContext {
	ps := p.Spec.SecurityContext
	if ps == nil {
		ps = &corev1.PodSecurityContext{}
	}
	return &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: namespaces(p), Privileged: anyPrivileged(p), RunAsUser: number(ps.RunAsUser), RunAsGroup: number(ps.RunAsGroup),
		SupplementalGroups: supplementalGroups(ps), SupplementalGroupsPolicy: groupsPolicy(ps), SelinuxOptions: selinux(ps.SELinuxOptions),
		Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
	}
}

func number(n *int64) *runtimeapi.Int64Value {
	if n == nil {
		return nil
	}
	return &runtimeapi.Int64Value{Value: *n}
}

// verifyNonRoot refuses what would run as root although it must not.
func verifyNonRoot(p *corev1.Pod, c *corev1.Container, nonRoot *bool, user *int64, image *runtimeapi.Image) error {
	if !is(nonRoot) {
		return nil
	}
	switch {
	case user != nil && *user != 0:
		return nil
	case user != nil:
		return fmt.Errorf("container's runAsUser breaks non-root policy (pod: %q, container: %s)", p.Name+"_"+p.Namespace+"("+string(p.UID)+")", c.Name)
	case image.GetUid() != nil && image.GetUid().GetValue() != 0:
		return nil
	case image.GetUid() != nil || image.GetUsername() == "":
		return fmt.Errorf("container has runAsNonRoot and image will run as root (pod: %q, container: %s)", p.Name+"_"+p.Namespace+"("+string(p.UID)+")", c.Name)
	}
	return errors.Join(fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root (pod: %q, container: %s)", image.GetUsername(), p.Name+"_"+p.Namespace+"("+string(p.UID)+")", c.Name))
}
