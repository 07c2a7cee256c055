// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/image"
	"github.com/peapod/peapod/keeper"
	"github.com/peapod/peapod/linux"
	"github.com/peapod/peapod/network"
	"github.com/peapod/peapod/sandbox"
	"github.com/peapod/peapod/test/imagefile"
)

// noNetwork leaves sandboxes without a link.
type noNetwork struct{}

func (noNetwork) Setup(context.Context, string, string, []network.HostPort) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("192.0.2.9")}, nil
}
func (noNetwork) Teardown(context.Context, string) error      { return nil }
func (noNetwork) Keep(context.Context, map[string]bool) error { return nil }

// bench is a runtime over a folder that outlives it, as a process is over a
// data folder.
type bench struct {
	*Runtime
	dir    string
	keeper string
	stop   func()
}

func newBench(t testing.TB) *bench {
	t.Helper()
	dir, err := os.MkdirTemp("", "rt")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{dir: dir, keeper: filepath.Join(dir, "peapod-keeper")}
	buildPrograms(t, dir)
	b.open(t)
	t.Cleanup(func() {
		if err := b.Down(context.Background()); err != nil {
			t.Error(err)
		}
		k := b.cfg.Keeper
		b.stop()
		if err := k.Stop(context.Background(), true); err != nil {
			t.Error(err)
		}
		if err := b.host.Cgroups.Remove(context.Background(), "/peapod-rt"); err != nil {
			t.Error(err)
		}
		mounts, err := linux.MountsBelow(dir)
		if err != nil || len(mounts) > 0 {
			t.Errorf("mounts left: %v, %v", mounts, err)
		}
		for _, d := range []string{"rt/sandboxes", "rt/containers", "images/holds"} {
			if left, _ := os.ReadDir(filepath.Join(dir, d)); len(left) > 0 {
				t.Errorf("%s left: %v", d, left)
			}
		}
		os.RemoveAll(dir)
	})
	return b
}

// launcherName is who starts the containers of the tests.
var launcherName = flag.String("launcher", "oci", "oci, or native: peapod-launcher")

// buildPrograms makes those that a runtime needs beside it.
func buildPrograms(t testing.TB, dir string) {
	t.Helper()
	build := exec.Command("go", "build", "-o", dir+"/", "../keeper/peapod-keeper", "../sandbox/peapod-launcher")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build keeper and launcher: %v\n%s", err, out)
	}
}

func findLauncher(ctx context.Context, dir string) (sandbox.Launcher, error) {
	if *launcherName == sandbox.NativeName {
		return sandbox.Native(ctx, filepath.Join(dir, "peapod-launcher"), "test", filepath.Join(dir, "trial"), filepath.Join(dir, "native"))
	}
	return sandbox.Find(ctx, []string{"crun", "runc"}, filepath.Join(dir, "trial"), filepath.Join(dir, "oci"))
}

// open starts a runtime on what is in the folder.
func (b *bench) open(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	log := slog.New(slog.DiscardHandler)
	k, err := keeper.Launch(ctx, keeper.Config{Binary: b.keeper, Dir: filepath.Join(b.dir, "keeper")})
	if err != nil {
		t.Fatal(err)
	}
	images, err := image.Open(filepath.Join(b.dir, "images"), image.Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	l, err := findLauncher(ctx, b.dir)
	if err != nil {
		t.Fatal(err)
	}
	b.Runtime, err = New(ctx, Config{
		Dir: filepath.Join(b.dir, "rt"), Version: "test", Launchers: map[string]sandbox.Launcher{"": l, l.Name(): l},
		Keeper: k, KeeperBinary: b.keeper, Images: images, Network: noNetwork{}, CgroupRoot: "/peapod-rt", Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	b.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		k.Close()
		images.Close()
	}
	if _, err := images.Get(ctx, "bb:1"); err != nil {
		importBusybox(t, images)
	}
}

func importBusybox(t testing.TB, s *image.Store) {
	t.Helper()
	entries, err := imagefile.Busybox("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "bb.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := imagefile.Write(f, imagefile.Image{Ref: "bb:1", Entries: entries}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(t.Context(), f.Name()); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) sandbox(t testing.TB, name string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "ns", Uid: name + "-uid"}, Hostname: name,
		LogDirectory: filepath.Join(b.dir, "logs", name), Linux: &runtimeapi.LinuxPodSandboxConfig{},
	}
}

// start runs a shell command as a container in a new sandbox.
func (b *bench) start(t testing.TB, name, script string) (pod, ctr string) {
	t.Helper()
	ctx := context.Background()
	config := b.sandbox(t, name)
	p, err := b.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	c, err := b.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: p.PodSandboxId, SandboxConfig: config, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: "bb:1"},
		Command: []string{"sh", "-c", script}, LogPath: "c.log", Linux: &runtimeapi.LinuxContainerConfig{},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
		t.Fatal(err)
	}
	return p.PodSandboxId, c.ContainerId
}

func (b *bench) wait(t testing.TB, id string) *runtimeapi.ContainerStatus {
	t.Helper()
	c, err := b.findContainer(id)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.over:
	case <-time.After(30 * time.Second):
		t.Fatalf("container %s does not end", id)
	}
	return c.status()
}

