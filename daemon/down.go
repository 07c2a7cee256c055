// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/cri"
	"github.com/peapod/peapod/keeper"
	"github.com/peapod/peapod/linux"
	"github.com/peapod/peapod/network"
	nodeagent "github.com/peapod/peapod/node"
	"github.com/peapod/peapod/runtime"
)

// Ended says what `peapod down` has left.
type Ended struct {
	// Found is false when there was no node.
	Found bool
	// Foreign are the files that a purge has left in the data folder, because
	// they are not Peapod's.
	Foreign []string
}

// Down stops the node of a data folder, ends its Pods and takes everything
// back that it made on the machine. It may be repeated. A folder that is not
// Peapod's is ErrForeign, and is not touched.
func Down(ctx context.Context, o DownOptions) (Ended, error) {
	l, err := newLayout(o.DataDir)
	if err != nil {
		return Ended{}, err
	}
	if o.Grace < 0 {
		return Ended{}, misuse("--grace %s: want 0 or more", o.Grace)
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if _, err := l.readMarker(); err != nil {
		if errors.Is(err, fs.ErrNotExist) || l.empty() {
			return Ended{}, nil
		}
		return Ended{}, err
	}
	quiet(o.Log)
	o.Progress("stopping the node")
	unlock, err := l.takeOver(ctx)
	if err != nil {
		return Ended{}, err
	}
	defer unlock()
	if err := l.takeBack(ctx, o); err != nil {
		return Ended{}, err
	}
	if !o.Purge {
		return Ended{Found: true}, nil
	}
	foreign, err := l.purge()
	return Ended{true, foreign}, err
}

// takeBack ends all Pods and removes what the node has made on the machine.
func (l layout) takeBack(ctx context.Context, o DownOptions) error {
	// Another `down` may have had the lock before us.
	m, err := l.readMarker()
	if err != nil {
		return err
	}
	o.Progress("ending pods")
	if m.Runtime != "" {
		err = l.endForeignPods(ctx, m.Runtime, o)
	} else {
		err = l.endPods(ctx, o)
	}
	if err != nil {
		return fmt.Errorf("cannot end all pods: %w", err)
	}
	o.Progress("cleaning up")
	if err := network.Remove(ctx, network.Config{Dir: l.path("network"), Instance: l.instance}); err != nil {
		return err
	}
	if err := removeCgroups(ctx, l.instance); err != nil {
		return err
	}
	if err := l.remove(passing...); err != nil {
		return err
	}
	if m.Runtime == "" {
		return nil
	}
	m.Runtime = ""
	return l.writeMarker(m)
}

// takeOver asks a running node to stop and takes its lock.
func (l layout) takeOver(ctx context.Context) (unlock func(), err error) {
	unlock, err = l.lock()
	if !errors.Is(err, errInUse) {
		return unlock, err
	}
	fail := func(err error) (func(), error) {
		return nil, fmt.Errorf("cannot take over data folder %s: %w", l.root, err)
	}
	if p, pid, err := l.holder(); err == nil {
		err = p.Signal(syscall.SIGTERM)
		p.Close()
		if err != nil && !errors.Is(err, syscall.ESRCH) {
			return fail(fmt.Errorf("cannot stop peapod (pid %d): %w", pid, err))
		}
	}
	f, err := os.OpenFile(l.lockFile(), os.O_RDWR, 0o600)
	if err != nil {
		return fail(bare(err))
	}
	// When ctx ends first, the goroutine ends with the node that is in the way.
	got := make(chan error, 1)
	go func() { got <- unix.Flock(int(f.Fd()), unix.LOCK_EX) }()
	select {
	case err = <-got:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		f.Close()
		return fail(err)
	}
	return l.locked(f)
}

// endPods ends every Pod with its grace and hooks, then removes what is left
// of sandboxes, and the keeper. As long as any of the folders is there, an
// earlier run that was broken off may have left something of each.
func (l layout) endPods(ctx context.Context, o DownOptions) error {
	if l.untouched() {
		return nil
	}
	images, err := OpenImages(l.root, o.Log)
	if err != nil {
		return err
	}
	defer images.Close()
	launchers, err := l.allLaunchers(ctx, o.Log)
	if err != nil {
		return err
	}
	binary, err := keeperBinary()
	if err != nil {
		return err
	}
	k, err := keeper.Launch(ctx, keeper.Config{Binary: binary, Dir: l.path("keeper")})
	if err != nil {
		return err
	}
	defer k.Close()
	net4, err := l.networkToEnd(ctx, o)
	if err != nil {
		return err
	}
	r, err := runtime.New(ctx, runtime.Config{
		Dir: l.path("runtime"), Version: Version, Launchers: launchers,
		Keeper: k, KeeperBinary: binary, Images: images, Network: net4, CgroupRoot: "/" + l.instance, Log: o.Log,
	})
	if err != nil {
		return err
	}
	running, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- r.Run(running) }()
	agent, err := nodeagent.New(nodeagent.Config{CRI: cri.Direct(func() cri.Server { return r }), Dir: l.path("node"), LogDir: l.podLogs(), CgroupRoot: l.instance, IP: net.IPv4zero, Log: o.Log})
	if err == nil {
		err = agent.TerminateAll(ctx, o.Grace)
	}
	err = errors.Join(err, r.Down(ctx))
	cancel()
	return errors.Join(err, <-done, k.Stop(ctx, true))
}

// endForeignPods ends the Pods on a runtime of the user's.
func (l layout) endForeignPods(ctx context.Context, endpoint string, o DownOptions) error {
	client, conn, err := dialRuntime(ctx, endpoint)
	if err != nil {
		return err
	}
	defer conn.Close()
	agent, err := nodeagent.New(nodeagent.Config{CRI: client, Dir: l.path("node"), LogDir: l.podLogs(), CgroupRoot: l.instance, IP: net.IPv4zero, Log: o.Log})
	if err != nil {
		return err
	}
	return agent.TerminateAll(ctx, o.Grace)
}

// networkToEnd opens the network as it was; its range is in its own records.
func (l layout) networkToEnd(ctx context.Context, o DownOptions) (*network.Network, error) {
	cidr, err := network.RangeOf(l.path("network"))
	if err != nil {
		return nil, err
	}
	if !cidr.IsValid() {
		cidr = netip.MustParsePrefix("10.244.0.0/20")
	}
	return network.Open(ctx, network.Config{Dir: l.path("network"), Instance: l.instance, PodCIDR: cidr, Log: o.Log})
}

// removeCgroups removes the instance's tree of empty cgroups.
func removeCgroups(ctx context.Context, instance string) error {
	layout, err := linux.Cgroups()
	if err != nil {
		return err
	}
	return layout.Remove(ctx, instance)
}
