// SPDX-License-Identifier: Apache-2.0

package native

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/peapod/peapod/linux"
)

// Supports tells what of a specification this launcher cannot do, nil if it
// can do all of it. It is a pure function: who chooses a launcher asks it, and
// the launcher itself, before it makes anything.
func Supports(s *specs.Spec) error {
	if err := supports(s); err != nil {
		return fmt.Errorf("the native launcher cannot do this: %w", err)
	}
	return nil
}

func supports(s *specs.Spec) error {
	l := s.Linux
	switch {
	case l == nil || s.Process == nil || s.Root == nil || s.Root.Path == "":
		return errors.New("a specification without linux, process or root is not supported")
	case s.Solaris != nil || s.Windows != nil || s.VM != nil || s.ZOS != nil || s.FreeBSD != nil:
		return errors.New("it is for another platform")
	case s.Hooks != nil && len(s.Hooks.Prestart)+len(s.Hooks.CreateRuntime)+len(s.Hooks.CreateContainer)+
		len(s.Hooks.StartContainer)+len(s.Hooks.Poststart)+len(s.Hooks.Poststop) > 0: //nolint:staticcheck // prestart is deprecated, and must not be left out
		return errors.New("hooks are not supported")
	case len(l.UIDMappings)+len(l.GIDMappings) > 0:
		return errors.New("user namespaces are not supported")
	case l.IntelRdt != nil, l.MemoryPolicy != nil, l.Personality != nil, len(l.TimeOffsets) > 0, len(l.NetDevices) > 0, l.MountLabel != "", s.Domainname != "":
		return errors.New("RDT, memory policy, personality, time offsets, network devices, mount labels and domain names are not supported")
	case !filepath.IsAbs(l.CgroupsPath) || filepath.Clean(l.CgroupsPath) != l.CgroupsPath || l.CgroupsPath == "/":
		return fmt.Errorf("cgroups path %q is not supported", l.CgroupsPath)
	case !slices.Contains([]string{"", "private", "rprivate", "slave", "rslave", "shared", "rshared"}, l.RootfsPropagation):
		return fmt.Errorf("root propagation %q is not supported", l.RootfsPropagation)
	}
	for _, check := range []func() error{
		func() error { return SupportsProcess(s.Process) },
		func() error { return supportsNamespaces(s) },
		func() error { return supportsMounts(s) },
		func() error { return supportsResources(l.Resources) },
		func() error { return supportsSysctls(s) },
		func() error {
			if l.Seccomp == nil {
				return nil
			}
			return supportsSeccomp(l.Seccomp)
		},
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// SupportsProcess is Supports for a process alone, as of an exec.
func SupportsProcess(p *specs.Process) error {
	switch {
	case len(p.Args) == 0:
		return errors.New("args must not be empty")
	case !filepath.IsAbs(p.Cwd):
		return errors.New("Cwd must be an absolute path") //nolint:staticcheck // the field's name, as runc writes it
	case p.ApparmorProfile != "":
		return errors.New("AppArmor is not supported")
	case p.SelinuxLabel != "":
		return errors.New("SELinux is not supported")
	case p.Scheduler != nil, p.IOPriority != nil, p.ExecCPUAffinity != nil:
		return errors.New("scheduling attributes are not supported")
	}
	for _, r := range p.Rlimits {
		if _, ok := rlimits()[r.Type]; !ok {
			return fmt.Errorf("rlimit %q is not supported", r.Type)
		}
	}
	if c := p.Capabilities; c != nil {
		known := linux.CapabilityNames()
		for _, name := range slices.Concat(c.Bounding, c.Effective, c.Permitted, c.Inheritable, c.Ambient) {
			if !slices.Contains(known, name) {
				return fmt.Errorf("capability %q is not known", name)
			}
		}
	}
	return nil
}

func supportsNamespaces(s *specs.Spec) error {
	seen := map[specs.LinuxNamespaceType]string{}
	for _, n := range s.Linux.Namespaces {
		if _, twice := seen[n.Type]; twice {
			return fmt.Errorf("two %s namespaces", n.Type)
		}
		if _, known := namespaceFlags()[n.Type]; !known {
			return fmt.Errorf("a %s namespace is not supported", n.Type)
		}
		seen[n.Type] = n.Path
	}
	if path, own := seen[specs.MountNamespace]; !own || path != "" {
		return errors.New("a container needs a mount namespace of its own")
	}
	if path, own := seen[specs.CgroupNamespace]; own && path != "" {
		return errors.New("joining a cgroup namespace is not supported")
	}
	if path, own := seen[specs.UTSNamespace]; s.Hostname != "" && (!own || path != "") {
		return errors.New("a hostname needs a UTS namespace of its own")
	}
	return nil
}

func supportsMounts(s *specs.Spec) error {
	proc := 0
	for _, m := range s.Mounts {
		if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
			return fmt.Errorf("mount %s: ID mappings are not supported", m.Destination)
		}
		if !filepath.IsAbs(m.Destination) || filepath.Clean(m.Destination) == "/" {
			return fmt.Errorf("mount on %q is not supported", m.Destination)
		}
		o, err := parseOptions(m)
		if err != nil {
			return err
		}
		switch m.Type {
		case "bind":
			if !filepath.IsAbs(m.Source) {
				return fmt.Errorf("source %q of mount %s is not supported", m.Source, m.Destination)
			}
		case "proc", "cgroup":
			if proc++; proc > slots/2 {
				return errors.New("so many mounts of proc and cgroup are not supported")
			}
			if m.Type == "cgroup" && len(o.data) > 0 {
				return fmt.Errorf("options %v of mount %s are not supported", o.data, m.Destination)
			}
		case "sysfs", "tmpfs", "devpts", "mqueue":
		default:
			return fmt.Errorf("mount %s: filesystem %q is not supported", m.Destination, m.Type)
		}
		if err := checkProc(m); err != nil {
			return err
		}
	}
	for _, p := range slices.Concat(s.Linux.MaskedPaths, s.Linux.ReadonlyPaths) {
		if !filepath.IsAbs(p) {
			return fmt.Errorf("path %q to hide is not absolute", p)
		}
	}
	for _, d := range s.Linux.Devices {
		if !filepath.IsAbs(d.Path) || !slices.Contains([]string{"c", "b", "u", "p"}, d.Type) {
			return fmt.Errorf("device %q of type %q is not supported", d.Path, d.Type)
		}
	}
	return nil
}

// checkProc: nothing may be mounted into procfs, which others trust, but the
// files that runc lets through.
func checkProc(m specs.Mount) error {
	const proc = "/proc/"
	to := filepath.Clean(m.Destination)
	if !strings.HasPrefix(to, proc) {
		return nil
	}
	allowed := []string{"cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "net/dev",
		"sys/kernel/ns_last_pid", "sys/crypto/fips_enabled"}
	if slices.Contains(allowed, strings.TrimPrefix(to, proc)) {
		return nil
	}
	return fmt.Errorf("%q cannot be mounted because it is inside /proc", to)
}

func supportsResources(r *specs.LinuxResources) error {
	switch {
	case r == nil:
		return nil
	case r.BlockIO != nil, r.Network != nil, len(r.Rdma) > 0:
		return errors.New("limits of block devices, network and RDMA are not supported")
	case r.Memory != nil && (r.Memory.Kernel != nil || r.Memory.KernelTCP != nil || r.Memory.UseHierarchy != nil): //nolint:staticcheck // deprecated, and must not be left out
		return errors.New("limits of kernel memory are not supported")
	}
	for _, d := range r.Devices {
		if d.Type != "" && !slices.Contains([]string{"a", "b", "c"}, d.Type) || strings.Trim(d.Access, "rwm") != "" {
			return fmt.Errorf("device rule %q %q is not supported", d.Type, d.Access)
		}
	}
	return nil
}

// supportsSysctls: only what belongs to a namespace that the container does
// not share with the machine.
func supportsSysctls(s *specs.Spec) error {
	own := map[specs.LinuxNamespaceType]bool{}
	for _, n := range s.Linux.Namespaces {
		own[n.Type] = true
	}
	for name := range s.Linux.Sysctl {
		path := sysctlPath(name)
		ipc := strings.HasPrefix(path, "fs/mqueue/") || slices.Contains([]string{"kernel/msgmax", "kernel/msgmnb", "kernel/msgmni",
			"kernel/sem", "kernel/shmall", "kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced"}, path)
		switch {
		case strings.HasPrefix(path, "net/") && own[specs.NetworkNamespace]:
		case ipc && own[specs.IPCNamespace]:
		case path == "kernel/domainname" && own[specs.UTSNamespace]:
		default:
			return fmt.Errorf("sysctl %q is not in a separate kernel namespace", name)
		}
	}
	return nil
}

// sysctlPath is the file of a setting below /proc/sys (sysctl.d(5)).
func sysctlPath(name string) string {
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		name = strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	return strings.TrimPrefix(filepath.Clean("/"+name), "/")
}
