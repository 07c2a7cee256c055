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

	continuity "github.com/containerd/continuity/fs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/sandbox"
)

// spec gathers what the container's OCI specification is made from.
func (r *Runtime) spec(p *pod, c *container) (*specs.Spec, error) {
	volumes, err := c.imageVolumes()
	if err != nil {
		return nil, err
	}
	mounts, err := sandbox.PrepareMounts(slices.Concat(c.config.GetMounts(), volumes))
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
			{ContainerPath: "/etc/hosts", HostPath: filepath.Join(p.dir, "hosts"), Readonly: sec.GetReadonlyRootfs()},
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
	if err := r.targetPID(c, &in.Namespaces); err != nil {
		return nil, err
	}
	if asked := c.config.GetLinux().GetResources().GetOomScoreAdj(); !r.host.CanRaiseLimits && int(asked) < r.host.OOMScoreAdj {
		r.clamped.Do(func() {
			r.cfg.Log.Warn("without CAP_SYS_RESOURCE no container can have an oom_score_adj below ours: all that ask for less get ours", "op", "oom", "container", c.ID, "asked", asked, "given", r.host.OOMScoreAdj)
		})
	}
	return sandbox.Spec(in)
}

// targetPID shares the PID namespace of another container, for debugging. It
// is pinned, so that a pid that was given to another process meanwhile leads
// nowhere else.
func (r *Runtime) targetPID(c *container, ns *sandbox.Namespaces) error {
	o := c.config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if o.GetPid() != runtimeapi.NamespaceMode_TARGET {
		return nil
	}
	target, err := r.findContainer(o.GetTargetId())
	if err != nil {
		return err
	}
	if target.SandboxID != c.SandboxID {
		return invalidArgument("container %s, whose PID namespace shall be shared, is of another sandbox", target.ID)
	}
	pid, err := target.pid()
	if err != nil {
		return err
	}
	if ns.PID, err = sandbox.PinPID(c.namespaces(), pid); err != nil {
		return fmt.Errorf("cannot join container %s: %w", target.ID, err)
	}
	// Looked at after the pin: while it runs, its pid is its own.
	if target.state() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return failed("container %s is not running", target.ID)
	}
	return nil
}

// pid is the number the container's first process has, or had.
func (c *container) pid() (int, error) {
	b, err := os.ReadFile(filepath.Join(c.dir, "pid"))
	if err != nil {
		return 0, fmt.Errorf("cannot find process of container %s: %w", c.ID, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("cannot find process of container %s: %w", c.ID, err)
	}
	return pid, nil
}

// imageVolumes are folders for the volumes an image declares where nothing
// else is mounted. They begin with what the image has there, and go with the
// container.
func (c *container) imageVolumes() (out []*runtimeapi.Mount, err error) {
	for path := range c.Image.Volumes {
		taken := slices.ContainsFunc(c.config.GetMounts(), func(m *runtimeapi.Mount) bool {
			return filepath.Clean(m.GetContainerPath()) == filepath.Clean(path)
		})
		if taken {
			continue
		}
		dir := filepath.Join(c.dir, "volumes", strings.ReplaceAll(filepath.Clean("/"+path), "/", "_"))
		if err := c.fillVolume(dir, path); err != nil {
			return nil, fmt.Errorf("cannot make volume %s of the image: %w", path, err)
		}
		out = append(out, &runtimeapi.Mount{ContainerPath: path, HostPath: dir})
	}
	slices.SortFunc(out, func(a, b *runtimeapi.Mount) int { return strings.Compare(a.ContainerPath, b.ContainerPath) })
	return out, nil
}

func (c *container) fillVolume(dir, path string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// No link in the image leads out of it, and nobody else writes there yet.
	from, err := continuity.RootPath(c.rootfs(), path)
	if err != nil {
		return err
	}
	if _, err := os.Stat(from); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return continuity.CopyDir(dir, from)
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
