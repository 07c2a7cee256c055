// SPDX-License-Identifier: Apache-2.0

package native

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// usual is a container such as Pods have.
func usual() *specs.Spec {
	return &specs.Spec{
		Process:  &specs.Process{Args: []string{"/bin/true"}, Cwd: "/", Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}}},
		Root:     &specs.Root{Path: "rootfs"},
		Hostname: "a",
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/v", Type: "bind", Source: "/srv", Options: []string{"rbind", "rslave", "rro"}},
		},
		Linux: &specs.Linux{CgroupsPath: "/a/b", Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace},
			{Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace, Path: "/ns"}}},
	}
}

// TestSupports: what cannot be done is refused by name, and nothing is left out
// in silence.
func TestSupports(t *testing.T) {
	if err := Supports(usual()); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*specs.Spec){
		"hooks":           func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/h"}}} },
		"user namespaces": func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} },
		"a user namespace": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		},
		"a time namespace": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		},
		"two pid": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace})
		},
		"mount namespace of its own": func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/ns" },
		"UTS namespace of its own":   func(s *specs.Spec) { s.Linux.Namespaces[2].Path = "/ns" },
		"AppArmor":                   func(s *specs.Spec) { s.Process.ApparmorProfile = "p" },
		"SELinux":                    func(s *specs.Spec) { s.Process.SelinuxLabel = "p" },
		"scheduling":                 func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{} },
		`rlimit "RLIMIT_X"`:          func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} },
		`capability "CAP_NO"`:        func(s *specs.Spec) { s.Process.Capabilities.Ambient = []string{"CAP_NO"} },
		"args":                       func(s *specs.Spec) { s.Process.Args = nil },
		"Cwd":                        func(s *specs.Spec) { s.Process.Cwd = "tmp" },
		`cgroups path "/a/../b"`:     func(s *specs.Spec) { s.Linux.CgroupsPath = "/a/../b" },
		`cgroups path "s:p:n"`:       func(s *specs.Spec) { s.Linux.CgroupsPath = "s:p:n" },
		`mount on "/"`:               func(s *specs.Spec) { s.Mounts[1].Destination = "/" },
		`"/proc/self" cannot be`:     func(s *specs.Spec) { s.Mounts[1].Destination = "/proc/./self/" },
		`filesystem "nfs"`:           func(s *specs.Spec) { s.Mounts[1].Type = "nfs" },
		`option "idmap"`:             func(s *specs.Spec) { s.Mounts[1].Options = []string{"idmap"} },
		`option "size=1"`:            func(s *specs.Spec) { s.Mounts[1].Options = []string{"size=1"} },
		`option "rrw"`:               func(s *specs.Spec) { s.Mounts[1].Options = []string{"rrw"} },
		"ID mappings":                func(s *specs.Spec) { s.Mounts[1].GIDMappings = []specs.LinuxIDMapping{{Size: 1}} },
		"limits of block devices":    func(s *specs.Spec) { s.Linux.Resources = &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{}} },
		`sysctl "kernel.panic"`:      func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.panic": "1"} },
		`sysctl "net/../kernel/sem"`: func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net/../kernel/sem": "1"} },
		"RDT":                        func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{} },
		"seccomp notification": func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/l"}
		},
		"action SCMP_ACT_NOTIFY": func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActNotify} },
		"flag SECCOMP_FILTER_FLAG_TS": func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_TSYNC"}}
		},
	} {
		s := usual()
		change(s)
		if err := Supports(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
