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
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/cri"
	"github.com/peapod/peapod/keeper"
	"github.com/peapod/peapod/linux"
	"github.com/peapod/peapod/network"
	nodeagent "github.com/peapod/peapod/node"
	"github.com/peapod/peapod/runtime"
	"github.com/peapod/peapod/sandbox"
)

// Down stops the node of a data folder, ends its Pods and takes everything
// back that it made on the machine. It may be repeated.
func Down(ctx context.Context, o DownOptions) error {
	l, err := newLayout(o.DataDir)
	if err != nil {
		return err
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if _, err := os.Stat(l.root); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	quiet(o.Log)
	o.Progress("stopping the node")
	unlock, err := l.takeOver(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	o.Progress("ending pods")
	if err := l.endPods(ctx, o); err != nil {
		return fmt.Errorf("cannot end all pods: %w", err)
	}
	o.Progress("cleaning up")
	if err := network.Remove(ctx, network.Config{Dir: l.path("network"), Instance: l.instance}); err != nil {
		return err
	}
	if err := removeCgroups(l.instance); err != nil {
		return err
	}
	for _, dir := range []string{"runtime", "keeper", "node", "run"} {
		if err := os.RemoveAll(l.path(dir)); err != nil {
			return fmt.Errorf("cannot clean up: %w", err)
		}
	}
	if !o.Purge {
		return nil
	}
	if err := os.RemoveAll(l.podLogs()); err != nil {
		return fmt.Errorf("cannot remove pod logs: %w", err)
	}
	if err := os.RemoveAll(l.root); err != nil {
		return fmt.Errorf("cannot remove data folder: %w", err)
	}
	return nil
}

// takeOver asks a running node to stop and takes its lock.
func (l layout) takeOver(ctx context.Context) (unlock func(), err error) {
	if unlock, err := l.lock(); err == nil {
		return unlock, nil
	}
	if pid := l.holder(); pid > 1 {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return nil, fmt.Errorf("cannot stop peapod (pid %d): %w", pid, err)
		}
	}
	f, err := os.OpenFile(l.lockFile(), os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot take over data folder: %w", err)
	}
	got := make(chan error, 1)
	go func() { got <- unix.Flock(int(f.Fd()), unix.LOCK_EX) }()
	select {
	case err := <-got:
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("cannot take over data folder: %w", err)
		}
		return func() { f.Close() }, nil
	case <-ctx.Done():
		f.Close()
		return nil, ctx.Err()
	}
}

// endPods ends every Pod with its grace and hooks, then removes what is left
// of sandboxes, and the keeper.
func (l layout) endPods(ctx context.Context, o DownOptions) error {
	if _, err := os.Stat(l.path("runtime")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	images, err := OpenImages(l.root, o.Log)
	if err != nil {
		return err
	}
	defer images.Close()
	launcher, err := sandbox.Find(ctx, []string{"crun", "runc"}, l.path("runtime", "trial"), l.path("runtime", "oci"))
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
		Dir: l.path("runtime"), Version: Version, Launchers: map[string]sandbox.Launcher{"": launcher, launcher.Name(): launcher},
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
func removeCgroups(instance string) error {
	layout, err := linux.Cgroups()
	if err != nil {
		return err
	}
	for _, root := range layout.Roots() {
		var dirs []string
		err := filepath.WalkDir(filepath.Join(root, instance), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("cannot clean up cgroups: %w", err)
		}
		for i := len(dirs) - 1; i >= 0; i-- {
			if err := os.Remove(dirs[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("cannot clean up cgroups: %w", err)
			}
		}
	}
	return nil
}
