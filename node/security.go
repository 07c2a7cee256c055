// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/api/pod"
)

// securityContext is what a container may do. Where neither container nor Pod
// says otherwise it gets the runtime's default seccomp profile.
func securityContext(p *corev1.Pod, c *corev1.Container, image *runtimeapi.Image) (*runtimeapi.LinuxContainerSecurityContext, error) {
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
		NamespaceOptions: namespaces(p), SupplementalGroups: ps.SupplementalGroups,
		Privileged: is(cs.Privileged), ReadonlyRootfs: is(cs.ReadOnlyRootFilesystem),
		NoNewPrivs: cs.AllowPrivilegeEscalation != nil && !*cs.AllowPrivilegeEscalation,
		Seccomp:    seccompProfile(first(cs.SeccompProfile, ps.SeccompProfile)),
	}
	if user != nil {
		out.RunAsUser = &runtimeapi.Int64Value{Value: *user}
	}
	if g := first(cs.RunAsGroup, ps.RunAsGroup); g != nil {
		out.RunAsGroup = &runtimeapi.Int64Value{Value: *g}
	}
	if ps.FSGroup != nil {
		out.SupplementalGroups = append(out.SupplementalGroups[:len(out.SupplementalGroups):len(out.SupplementalGroups)], *ps.FSGroup)
	}
	if ps.SupplementalGroupsPolicy != nil && *ps.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict {
		out.SupplementalGroupsPolicy = runtimeapi.SupplementalGroupsPolicy_Strict
	}
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

func seccompProfile(s *corev1.SeccompProfile) *runtimeapi.SecurityProfile {
	switch {
	case s == nil || s.Type == corev1.SeccompProfileTypeRuntimeDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	case s.Type == corev1.SeccompProfileTypeLocalhost && s.LocalhostProfile != nil:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: *s.LocalhostProfile}
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
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

// resourcesOf are a container's limits in the kernel's units.
func resourcesOf(p *corev1.Pod, c *corev1.Container, capacity int64) *runtimeapi.LinuxContainerResources {
	r := &runtimeapi.LinuxContainerResources{CpuPeriod: cpuPeriod, OomScoreAdj: oomScore(p, c, capacity)}
	request := c.Resources.Requests.Cpu()
	if request.IsZero() && !c.Resources.Limits.Cpu().IsZero() {
		request = c.Resources.Limits.Cpu()
	}
	r.CpuShares = shares(request.MilliValue())
	if l := c.Resources.Limits.Cpu(); !l.IsZero() {
		r.CpuQuota = quota(l.MilliValue())
	}
	if l := c.Resources.Limits.Memory(); !l.IsZero() {
		r.MemoryLimitInBytes = l.Value()
		r.MemorySwapLimitInBytes = l.Value() // no swap beyond memory
	}
	return r
}

// oomScore ranks containers for the kernel's out-of-memory killer: Guaranteed
// last, BestEffort first, in between by the share of memory asked for.
func oomScore(p *corev1.Pod, c *corev1.Container, capacity int64) int64 {
	switch pod.QOS(p) {
	case corev1.PodQOSGuaranteed:
		return -997
	case corev1.PodQOSBestEffort:
		return 1000
	}
	if capacity == 0 {
		return 999
	}
	score := 1000 - 1000*c.Resources.Requests.Memory().Value()/capacity
	return min(max(score, 3), 999)
}
