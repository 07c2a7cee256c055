// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/cri"
	"github.com/peapod/peapod/image"
	"github.com/peapod/peapod/keeper"
	"github.com/peapod/peapod/linux"
	"github.com/peapod/peapod/network"
	"github.com/peapod/peapod/sandbox"
)

// crashHost makes the test binary a program that hosts a runtime in a folder.
const crashHost = "RUNTIME_TEST_HOST"

func TestMain(m *testing.M) {
	flag.Parse()
	if dir := os.Getenv(crashHost); dir != "" {
		if err := host(dir); err != nil {
			fmt.Fprintln(os.Stderr, "host:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func networkConfig(dir string) network.Config {
	return network.Config{Dir: filepath.Join(dir, "network"), Instance: "peapod-crash", PodCIDR: netip.MustParsePrefix("10.213.0.0/26"), Log: slog.New(slog.DiscardHandler)}
}

// host is what peapod does with its runtime, on a socket, until SIGTERM. It
// says on descriptor 3 when it is ready.
func host(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	n, err := network.Open(ctx, networkConfig(dir))
	if err != nil {
		return err
	}
	images, err := image.Open(filepath.Join(dir, "images"), image.Options{Log: log})
	if err != nil {
		return err
	}
	defer images.Close()
	l, err := findLauncher(ctx, dir)
	if err != nil {
		return err
	}
	ready := os.NewFile(3, "ready")
	for {
		k, err := keeper.Launch(ctx, keeper.Config{Binary: filepath.Join(dir, "peapod-keeper"), Dir: filepath.Join(dir, "keeper")})
		if err != nil {
			return err
		}
		r, err := New(ctx, Config{
			Dir: filepath.Join(dir, "rt"), Version: "test", Launchers: map[string]sandbox.Launcher{"": l, l.Name(): l}, Keeper: k,
			KeeperBinary: filepath.Join(dir, "peapod-keeper"), Images: images, Network: n, CgroupRoot: crashCgroup(dir), Log: log,
		})
		if err != nil {
			return err
		}
		served, serving := make(chan error, 1), make(chan struct{})
		serve, end := context.WithCancel(ctx)
		go func() { close(serving); served <- cri.Serve(serve, filepath.Join(dir, "cri.sock"), r) }()
		<-serving
		if _, err := ready.Write([]byte{1}); err != nil {
			end()
			return err
		}
		err = r.Run(ctx)
		end()
		if err = errors.Join(err, <-served); !errors.Is(err, keeper.ErrGone) {
			return err
		}
		k.Close()
	}
}

func crashCgroup(dir string) string { return "/peapod-" + filepath.Base(dir) }

// world is a machine on which a host is killed again and again.
type world struct {
	t     *testing.T
	dir   string
	netns string
	ready *os.File
	cmd   *exec.Cmd
	cri.Client

	mu      sync.Mutex     // guards the fields below
	running map[string]int // started for sure and not asked to stop -> pid
	fulfils int            // lives of sandboxes that went from begin to end
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "crash")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir, netns: filepath.Join(dir, "netns"), running: map[string]int{}}
	t.Cleanup(w.cleanUp)
	buildPrograms(t, dir)
	images, err := image.Open(filepath.Join(dir, "images"), image.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	importBusybox(t, images)
	images.Close()
	if err := os.WriteFile(w.netns, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := linux.NewNamespaces([]linux.NamespacePin{{Kind: "net", Path: w.netns}}, loopbackUp); err != nil {
		t.Fatal(err)
	}
	// Calls wait for a host that is being started.
	again := backoff.Config{BaseDelay: time.Millisecond, Multiplier: 1.1, MaxDelay: 10 * time.Millisecond}
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, "cri.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: again}), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	w.Client = cri.Client{Runtime: runtimeapi.NewRuntimeServiceClient(conn), Image: runtimeapi.NewImageServiceClient(conn)}
	return w
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// start starts the host and returns when it is ready.
func (w *world) start() {
	w.t.Helper()
	ready, theirs, err := os.Pipe()
	if err != nil {
		w.t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(w.dir, "host.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	w.cmd = exec.Command(os.Args[0], "-launcher="+*launcherName)
	w.cmd.Env = append(os.Environ(), crashHost+"="+w.dir)
	w.cmd.Stderr, w.cmd.ExtraFiles = log, []*os.File{theirs}
	if err := linux.InNamespace("net", w.netns, w.cmd.Start); err != nil {
		w.t.Fatal(err)
	}
	theirs.Close()
	if w.ready != nil {
		w.ready.Close()
	}
	w.ready = ready
	w.awaitReady()
}

func (w *world) awaitReady() {
	w.t.Helper()
	if err := w.ready.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.ready.Read(make([]byte, 1)); err != nil {
		b, _ := os.ReadFile(filepath.Join(w.dir, "host.log"))
		w.t.Fatalf("host does not become ready: %v\n%s", err, b[max(0, len(b)-5000):])
	}
}

// kill kills the host, as nothing else may.
func (w *world) kill() {
	w.t.Helper()
	if err := w.cmd.Process.Kill(); err != nil {
		w.t.Fatal(err)
	}
	_ = w.cmd.Wait() // it was killed
}

func (w *world) sandbox(name string, shared bool) *runtimeapi.PodSandboxConfig {
	pid := runtimeapi.NamespaceMode_CONTAINER
	if shared {
		pid = runtimeapi.NamespaceMode_POD
	}
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "ns", Uid: name + "-uid"}, Hostname: name,
		LogDirectory: filepath.Join(w.dir, "logs", name), Labels: map[string]string{"name": name},
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: pid},
		}},
	}
}

// container makes and starts a container; it is in running when that is sure.
func (w *world) container(ctx context.Context, pod string, config *runtimeapi.PodSandboxConfig, name, script string) (string, error) {
	c, err := w.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod, SandboxConfig: config, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: "bb:1"},
		Command: []string{"sh", "-c", script}, LogPath: name + ".log", Labels: config.Labels,
		Mounts: []*runtimeapi.Mount{{ContainerPath: "/go", HostPath: filepath.Join(w.dir, "go")}},
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			NamespaceOptions: config.Linux.SecurityContext.NamespaceOptions,
		}},
	}})
	if err != nil {
		return "", err
	}
	if _, err := w.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
		return "", err
	}
	return c.ContainerId, nil
}

