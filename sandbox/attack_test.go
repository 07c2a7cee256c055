// SPDX-License-Identifier: Apache-2.0

package sandbox_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/sandbox"
)

// These are the attacks of docs/security/launcher.md, with real containers.

// link makes a link in the container's root, in the place of what is there.
func (p *pod) link(to, at string) {
	p.t.Helper()
	at = filepath.Join(p.dir, "rootfs", at)
	if err := errors.Join(os.RemoveAll(at), os.Symlink(to, at)); err != nil {
		p.t.Fatal(err)
	}
}

// refused runs a container that must not run, and says why.
func (p *pod) refused(in sandbox.Input, want string) {
	p.t.Helper()
	out, err := p.run(in)
	ctx := p.t.Context()
	if err := errors.Join(p.launcher.Delete(ctx, in.ID, true), p.host.Cgroups.Remove(ctx, in.CgroupsPath)); err != nil {
		p.t.Error(err)
	}
	if err == nil || !strings.Contains(out, want) {
		p.t.Errorf("%s: %v, %q; want %q", in.ID, err, out, want)
	}
}

// TestAttackLinksAtMountTargets: CVE-2021-30465, CVE-2019-16884,
// CVE-2023-27561 and their kin. (runc 1.1.5 makes the links of /dev outside.)
func TestAttackLinksAtMountTargets(t *testing.T) {
	p := newPod(t, sandbox.NativeName)
	outside := filepath.Join(p.dir, "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	// Links to folders of the machine lead into the root, whatever they say.
	p.link(outside, "dev")
	p.link("../../../../../../.."+outside, "etc/v")
	in := p.input("links", "echo here; ls /dev/null; ls /etc/v/f")
	if err := os.WriteFile(p.dir+"/volume/f", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	in.Container.Mounts = []*runtimeapi.Mount{{ContainerPath: "/etc/v", HostPath: p.dir + "/volume"}}
	p.check(in, "here", "/dev/null", "/etc/v/f")
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside of the root there is %v, %v", left, err)
	}
	p.link("/etc", "proc")
	p.refused(p.input("proc", "true"), `must be mounted on ordinary directory`)
	if err := os.Remove(p.dir + "/rootfs/proc"); err != nil {
		t.Fatal(err)
	}
	p.link("/etc", "sys")
	p.refused(p.input("sys", "true"), `must be mounted on ordinary directory`)
}

// TestAttackMountIntoProc: procfs is what masks, read-only paths and security
// labels rely on.
func TestAttackMountIntoProc(t *testing.T) {
	onEach(t, func(t *testing.T, p *pod) {
		for name, path := range map[string]string{"plain": "/proc/self", "dots": "/sys/../proc/sys/kernel", "link": "/etc/p"} {
			p.link("/proc/sys", "etc/p")
			in := p.input("into-"+name, "true")
			in.Container.Mounts = []*runtimeapi.Mount{{ContainerPath: path, HostPath: p.dir + "/volume"}}
			p.refused(in, "cannot be mounted because it is inside /proc")
		}
		in := p.input("onto", "true")
		in.Container.Mounts = []*runtimeapi.Mount{{ContainerPath: "/proc", HostPath: p.dir + "/volume"}}
		p.refused(in, "cannot be mounted because it is not of type proc")
	})
}

// TestAttackMasks: CVE-2025-31133. The image brings a /dev/null of its own, and
// root in the container tries to change what masks.
func TestAttackMasks(t *testing.T) {
	p := newPod(t, sandbox.NativeName)
	var before, after unix.Stat_t
	if err := os.MkdirAll(p.dir+"/rootfs/dev", 0o755); err != nil {
		t.Fatal(err)
	}
	p.link("/proc/sysrq-trigger", "dev/null")
	if err := unix.Stat(os.DevNull, &before); err != nil {
		t.Fatal(err)
	}
	in := p.input("masks", `chmod 600 /proc/kcore 2>&1 | grep -o 'Read-only file system'; cat /proc/kcore | grep . || echo masked
		echo b >/proc/sysrq-trigger || echo sysrq-read-only; cat /proc/timer_list | grep . || echo timers-masked
		ls /sys/firmware | grep . || echo firmware-masked; touch /sys/firmware/a || echo firmware-read-only; exit 0`)
	p.addApplet("chmod")
	sec(&in).MaskedPaths = append(sec(&in).MaskedPaths, "/proc/timer_list", "/sys/firmware")
	sec(&in).ReadonlyPaths = append(sec(&in).ReadonlyPaths, "/proc/sysrq-trigger")
	p.check(in, "Read-only file system", "masked", "sysrq-read-only", "timers-masked", "firmware-masked", "firmware-read-only")
	if err := unix.Stat(os.DevNull, &after); err != nil || after.Mode != before.Mode {
		t.Errorf("mode of the machine's null was %o and is %o, %v", before.Mode, after.Mode, err)
	}
}

func (p *pod) addApplet(name string) { p.link("busybox", "bin/"+name) }

// TestAttackProgramOfLauncher: CVE-2019-5736. The container's program is the
// launcher itself, by its process's exe, which root then tries to change.
func TestAttackProgramOfLauncher(t *testing.T) {
	p := newPod(t, sandbox.NativeName)
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	content := func() [32]byte {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(b)
	}
	before := content()
	if err := os.Mkdir(p.dir+"/rootfs/b", 0o755); err != nil {
		t.Fatal(err)
	}
	// The launcher that the container runs waits at a FIFO for a specification.
	if err := unix.Mkfifo(p.dir+"/rootfs/b/config.json", 0o600); err != nil {
		t.Fatal(err)
	}
	in := p.input("exe", "")
	in.Container.Command = []string{"/proc/1/exe", "--root", "/s", "run", "--bundle", "/b", "x"}
	spec, bundle := p.start(in)
	p.addApplet("chmod")
	p.addApplet("dd")
	script := `{ chmod 777 /proc/1/exe; exec 9</proc/1/exe; (exec 3<>/proc/self/fd/9) && echo opened; (exec 3>/proc/1/exe) && echo opened; } >/o 2>&1; echo done >>/o`
	process := sandbox.ExecProcess(spec, []string{"/bin/sh", "-c", script}, false)
	process.Capabilities.Bounding = append(process.Capabilities.Bounding, "CAP_SYS_PTRACE")
	process.Capabilities.Permitted, process.Capabilities.Effective = process.Capabilities.Bounding, process.Capabilities.Bounding
	pid, err := p.exec(in.ID, bundle, process)
	if err != nil {
		t.Fatal(err)
	}
	p.reap(pid)
	out, err := os.ReadFile(p.dir + "/rootfs/o")
	if err != nil || !strings.Contains(string(out), "Read-only file system") || strings.Contains(string(out), "opened") || !strings.HasSuffix(string(out), "done\n") {
		t.Errorf("%q, %v", out, err)
	}
	if content() != before {
		t.Error("the launcher's program was changed")
	}
	// In its own process the launcher has no exe for the container to name.
	process.Args = []string{"/proc/self/exe"}
	if _, err := p.exec(in.ID, bundle, process); err == nil || !strings.Contains(err.Error(), "no such file or directory") {
		t.Errorf("exec of /proc/self/exe: %v", err)
	}
}

// TestAttackDescriptors: CVE-2024-21626. Whoever starts the launcher leaks a
// folder of the machine to it; a container does not get it, and cannot begin
// in it.
func TestAttackDescriptors(t *testing.T) {
	p := newPod(t, sandbox.NativeName)
	for _, cwd := range []string{"/proc/self/fd/3", "/proc/self/fd/7", "/proc/self/fd/8", "/proc/1/fd/7", "/proc/1/cwd", "/proc/1/root", "/etc/w", "/etc/passwd"} {
		p.link("/proc/1/cwd", "etc/w")
		in := p.input("cwd"+strings.ReplaceAll(cwd, "/", "-"), "ls /")
		in.Container.WorkingDir = cwd
		p.refused(in, "chdir to cwd (\""+cwd+"\") set in config.json failed")
	}
	in := p.input("fds", "ls /proc/self/fd >/o; echo >/ready; exec sleep 1000")
	spec, bundle := p.start(in)
	p.await()
	process := sandbox.ExecProcess(spec, []string{"/bin/sh", "-c", "ls /proc/self/fd >/x; pwd >>/x"}, false)
	pid, err := p.exec(in.ID, bundle, process)
	if err != nil {
		t.Fatal(err)
	}
	p.reap(pid)
	for _, file := range []string{"o", "x"} {
		// 3 is ls's own.
		b, err := os.ReadFile(filepath.Join(p.dir, "rootfs", file))
		if got := strings.Fields(string(b)); err != nil || !slices.Equal(got[:min(4, len(got))], []string{"0", "1", "2", "3"}) || slices.Contains(got, "4") {
			t.Errorf("descriptors in %s: %v, %v", file, got, err)
		}
	}
	for _, cwd := range []string{"/proc/self/fd/3", "/proc/1/root", "/proc/1/cwd", "/etc/w"} {
		process.Cwd = cwd
		if _, err := p.exec(in.ID, bundle, process); err == nil || !strings.Contains(err.Error(), "chdir to cwd") {
			t.Errorf("exec in %s: %v", cwd, err)
		}
	}
}

// TestAttackTerminal: CVE-2025-52565, CVE-2016-9962 and their kin: the
// container has put something else where terminals come from.
func TestAttackTerminal(t *testing.T) {
	p := newPod(t, sandbox.NativeName)
	p.addApplet("umount")
	p.addApplet("ln")
	p.addApplet("rmdir")
	p.addApplet("mkdir")
	in := p.input("tty", "mkdir /fake && umount /dev/pts && rmdir /dev/pts && ln -s /fake /dev/pts && touch /fake/ptmx && echo >/ready; exec sleep 1000")
	sec(&in).Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
	spec, bundle := p.start(in)
	p.await()
	socket := filepath.Join(bundle, "tty.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	process := sandbox.ExecProcess(spec, []string{"/bin/sh"}, true)
	if err := sandbox.WriteProcess(bundle+"/process.json", process); err != nil {
		t.Fatal(err)
	}
	err = p.detached(p.launcher.Exec(sandbox.Exec{ContainerID: in.ID, ProcessFile: bundle + "/process.json", PidFile: bundle + "/exec.pid", ConsoleSocket: socket}))
	if err == nil || !strings.Contains(err.Error(), "it is not of type devpts") {
		t.Errorf("terminal of a false devpts: %v", err)
	}
}

// TestAttackDevices: a node can be made, and not opened.
func TestAttackDevices(t *testing.T) {
	onEach(t, func(t *testing.T, p *pod) {
		p.addApplet("mknod")
		in := p.input("devices", `mknod /kmsg c 1 11 && echo made; cat /kmsg 2>&1 | grep -o 'Operation not permitted'; mknod /z c 1 5 && [ -c /z ] && (exec 3</z) && echo zero
			[ -c /dev/tty ] && echo tty; [ -L /dev/ptmx ] && echo ptmx; exit 0`)
		p.check(in, "made", "Operation not permitted", "zero", "tty", "ptmx")
	})
}

// TestAttackCgroup: CVE-2022-0492 and its kin.
func TestAttackCgroup(t *testing.T) {
	onEach(t, func(t *testing.T, p *pod) {
		p.addApplet("find")
		in := p.input("cgroup", `find /sys/fs/cgroup -name release_agent | grep . || echo no-agent
			for f in $(find /sys/fs/cgroup -name cgroup.procs); do (echo 0 >$f) 2>/dev/null && echo written; done; echo read-only; grep -v /peapod-sandbox-test/ /proc/self/cgroup | grep -v ':/$' | grep . || echo inside; exit 0`)
		p.check(in, "no-agent", "read-only", "inside")
		if out, err := p.run(p.input("again", "find /sys/fs/cgroup -name cgroup.procs | grep -c . >/dev/null && echo seen")); err != nil || out != "seen\n" {
			t.Errorf("%q, %v", out, err)
		}
	})
}

// TestAttackPrivileges: what a process is left with, in run and in exec.
func TestAttackPrivileges(t *testing.T) {
	onEach(t, func(t *testing.T, p *pod) {
		in := p.input("ambient", "ulimit -n; umask; id -u; id -G; grep -E 'Cap|NoNew|Seccomp:|SigBlk|SigIgn' /proc/self/status; echo >/ready; exec sleep 1000")
		sec(&in).RunAsUser, sec(&in).SupplementalGroups = value(1000), []int64{3000}
		sec(&in).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		var err error
		if in.User, err = sandbox.ResolveUser(in.Rootfs, sec(&in), ""); err != nil {
			t.Fatal(err)
		}
		sec(&in).Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddAmbientCapabilities: []string{"NET_BIND_SERVICE"}}
		spec, bundle := p.start(in)
		p.await()
		process := sandbox.ExecProcess(spec, []string{"/bin/sh", "-c", "id -u; id -G; grep -E 'Cap|NoNew|Seccomp:|SigBlk|SigIgn' /proc/self/status; touch /proc/sysrq-trigger || echo read-only"}, false)
		if _, err := p.exec(in.ID, bundle, process); err != nil {
			t.Fatal(err)
		}
		p.reap(p.pid(bundle + "/exec.pid"))
		var files unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
			t.Fatal(err)
		}
		const bind = "0000000000000400"
		for _, want := range []string{fmt.Sprint(files.Max), "0022", "1000", "1001 3000", "CapInh:\t" + bind, "CapPrm:\t" + bind, "CapEff:\t" + bind, "CapBnd:\t" + bind, "CapAmb:\t" + bind, "Seccomp:\t2", "SigBlk:\t0000000000000000", "read-only"} {
			if !strings.Contains(p.output(), want+"\n") {
				t.Errorf("output lacks %q:\n%s", want, p.output())
			}
		}
	})
}

