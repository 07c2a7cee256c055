// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
)

// machine is what a stock cluster changes outside its folder and its world, as
// it was before.
type machine struct {
	cgroups  linux.CgroupLayout
	settings map[string][]byte // of the kernel, by path
}

// settings are what kubelet and the CNI plugins set. None of it is told apart
// by namespaces, or it has to be set in the machine's.
var settings = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
	"net/ipv4/ip_forward",
}

// tables are kube-proxy's in nftables.
var tables = [][2]string{{"ip", "kube-proxy"}, {"ip6", "kube-proxy"}}

// lockStock waits for the turn of a stock cluster: its links, ports and tables
// have fixed names.
func lockStock(ctx context.Context) (release func(), err error) {
	f, err := os.OpenFile(filepath.Join(os.TempDir(), "stock-bench.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	locked := make(chan error, 1)
	go func() {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			fmt.Fprintln(os.Stderr, "waiting for the end of another stock cluster")
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		}
		locked <- err
	}()
	select {
	case err = <-locked:
	case <-ctx.Done():
		// The goroutine ends with the program: flock knows no context.
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { f.Close() }, nil
}

// readMachine notes how the machine is, after it has taken away what a stock
// cluster left that was killed.
func readMachine() (*machine, error) {
	m := &machine{settings: map[string][]byte{}}
	var err error
	if m.cgroups, err = linux.Cgroups(); err != nil {
		return nil, err
	}
	if m.cgroups.Unified == "" {
		return nil, errors.New("this machine has no cgroup v2, not even beside v1")
	}
	if _, err := os.Stat(filepath.Join(m.cgroups.Unified, stockCgroup)); err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := errors.Join(m.killAll(ctx), m.restore(ctx)); err != nil {
			return nil, fmt.Errorf("cannot clean up after the last one: %w", err)
		}
	}
	for _, t := range tables {
		if hasTable(t) {
			return nil, fmt.Errorf("this machine has a kube-proxy: nftables table %s %s", t[0], t[1])
		}
	}
	for _, name := range settings {
		b, err := os.ReadFile(filepath.Join("/proc/sys", name))
		if err != nil {
			return nil, err
		}
		m.settings[name] = b
	}
	return m, nil
}

// makeCgroups makes the cluster's cgroup in each hierarchy, and returns the
// folder in v2 for its programs, below which there is nothing.
func (m *machine) makeCgroups() (string, error) {
	for _, root := range m.cgroups.Roots() {
		dir := filepath.Join(root, stockCgroup)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", err
		}
		// A v1 cpuset has nothing until it is given something.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			all, err := os.ReadFile(filepath.Join(root, file))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, file), all, 0o644)
			}
			if err != nil {
				return "", err
			}
		}
	}
	programs := filepath.Join(m.cgroups.Unified, stockCgroup, "programs")
	return programs, os.Mkdir(programs, 0o755)
}

func (m *machine) killAll(ctx context.Context) error { return m.cgroups.Kill(ctx, stockCgroup) }

// restore removes what is left when all processes have ended.
func (m *machine) restore(ctx context.Context) error {
	err := m.cgroups.Remove(ctx, stockCgroup)
	if link, linkErr := netlink.LinkByName(stockLink); linkErr == nil {
		err = errors.Join(err, netlink.LinkDel(link))
	}
	for _, t := range tables {
		if hasTable(t) {
			if out, nftErr := exec.Command("nft", "delete", "table", t[0], t[1]).CombinedOutput(); nftErr != nil {
				err = errors.Join(err, fmt.Errorf("cannot delete table %s %s: %w\n%s", t[0], t[1], nftErr, out))
			}
		}
	}
	for name, was := range m.settings {
		path := filepath.Join("/proc/sys", name)
		if now, readErr := os.ReadFile(path); readErr == nil && !bytes.Equal(now, was) {
			err = errors.Join(err, os.WriteFile(path, was, 0o644))
		}
	}
	return err
}

func hasTable(t [2]string) bool { return exec.Command("nft", "list", "table", t[0], t[1]).Run() == nil }

// processes lists the programs of the cluster, shims and pauses among them.
func (s *stock) processes() (Processes, error) {
	b, err := os.ReadFile(filepath.Join(s.machine.cgroups.Unified, stockCgroup, "programs", "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	out := Processes{}
	for _, field := range strings.Fields(string(b)) {
		var pid int
		if _, err := fmt.Sscan(field, &pid); err != nil {
			return nil, err
		}
		if name := programOf(pid); name != "" {
			out[name] = append(out[name], pid)
		}
	}
	return out, nil
}

// The processes that a Pod costs in a stock cluster.
const (
	Shim  = "containerd-shim-runc-v2"
	Pause = "pause"
)

// programOf names a process if it is one of the cluster's and none of a container.
func programOf(pid int) string {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return "" // it has ended
	}
	args := strings.Split(string(line), "\x00")
	name := filepath.Base(args[0])
	switch {
	case slices.Contains([]string{Etcd, Containerd, APIServer, ControllerManager, Scheduler, Kubelet, Proxy, Shim}, name):
		return name
	case len(args) > 1 && name == "sleep" && args[1] == PauseSeconds:
		return Pause
	}
	return ""
}
