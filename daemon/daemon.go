// SPDX-License-Identifier: Apache-2.0

// Package daemon builds the parts of a node, starts and stops them in order,
// and takes everything back on `peapod down`. It is the one place that knows
// all rooms; what they need from each other is wired here.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/auth"
	"github.com/peapod/peapod/cri"
	"github.com/peapod/peapod/dns"
	"github.com/peapod/peapod/image"
	"github.com/peapod/peapod/keeper"
	"github.com/peapod/peapod/network"
	"github.com/peapod/peapod/runtime"
	"github.com/peapod/peapod/sandbox"
	"github.com/peapod/peapod/service"
)

// OpenImages opens the image store of a data folder, with or without a node
// running on it, and makes both where they are missing.
func OpenImages(dataDir string, log *slog.Logger) (*image.Store, error) {
	l, err := newLayout(dataDir)
	if err != nil {
		return nil, err
	}
	if _, err := l.claim(); err != nil {
		return nil, err
	}
	return l.openImages(log)
}

// FindImages is OpenImages that makes nothing: without a data folder it is
// fs.ErrNotExist.
func FindImages(dataDir string, log *slog.Logger) (*image.Store, error) {
	l, err := newLayout(dataDir)
	if err != nil {
		return nil, err
	}
	if _, err := l.readMarker(); err != nil {
		if l.empty() {
			err = fmt.Errorf("cannot use data folder %s: %w", l.root, fs.ErrNotExist)
		}
		return nil, err
	}
	return l.openImages(log)
}

func (l layout) openImages(log *slog.Logger) (*image.Store, error) {
	return image.Open(l.path("images"), image.Options{HostsDir: l.path("registries"), Log: log})
}

