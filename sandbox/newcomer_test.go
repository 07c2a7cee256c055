// SPDX-License-Identifier: Apache-2.0

package sandbox_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/sandbox"
)

// attacker is testdata/attacker, built once for all tests.
var attacker = sync.OnceValues(func() ([]byte, error) {
	path := programPath() + "-attacker"
	defer os.Remove(path)
	build := exec.Command("go", "build", "-o", path, "./testdata/attacker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return os.ReadFile(path)
})

// addAttacker puts the attacker into the container's root.
func (p *pod) addAttacker(mode os.FileMode) {
	p.t.Helper()
	b, err := attacker()
	if err == nil {
		err = errors.Join(os.WriteFile(p.dir+"/rootfs/attacker", b, 0o755), os.Chmod(p.dir+"/rootfs/attacker", mode))
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// TestAttackSetuid: a program of the image that is setuid root gives nothing to
// whom it must not.
func TestAttackSetuid(t *testing.T) {
	onEach(t, func(t *testing.T, p *pod) {
		p.addAttacker(0o755 | os.ModeSetuid)
		for noNewPrivs, want := range map[bool]string{true: "effective 1000", false: "effective 0"} {
			in := p.input("setuid-"+strconv.FormatBool(noNewPrivs), "/attacker whoami")
			sec(&in).RunAsUser, sec(&in).NoNewPrivs = value(1000), noNewPrivs
			var err error
			if in.User, err = sandbox.ResolveUser(in.Rootfs, sec(&in), ""); err != nil {
				t.Fatal(err)
			}
			p.check(in, want)
		}
	})
}

// TestAttackKeys: the keys of the session of who started a container are not
// the container's.
func TestAttackKeys(t *testing.T) {
	onEach(t, func(t *testing.T, p *pod) {
		p.addAttacker(0o755)
		ours, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
		if err != nil {
			t.Fatal(err)
		}
		out, err := p.run(p.input("keys", "/attacker keyring"))
		if err != nil || !strings.HasPrefix(out, "keyring ") || out == fmt.Sprintf("keyring %d\n", ours) {
			t.Errorf("ours is %d, %q, %v", ours, out, err)
		}
	})
}

// grabber starts a container whose first process attacks all who come into its
// PID namespace (testdata/attacker), with more capabilities than usual.
func (p *pod) grabber(capabilities ...string) (in sandbox.Input, bundle string) {
	p.t.Helper()
	p.addAttacker(0o755)
	p.addApplet("true")
	secret := filepath.Join(p.dir, "secret")
	if err := os.WriteFile(secret, nil, 0o644); err != nil {
		p.t.Fatal(err)
	}
	in = p.input("grabber", "exec /attacker grab "+secret)
	sec(&in).Capabilities = &runtimeapi.Capability{AddCapabilities: capabilities}
	_, bundle = p.start(in)
	p.await()
	return in, bundle
}

// grabbed lets newcomers come until the attacker has had enough of them, and
// returns what it could do to them.
func (p *pod) grabbed(come func(i int)) string {
	p.t.Helper()
	for i := range 300 {
		come(i)
		report, err := os.ReadFile(p.dir + "/rootfs/report")
		if err == nil {
			return string(report)
		}
		if !errors.Is(err, os.ErrNotExist) {
			p.t.Fatal(err)
		}
	}
	p.t.Fatal("the attacker was never fast enough")
	return ""
}

// execTrue executes /bin/true in a container.
func (p *pod) execTrue(in sandbox.Input, bundle string) {
	p.t.Helper()
	spec, err := sandbox.Spec(in)
	if err != nil {
		p.t.Fatal(err)
	}
	pid, err := p.exec(in.ID, bundle, sandbox.ExecProcess(spec, []string{"/bin/true"}, false))
	if err != nil {
		p.t.Fatal(err)
	}
	p.reap(pid)
}

// TestAttackNewcomer: CVE-2016-9962, CVE-2019-5736. Root of a container cannot
// look into a process that comes into it, before that is the container's.
func TestAttackNewcomer(t *testing.T) {
	p := newPod(t, sandbox.NativeName)
	in, bundle := p.grabber()
	report := p.grabbed(func(int) { p.execTrue(in, bundle) })
	if strings.Contains(report, "could") || !strings.Contains(report, "caught") {
		t.Errorf("%s", report)
	}
}

// harmless checks what one with CAP_SYS_PTRACE could do to newcomers: he has
// them, and nothing but what he and they may have.
func (p *pod) harmless(report string, leastCapabilities uint64) {
	p.t.Helper()
	for _, want := range []string{"could read exe", "could write mem", "could open fd", "could attach"} {
		if !strings.Contains(report, want) {
			p.t.Errorf("the attack fails for another reason: not %q", want)
		}
	}
	for _, bad := range []string{"could write exe", "could chmod exe", "could reach", "could write cgroup"} {
		if strings.Contains(report, bad) {
			p.t.Errorf("%q", bad)
		}
	}
	for line := range strings.Lines(report) {
		number, found := strings.CutPrefix(strings.TrimSpace(line), "CapPrm:\t")
		if !found {
			continue
		}
		if have, err := strconv.ParseUint(number, 16, 64); err != nil || have&^leastCapabilities != 0 {
			p.t.Errorf("a newcomer has capabilities %s, %v; want no more than %x", number, err, leastCapabilities)
		}
	}
	if p.t.Failed() {
		p.t.Log(report)
	}
}

// The container's own by default, which are all that the way into it needs too,
// and CAP_SYS_PTRACE.
const grabberCapabilities = 0xa80425fb | 1<<unix.CAP_SYS_PTRACE

// TestAttackTracedExec: one who may trace an exec gets what the container has.
func TestAttackTracedExec(t *testing.T) {
	p := newPod(t, sandbox.NativeName)
	in, bundle := p.grabber("SYS_PTRACE")
	p.harmless(p.grabbed(func(int) { p.execTrue(in, bundle) }), grabberCapabilities)
}

// TestAttackTracedRun: and so does one who shares his PID namespace with a
// container that is being made.
func TestAttackTracedRun(t *testing.T) {
	if fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC); err != nil {
		t.Fatal(err)
	} else if err := errors.Join(canShowOwn(fs), unix.Close(fs)); err != nil {
		t.Skip("procfs of another PID namespace needs Linux 6.18: ", err)
	}
	p := newPod(t, sandbox.NativeName)
	_, bundle := p.grabber("SYS_PTRACE")
	pids, err := sandbox.PinPID(p.dir+"/ns", p.pid(bundle+"/pid"))
	if err != nil {
		t.Fatal(err)
	}
	report := p.grabbed(func(i int) {
		in := p.input("shared-"+strconv.Itoa(i), "")
		in.Container.Command = []string{"/bin/true"}
		in.Namespaces.PID = pids
		sec(&in).NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
		if out, err := p.run(in); err != nil {
			t.Fatal(out, err, p.launcher.Delete(t.Context(), in.ID, true))
		}
	})
	p.harmless(report, grabberCapabilities)
	// It sees the namespace that it is in.
	in := p.input("seen", "cat /proc/1/cmdline | grep -o grab")
	in.Namespaces.PID = pids
	sec(&in).NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	p.check(in, "grab")
}

// canShowOwn tells whether a procfs can be told its PID namespace.
func canShowOwn(fs int) error {
	own, err := os.Open("/proc/self/ns/pid")
	if err != nil {
		return err
	}
	return errors.Join(unix.FsconfigSetFd(fs, "pidns", int(own.Fd())), own.Close())
}
