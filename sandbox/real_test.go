// SPDX-License-Identifier: Apache-2.0

package sandbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/linux"
	"github.com/peapod/peapod/sandbox"
)

// testCgroup is the parent of all cgroups that the tests make.
const testCgroup = "/peapod-sandbox-test"

// pod is a sandbox on this machine for a test.
type pod struct {
	t        testing.TB
	dir      string
	host     sandbox.Host
	ns       sandbox.Namespaces
	launcher sandbox.Launcher
}

// program is peapod-launcher, built once for all tests.
var program = sync.OnceValues(func() (string, error) {
	path := programPath()
	build := exec.Command("go", "build", "-o", path, "./peapod-launcher")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func programPath() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("peapod-launcher-test-%d", os.Getpid()))
}

func TestMain(m *testing.M) {
	// As the keeper: what a launcher leaves behind is ours to wait for.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.Remove(programPath())
	os.Exit(code)
}

// launcher makes one of the launchers, by its name.
func launcher(t testing.TB, name, dir string) sandbox.Launcher {
	t.Helper()
	trial, state := filepath.Join(dir, "trial-"+name), filepath.Join(dir, "state-"+name)
	if name != sandbox.NativeName {
		l, err := sandbox.Find(t.Context(), []string{name}, trial, state)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	l, err := sandbox.Native(t.Context(), path, "test", trial, state)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// onEach runs a test with each launcher: what they do must be the same.
func onEach(t *testing.T, test func(t *testing.T, p *pod)) {
	for _, name := range []string{"runc", sandbox.NativeName} {
		t.Run(name, func(t *testing.T) { test(t, newPod(t, name)) })
	}
}

func newPod(t testing.TB, name string) *pod {
	t.Helper()
	p := &pod{t: t, dir: t.TempDir()}
	var err error
	if p.host, err = sandbox.ReadHost(); err != nil {
		t.Fatal(err)
	}
	p.launcher = launcher(t, name, p.dir)
	ns := filepath.Join(p.dir, "ns")
	t.Cleanup(func() {
		if err := errors.Join(sandbox.Unpin(ns), linux.Detach(p.dir+"/shm")); err != nil {
			t.Error(err)
		}
		for _, root := range p.host.Cgroups.Roots() {
			if err := os.Remove(root + testCgroup); err != nil && !os.IsNotExist(err) {
				t.Error(err)
			}
		}
		if left, err := linux.MountsBelow(p.dir); err != nil || len(left) > 0 {
			t.Errorf("mounts left: %v, %v", left, err)
		}
	})
	if p.ns, err = sandbox.Pin(ns, sandbox.Request{Net: true, IPC: true, UTS: true, Hostname: "real"}); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"shm", "rootfs/bin", "rootfs/etc", "volume"} {
		if err := os.MkdirAll(filepath.Join(p.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := linux.Tmpfs(p.dir+"/shm", 64<<20, os.ModeSticky|0o777, unix.MS_NOEXEC); err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err == nil {
		err = os.WriteFile(p.dir+"/rootfs/bin/busybox", busybox, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.dir+"/rootfs/etc/passwd", []byte("app:x:1000:1001::/home/app:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, l := range []string{"sh", "cat", "id", "hostname", "grep", "ls", "touch", "mount", "readlink", "df", "env", "sleep", "chroot", "ps", "kill", "unshare"} {
		if err := os.Symlink("busybox", p.dir+"/rootfs/bin/"+l); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// input is a container that runs a script.
func (p *pod) input(id, script string) sandbox.Input {
	p.t.Helper()
	in := sample()
	in.ID, in.Rootfs, in.Namespaces, in.Shm, in.Host = id, p.dir+"/rootfs", p.ns, p.dir+"/shm", p.host
	in.CgroupsPath = testCgroup + "/" + filepath.Base(p.dir) + id
	in.Image = ispecs.ImageConfig{}
	in.Container.Command = []string{"/bin/sh", "-c", script}
	in.Container.WorkingDir = "/"
	in.Container.Linux.Resources = &limits{}
	return in
}

// run starts a container and returns what it says.
func (p *pod) run(in sandbox.Input) (string, error) {
	p.t.Helper()
	spec, err := sandbox.Spec(in)
	if err != nil {
		p.t.Fatal(err)
	}
	bundle := filepath.Join(p.dir, in.ID)
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		p.t.Fatal(err)
	}
	if err := sandbox.WriteBundle(bundle, spec); err != nil {
		p.t.Fatal(err)
	}
	args := p.launcher.Run(sandbox.Bundle{ID: in.ID, Dir: bundle, PidFile: bundle + "/pid"})
	var foreground []string
	for _, a := range args {
		if a != "--detach" {
			foreground = append(foreground, a)
		}
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, foreground[0], foreground[1:]...).CombinedOutput()
	return string(out), err
}

// detached runs a command whose process lives on with its output, which must
// then be a file: the end of a pipe would only come with the process's own.
func (p *pod) detached(args []string) error {
	p.t.Helper()
	f, err := os.CreateTemp(p.dir, "output")
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = f, f
	// Who starts a launcher may be careless.
	leak, err := os.Open("/")
	if err != nil {
		p.t.Fatal(err)
	}
	defer leak.Close()
	cmd.ExtraFiles = []*os.File{leak, leak, leak, leak, leak}
	if err := cmd.Run(); err != nil {
		out, _ := os.ReadFile(f.Name())
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func (p *pod) check(in sandbox.Input, want ...string) {
	p.t.Helper()
	out, err := p.run(in)
	if err != nil {
		p.t.Errorf("%s: %v", in.ID, err)
	}
	for _, w := range want {
		if !strings.Contains(out, w+"\n") {
			p.t.Errorf("%s: output lacks %q", in.ID, w)
		}
	}
	if p.t.Failed() {
		p.t.Logf("%s:\n%s", in.ID, out)
	}
}

func TestRealContainer(t *testing.T) { onEach(t, realContainer) }

func realContainer(t *testing.T, p *pod) {
	in := p.input("plain", `echo "pid $$"; hostname; id -u; id -g; id -G; readlink /proc/self/ns/net
		env; grep -E 'CapEff|CapBnd|CapInh|NoNewPrivs|^Seccomp:' /proc/self/status; cat /proc/self/oom_score_adj
		touch /dev/shm/a && echo shm; touch /rw && echo root-writable; touch /sys/a || echo sys-read-only
		cat /proc/kcore | grep . || echo masked; echo 1 >/proc/sys/kernel/panic || echo proc-sys-read-only
		ls /dev; ls -d /dev/pts /dev/mqueue; mount | grep -c ' /sys/fs/cgroup'; exit 0`)
	user, err := sandbox.ResolveUser(in.Rootfs, in.Container.GetLinux().GetSecurityContext(), "")
	if err != nil {
		t.Fatal(err)
	}
	in.User = user
	sec(&in).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	p.check(in, "pid 1", "real", "0", "HOSTNAME=web", "HOME=/", "CapEff:\t00000000a80425fb", "CapBnd:\t00000000a80425fb",
		"CapInh:\t0000000000000000", "NoNewPrivs:\t0", "Seccomp:\t2", "shm", "root-writable", "sys-read-only", "masked",
		"proc-sys-read-only", "/dev/mqueue", fmt.Sprint(p.host.OOMScoreAdj))
	if _, err := os.Stat(p.dir + "/shm/a"); err != nil {
		t.Error("the pod's /dev/shm was not the container's")
	}
}

func TestRealSecurity(t *testing.T) { onEach(t, realSecurity) }

func realSecurity(t *testing.T, p *pod) {
	in := p.input("restricted", `id -u; id -g; id -G; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status; touch /x || echo read-only; unshare -U true || echo no-user-namespace; cat /rro/f; touch /rro/f || echo volume-read-only`)
	var err error
	sec(&in).RunAsUser, sec(&in).SupplementalGroups = value(1000), []int64{2000}
	sec(&in).NoNewPrivs, sec(&in).ReadonlyRootfs = true, true
	sec(&in).Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}}
	sec(&in).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	if in.User, err = sandbox.ResolveUser(in.Rootfs, sec(&in), ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.dir+"/volume/f", []byte("content\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// The mount point must be there, since the root cannot be written.
	if err := os.Mkdir(p.dir+"/rootfs/rro", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"proc", "dev", "sys"} {
		if err := os.Mkdir(p.dir+"/rootfs/"+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	in.Container.Mounts = []*runtimeapi.Mount{{ContainerPath: "/rro", HostPath: p.dir + "/volume", Readonly: true, RecursiveReadOnly: true}}
	p.check(in, "1000", "1001", "1001 2000", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1",
		"read-only", "no-user-namespace", "content", "volume-read-only")
	in = p.input("privileged", `grep -E 'CapEff|^Seccomp:' /proc/self/status; touch /proc/sys/kernel/panic && echo proc-writable; ls /dev/null; mount | grep '^sysfs' | grep -c rw`)
	sec(&in).Privileged, in.Sandbox.Linux.SecurityContext.Privileged = true, true
	if in.Devices, err = sandbox.AllDevices(); err != nil || len(in.Devices) == 0 {
		t.Fatalf("devices: %v, %v", in.Devices, err)
	}
	p.check(in, "Seccomp:\t0", "proc-writable", "/dev/null", "1")
}

func TestRealLimits(t *testing.T) { onEach(t, realLimits) }

func realLimits(t *testing.T, p *pod) {
	in := p.input("limits", `for f in /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/cpu/cpu.cfs_quota_us; do [ -e $f ] && cat $f; done; cat /proc/self/oom_score_adj; exit 0`)
	in.Container.Linux.Resources = &limits{MemoryLimitInBytes: 64 << 20, CpuShares: 512, CpuQuota: 50000, CpuPeriod: 100000, OomScoreAdj: 900,
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB"}}, Unified: map[string]string{"memory.high": "max"}}
	want := []string{"67108864", "900"}
	if !p.host.Cgroups.V2() {
		want = append(want, "512", "50000")
	}
	p.check(in, want...)
	// A guaranteed Pod on a node that may not lower oom_score_adj.
	in = p.input("guaranteed", "cat /proc/self/oom_score_adj")
	in.Container.Linux.Resources.OomScoreAdj = -997
	want = []string{"-997"}
	if !p.host.CanRaiseLimits {
		want = []string{fmt.Sprint(p.host.OOMScoreAdj)}
	}
	p.check(in, want...)
}

// TestRealLauncher walks through the calls that are not a command line.
func TestRealLauncher(t *testing.T) { onEach(t, realLauncher) }

func realLauncher(t *testing.T, p *pod) {
	in := p.input("steps", "sleep 1000")
	in.Container.Linux.Resources.MemoryLimitInBytes = 64 << 20
	spec, err := sandbox.Spec(in)
	if err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(p.dir, "steps")
	if err := os.Mkdir(bundle, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := sandbox.WriteBundle(bundle, spec); err != nil {
		t.Fatal(err)
	}
	l, ctx := p.launcher, t.Context()
	if _, err := l.State(ctx, "steps"); !errors.Is(err, sandbox.ErrNoContainer) {
		t.Errorf("state before create: %v", err)
	}
	args := l.Create(sandbox.Bundle{ID: "steps", Dir: bundle, PidFile: bundle + "/pid"})
	if err := p.detached(args); err != nil {
		t.Fatalf("create: %v", err)
	}
	t.Cleanup(func() { l.Delete(context.Background(), "steps", true) })
	state := func(want string) {
		t.Helper()
		if st, err := l.State(ctx, "steps"); err != nil || st.Status != want || st.Bundle != bundle {
			t.Errorf("state %+v, %v; want %s", st, err, want)
		}
	}
	state("created")
	if err := l.Start(ctx, "steps"); err != nil {
		t.Fatal(err)
	}
	state("running")
	if err := l.Start(ctx, "steps"); err == nil || !strings.Contains(err.Error(), "cannot start container steps: ") {
		t.Errorf("second start: %v", err)
	}
	limit := int64(96 << 20)
	if err := l.Update(ctx, "steps", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}); err != nil {
		t.Error(err)
	}
	file := filepath.Join(p.host.Cgroups.Path("memory", in.CgroupsPath), "memory.limit_in_bytes")
	if p.host.Cgroups.V2() {
		file = filepath.Join(p.host.Cgroups.Path("memory", in.CgroupsPath), "memory.max")
	}
	if b, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(b)) != fmt.Sprint(limit) {
		t.Errorf("limit after update: %s, %v", b, err)
	}
	process := bundle + "/process.json"
	if err := sandbox.WriteProcess(process, sandbox.ExecProcess(spec, []string{"/bin/sh", "-c", "echo there >/dev/shm/exec"}, false)); err != nil {
		t.Fatal(err)
	}
	args = l.Exec(sandbox.Exec{ContainerID: "steps", ProcessFile: process, PidFile: bundle + "/exec.pid"})
	if err := p.detached(args); err != nil {
		t.Fatalf("exec: %v", err)
	}
	p.reap(p.pid(bundle + "/exec.pid"))
	if ids, err := l.List(ctx); err != nil || len(ids) != 1 || ids[0] != "steps" {
		t.Errorf("list %v, %v", ids, err)
	}
	if err := l.Delete(ctx, "steps", false); err == nil {
		t.Error("a running container was deleted without force")
	}
	st, err := l.State(ctx, "steps")
	if err != nil {
		t.Fatal(err)
	}
	pidfd, err := linux.OpenPidfd(st.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	if err := l.Kill(ctx, "steps", 9, false); err != nil {
		t.Fatal(err)
	}
	if err := pidfd.Wait(); err != nil {
		t.Fatal(err)
	}
	p.reap(st.Pid)
	for range 2 {
		if err := l.Delete(ctx, "steps", true); err != nil {
			t.Error(err)
		}
	}
	if err := l.Kill(ctx, "steps", 9, true); !errors.Is(err, sandbox.ErrNoContainer) {
		t.Errorf("kill after delete: %v", err)
	}
}

// BenchmarkSpec is what the translation itself costs.
func BenchmarkSpec(b *testing.B) {
	in := sample()
	sec(&in).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	for b.Loop() {
		s, err := sandbox.Spec(in)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := json.Marshal(s); err != nil {
			b.Fatal(err)
		}
	}
}
