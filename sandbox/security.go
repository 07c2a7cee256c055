// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/linux"
)

// defaultCapabilities are what containers have if nothing is said, the same
// in all CRI runtimes of old.
func defaultCapabilities() []string {
	return []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}
}

// secure comes last: the seccomp profile depends on the capabilities.
func (in Input) secure(s *specs.Spec) error {
	sec := in.security()
	if in.privileged() && !in.Sandbox.GetLinux().GetSecurityContext().GetPrivileged() {
		return invalid("no privileged container is allowed in a sandbox that is not privileged")
	}
	caps, err := in.capabilities(sec.GetCapabilities())
	if err != nil {
		return err
	}
	s.Process.Capabilities = caps
	if in.Host.SELinux && sec.GetSelinuxOptions() != nil {
		return invalid("SELinux options are not supported")
	}
	if in.privileged() {
		return nil
	}
	// What is hidden is the caller's word alone: empty lists mean procMount
	// Unmasked (KEP-4265).
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = sec.GetMaskedPaths(), sec.GetReadonlyPaths()
	if s.Process.ApparmorProfile, err = in.apparmor(sec.GetApparmor()); err != nil {
		return err
	}
	s.Linux.Seccomp, err = in.seccomp(s, sec.GetSeccomp())
	return err
}

func (in Input) capabilities(c *runtimeapi.Capability) (*specs.LinuxCapabilities, error) {
	var set []string
	switch {
	case in.privileged(), hasAll(c.GetAddCapabilities()):
		set = slices.Clone(in.Host.Capabilities)
	default:
		set = slices.DeleteFunc(defaultCapabilities(), func(n string) bool { return !slices.Contains(in.Host.Capabilities, n) })
	}
	if hasAll(c.GetDropCapabilities()) {
		set = nil
	}
	add, err := in.named(c.GetAddCapabilities())
	if err != nil {
		return nil, err
	}
	ambient, err := in.named(c.GetAddAmbientCapabilities())
	if err != nil {
		return nil, err
	}
	for _, n := range slices.Concat(add, ambient) {
		if !slices.Contains(set, n) {
			set = append(set, n)
		}
	}
	for _, n := range c.GetDropCapabilities() {
		name := capName(n)
		set = slices.DeleteFunc(set, func(h string) bool { return h == name })
		ambient = slices.DeleteFunc(ambient, func(h string) bool { return h == name })
	}
	// Inheritable stays empty: it would survive the step to another user.
	return &specs.LinuxCapabilities{Bounding: set, Effective: set, Permitted: set, Inheritable: ambient, Ambient: ambient}, nil
}

func hasAll(names []string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, "ALL") })
}

// capName gives a name the form of the kernel's headers.
func capName(n string) string { return "CAP_" + strings.TrimPrefix(strings.ToUpper(n), "CAP_") }

// named checks that capabilities exist and are ours to give.
func (in Input) named(names []string) ([]string, error) {
	var out []string
	for _, n := range names {
		name := capName(n)
		switch {
		case name == "CAP_ALL":
			continue
		case !slices.Contains(linux.CapabilityNames(), name):
			return nil, invalid("unknown capability %q", n)
		case !slices.Contains(in.Host.Capabilities, name):
			return nil, invalid("capability %q cannot be added: this node does not have it itself", n)
		}
		out = append(out, name)
	}
	return out, nil
}

func (in Input) seccomp(s *specs.Spec, p *runtimeapi.SecurityProfile) (*specs.LinuxSeccomp, error) {
	if p == nil || p.GetProfileType() == runtimeapi.SecurityProfile_Unconfined {
		return nil, nil
	}
	if !in.Host.Seccomp {
		return nil, invalid("seccomp is not supported by this kernel")
	}
	if p.GetProfileType() == runtimeapi.SecurityProfile_RuntimeDefault {
		return seccomp.DefaultProfile(s), nil
	}
	if in.Seccomp == nil {
		return nil, invalid("seccomp profile %q was not loaded", p.GetLocalhostRef())
	}
	return in.Seccomp, nil
}

func (in Input) apparmor(p *runtimeapi.SecurityProfile) (string, error) {
	switch {
	case p == nil || p.GetProfileType() == runtimeapi.SecurityProfile_Unconfined:
		return "", nil
	case !in.Host.AppArmor:
		return "", invalid("AppArmor is not supported by this kernel")
	case p.GetProfileType() == runtimeapi.SecurityProfile_RuntimeDefault:
		return "", invalid("there is no default AppArmor profile")
	}
	return strings.TrimPrefix(p.GetLocalhostRef(), "localhost/"), nil
}

// LoadSeccomp reads the profile that p refers to, nil unless its type is
// Localhost.
func LoadSeccomp(p *runtimeapi.SecurityProfile) (*specs.LinuxSeccomp, error) {
	if p == nil || p.GetProfileType() != runtimeapi.SecurityProfile_Localhost {
		return nil, nil
	}
	file := strings.TrimPrefix(p.GetLocalhostRef(), "localhost/")
	b, err := os.ReadFile(file)
	var out specs.LinuxSeccomp
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err == nil && out.DefaultAction == "" {
		err = fmt.Errorf("%s has no defaultAction", file)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot load seccomp profile: %w", err)
	}
	return &out, nil
}