// TestNativeRefuses: what it cannot do is refused before anything is made, and
// with a second launcher it is that one's.
func TestNativeRefuses(t *testing.T) {
	p := newPod(t, sandbox.NativeName)
	in := p.input("hooks", "true")
	spec, err := sandbox.Spec(in)
	if err != nil {
		t.Fatal(err)
	}
	spec.Hooks = &specs.Hooks{Poststart: []specs.Hook{{Path: "/bin/true"}}}
	bundle := sandbox.Bundle{ID: in.ID, Dir: filepath.Join(p.dir, "hooks"), PidFile: filepath.Join(p.dir, "pid")}
	if err := errors.Join(os.Mkdir(bundle.Dir, 0o700), sandbox.WriteBundle(bundle.Dir, spec)); err != nil {
		t.Fatal(err)
	}
	args := p.launcher.Run(bundle)
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err == nil || string(out) != "the native launcher cannot do this: hooks are not supported\n" {
		t.Errorf("%q, %v", out, err)
	}
	if ids, err := p.launcher.List(t.Context()); err != nil || len(ids) > 0 {
		t.Errorf("left: %v, %v", ids, err)
	}
	oci := launcher(t, "runc", p.dir)
	if got := sandbox.Prefer(p.launcher, oci).Run(bundle); got[0] != oci.Path() {
		t.Errorf("chosen: %v", got)
	}
	// So is one that wants a profile of AppArmor.
	for profile, want := range map[string]string{"strict": oci.Path(), "": p.launcher.Path()} {
		spec.Hooks, spec.Process.ApparmorProfile = nil, profile
		if err := sandbox.WriteBundle(bundle.Dir, spec); err != nil {
			t.Fatal(err)
		}
		if got := sandbox.Prefer(p.launcher, oci).Run(bundle); got[0] != want {
			t.Errorf("chosen for profile %q: %v", profile, got)
		}
	}
	if got := sandbox.Succeed(oci, p.launcher).Run(bundle); got[0] != oci.Path() {
		t.Errorf("chosen: %v", got)
	}
}