// firm is container after a restart: a call may still go to the connection
// with the host that was killed.
func (w *world) firm(ctx context.Context, pod string, config *runtimeapi.PodSandboxConfig, name, script string) (string, error) {
	if _, err := w.Runtime.Version(ctx, &runtimeapi.VersionRequest{}); err != nil && status.Code(err) != codes.Unavailable {
		return "", err
	}
	return w.container(ctx, pod, config, name, script)
}

func (w *world) pid(id string) int {
	w.t.Helper()
	var pid int
	b, err := os.ReadFile(filepath.Join(w.dir, "rt/containers", id, "pid"))
	if err == nil {
		_, err = fmt.Sscan(string(b), &pid)
	}
	if err != nil {
		w.t.Error(err)
	}
	return pid
}

// remove removes all sandboxes of a name, as a node agent does.
func (w *world) remove(ctx context.Context, name string) error {
	list, err := w.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"name": name}}})
	if err != nil {
		return err
	}
	for _, p := range list.Items {
		if _, err := w.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			return err
		}
		if _, err := w.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			return err
		}
	}
	return nil
}

// life is one sandbox from begin to end; each call may fail as the host dies.
func (w *world) life(ctx context.Context, worker int) error {
	name := fmt.Sprint("worker", worker)
	if err := w.remove(ctx, name); err != nil {
		return err
	}
	config := w.sandbox(name, worker%2 == 1)
	config.PortMappings = []*runtimeapi.PortMapping{{HostPort: int32(20000 + worker), ContainerPort: 80}}
	p, err := w.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		return err
	}
	// The inner shell is left behind and outlives its parent if nobody cares.
	id, err := w.container(ctx, p.PodSandboxId, config, "c", "(setsid sleep 1000 &); exec sleep 1000")
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.running[id] = w.pid(id)
	w.mu.Unlock()
	_, err = w.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}})
	w.mu.Lock()
	delete(w.running, id)
	w.mu.Unlock()
	if err != nil {
		return err
	}
	if _, err := w.Runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 0}); err != nil {
		return err
	}
	if _, err := w.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil {
		return err
	}
	if err := w.remove(ctx, name); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fulfils++
	return nil
}

