// SPDX-License-Identifier: Apache-2.0

// Package daemon builds the parts of a node, starts and stops them in order,
// and takes everything back on `peapod down`. It is the one place that knows
// all rooms; what they need from each other is wired here.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/auth"
	"github.com/peapod/peapod/cri"
	"github.com/peapod/peapod/image"
	"github.com/peapod/peapod/keeper"
	"github.com/peapod/peapod/network"
	"github.com/peapod/peapod/runtime"
	"github.com/peapod/peapod/sandbox"
)

// OpenImages opens the image store of a data folder, with or without a node
// running on it.
func OpenImages(dataDir string, log *slog.Logger) (*image.Store, error) {
	l, err := newLayout(dataDir)
	if err != nil {
		return nil, err
	}
	return image.Open(l.path("images"), image.Options{HostsDir: l.path("registries"), Log: log})
}

// Up runs a node until ctx ends, and leaves its Pods running.
func Up(ctx context.Context, o Options) error {
	s, err := o.check()
	if err != nil {
		return err
	}
	if err := fit(examineFatal(s.root)); err != nil {
		return err
	}
	quiet(s.Log)
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d := &node{settings: s, fail: cancel}
	defer d.stop()
	if err := d.start(ctx); err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
			return cause
		}
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
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
	pki     *auth.PKI
	network *network.Network
	images  *image.Store
	api     *apiserver.Server
	cri     cri.Client
	current atomic.Pointer[runtime.Runtime]

	parts sync.WaitGroup
	stops []func() // in the order of starting; run from the last
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
	d.stops = append(d.stops, func() { cancel(); <-done })
}

func (d *node) stop() {
	for i := len(d.stops) - 1; i >= 0; i-- {
		d.stops[i]()
	}
	d.parts.Wait()
}

// start brings the parts up: what is below a part is there before it.
func (d *node) start(ctx context.Context) error {
	d.Progress("preparing keys and network")
	if err := d.prepare(ctx); err != nil {
		return err
	}
	// The runtime and the API do not need each other: they start together.
	below := make(chan error, 1)
	go func() { below <- d.startRuntime(ctx) }()
	d.Progress("starting the API server")
	err := d.startAPI(ctx)
	if err := errors.Join(<-below, err); err != nil {
		return err
	}
	d.Progress("starting the controllers, the scheduler and the node agent")
	return d.startLoops(ctx)
}

func (d *node) prepare(ctx context.Context) error {
	var err error
	if d.RuntimeEndpoint == "" {
		d.network, err = network.Open(ctx, network.Config{Dir: d.path("network"), Instance: d.instance, PodCIDR: d.pods, Log: d.Log})
		if err != nil {
			return err
		}
		if err := d.network.Claim(apiserver.ServiceAddress(d.services)); err != nil {
			return err
		}
	}
	if d.ip, err = machineAddress(d.pods.Addr().Next()); err != nil {
		return err
	}
	if !d.nodeListen.Addr().IsValid() {
		d.nodeListen = netip.AddrPortFrom(d.ip, d.nodeListen.Port())
	}
	names := auth.Names{Node: d.NodeName}
	for _, a := range []netip.Addr{d.ip, d.listen.Addr(), d.nodeListen.Addr(), d.pods.Addr().Next(), apiserver.ServiceAddress(d.services)} {
		if !a.IsUnspecified() {
			names.IPs = append(names.IPs, net.IP(a.AsSlice()))
		}
	}
	d.pki, err = auth.EnsurePKI(d.path("pki"), names, time.Now)
	return err
}

// machineAddress is the address others reach this machine by: that of the
// default route's link, else the node's own in the Pod range.
func machineAddress(gateway netip.Addr) (netip.Addr, error) {
	// Connecting a datagram socket sends nothing; it asks the routing table.
	c, err := net.Dial("udp4", "192.0.2.1:9")
	if err != nil {
		return gateway, nil
	}
	defer c.Close()
	a, err := netip.ParseAddrPort(c.LocalAddr().String())
	if err != nil {
		return gateway, fmt.Errorf("cannot find this machine's address: %w", err)
	}
	if a.Addr().IsLoopback() {
		return gateway, nil
	}
	return a.Addr(), nil
}

func (d *node) startAPI(ctx context.Context) error {
	listen := []netip.AddrPort{d.listen}
	if d.network != nil {
		listen = append(listen, netip.AddrPortFrom(apiserver.ServiceAddress(d.services), 443))
	}
	var err error
	d.api, err = apiserver.New(ctx, apiserver.Config{
		DataDir: d.root, Listen: listen, PKI: d.pki, Services: d.services, Log: d.Log,
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
		c, conn, err := cri.Dial(d.RuntimeEndpoint)
		if err != nil {
			return err
		}
		d.cri = c
		d.stops = append([]func(){func() { conn.Close() }}, d.stops...)
		return nil
	}
	var err error
	if d.images, err = OpenImages(d.root, d.Log); err != nil {
		return err
	}
	launcher, err := sandbox.Find(ctx, []string{"crun", "runc"}, d.path("runtime", "trial"), d.path("runtime", "oci"))
	if err != nil {
		return fmt.Errorf("%w: %w (mend: apt-get install runc)", ErrUnfit, err)
	}
	launchers := map[string]sandbox.Launcher{"": launcher, launcher.Name(): launcher}
	if err := d.newRuntime(ctx, launchers); err != nil {
		return err
	}
	d.cri = cri.Direct(func() cri.Server { return d.current.Load() })
	return nil
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

// keeperBinary is the program beside this one.
func keeperBinary() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("cannot find peapod-keeper: %w", err)
	}
	path := filepath.Join(filepath.Dir(self), "peapod-keeper")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("cannot find peapod-keeper beside peapod: %w", err)
	}
	return path, nil
}

// lock keeps a second node off the data folder; the file holds our pid.
func (l layout) lock() (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(l.lockFile()), 0o700); err != nil {
		return nil, fmt.Errorf("cannot use data folder: %w", err)
	}
	f, err := os.OpenFile(l.lockFile(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot use data folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot use data folder %s: another peapod (pid %d) runs on it; stop it with Ctrl-C or `peapod down`, or choose another with --data-dir", l.root, l.holder())
	}
	if err := f.Truncate(0); err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot use data folder: %w", err)
	}
	return func() { f.Close() }, nil
}

// holder is the pid in the lock file, or 0.
func (l layout) holder() int {
	b, err := os.ReadFile(l.lockFile())
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b))) // 0 when it is not one
	return pid
}