// Up runs a node until ctx ends, and leaves its Pods running.
func Up(ctx context.Context, o Options) error {
	s, err := o.check()
	if err != nil {
		return err
	}
	if err := fit(examineFatal(s.root, s.RuntimeEndpoint == "")); err != nil {
		return err
	}
	quiet(s.Log)
	m, err := s.claim()
	if err != nil {
		return err
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.notRestoring(); err != nil {
		return err
	}
	first := s.untouched()
	if err := s.sameCluster(m); err != nil {
		return err
	}
	if m.Runtime != s.RuntimeEndpoint && !first {
		return fmt.Errorf("the Pods of %s are on %s; end them with `peapod down` before they can be started on %s", s.root, runtimeName(m.Runtime), runtimeName(s.RuntimeEndpoint))
	}
	started, err := s.run(ctx)
	if err != nil && !started && first {
		// Nothing has come of it: the machine is as it was.
		back := DownOptions{Log: s.Log, Progress: s.Progress}
		err = errors.Join(err, s.takeBack(context.WithoutCancel(ctx), back))
	}
	return err
}

// run starts the parts and waits for the end of ctx, or of one of them.
func (s settings) run(ctx context.Context) (started bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d := &node{settings: s, fail: cancel}
	defer d.stop()
	err = d.start(ctx)
	if err == nil {
		started = true
		<-ctx.Done()
	}
	// Whatever else has come to an end was ended by the first cause.
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if errors.Is(err, context.Canceled) {
		return started, nil
	}
	return started, err
}

func runtimeName(endpoint string) string {
	if endpoint == "" {
		return "the built-in runtime"
	}
	return "the runtime at " + endpoint
}

// quiet sends what the libraries have to say to our log, and only when asked.
func quiet(log *slog.Logger) {
	l := logr.Discard()
	if log.Enabled(context.Background(), slog.LevelDebug) {
		l = logr.FromSlogHandler(log.Handler())
	}
	klog.SetLogger(l)
	ctrl.SetLogger(l)
}

// node is one running node: its parts in the order they were started.
type node struct {
	settings
	fail    context.CancelCauseFunc
	ip      netip.Addr
	pki     *auth.PKI // of a cluster's own machine
	member  *member   // of a machine that joined another's
	network *network.Network
	images  *image.Store
	api     *apiserver.Server
	cri     cri.Client
	// shared is the cache of the cluster's Services and machines.
	shared client.Reader
	// addresses leads the addresses of Services to their Pods.
	addresses *service.Proxy
	current   atomic.Pointer[runtime.Runtime]

	parts sync.WaitGroup
	mu    sync.Mutex // guards stops while parts start together
	stops []func()   // in the order of starting; run from the last
}

// part runs f as one part of the node; its failure ends the node.
func (d *node) part(ctx context.Context, what string, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	d.parts.Go(func() {
		defer close(done)
		if err := f(ctx); err != nil && ctx.Err() == nil {
			d.fail(fmt.Errorf("%s has failed: %w", what, err))
		}
	})
	d.onStop(func() { cancel(); <-done })
}

func (d *node) onStop(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stops = append(d.stops, f)
}

func (d *node) stop() {
	for i := len(d.stops) - 1; i >= 0; i-- {
		d.stops[i]()
	}
	d.parts.Wait()
}

// start brings the parts up: what is below a part is there before it.
func (d *node) start(ctx context.Context) error {
	if d.Join != "" {
		return d.startMember(ctx)
	}
	d.Progress("preparing keys and network")
	if err := d.prepare(ctx); err != nil {
		return err
	}
	// The runtime and the API do not need each other: they start together.
	below := make(chan error, 1)
	go func() {
		err := d.startRuntime(ctx)
		if err != nil {
			d.fail(err) // the API may be waiting for its store
		}
		below <- err
	}()
	d.Progress("starting the API server")
	err := d.startAPI(ctx)
	if err != nil {
		d.fail(err)
	}
	if err := errors.Join(<-below, err); err != nil {
		return err
	}
	d.Progress("starting the controllers, the scheduler and the node agent")
	return d.startLoops(ctx)
}

func (d *node) prepare(ctx context.Context) error {
	// Any address that the default route leads to.
	if err := d.chooseAddress("192.0.2.1:9", d.pods.Addr().Next()); err != nil {
		return err
	}
	names := auth.Names{Node: d.NodeName}
	for _, a := range []netip.Addr{d.ip, d.listen.Addr(), d.nodeListen.Addr(), d.pods.Addr().Next(), apiserver.ServiceAddress(d.services)} {
		if !a.IsUnspecified() {
			names.IPs = append(names.IPs, net.IP(a.AsSlice()))
		}
	}
	var err error
	if d.pki, err = auth.EnsurePKI(d.path("pki"), names, time.Now); err != nil {
		return err
	}
	return d.openNetwork(ctx, d.pki.CAPEM, apiserver.ServiceAddress(d.services), dns.Address(d.services))
}

// openNetwork takes up the network of Pods, and the addresses of Services that
// this machine serves itself. An external runtime has a network of its own.
func (d *node) openNetwork(ctx context.Context, ca []byte, served ...netip.Addr) (err error) {
	if d.RuntimeEndpoint != "" {
		return nil
	}
	d.network, err = network.Open(ctx, network.Config{
		Dir: d.path("network"), Instance: d.instance, PodCIDR: d.pods, Cluster: d.cluster, Overlay: overlayOf(ca), Log: d.Log,
	})
	if err != nil {
		return err
	}
	for _, a := range served {
		if err := d.network.Claim(a); err != nil {
			return err
		}
	}
	return nil
}

// overlayOf numbers a cluster's network, on all its machines alike.
func overlayOf(ca []byte) uint32 {
	h := fnv.New32a()
	h.Write(ca)
	return h.Sum32()&0xffffff | 1
}

// chooseAddress is told of somebody to reach, and finds the address that others
// reach this machine by.
func (d *node) chooseAddress(toward string, otherwise netip.Addr) (err error) {
	if d.ip, err = machineAddress(toward, otherwise); err != nil {
		return err
	}
	if a := d.nodeListen.Addr(); !a.IsValid() {
		d.nodeListen = netip.AddrPortFrom(d.ip, d.nodeListen.Port())
	} else if !a.IsUnspecified() {
		d.ip = a
	}
	return nil
}

// machineAddress is that of the link that leads toward somebody.
func machineAddress(toward string, otherwise netip.Addr) (netip.Addr, error) {
	// Connecting a datagram socket sends nothing; it asks the routing table.
	c, err := net.Dial("udp4", toward)
	if err != nil {
		return otherwise, nil
	}
	defer c.Close()
	a, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		return otherwise, fmt.Errorf("cannot find this machine's address: %w", err)
	}
	if a.Addr().IsLoopback() {
		return otherwise, nil
	}
	return a.Addr(), nil
}

func (d *node) startAPI(ctx context.Context) error {
	listen := []netip.AddrPort{d.listen}
	var pods netip.Prefix
	if d.network != nil {
		listen = append(listen, netip.AddrPortFrom(apiserver.ServiceAddress(d.services), 443))
		pods = d.cluster
	}
	var err error
	d.api, err = apiserver.New(ctx, apiserver.Config{
		DataDir: d.root, Listen: listen, Advertise: d.advertised(), PKI: d.pki, Services: d.services, Pods: pods, Version: KubernetesVersion, Options: d.API, Log: d.Log,
		Etcd: apiserver.EtcdConfig{Endpoints: d.Etcd.Endpoints, CAFile: d.Etcd.CAFile, CertFile: d.Etcd.CertFile, KeyFile: d.Etcd.KeyFile},
	})
	if err != nil {
		return err
	}
	d.part(ctx, "the API server", d.api.Run)
	select {
	case <-d.api.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	d.part(ctx, "the renewal of certificates", func(ctx context.Context) error { return d.pki.Renew(ctx, d.writeKubeconfig) })
	return d.writeKubeconfig()
}

func (d *node) writeKubeconfig() error {
	return d.pki.WriteKubeconfig(d.kubeconfig(), "admin", "https://"+dialable(d.listen).String())
}

// dialable is the address a client on this machine uses for one listened on.
func dialable(a netip.AddrPort) netip.AddrPort {
	if a.Addr().IsUnspecified() {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.Port())
	}
	return a
}

