// SPDX-License-Identifier: Apache-2.0

package sandbox_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/linux"
	"github.com/peapod/peapod/sandbox"
)

var update = flag.Bool("update", false, "write the golden files")

type (
	security = runtimeapi.LinuxContainerSecurityContext
	limits   = runtimeapi.LinuxContainerResources
)

// sample is a plain container on a hybrid machine without CAP_SYS_RESOURCE;
// the cases change what they are about.
func sample() sandbox.Input {
	return sandbox.Input{
		ID: "c1", SandboxID: "s1",
		Sandbox: &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "default", Uid: "u-1"},
			Linux:    &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{}},
		},
		Container: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "app"},
			Image:    &runtimeapi.ImageSpec{Image: "example.org/app:1"},
			Linux: &runtimeapi.LinuxContainerConfig{
				Resources: &limits{CpuShares: 2},
				SecurityContext: &security{
					NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
					MaskedPaths:      []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
				},
			},
		},
		Image: ispecs.ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"cmd"}, Env: []string{"A=image"}, WorkingDir: "/srv"},
		User:  sandbox.User{Additional: []uint32{0}, Home: "/root"}, Rootfs: "/run/c1/rootfs",
		Namespaces: sandbox.Namespaces{Net: "/ns/net", IPC: "/ns/ipc", UTS: "/ns/uts"},
		Hostname:   "web", Shm: "/run/s1/shm", CgroupsPath: "/peapod/podu-1/c1",
		Host: sandbox.Host{
			Cgroups: linux.CgroupLayout{Unified: "/sys/fs/cgroup/unified", V1: map[string]string{
				"cpu": "/sys/fs/cgroup/cpu", "memory": "/sys/fs/cgroup/memory", "cpuset": "/sys/fs/cgroup/cpuset", "pids": "/sys/fs/cgroup/pids"}},
			OOMScoreAdj: 100, Capabilities: linux.CapabilityNames(), Seccomp: true, SwapLimit: true,
		},
	}
}

func sec(in *sandbox.Input) *security { return in.Container.Linux.SecurityContext }

