// SPDX-License-Identifier: Apache-2.0

package sandbox_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/sandbox"
)

// counter reads a number of a container's cgroup: the file's, or that which a
// line of it has after its name.
func (p *pod) counter(in sandbox.Input, controller, file, name string) int {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join(p.host.Cgroups.Path(controller, in.CgroupsPath), file))
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		number, found := strings.CutPrefix(strings.TrimSpace(line), name)
		if n, err := strconv.Atoi(strings.TrimSpace(number)); found && err == nil {
			return n
		}
	}
	p.t.Fatalf("%s has no %q: %s", file, name, b)
	return 0
}

// killed counts those who were killed in a container for want of memory.
func (p *pod) killed(in sandbox.Input) int {
	p.t.Helper()
	if p.host.Cgroups.V2() {
		return p.counter(in, "memory", "memory.events", "oom_kill ")
	}
	return p.counter(in, "memory", "memory.oom_control", "oom_kill ")
}

// TestAttackMemory: who takes more memory than the container may have is
// killed in its cgroup, and not who starts others there.
func TestAttackMemory(t *testing.T) {
	onEach(t, func(t *testing.T, p *pod) {
		if !p.host.Cgroups.Has("memory") {
			t.Skip("this machine cannot limit memory")
		}
		p.addAttacker(0o755)
		p.addApplet("true")
		in := p.input("memory", "/attacker eat; echo code $?; echo >/ready; while :; do /attacker eat; done")
		in.Container.Linux.Resources.MemoryLimitInBytes = 32 << 20
		spec, bundle := p.start(in)
		p.await()
		if got := p.killed(in); got < 1 || !strings.Contains(p.output(), "code 137\n") {
			t.Errorf("%d killed in the container's cgroup, %s", got, p.output())
		}
		for range 8 {
			// One who comes may be killed, too, and not the launcher.
			pid, err := p.exec(in.ID, bundle, sandbox.ExecProcess(spec, []string{"/bin/true"}, false))
			if failed, ok := errors.AsType[*exec.ExitError](err); ok && !failed.Exited() {
				t.Errorf("launcher: %v", err)
			}
			if err == nil {
				p.reap(pid)
			}
		}
	})
}

// TestAttackMemoryOfExec: an exec's memory is the container's.
func TestAttackMemoryOfExec(t *testing.T) {
	onEach(t, func(t *testing.T, p *pod) {
		if !p.host.Cgroups.Has("memory") {
			t.Skip("this machine cannot limit memory")
		}
		p.addAttacker(0o755)
		in := p.input("memory-exec", "echo >/ready; exec sleep 1000")
		in.Container.Linux.Resources.MemoryLimitInBytes = 32 << 20
		spec, bundle := p.start(in)
		p.await()
		pid, err := p.exec(in.ID, bundle, sandbox.ExecProcess(spec, []string{"/attacker", "eat"}, false))
		if err != nil {
			t.Fatal(err)
		}
		var status unix.WaitStatus
		if _, err := unix.Wait4(pid, &status, 0, nil); err != nil || !status.Signaled() || status.Signal() != unix.SIGKILL {
			t.Errorf("ended with %v, %v", status, err)
		}
		if got := p.killed(in); got != 1 {
			t.Errorf("%d killed in the container's cgroup", got)
		}
	})
}

// TestAttackProcesses: a fork bomb stays within the limit of the container's
// processes, and an exec is one of these. (runc's own threads would meet the limit, too.)
func TestAttackProcesses(t *testing.T) {
	p := newPod(t, sandbox.NativeName)
	if !p.host.Cgroups.Has("pids") {
		t.Skip("this machine cannot limit processes")
	}
	const most = 16
	in := p.input("bomb", "echo >/ready; exec sleep 1000")
	spec, bundle := p.start(in)
	p.await()
	limit := int64(most)
	if err := p.launcher.Update(t.Context(), in.ID, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}); err != nil {
		t.Fatal(err)
	}
	bomb := sandbox.ExecProcess(spec, []string{"/bin/sh", "-c", "i=0; while [ $i -lt 64 ]; do sleep 1000 & i=$((i+1)); done"}, false)
	pid, err := p.exec(in.ID, bundle, bomb)
	if err != nil {
		t.Fatal(err)
	}
	p.reap(pid) // the shell gives up
	if refused := p.counter(in, "pids", "pids.events", "max "); refused < 1 {
		t.Error("the bomb met no limit")
	}
	// One may take the place of the shell, the next has none.
	for range 2 {
		pid, err = p.exec(in.ID, bundle, sandbox.ExecProcess(spec, []string{"/bin/sleep", "1000"}, false))
		if err != nil {
			break
		}
		defer func(pid int) {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Error(err)
			}
			p.reap(pid)
		}(pid)
	}
	if err == nil {
		t.Error("an exec was started beyond the limit")
	}
	if now := p.counter(in, "pids", "pids.current", ""); now > most {
		t.Errorf("%d processes, limit %d", now, most)
	}
}
