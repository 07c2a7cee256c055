// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/linux"
	"github.com/peapod/peapod/test/imagefile"
)

// create makes a sandbox and a container in it; change may be nil.
func (b *bench) create(t testing.TB, name, script string, change func(*runtimeapi.PodSandboxConfig, *runtimeapi.ContainerConfig)) (pod, ctr string) {
	t.Helper()
	config := b.sandbox(t, name)
	c := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: "bb:1"},
		Command: []string{"sh", "-c", script}, LogPath: "c.log", Linux: &runtimeapi.LinuxContainerConfig{},
	}
	if change != nil {
		change(config, c)
	}
	p, err := b.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	made, err := b.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: p.PodSandboxId, SandboxConfig: config, Config: c})
	if err != nil {
		t.Fatal(err)
	}
	return p.PodSandboxId, made.ContainerId
}

func (b *bench) launch(t testing.TB, id string) {
	t.Helper()
	if _, err := b.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) log(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(b.dir, "logs", name, "c.log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// importImage imports busybox with more entries and a configuration.
func (b *bench) importImage(t *testing.T, ref string, c ispecs.ImageConfig, more ...imagefile.Entry) {
	t.Helper()
	entries, err := imagefile.Busybox("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "image.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := imagefile.Write(f, imagefile.Image{Ref: ref, Entries: append(entries, more...), Config: c}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.cfg.Images.Import(t.Context(), f.Name()); err != nil {
		t.Fatal(err)
	}
}

// TestWholeContainerEnds: without a PID namespace of its own, what the first
// process left behind and exec sessions end with it all the same.
func TestWholeContainerEnds(t *testing.T) {
	for name, mode := range map[string]runtimeapi.NamespaceMode{"shared": runtimeapi.NamespaceMode_POD, "own": runtimeapi.NamespaceMode_CONTAINER, "host": runtimeapi.NamespaceMode_NODE} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			options := &runtimeapi.NamespaceOption{Pid: mode}
			_, id := b.create(t, "tree", "(setsid sh -c 'sleep 1000 & sleep 1000' &) ; exec sleep 1000", func(p *runtimeapi.PodSandboxConfig, c *runtimeapi.ContainerConfig) {
				p.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: options}
				c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: options}
			})
			b.launch(t, id)
			ran := make(chan error, 1)
			go func() {
				_, err := b.ExecSync(context.Background(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "echo in >/in; exec sleep 1000"}})
				ran <- err
			}()
			if _, err := b.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "while [ ! -s /in ]; do usleep 1000; done"}, Timeout: 30}); err != nil {
				t.Fatal(err)
			}
			c, err := b.findContainer(id)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id}); err != nil {
				t.Fatal(err)
			}
			if err := <-ran; err != nil {
				t.Errorf("the exec session: %v", err)
			}
			b.noCgroup(t, c.Cgroup)
		})
	}
}

func (b *bench) noCgroup(t *testing.T, cgroup string) {
	t.Helper()
	for _, root := range b.host.Cgroups.Roots() {
		if _, err := os.Stat(filepath.Join(root, cgroup)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after the stop cgroup %s is in %s: %v", cgroup, root, err)
		}
	}
}

// TestStartedByTheNext: what one start of ours has made and the next has
// started leaves no more than any other.
func TestStartedByTheNext(t *testing.T) {
	b := newBench(t)
	_, id := b.create(t, "made", "exec sleep 1000", nil)
	b.stop()
	b.open(t)
	b.launch(t, id)
	c, err := b.findContainer(id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	b.noCgroup(t, c.Cgroup)
}

// TestStartGivenUp: a client that leaves while the OCI runtime works leaves a
// container that can be started or removed, not one that runs unknown.
func TestStartGivenUp(t *testing.T) {
	b := newBench(t)
	_, id := b.create(t, "late", "sleep 1000", nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		s, statusErr := b.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if statusErr != nil || s.Status.State != runtimeapi.ContainerState_CONTAINER_CREATED {
			t.Fatalf("%v, %v", s, statusErr)
		}
		b.launch(t, id)
	}
	if _, err := b.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id}); err != nil {
		t.Error(err)
	}
}

