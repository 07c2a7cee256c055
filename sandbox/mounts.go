// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"cmp"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// systemMounts are what every container has.
func (in Input) systemMounts() []specs.Mount {
	access := "ro"
	if in.privileged() {
		access = "rw"
	}
	m := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", access}},
	}
	if in.Shm != "" {
		m = append(m, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: in.Shm, Options: []string{"rbind", "rprivate", "rw"}})
	}
	return m
}

// mounts: the system's, then the runtime's, then the container's. Of two at
// the same place the later wins; one at /dev stands for all below it.
func (in Input) mounts(s *specs.Spec) error {
	asked := map[string]bool{}
	for _, m := range in.Container.GetMounts() {
		asked[filepath.Clean(m.GetContainerPath())] = true
	}
	extra := map[string]bool{}
	for _, m := range in.ExtraMounts {
		extra[filepath.Clean(m.GetContainerPath())] = true
	}
	for _, m := range in.systemMounts() {
		covered := asked["/dev"] && strings.HasPrefix(m.Destination, "/dev/")
		if !asked[m.Destination] && !extra[m.Destination] && !covered {
			s.Mounts = append(s.Mounts, m)
		}
	}
	var list []*runtimeapi.Mount
	for _, m := range in.ExtraMounts {
		if !asked[filepath.Clean(m.GetContainerPath())] {
			list = append(list, m)
		}
	}
	list = append(list, in.Container.GetMounts()...)
	// A mount must come after those that it lies in.
	slices.SortStableFunc(list, func(a, b *runtimeapi.Mount) int { return cmp.Compare(depth(a), depth(b)) })
	for _, m := range list {
		mount, err := bindMount(m)
		if err != nil {
			return err
		}
		s.Mounts = append(s.Mounts, mount)
		propagate(s.Linux, m.GetPropagation())
	}
	return nil
}

func depth(m *runtimeapi.Mount) int {
	p := filepath.Clean(m.GetContainerPath())
	if p == "/" {
		return 0
	}
	return strings.Count(p, "/")
}

func bindMount(m *runtimeapi.Mount) (specs.Mount, error) {
	to := m.GetContainerPath()
	switch {
	case !filepath.IsAbs(to):
		return specs.Mount{}, invalid("mount path %q is not absolute", to)
	case !filepath.IsAbs(m.GetHostPath()):
		return specs.Mount{}, invalid("host path %q of mount %q is not absolute", m.GetHostPath(), to)
	case len(m.GetUidMappings())+len(m.GetGidMappings()) > 0:
		return specs.Mount{}, invalid("mount %q: ID mappings are not supported", to)
	}
	options := []string{"rbind"}
	switch m.GetPropagation() {
	case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		options = append(options, "rshared")
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		options = append(options, "rslave")
	default:
		options = append(options, "rprivate")
	}
	switch {
	case m.GetRecursiveReadOnly() && !m.GetReadonly():
		return specs.Mount{}, invalid("mount %q: recursive read-only needs read-only", to)
	case m.GetRecursiveReadOnly() && m.GetPropagation() != runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
		return specs.Mount{}, invalid("mount %q: recursive read-only needs private propagation", to)
	case m.GetRecursiveReadOnly():
		options = append(options, "rro")
	case m.GetReadonly():
		options = append(options, "ro")
	default:
		options = append(options, "rw")
	}
	return specs.Mount{Destination: to, Type: "bind", Source: m.GetHostPath(), Options: options}, nil
}

// propagate widens the propagation of the root to what a mount needs.
func propagate(l *specs.Linux, p runtimeapi.MountPropagation) {
	switch {
	case p == runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		l.RootfsPropagation = "rshared"
	case p == runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER && l.RootfsPropagation == "":
		l.RootfsPropagation = "rslave"
	}
}
