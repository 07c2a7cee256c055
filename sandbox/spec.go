// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"

	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/linux"
)

// Host is what Spec needs to know of the machine.
type Host struct {
	Cgroups linux.CgroupLayout
	// HugePages are the sizes that can be limited, as "2MB".
	HugePages []string
	// CanRaiseLimits and OOMScoreAdj: without CAP_SYS_RESOURCE nothing can go
	// below our own oom_score_adj.
	CanRaiseLimits bool
	OOMScoreAdj    int
	// Capabilities that we can give at most.
	Capabilities []string
	Seccomp      bool
	AppArmor     bool
	SELinux      bool
	// SwapLimit: the kernel counts swap.
	SwapLimit bool
	// Devices of the machine, for privileged containers.
	Devices []specs.LinuxDevice
}

// User is whom a container runs as, found in its root filesystem.
type User struct {
	UID, GID   uint32
	Additional []uint32
	// Home is the home folder by /etc/passwd, "/" if it says none.
	Home string
}

// Input is all that a container's OCI specification is made from.
type Input struct {
	ID        string
	Sandbox   *runtimeapi.PodSandboxConfig
	Container *runtimeapi.ContainerConfig
	Image     ispecs.ImageConfig
	User      User
	// Rootfs is the folder where the container's root is mounted.
	Rootfs string
	// Namespaces as pinned; PID is of the holder (or of the target
	// container) when it is shared.
	Namespaces Namespaces
	Hostname   string
	// Shm is the folder on the host that becomes /dev/shm.
	Shm string
	// CgroupsPath is the container's cgroup.
	CgroupsPath string
	// Devices are what the CRI devices are on this machine (HostDevices).
	Devices []specs.LinuxDevice
	// Seccomp is the profile for type Localhost, read by LoadSeccomp.
	Seccomp *specs.LinuxSeccomp
	Host    Host
}

// Spec translates. It is pure: the same input gives the same output. Its
// errors are of what the user asked for.
func Spec(in Input) (*specs.Spec, error) { return nil, errors.New("not built yet") }