// TestMemoryRunsOut: the reason is known, also after the cgroup is gone and
// the runtime was started again.
func TestMemoryRunsOut(t *testing.T) {
	b := newBench(t)
	_, id := b.create(t, "oom", "x=a; while :; do x=$x$x$x; done", func(_ *runtimeapi.PodSandboxConfig, c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 8 << 20}
	})
	b.launch(t, id)
	if s := b.wait(t, id); s.ExitCode != 137 || s.Reason != "OOMKilled" {
		t.Errorf("ended as %v", s)
	}
	if _, err := b.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id}); err != nil {
		t.Error(err)
	}
	b.stop()
	b.open(t)
	if s := b.wait(t, id); s.ExitCode != 137 || s.Reason != "OOMKilled" {
		t.Errorf("after a restart: %v", s)
	}
}

// TestDamagedRecords: what a damaged record was of goes, processes and all;
// the rest goes on.
func TestDamagedRecords(t *testing.T) {
	b := newBench(t)
	goodPod, good := b.start(t, "good", "sleep 1000")
	badPod, lost := b.start(t, "badpod", "sleep 1000")
	_, bad := b.start(t, "badctr", "sleep 1000")
	var ends []*linux.Pidfd
	for _, id := range []string{lost, bad} {
		p, err := linux.OpenPidfd(b.pid(t, id), 0)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		ends = append(ends, p)
	}
	b.stop()
	for file, text := range map[string]string{"sandboxes/" + badPod + "/sandbox.json": "{", "containers/" + bad + "/container.json": `{"version":1,"id":"other"}`} {
		if err := os.WriteFile(filepath.Join(b.dir, "rt", file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.open(t)
	for _, p := range ends {
		if err := p.Wait(); err != nil {
			t.Error(err)
		}
	}
	pods, err := b.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
	if err != nil || len(pods.Items) != 2 {
		t.Errorf("sandboxes %v, %v", pods, err)
	}
	list, err := b.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{})
	if err != nil || len(list.Containers) != 1 || list.Containers[0].Id != good || list.Containers[0].State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("containers %v, %v; sandbox %s", list, err, goodPod)
	}
}

func (b *bench) pid(t testing.TB, id string) int {
	t.Helper()
	w := &world{t: t.(*testing.T), dir: b.dir}
	return w.pid(id)
}

// TestHostileImage: links in an image lead nowhere but into it.
func TestHostileImage(t *testing.T) {
	b := newBench(t)
	outside := filepath.Join(b.dir, "outside")
	if err := os.WriteFile(outside, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.importImage(t, "bad:1", ispecs.ImageConfig{Volumes: map[string]struct{}{"/data": {}, "/escape": {}}},
		imagefile.Entry{Path: "/etc/hosts", Link: outside}, imagefile.Entry{Path: "/etc/hostname", Link: "../../../../../../../../" + outside},
		imagefile.Entry{Path: "/etc/resolv.conf", Link: "/etc/elsewhere"}, imagefile.Entry{Path: "/escape", Link: "/../../../../../usr"},
		imagefile.Entry{Path: "/data", Dir: true, Mode: 0o750}, imagefile.Entry{Path: "/data/seed", Data: []byte("from the image"), Mode: 0o640},
	)
	_, id := b.create(t, "hostile", "cat /data/seed; echo; stat -c %a /data; ls /escape; echo changed >>/etc/hosts; echo x >/data/mine", func(_ *runtimeapi.PodSandboxConfig, c *runtimeapi.ContainerConfig) {
		c.Image.Image = "bad:1"
	})
	b.launch(t, id)
	b.wait(t, id)
	log := b.log(t, "hostile")
	if !strings.Contains(log, " from the image\n") || !strings.Contains(log, " 750\n") {
		t.Errorf("the volume lacks what the image has there: %s", log)
	}
	// ls prints nothing: the image has no /usr, the machine has.
	if strings.Contains(log, "stdout F lib") || strings.Contains(log, "precious") {
		t.Errorf("the container saw the machine: %s", log)
	}
	if text, err := os.ReadFile(outside); err != nil || string(text) != "precious" {
		t.Errorf("a file of the machine is now %q, %v", text, err)
	}
}

// TestStoppedSandboxForwardsNothing: its port is not the machine's.
func TestStoppedSandboxForwardsNothing(t *testing.T) {
	b := newBench(t)
	pod, _ := b.start(t, "stopped", "sleep 1000")
	for range 2 { // repeating is no error
		if _, err := b.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
			t.Fatal(err)
		}
	}
	if err := (streams{b.Runtime}).PortForward(t.Context(), pod, 1, nopStream{}); err == nil || !strings.Contains(err.Error(), "is not running") {
		t.Errorf("forwarded: %v", err)
	}
	if _, err := b.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{}}}); err == nil {
		t.Error("a container was made in a stopped sandbox")
	}
	for range 2 {
		if _, err := b.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
			t.Error(err)
		}
	}
}

