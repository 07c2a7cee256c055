// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/linux"
)

// Host is what Spec needs to know of the machine.
type Host struct {
	Cgroups linux.CgroupLayout
	// CanRaiseLimits: we have CAP_SYS_RESOURCE. OOMScoreAdj is our own, below
	// which no container can go otherwise.
	CanRaiseLimits bool
	OOMScoreAdj    int
	// Capabilities that we have, and can give at most.
	Capabilities []string
	// Seccomp, AppArmor and SELinux tell what the kernel has switched on.
	Seccomp, AppArmor, SELinux bool
	// SwapLimit: the memory controller counts swap.
	SwapLimit bool
}

// ReadHost looks at the machine. What it tells holds for the whole boot.
func ReadHost() (Host, error) {
	var h Host
	var errs [4]error
	h.Cgroups, errs[0] = linux.Cgroups()
	h.CanRaiseLimits, errs[1] = linux.CanRaiseLimits()
	h.OOMScoreAdj, errs[2] = linux.OOMScoreAdj()
	h.Capabilities, errs[3] = linux.Capabilities()
	if err := errors.Join(errs[:]...); err != nil {
		return Host{}, fmt.Errorf("cannot read facts of the machine: %w", err)
	}
	h.Seccomp = exists("/proc/sys/kernel/seccomp/actions_avail")
	b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	h.AppArmor = err == nil && strings.HasPrefix(string(b), "Y")
	h.SELinux = exists("/sys/fs/selinux/enforce")
	h.SwapLimit = swapLimit(h.Cgroups)
	return h, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// swapLimit looks for the file of the limit. In v2 the root has none, so it
// is looked for in the cgroups below. Where none of these has memory's files
// yet, the kernel counts swap if it can swap.
func swapLimit(l linux.CgroupLayout) bool {
	if !l.V2() {
		return exists(l.Path("memory", "memory.memsw.limit_in_bytes"))
	}
	below := func(name string) bool {
		found, err := filepath.Glob(filepath.Join(l.Unified, "*", name))
		return err == nil && len(found) > 0
	}
	return below("memory.swap.max") || !below("memory.max") && exists("/proc/swaps")
}

// PrepareMounts makes the mounts of a container ready for Spec and returns
// them with their sources resolved: a source that is missing is made as a
// folder, and one from which mounts shall propagate must be able to.
func PrepareMounts(mounts []*runtimeapi.Mount) ([]*runtimeapi.Mount, error) {
	out := make([]*runtimeapi.Mount, len(mounts))
	for i, m := range mounts {
		source := m.GetHostPath()
		if _, err := os.Stat(source); errors.Is(err, os.ErrNotExist) {
			if err := os.MkdirAll(source, 0o755); err != nil {
				return nil, fmt.Errorf("cannot make host path of mount %s: %w", m.GetContainerPath(), err)
			}
		} else if err != nil {
			return nil, fmt.Errorf("cannot find host path of mount %s: %w", m.GetContainerPath(), err)
		}
		resolved, err := filepath.EvalSymlinks(source)
		if err != nil {
			return nil, fmt.Errorf("cannot find host path of mount %s: %w", m.GetContainerPath(), err)
		}
		if err := checkPropagation(resolved, m.GetPropagation()); err != nil {
			return nil, err
		}
		out[i] = &runtimeapi.Mount{
			ContainerPath: m.GetContainerPath(), HostPath: resolved, Readonly: m.GetReadonly(),
			SelinuxRelabel: m.GetSelinuxRelabel(), Propagation: m.GetPropagation(),
			UidMappings: m.GetUidMappings(), GidMappings: m.GetGidMappings(),
			RecursiveReadOnly: m.GetRecursiveReadOnly(), Image: m.GetImage(), ImageSubPath: m.GetImageSubPath(),
			MountOptions: m.GetMountOptions(),
		}
	}
	return out, nil
}

func checkPropagation(path string, p runtimeapi.MountPropagation) error {
	if p == runtimeapi.MountPropagation_PROPAGATION_PRIVATE {
		return nil
	}
	shared, slave, err := linux.Propagation(path)
	switch {
	case err != nil:
		return err
	case p == runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL && !shared:
		return invalid("path %q is mounted on a mount that is not shared", path)
	case !shared && !slave:
		return invalid("path %q is mounted on a mount that is neither shared nor slave", path)
	}
	return nil
}

// StopSignal is what asks a container to end: the container's own, else that
// of its image, else SIGTERM. A name that is unknown is an error.
func StopSignal(c *runtimeapi.ContainerConfig, image string) (unix.Signal, error) {
	name := image
	if s := c.GetStopSignal(); s != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		name = strings.TrimPrefix(s.String(), "SIGNAL_")
	}
	return parseSignal(name)
}

// parseSignal knows "SIGTERM", "term", "15", and the real-time signals as
// "SIGRTMIN+3" and "SIGRTMAX-2" (the container's Signal type writes
// SIGRTMINPLUS3 and SIGRTMAXMINUS2).
func parseSignal(name string) (unix.Signal, error) {
	if name == "" {
		return unix.SIGTERM, nil
	}
	s := strings.TrimPrefix(strings.ToUpper(name), "SIG")
	var n int
	if _, err := fmt.Sscanf(s+"\n", "%d\n", &n); err == nil && n > 0 && n < 65 {
		return unix.Signal(n), nil
	}
	switch s {
	case "IOT":
		return unix.SIGABRT, nil
	case "CLD":
		return unix.SIGCHLD, nil
	case "POLL":
		return unix.SIGIO, nil
	}
	if sig := unix.SignalNum("SIG" + s); sig != 0 {
		return sig, nil
	}
	s = strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(s)
	// As in the C library, which keeps the first two for itself.
	const rtMin, rtMax = 34, 64
	switch {
	case s == "RTMIN":
		return rtMin, nil
	case s == "RTMAX":
		return rtMax, nil
	}
	if _, err := fmt.Sscanf(s+"\n", "RTMIN+%d\n", &n); err == nil && n >= 0 && rtMin+n <= rtMax {
		return unix.Signal(rtMin + n), nil
	}
	if _, err := fmt.Sscanf(s+"\n", "RTMAX-%d\n", &n); err == nil && n >= 0 && rtMax-n >= rtMin {
		return unix.Signal(rtMax - n), nil
	}
	return 0, invalid("unknown signal %q", name)
}