// start runs a container that goes on, with a folder of the machine leaked to
// who starts it, and ends it with the test. A container that writes to /ready
// is awaited (await).
func (p *pod) start(in sandbox.Input) (*specs.Spec, string) {
	p.t.Helper()
	spec, err := sandbox.Spec(in)
	if err != nil {
		p.t.Fatal(err)
	}
	bundle := filepath.Join(p.dir, in.ID)
	if err := errors.Join(os.Mkdir(bundle, 0o700), sandbox.WriteBundle(bundle, spec), unix.Mkfifo(p.dir+"/rootfs/ready", 0o666), os.Chmod(p.dir+"/rootfs/ready", 0o666)); err != nil {
		p.t.Fatal(err)
	}
	if err := p.detached(p.launcher.Run(sandbox.Bundle{ID: in.ID, Dir: bundle, PidFile: bundle + "/pid"})); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		pid := p.pid(bundle + "/pid")
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			p.t.Error(err)
		}
		p.reap(pid)
		if err := p.launcher.Delete(context.Background(), in.ID, true); err != nil {
			p.t.Error(err)
		}
		if err := p.host.Cgroups.Remove(context.Background(), in.CgroupsPath); err != nil {
			p.t.Error(err)
		}
	})
	return spec, bundle
}

// await returns when a container has written to /ready.
func (p *pod) await() {
	p.t.Helper()
	if _, err := os.ReadFile(p.dir + "/rootfs/ready"); err != nil {
		p.t.Fatal(err)
	}
}

// exec starts a process in a container and returns its number.
func (p *pod) exec(id, bundle string, process *specs.Process) (int, error) {
	p.t.Helper()
	if err := sandbox.WriteProcess(bundle+"/process.json", process); err != nil {
		p.t.Fatal(err)
	}
	err := p.detached(p.launcher.Exec(sandbox.Exec{ContainerID: id, ProcessFile: bundle + "/process.json", PidFile: bundle + "/exec.pid"}))
	if err != nil {
		return 0, err
	}
	return p.pid(bundle + "/exec.pid"), nil
}

// reap waits for a process that a launcher has left to us.
func (p *pod) reap(pid int) {
	p.t.Helper()
	if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
		p.t.Error(err)
	}
}

// output is what all detached processes have said.
func (p *pod) output() string {
	p.t.Helper()
	files, err := filepath.Glob(p.dir + "/output*")
	if err != nil {
		p.t.Fatal(err)
	}
	var all []byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			p.t.Fatal(err)
		}
		all = append(all, b...)
	}
	return string(all)
}