// startRuntime makes the built-in runtime, or finds the external one.
func (d *node) startRuntime(ctx context.Context) error {
	if d.RuntimeEndpoint != "" {
		c, conn, err := dialRuntime(ctx, d.RuntimeEndpoint)
		if err != nil {
			return err
		}
		d.cri = c
		d.onStop(func() { conn.Close() })
	}
	// Now there may be Pods, which `peapod down` has to find.
	err := d.writeMarker(marker{Version: markerVersion, Runtime: d.RuntimeEndpoint, Join: d.Join})
	if err != nil || d.RuntimeEndpoint != "" {
		return err
	}
	if d.images, err = OpenImages(d.root, d.Log); err != nil {
		return err
	}
	launchers, err := d.launchers(ctx, d.Launcher, d.Log)
	if err != nil {
		return fmt.Errorf("%w: %w (mend: apt-get install runc)", ErrUnfit, err)
	}
	if err := d.newRuntime(ctx, launchers); err != nil {
		return err
	}
	d.cri = cri.Direct(func() cri.Server { return d.current.Load() })
	return nil
}

// answerWithin is how long an external runtime may take to say who it is.
const answerWithin = 10 * time.Second

// dialRuntime finds the external runtime and asks whether it is one.
func dialRuntime(ctx context.Context, socket string) (cri.Client, io.Closer, error) {
	fail := func(err error) (cri.Client, io.Closer, error) {
		return cri.Client{}, nil, fmt.Errorf("cannot use the container runtime at %s: %w", socket, err)
	}
	// gRPC would say that in many words, and only after a while.
	if probe, err := net.Dial("unix", socket); err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok {
			err = op.Err
		}
		return fail(err)
	} else if err := probe.Close(); err != nil {
		return fail(err)
	}
	c, conn, err := cri.Dial(socket)
	if err != nil {
		return c, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	if _, err := c.Runtime.Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
		conn.Close()
		return fail(fmt.Errorf("it does not speak CRI v1: %s", status.Convert(err).Message()))
	}
	return c, conn, nil
}

// newRuntime makes a runtime over a keeper and keeps both going: a keeper that
// dies is replaced, and with it the runtime that knew it.
func (d *node) newRuntime(ctx context.Context, launchers map[string]sandbox.Launcher) error {
	begin := func(ctx context.Context) (*keeper.Client, error) {
		binary, err := keeperBinary()
		if err != nil {
			return nil, err
		}
		k, err := keeper.Launch(ctx, keeper.Config{Binary: binary, Dir: d.path("keeper")})
		if err != nil {
			return nil, err
		}
		r, err := runtime.New(ctx, runtime.Config{
			Dir: d.path("runtime"), Version: Version, Launchers: launchers, Keeper: k, KeeperBinary: binary,
			Images: d.images, Network: d.network, CgroupRoot: "/" + d.instance, Log: d.Log,
		})
		if err != nil {
			return nil, errors.Join(err, k.Close())
		}
		d.current.Store(r)
		return k, nil
	}
	k, err := begin(ctx)
	if err != nil {
		return err
	}
	d.part(ctx, "the container runtime", func(ctx context.Context) error {
		for {
			err := d.serveRuntime(ctx, d.current.Load())
			k.Close()
			if !errors.Is(err, keeper.ErrGone) {
				return err
			}
			d.Log.Warn("the keeper has died; a new one takes over", "op", "keeper")
			if k, err = begin(ctx); err != nil {
				return err
			}
		}
	})
	return nil
}

// serveRuntime runs one runtime and its socket.
func (d *node) serveRuntime(ctx context.Context, r *runtime.Runtime) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- cri.Serve(ctx, d.criSocket(), r) }()
	err := r.Run(ctx)
	cancel()
	return errors.Join(err, <-served)
}

// keeperBinary is the keeper's program.
func keeperBinary() (string, error) { return besides("peapod-keeper") }

// besides finds a program in the folder of this one.
func besides(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("cannot find %s: %w", name, err)
	}
	path := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("cannot find %s beside peapod: %w", name, err)
	}
	return path, nil
}
