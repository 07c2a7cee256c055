// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"

	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Input is all that a container's OCI specification is made from.
type Input struct {
	ID        string
	SandboxID string
	Sandbox   *runtimeapi.PodSandboxConfig
	Container *runtimeapi.ContainerConfig
	Image     ispecs.ImageConfig
	// User is whom it runs as (ResolveUser).
	User User
	// Rootfs is the folder where the container's root is mounted.
	Rootfs string
	// Namespaces as pinned. PID is needed only when it is shared: that of the
	// holder, or of the target container.
	Namespaces Namespaces
	// Hostname becomes the variable HOSTNAME.
	Hostname string
	// Shm is the folder on the machine that becomes /dev/shm.
	Shm string
	// ExtraMounts are the runtime's own, such as /etc/hosts; one of the
	// container at the same place wins over them.
	ExtraMounts []*runtimeapi.Mount
	// CgroupsPath is the container's cgroup, "/parent/id".
	CgroupsPath string
	// Devices are those that the CRI asks for, as they are on this machine
	// (ContainerDevices); for a privileged container all (AllDevices).
	Devices []specs.LinuxDevice
	// Permissions of each of Devices in the device cgroup, "rwm".
	Permissions []string
	// Seccomp is the profile for type Localhost (LoadSeccomp).
	Seccomp *specs.LinuxSeccomp
	Host    Host
}

// ErrInvalid marks what the user asked for and cannot have.
var ErrInvalid = errors.New("invalid container")

// Spec translates a CRI container into an OCI runtime specification. It is
// pure but for the kernel's version, on which the default seccomp profile
// depends: the same input gives the same output, and nothing is looked up.
// The mounts must have been prepared (PrepareMounts).
func Spec(in Input) (*specs.Spec, error) {
	if in.Sandbox.GetMetadata() == nil || in.Container.GetMetadata() == nil {
		return nil, fmt.Errorf("cannot make OCI spec of %s: %w: it has no metadata", in.ID, ErrInvalid)
	}
	s := &specs.Spec{
		Version: ociVersion,
		Root:    &specs.Root{Path: in.Rootfs, Readonly: in.security().GetReadonlyRootfs()},
		Linux:   &specs.Linux{CgroupsPath: in.CgroupsPath},
		Annotations: map[string]string{
			"io.kubernetes.cri.container-type":    "container",
			"io.kubernetes.cri.container-name":    in.Container.GetMetadata().GetName(),
			"io.kubernetes.cri.image-name":        in.Container.GetImage().GetImage(),
			"io.kubernetes.cri.sandbox-id":        in.SandboxID,
			"io.kubernetes.cri.sandbox-name":      in.Sandbox.GetMetadata().GetName(),
			"io.kubernetes.cri.sandbox-namespace": in.Sandbox.GetMetadata().GetNamespace(),
			"io.kubernetes.cri.sandbox-uid":       in.Sandbox.GetMetadata().GetUid(),
		},
	}
	for _, part := range []func(*specs.Spec) error{
		in.process, in.namespaces, in.mounts, in.resources, in.devices, in.secure,
	} {
		if err := part(s); err != nil {
			return nil, fmt.Errorf("cannot make OCI spec of %s: %w", in.ID, err)
		}
	}
	return s, nil
}

func (in Input) security() *runtimeapi.LinuxContainerSecurityContext {
	return in.Container.GetLinux().GetSecurityContext()
}

func (in Input) privileged() bool { return in.security().GetPrivileged() }

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrInvalid, fmt.Errorf(format, args...))
}

// namespaces: those of the Pod by their pins, own ones for mounts, for the
// PID unless shared, and for cgroups where v2 is all there is.
func (in Input) namespaces(s *specs.Spec) error {
	modes := in.security().GetNamespaceOptions()
	if u := modes.GetUsernsOptions(); u != nil && u.GetMode() == runtimeapi.NamespaceMode_POD {
		return invalid("user namespaces are not supported")
	}
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	pod := in.Sandbox.GetLinux().GetSecurityContext().GetNamespaceOptions()
	for _, n := range []struct {
		kind      specs.LinuxNamespaceType
		mode, pod runtimeapi.NamespaceMode
		path      string
	}{
		{specs.PIDNamespace, modes.GetPid(), pod.GetPid(), in.Namespaces.PID},
		{specs.NetworkNamespace, modes.GetNetwork(), pod.GetNetwork(), in.Namespaces.Net},
		{specs.IPCNamespace, modes.GetIpc(), pod.GetIpc(), in.Namespaces.IPC},
		// CRI has no mode for UTS: it follows the network.
		{specs.UTSNamespace, modes.GetNetwork(), pod.GetNetwork(), in.Namespaces.UTS},
	} {
		if n.mode == runtimeapi.NamespaceMode_POD && n.pod == runtimeapi.NamespaceMode_NODE {
			continue // the Pod's is the machine's
		}
		switch n.mode {
		case runtimeapi.NamespaceMode_NODE:
		case runtimeapi.NamespaceMode_CONTAINER:
			if n.kind != specs.PIDNamespace {
				return invalid("a %s namespace for one container is not supported", n.kind)
			}
			list = append(list, specs.LinuxNamespace{Type: n.kind})
		default:
			if n.path == "" {
				return fmt.Errorf("the sandbox has no %s namespace", n.kind)
			}
			list = append(list, specs.LinuxNamespace{Type: n.kind, Path: n.path})
		}
	}
	if in.Host.Cgroups.Pure2() && !in.privileged() {
		list = append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	s.Linux.Namespaces = list
	return nil
}
