// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"slices"
	"strings"

	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// defaultPath is PATH where the image sets none.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func (in Input) process(s *specs.Spec) error {
	args := commandLine(in.Container, in.Image)
	if len(args) == 0 {
		return invalid("no command specified")
	}
	oom := in.Container.GetLinux().GetResources().GetOomScoreAdj()
	adj := int(oom)
	if !in.Host.CanRaiseLimits {
		// Without CAP_SYS_RESOURCE the kernel lets nobody go below where
		// they are, and the container would not start.
		adj = max(adj, in.Host.OOMScoreAdj)
	}
	s.Process = &specs.Process{
		Terminal:        in.Container.GetTty(),
		User:            specs.User{UID: in.User.UID, GID: in.User.GID, AdditionalGids: in.User.Additional},
		Args:            args,
		Env:             in.environment(),
		Cwd:             firstOf(in.Container.GetWorkingDir(), in.Image.WorkingDir, "/"),
		NoNewPrivileges: in.security().GetNoNewPrivs(),
		OOMScoreAdj:     &adj,
	}
	return nil
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// commandLine is the rule of the Kubernetes documentation ("Define a Command
// and Arguments"): command replaces ENTRYPOINT and with it CMD, args replace
// CMD.
func commandLine(c *runtimeapi.ContainerConfig, image ispecs.ImageConfig) []string {
	command, args := c.GetCommand(), c.GetArgs()
	if len(command) == 0 {
		command = image.Entrypoint
		if len(args) == 0 {
			args = image.Cmd
		}
	}
	return slices.Concat(command, args)
}

// environment: later ones win, each name comes once, where it came first.
func (in Input) environment() []string {
	env := []string{defaultPath}
	if in.Container.GetTty() {
		env = append(env, "TERM=xterm")
	}
	if in.Hostname != "" {
		env = append(env, "HOSTNAME="+in.Hostname)
	}
	if in.User.Home != "" {
		env = append(env, "HOME="+in.User.Home)
	}
	for _, e := range in.Image.Env {
		env = setEnv(env, e)
	}
	for _, e := range in.Container.GetEnvs() {
		env = setEnv(env, e.GetKey()+"="+string(e.GetValue()))
	}
	return env
}

func setEnv(env []string, entry string) []string {
	name, _, _ := strings.Cut(entry, "=")
	for i, e := range env {
		if have, _, _ := strings.Cut(e, "="); have == name {
			env[i] = entry
			return env
		}
	}
	return append(env, entry)
}

// ExecProcess is a further process in the container of s: like its first one,
// with other arguments.
func ExecProcess(s *specs.Spec, args []string, tty bool) *specs.Process {
	p := *s.Process
	p.Args, p.Terminal = args, tty
	p.Env = slices.Clone(p.Env)
	p.ConsoleSize = nil
	if tty && !slices.ContainsFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, "TERM=") }) {
		p.Env = append(p.Env, "TERM=xterm")
	}
	return &p
}