// await returns a container's status once it has ended.
func (w *world) await(ctx context.Context, id string) *runtimeapi.ContainerStatus {
	w.t.Helper()
	events, err := w.Runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err == nil {
		_, err = events.Header()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	for {
		s, err := w.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			w.t.Fatalf("container %s is lost: %v", id, err)
		}
		if s.Status.State == runtimeapi.ContainerState_CONTAINER_EXITED {
			return s.Status
		}
		if _, err := events.Recv(); err != nil {
			w.t.Fatalf("container %s does not end: %v", id, err)
		}
	}
}

// TestKilledAnywhere kills the runtime at random moments while sandboxes come
// and go. Nothing may be restarted, lost or left behind.
func TestKilledAnywhere(t *testing.T) {
	w := newWorld(t)
	w.killAgainAndAgain(16, true, func() { w.kill() }, w.start)
	w.wholeLog(filepath.Join(w.dir, "logs/witness/counter.log"))
}

// TestKeeperKilledAnywhere does the same with the keeper. How a container ends
// meanwhile is known where the kernel tells; what it wrote then may be lost.
func TestKeeperKilledAnywhere(t *testing.T) {
	w := newWorld(t)
	w.killAgainAndAgain(8, false, w.killKeeper, w.awaitReady)
}

func (w *world) killAgainAndAgain(rounds int, wholeLogs bool, kill, start func()) {
	const workers = 3
	t := w.t
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 0))
	if err := os.Mkdir(filepath.Join(w.dir, "go"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.start()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	witness := w.sandbox("witness", false)
	p, err := w.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: witness})
	if err != nil {
		t.Fatal(err)
	}
	counter, err := w.container(ctx, p.PodSandboxId, witness, "counter", "i=0; while [ ! -e /go/counter ]; do echo line $i; i=$((i+1)); usleep 500; done; exit 41")
	if err != nil {
		t.Fatal(err)
	}
	w.running[counter] = w.pid(counter)
	work, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	for i := range workers {
		all.Go(func() {
			for work.Err() == nil {
				_ = w.life(work, i) // killed in the middle: the next life begins with the cleaning
			}
		})
	}
	for round := range rounds {
		name := fmt.Sprint("ends", round)
		ends, err := w.firm(ctx, p.PodSandboxId, witness, name, fmt.Sprintf("while [ ! -e /go/%d ]; do usleep 500; done; echo bye; exit 42", round))
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		<-time.After(time.Duration(chance.IntN(400)) * time.Millisecond) // the moment of the kill
		kill()
		w.touch(fmt.Sprint(round))
		start()
		if s := w.await(ctx, ends); s.ExitCode != 42 {
			t.Errorf("round %d: exit code %d, %s %s", round, s.ExitCode, s.Reason, s.Message)
		}
		if b, err := os.ReadFile(filepath.Join(w.dir, "logs/witness", name+".log")); wholeLogs && (err != nil || !strings.HasSuffix(string(b), " stdout F bye\n")) {
			t.Errorf("round %d: log %q, %v", round, b, err)
		}
		w.check(ctx)
	}
	stop()
	all.Wait()
	w.touch("counter")
	if s := w.await(ctx, counter); s.ExitCode != 41 {
		t.Errorf("counter: exit code %d, %s %s", s.ExitCode, s.Reason, s.Message)
	}
	for _, name := range []string{"witness", "worker0", "worker1", "worker2"} {
		if err := w.remove(ctx, name); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d sandboxes lived from begin to end", w.fulfils)
	w.finish(ctx)
}

func (w *world) touch(name string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, "go", name), nil, 0o644); err != nil {
		w.t.Fatal(err)
	}
}