func TestLifeOfAContainer(t *testing.T) {
	b := newBench(t)
	_, id := b.start(t, "life", "hostname; echo err >&2; exit 42")
	s := b.wait(t, id)
	if s.ExitCode != 42 || s.Reason != "Error" || s.State != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("ended as %v", s)
	}
	log, err := os.ReadFile(filepath.Join(b.dir, "logs/life/c.log"))
	if err != nil || !strings.Contains(string(log), "stdout F life\n") || !strings.Contains(string(log), "stderr F err\n") {
		t.Errorf("log %q, %v", log, err)
	}
}

func TestStartError(t *testing.T) {
	b := newBench(t)
	config := b.sandbox(t, "bad")
	p, err := b.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	c, err := b.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: p.PodSandboxId, SandboxConfig: config, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: "bb:1"}, Command: []string{"/missing"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = b.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: c.ContainerId}); err == nil || !strings.Contains(err.Error(), "/missing") {
		t.Fatalf("start of a missing program: %v", err)
	}
	if s := b.wait(t, c.ContainerId); s.ExitCode != 128 || s.Reason != "StartError" {
		t.Errorf("status %v", s)
	}
}

func TestStopCanBeShortened(t *testing.T) {
	b := newBench(t)
	_, id := b.start(t, "stubborn", "trap '' TERM; touch /deaf; while :; do sleep 1; done")
	if _, err := b.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "until test -e /deaf; do usleep 10000; done"}, Timeout: 30}); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() {
		_, err := b.StopContainer(context.Background(), &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 600})
		stopped <- err
	}()
	begin := time.Now()
	if _, err := b.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 1}); err != nil {
		t.Fatal(err)
	}
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("the first stop went on for %v", took)
	}
	if s := b.wait(t, id); s.ExitCode != 137 {
		t.Errorf("exit code %d", s.ExitCode)
	}
}

func TestExecSync(t *testing.T) {
	b := newBench(t)
	_, id := b.start(t, "exec", "sleep 1000")
	out, err := b.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "echo out; echo err >&2; exit 3"}})
	if err != nil || string(out.Stdout) != "out\n" || string(out.Stderr) != "err\n" || out.ExitCode != 3 {
		t.Errorf("exec: %v, %v", out, err)
	}
	if _, err := b.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sleep", "100"}, Timeout: 1}); err == nil || !strings.Contains(err.Error(), "timeout 1s exceeded") {
		t.Errorf("exec past its timeout: %v", err)
	}
}

// TestRestart: a second runtime on the same folder, as after kill -9, finds
// what runs, and learns what ended meanwhile.
func TestRestart(t *testing.T) {
	b := newBench(t)
	_, runs := b.start(t, "runs", "sleep 1000")
	_, ends := b.start(t, "ends", "while [ ! -e /tmp/go ]; do usleep 1000; done; exit 7")
	if _, err := b.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: ends, Cmd: []string{"touch", "/tmp/go"}}); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(b.cfg.Dir, "containers", runs, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	b.stop()
	b.open(t)
	if s, err := b.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: runs}); err != nil || s.Status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("after restart: %v, %v", s, err)
	}
	after, err := os.ReadFile(filepath.Join(b.cfg.Dir, "containers", runs, "pid"))
	if err != nil || string(after) != string(before) {
		t.Errorf("pid %s became %s, %v", before, after, err)
	}
	if s := b.wait(t, ends); s.ExitCode != 7 {
		t.Errorf("exit code %d of what ended meanwhile, want 7", s.ExitCode)
	}
}

// TestKeeperIsKilled: what runs on without its keeper says so, until the next
// start that finds the same keeper.
func TestKeeperIsKilled(t *testing.T) {
	b := newBench(t)
	_, old := b.start(t, "old", "sleep 1000")
	reason := func(id string) string {
		t.Helper()
		s, err := b.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if err != nil || s.Status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Fatalf("%v, %v", s, err)
		}
		return s.Status.Reason
	}
	b.stop()
	b.open(t)
	if got := reason(old); got != "" {
		t.Errorf("after a restart it says %q", got)
	}
	k := b.cfg.Keeper.Process()
	b.stop()
	fd, err := linux.OpenPidfd(k.Pid, k.StartTicks)
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	if err := errors.Join(unix.Kill(k.Pid, unix.SIGKILL), fd.Wait()); err != nil {
		t.Fatal(err)
	}
	b.open(t)
	_, fresh := b.start(t, "fresh", "sleep 1000")
	if got := reason(old) + reason(fresh); got != "OutputMayBeLost" {
		t.Errorf("after the keeper's end they say %q", got)
	}
	b.stop()
	b.open(t)
	if got := reason(old); got != "" {
		t.Errorf("after another restart it says %q", got)
	}
}

func TestManyAtOnce(t *testing.T) {
	b := newBench(t)
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			_, id := b.start(t, fmt.Sprint("many", i), "exit 0")
			if s := b.wait(t, id); s.ExitCode != 0 {
				t.Errorf("%d: %v", i, s)
			}
		})
	}
	all.Wait()
}

func BenchmarkPod(b *testing.B) {
	r := newBench(b)
	i := 0
	for b.Loop() {
		i++
		p, _ := r.start(b, fmt.Sprint("p", i), "exec sleep 1000")
		b.StopTimer()
		if _, err := r.StopPodSandbox(context.Background(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: p}); err != nil {
			b.Fatal(err)
		}
		if _, err := r.RemovePodSandbox(context.Background(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p}); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