// cases, by the name of their golden file.
func cases() map[string]func(*sandbox.Input) {
	pureV2 := linux.CgroupLayout{Unified: "/sys/fs/cgroup", UnifiedControllers: []string{"cpu", "cpuset", "memory", "hugetlb", "pids"}}
	return map[string]func(*sandbox.Input){
		"plain": func(*sandbox.Input) {},
		"command": func(in *sandbox.Input) {
			in.Container.Command, in.Container.Args = []string{"/bin/app"}, []string{"-v", "x"}
			in.Container.WorkingDir = "/work"
			in.Container.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("pod")}, {Key: "PATH", Value: []byte("/x")}, {Key: "HOSTNAME", Value: []byte("mine")}}
			in.Container.Tty = true
			in.User = sandbox.User{UID: 1000, GID: 3000, Additional: []uint32{3000, 2000}, Home: "/home/app"}
		},
		"limits": func(in *sandbox.Input) {
			in.Container.Linux.Resources = &limits{CpuShares: 512, CpuQuota: 50000, CpuPeriod: 100000, MemoryLimitInBytes: 64 << 20,
				OomScoreAdj: -997, CpusetCpus: "0-1", CpusetMems: "0", Unified: map[string]string{"memory.high": "1"},
				HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 0}}}
		},
		"limits-v2": func(in *sandbox.Input) {
			in.Host.Cgroups, in.Host.CanRaiseLimits = pureV2, true
			in.Container.Linux.Resources = &limits{CpuShares: 512, MemoryLimitInBytes: 64 << 20, MemorySwapLimitInBytes: 96 << 20,
				OomScoreAdj: -997, Unified: map[string]string{"memory.high": "1"},
				HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}}}
		},
		"host": func(in *sandbox.Input) {
			sec(in).NamespaceOptions = &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE}
			in.Namespaces, in.Shm = sandbox.Namespaces{}, "/dev/shm"
		},
		"shared-pid": func(in *sandbox.Input) {
			sec(in).NamespaceOptions = &runtimeapi.NamespaceOption{}
			in.Namespaces.PID = "/ns/pid"
		},
		"restricted": func(in *sandbox.Input) {
			sec(in).NoNewPrivs, sec(in).ReadonlyRootfs = true, true
			sec(in).Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"net_bind_service"}, DropCapabilities: []string{"ALL"}}
			sec(in).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		},
		"capabilities": func(in *sandbox.Input) {
			sec(in).Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_TIME", "CAP_KILL"}, DropCapabilities: []string{"MKNOD", "cap_chown"},
				AddAmbientCapabilities: []string{"NET_RAW"}}
		},
		"all-capabilities": func(in *sandbox.Input) {
			in.Host.Capabilities = []string{"CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN"}
			sec(in).Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"ALL"}, DropCapabilities: []string{"KILL"}}
		},
		"privileged": func(in *sandbox.Input) {
			sec(in).Privileged = true
			sec(in).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
			in.Sandbox.Linux.SecurityContext.Privileged = true
			in.Host.Cgroups = pureV2
			in.Devices = []specs.LinuxDevice{{Path: "/dev/loop0", Type: "b", Major: 7}}
		},
		"seccomp-localhost": func(in *sandbox.Input) {
			sec(in).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/x.json"}
			in.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
		},
		"apparmor": func(in *sandbox.Input) {
			in.Host.AppArmor = true
			sec(in).Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "localhost/mine"}
		},
		"mounts": func(in *sandbox.Input) {
			in.ExtraMounts = []*runtimeapi.Mount{{ContainerPath: "/etc/hosts", HostPath: "/s/hosts"}, {ContainerPath: "/etc/resolv.conf", HostPath: "/s/resolv"}}
			in.Container.Mounts = []*runtimeapi.Mount{
				{ContainerPath: "/data/inner/deep", HostPath: "/v/deep", Readonly: true},
				{ContainerPath: "/data", HostPath: "/v/data", Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
				{ContainerPath: "/etc/hosts", HostPath: "/pod/hosts"},
				{ContainerPath: "/rro", HostPath: "/v/rro", Readonly: true, RecursiveReadOnly: true},
				{ContainerPath: "/both", HostPath: "/v/both", Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL},
			}
		},
		"mount-dev": func(in *sandbox.Input) {
			in.Container.Mounts = []*runtimeapi.Mount{{ContainerPath: "/dev/", HostPath: "/dev"}, {ContainerPath: "/sys", HostPath: "/sys"}}
		},
		"devices": func(in *sandbox.Input) {
			in.Devices = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}}
			in.Permissions = []string{"rw"}
		},
	}
}

func TestSpec(t *testing.T) {
	for name, change := range cases() {
		t.Run(name, func(t *testing.T) {
			in := sample()
			change(&in)
			s, err := sandbox.Spec(in)
			if err != nil {
				t.Fatal(err)
			}
			shorten(s)
			got, err := json.MarshalIndent(s, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			file := filepath.Join("testdata", "spec", name+".json")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("differs from %s (-want +got):\n%s", file, diff)
			}
			again := sample()
			change(&again)
			s2, err := sandbox.Spec(again)
			if err != nil {
				t.Fatal(err)
			}
			shorten(s2)
			if diff := cmp.Diff(s, s2); diff != "" {
				t.Errorf("not the same twice: %s", diff)
			}
		})
	}
}

// shorten replaces the hundreds of lines of the default profile by some that
// tell it is there.
func shorten(s *specs.Spec) {
	if p := s.Linux.Seccomp; p != nil && len(p.Syscalls) > 10 {
		p.Architectures = nil
		p.Syscalls = []specs.LinuxSyscall{{Names: []string{"(the default profile)"}, Action: p.Syscalls[0].Action}}
	}
}

func TestSpecRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*sandbox.Input)
		want   string
	}{
		{"no command", func(in *sandbox.Input) { in.Image = ispecs.ImageConfig{} }, "no command specified"},
		{"capability", func(in *sandbox.Input) {
			sec(in).Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"FLY"}}
		}, `unknown capability "FLY"`},
		{"capability we lack", func(in *sandbox.Input) {
			in.Host.Capabilities = []string{"CAP_KILL"}
			sec(in).Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_RESOURCE"}}
		}, `capability "SYS_RESOURCE" cannot be added`},
		{"privileged", func(in *sandbox.Input) { sec(in).Privileged = true }, "sandbox that is not privileged"},
		{"user namespace", func(in *sandbox.Input) {
			sec(in).NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD}
		}, "user namespaces are not supported"},
		{"seccomp", func(in *sandbox.Input) {
			in.Host.Seccomp = false
			sec(in).Seccomp = &runtimeapi.SecurityProfile{}
		}, "seccomp is not supported"},
		{"apparmor", func(in *sandbox.Input) { sec(in).Apparmor = &runtimeapi.SecurityProfile{} }, "AppArmor is not supported"},
		{"relative mount", func(in *sandbox.Input) {
			in.Container.Mounts = []*runtimeapi.Mount{{ContainerPath: "x", HostPath: "/x"}}
		}, `mount path "x" is not absolute`},
		{"recursive read-only", func(in *sandbox.Input) {
			in.Container.Mounts = []*runtimeapi.Mount{{ContainerPath: "/x", HostPath: "/x", RecursiveReadOnly: true}}
		}, "recursive read-only needs read-only"},
		{"permissions", func(in *sandbox.Input) {
			in.Devices, in.Permissions = []specs.LinuxDevice{{Path: "/dev/fuse"}}, []string{"rwx"}
		}, `permissions "rwx"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := sample()
			tt.change(&in)
			_, err := sandbox.Spec(in)
			if !errors.Is(err, sandbox.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	in := sample()
	in.Namespaces.Net = ""
	if _, err := sandbox.Spec(in); err == nil || errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("sandbox without network namespace: %v", err)
	}
}

func TestCommandLine(t *testing.T) {
	// The table of the Kubernetes documentation.
	for _, tt := range []struct{ entrypoint, cmd, command, args, want string }{
		{"/ep-1", "foo bar", "", "", "/ep-1 foo bar"},
		{"/ep-1", "foo bar", "/ep-2", "", "/ep-2"},
		{"/ep-1", "foo bar", "", "zoo boo", "/ep-1 zoo boo"},
		{"/ep-1", "foo bar", "/ep-2", "zoo boo", "/ep-2 zoo boo"},
		{"", "foo bar", "", "", "foo bar"},
		{"", "foo bar", "", "zoo", "zoo"},
	} {
		in := sample()
		in.Image.Entrypoint, in.Image.Cmd = strings.Fields(tt.entrypoint), strings.Fields(tt.cmd)
		in.Container.Command, in.Container.Args = strings.Fields(tt.command), strings.Fields(tt.args)
		s, err := sandbox.Spec(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(s.Process.Args, " "); got != tt.want {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}

func TestExecProcess(t *testing.T) {
	in := sample()
	s, err := sandbox.Spec(in)
	if err != nil {
		t.Fatal(err)
	}
	p := sandbox.ExecProcess(s, []string{"ls"}, true)
	if p.Args[0] != "ls" || !p.Terminal || p.Env[len(p.Env)-1] != "TERM=xterm" || p.Cwd != "/srv" || p.Capabilities == nil {
		t.Errorf("%+v", p)
	}
	if s.Process.Terminal || s.Process.Args[0] != "/entry" || strings.Contains(strings.Join(s.Process.Env, " "), "TERM") {
		t.Errorf("the container's own process was changed: %+v", s.Process)
	}
}
