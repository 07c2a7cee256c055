// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/peapod/peapod/auth"
	"github.com/peapod/peapod/cri"
	"github.com/peapod/peapod/test/bench/result"
)

// The programs of a stock cluster, in the order of their start.
const (
	Etcd              = "etcd"
	Containerd        = "containerd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
	Kubelet           = "kubelet"
	Proxy             = "kube-proxy"
)

// What a stock cluster has of its own on the machine. The ports are none that
// the kernel gives to clients.
const (
	stockNode     = "stock"
	stockCgroup   = "/stock-bench"
	stockLink     = "stockbr0"
	stockPods     = "10.236.0.0/20"
	stockServices = "10.237.0.0/16"
	PauseImage    = "peapod.dev/pause:1"
	apiPort       = "18643"
	etcdPort      = "18644"
	etcdPeerPort  = "18645"
	managerPort   = "18646"
	schedulerPort = "18647"
	kubeletPort   = "18648"
	// kubeletHealthPort, proxyHealthPort and proxyMetricsPort are where each
	// tells of itself.
	kubeletHealthPort = "18649"
	proxyHealthPort   = "18650"
	proxyMetricsPort  = "18651"
)

// StockOptions are what a stock cluster is started with.
type StockOptions struct {
	Bin string // folder that scripts/stock-cluster fills
	// Archives are images to import before the start; with PauseImage among
	// them where there is a kubelet.
	Archives []string
	// Without are programs that are not started.
	Without []string
	// Flags are further ones, by program.
	Flags map[string][]string
}

// Stock starts a stock cluster. There is one on a machine at a time: another
// waits until the first is gone.
func Stock(ctx context.Context, o StockOptions) (_ *Cluster, err error) {
	release, err := lockStock(ctx)
	if err != nil {
		return nil, err
	}
	s := &stock{StockOptions: o, release: release}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot prepare a stock cluster: %w", err), s.down())
	}
	c := &Cluster{
		Subject: result.Stock, Dir: s.dir, Kubeconfig: s.path("admin.kubeconfig"), CRI: "unix://" + s.path("containerd.sock"), CgroupParent: stockCgroup + "/cri",
		processes: s.processes, down: s.down,
	}
	if err := s.up(c); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start a stock cluster: %w", err), c.Down())
	}
	return c, nil
}

type stock struct {
	StockOptions
	dir     string
	pki     *auth.PKI
	world   *world
	machine *machine // as it was before
	release func()   // of the lock
	// ctx ends when one of the programs does.
	ctx    context.Context
	cancel context.CancelCauseFunc
}

func (s *stock) path(name string) string { return filepath.Join(s.dir, name) }

func (s *stock) has(program string) bool { return !slices.Contains(s.Without, program) }

// prepare makes all that is there before the clock starts.
func (s *stock) prepare(ctx context.Context) (err error) {
	if s.machine, err = readMachine(); err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("", "stock"); err != nil {
		return err
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	folder, err := s.machine.makeCgroups()
	if err != nil {
		return err
	}
	if s.world, err = newWorld(s.dir, folder, s.cancel); err != nil {
		return err
	}
	if !s.has(Containerd) {
		return nil
	}
	if err := s.writeNodeFiles(); err != nil {
		return err
	}
	return s.importImages()
}

// importImages fills containerd's store, as the next one will find it.
func (s *stock) importImages() error {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	p, err := s.world.command(s.Bin, Containerd, "--config", s.path("containerd.toml"))
	if err != nil {
		return err
	}
	go func() { defer close(p.done); _ = p.cmd.Wait() }()
	if err := s.untilRuntime(ctx); err != nil {
		return err
	}
	for _, archive := range s.Archives {
		if err := s.world.run(s.Bin, "ctr", "--address", s.path("containerd.sock"), "--namespace", "k8s.io", "images", "import", archive); err != nil {
			return fmt.Errorf("cannot import an image: %w", err)
		}
	}
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("containerd does not end: %w", context.Cause(ctx))
	}
}

// up starts the programs, each as soon as what it needs is there.
func (s *stock) up(c *Cluster) error {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	c.Begun = time.Now()
	if err := s.start(Etcd, Containerd); err != nil {
		return err
	}
	var err error
	names := auth.Names{Node: stockNode, IPs: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 237, 0, 1)}, DNS: []string{"kubernetes.default.svc"}}
	if s.pki, err = auth.EnsurePKI(s.path("pki"), names, time.Now); err != nil {
		return err
	}
	for file, pair := range map[string]string{"admin": "admin", Kubelet: "kubelet"} {
		if err := s.pki.WriteKubeconfig(s.path(file+".kubeconfig"), pair, "https://127.0.0.1:"+apiPort); err != nil {
			return err
		}
	}
	if err := c.connect(); err != nil {
		return err
	}
	if err := s.start(APIServer); err != nil {
		return err
	}
	if err := s.untilServing(ctx, c); err != nil {
		return err
	}
	if err := s.start(ControllerManager, Scheduler, Proxy); err != nil {
		return err
	}
	if s.has(Kubelet) {
		if err := s.untilRuntime(ctx); err != nil {
			return err
		}
		if err := s.start(Kubelet); err != nil {
			return err
		}
		if err := c.untilSchedulable(ctx); err != nil {
			return errors.Join(err, context.Cause(ctx))
		}
	}
	c.Ready = time.Now()
	return nil
}

// start starts those of the programs that are wanted.
func (s *stock) start(programs ...string) error {
	for _, name := range programs {
		if !s.has(name) {
			continue
		}
		args := append(s.flags(name), s.Flags[name]...)
		if err := s.world.start(s.Bin, name, args...); err != nil {
			return err
		}
	}
	return nil
}

// often is how often something is asked that cannot tell by itself.
const often = 20 * time.Millisecond

func (s *stock) untilServing(ctx context.Context, c *Cluster) error {
	err := wait.PollUntilContextCancel(ctx, often, true, func(ctx context.Context) (bool, error) {
		return c.Client.CoreV1().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error() == nil, nil
	})
	if err != nil {
		return fmt.Errorf("cannot wait for the API server: %w", context.Cause(ctx))
	}
	return nil
}

func (s *stock) untilRuntime(ctx context.Context) error {
	err := wait.PollUntilContextCancel(ctx, often, true, func(ctx context.Context) (bool, error) {
		runtime, conn, err := cri.Dial("unix://" + s.path("containerd.sock"))
		if err != nil {
			return false, nil
		}
		defer conn.Close()
		_, err = runtime.Runtime.Version(ctx, versionRequest)
		return err == nil, nil
	})
	if err != nil {
		return fmt.Errorf("cannot wait for containerd: %w", context.Cause(ctx))
	}
	return nil
}

// down ends all and puts the machine back, as far as it goes.
func (s *stock) down() error {
	defer s.release()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var err error
	if s.machine != nil {
		err = s.machine.killAll(ctx)
	}
	if s.world != nil {
		err = errors.Join(err, s.world.wait(ctx))
		s.world.close()
	}
	if s.cancel != nil {
		s.cancel(nil)
	}
	if s.machine != nil {
		err = errors.Join(err, s.machine.restore(ctx))
	}
	if s.dir != "" {
		err = errors.Join(err, os.RemoveAll(s.dir))
	}
	return err
}
