// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/sandbox"
)

// spec gathers what the container's OCI specification is made from.
func (r *Runtime) spec(p *pod, c *container) (*specs.Spec, error) {
	mounts, err := sandbox.PrepareMounts(slices.Concat(c.config.GetMounts(), c.imageVolumes()))
	if err != nil {
		return nil, err
	}
	c.config.Mounts = mounts
	sec := c.config.GetLinux().GetSecurityContext()
	user, err := sandbox.ResolveUser(c.rootfs(), sec, c.Image.User)
	if err != nil {
		return nil, err
	}
	in := sandbox.Input{
		ID: c.ID, SandboxID: p.ID, Sandbox: p.config, Container: c.config, Image: c.Image, User: user, Rootfs: c.rootfs(),
		Namespaces: p.ns, Hostname: p.hostname(), Shm: p.shm(), CgroupsPath: c.Cgroup, Host: r.host,
		ExtraMounts: []*runtimeapi.Mount{
			{ContainerPath: "/etc/resolv.conf", HostPath: filepath.Join(p.dir, "resolv.conf"), Readonly: sec.GetReadonlyRootfs()},
			{ContainerPath: "/etc/hostname", HostPath: filepath.Join(p.dir, "hostname"), Readonly: sec.GetReadonlyRootfs()},
		},
	}
	if sec.GetPrivileged() {
		in.Devices, err = sandbox.AllDevices()
	} else {
		in.Devices, in.Permissions, err = sandbox.ContainerDevices(c.config.GetDevices())
	}
	if err != nil {
		return nil, err
	}
	if in.Seccomp, err = sandbox.LoadSeccomp(sec.GetSeccomp()); err != nil {
		return nil, err
	}
	if err := r.targetPID(sec, &in.Namespaces); err != nil {
		return nil, err
	}
	return sandbox.Spec(in)
}

// targetPID shares the PID namespace of another container, for debugging.
func (r *Runtime) targetPID(sec *runtimeapi.LinuxContainerSecurityContext, ns *sandbox.Namespaces) error {
	o := sec.GetNamespaceOptions()
	if o.GetPid() != runtimeapi.NamespaceMode_TARGET {
		return nil
	}
	target, err := r.findContainer(o.GetTargetId())
	if err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(target.dir, "pid"))
	if err != nil {
		return fmt.Errorf("cannot find process of container %s: %w", target.ID, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return fmt.Errorf("cannot find process of container %s: %w", target.ID, err)
	}
	ns.PID = fmt.Sprintf("/proc/%d/ns/pid", pid)
	return nil
}

// imageVolumes are folders for the volumes an image declares where nothing
// else is mounted.
func (c *container) imageVolumes() (out []*runtimeapi.Mount) {
	for path := range c.Image.Volumes {
		taken := slices.ContainsFunc(c.config.GetMounts(), func(m *runtimeapi.Mount) bool {
			return filepath.Clean(m.GetContainerPath()) == filepath.Clean(path)
		})
		if !taken {
			out = append(out, &runtimeapi.Mount{ContainerPath: path, HostPath: filepath.Join(c.dir, "volumes", strings.ReplaceAll(filepath.Clean(path), "/", "_"))})
		}
	}
	slices.SortFunc(out, func(a, b *runtimeapi.Mount) int { return strings.Compare(a.ContainerPath, b.ContainerPath) })
	return out
}

// oomKilled asks the cgroup whether the kernel killed for lack of memory.
func (r *Runtime) oomKilled(c *container) bool {
	file := "memory.oom_control"
	if r.host.Cgroups.V2() {
		file = "memory.events"
	}
	b, err := os.ReadFile(filepath.Join(r.host.Cgroups.Path("memory", c.Cgroup), file))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			return n != "0"
		}
	}
	return false
}

// removeCgroup removes an empty cgroup in every hierarchy.
func (r *Runtime) removeCgroup(path string) error {
	for _, root := range r.host.Cgroups.Roots() {
		if err := os.Remove(filepath.Join(root, path)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot remove cgroup %s: %w", path, err)
		}
	}
	return nil
}