type nopStream struct{}

func (nopStream) Read([]byte) (int, error)    { return 0, os.ErrClosed }
func (nopStream) Write(b []byte) (int, error) { return len(b), nil }
func (nopStream) Close() error                { return nil }

// TestOfThePod: a container that says nothing has the Pod's namespaces, also
// where those are the machine's; its status says as whom it runs and what ends
// it.
func TestOfThePod(t *testing.T) {
	b := newBench(t)
	b.importImage(t, "sig:1", ispecs.ImageConfig{StopSignal: "SIGUSR1", User: "7:8"})
	_, id := b.create(t, "host", "trap 'exit 5' USR1; readlink /proc/self/ns/net; while :; do usleep 10000; done", func(p *runtimeapi.PodSandboxConfig, c *runtimeapi.ContainerConfig) {
		p.Linux.SecurityContext = &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{
			Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_CONTAINER,
		}}
		c.Image.Image = "sig:1"
		c.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}}
	})
	b.launch(t, id)
	// The trap is set when the line is there.
	if _, err := b.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "until grep -q '^SigCgt:.*[2-9a-f]..$' /proc/1/status; do usleep 1000; done"}, Timeout: 20}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 30}); err != nil {
		t.Fatal(err)
	}
	s := b.wait(t, id)
	if s.ExitCode != 5 || s.StopSignal != runtimeapi.Signal_SIGNAL_SIGUSR1 || s.User.GetLinux().GetUid() != 7 || s.User.GetLinux().GetGid() != 8 {
		t.Errorf("status %v", s)
	}
	var ours [64]byte
	n, err := unix.Readlink("/proc/self/ns/net", ours[:])
	if err != nil || !strings.Contains(b.log(t, "host"), string(ours[:n])) {
		t.Errorf("log %q, %v", b.log(t, "host"), err)
	}
}

// TestLeftFrozen: a container that was frozen when its killer was killed goes
// on after the next start, and can be stopped.
func TestLeftFrozen(t *testing.T) {
	b := newBench(t)
	_, id := b.start(t, "frozen", "sleep 1000")
	c, err := b.findContainer(id)
	if err != nil {
		t.Fatal(err)
	}
	freezer := filepath.Join(b.host.Cgroups.Unified, c.Cgroup, "cgroup.freeze")
	frozen, thawed := "1", "0"
	if v1 := b.host.Cgroups.V1["freezer"]; v1 != "" {
		freezer, frozen, thawed = filepath.Join(v1, c.Cgroup, "freezer.state"), "FROZEN", "THAWED"
	}
	freeze := func() {
		t.Helper()
		if err := os.WriteFile(freezer, []byte(frozen), 0); err != nil {
			t.Fatal(err)
		}
	}
	freeze()
	b.stop()
	b.open(t)
	if state, err := os.ReadFile(freezer); err != nil || strings.TrimSpace(string(state)) != thawed {
		t.Errorf("after a restart it is %q, %v", state, err)
	}
	freeze()
	if _, err := b.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if s := b.wait(t, id); s.ExitCode != 137 {
		t.Errorf("exit code %d", s.ExitCode)
	}
}
