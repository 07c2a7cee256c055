// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/keeper"
	"github.com/peapod/peapod/linux"
	"github.com/peapod/peapod/network"
)

// killKeeper kills the keeper and waits for its end.
func (w *world) killKeeper() {
	w.t.Helper()
	var id struct{ Process keeper.Process }
	b, err := os.ReadFile(filepath.Join(w.dir, "keeper/keeper.json"))
	if err == nil {
		err = json.Unmarshal(b, &id)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	p, err := linux.OpenPidfd(id.Process.Pid, id.Process.StartTicks)
	if err != nil {
		w.t.Fatal(err)
	}
	defer p.Close()
	if err := errors.Join(p.Signal(unix.SIGKILL), p.Wait()); err != nil {
		w.t.Fatal(err)
	}
}

// check compares what must run with what does.
func (w *world) check(ctx context.Context) {
	w.t.Helper()
	w.mu.Lock()
	before := map[string]int{}
	for id, pid := range w.running {
		before[id] = pid
	}
	w.mu.Unlock()
	for id, pid := range before {
		s, err := w.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
		w.mu.Lock()
		_, still := w.running[id]
		w.mu.Unlock()
		switch {
		case !still: // its worker has gone on
		case err != nil:
			w.t.Errorf("container %s is lost: %v", id, err)
		case s.Status.State != runtimeapi.ContainerState_CONTAINER_RUNNING || w.pid(id) != pid:
			w.t.Errorf("container %s: %v with pid %d, was running with %d", id, s.Status, w.pid(id), pid)
		case unix.Kill(pid, 0) != nil:
			w.t.Errorf("container %s is said to run, but process %d is not there", id, pid)
		}
	}
}

// wholeLog checks that the counter's log has every line once, in order.
func (w *world) wholeLog(file string) {
	w.t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		w.t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		if want := fmt.Sprintf(" stdout F line %d\n", n); !strings.HasSuffix(line, want) {
			w.t.Fatalf("log has %q where %q must be", line, want)
		}
		n++
	}
	w.t.Logf("%d lines of log", n)
	if n == 0 {
		w.t.Error("the counter has logged nothing")
	}
}

// finish stops everything and looks for what was left anywhere.
func (w *world) finish(ctx context.Context) {
	w.t.Helper()
	out := w.inside("nft", "list", "table", "ip", "peapod-crash")
	if strings.Contains(out, "elements") {
		w.t.Errorf("nftables elements left:\n%s", out)
	}
	if err := w.cmd.Process.Signal(unix.SIGTERM); err != nil {
		w.t.Fatal(err)
	}
	if err := w.cmd.Wait(); err != nil {
		w.t.Errorf("host ended with %v", err)
	}
	k, err := keeper.Launch(ctx, keeper.Config{Binary: filepath.Join(w.dir, "peapod-keeper"), Dir: filepath.Join(w.dir, "keeper")})
	if err != nil {
		w.t.Fatal(err)
	}
	if list, err := k.List(ctx); err != nil || len(list) > 0 {
		w.t.Errorf("the keeper still keeps %+v, %v", list, err)
	}
	if err := k.Stop(ctx, true); err != nil {
		w.t.Error(err)
	}
	for _, d := range []string{"rt/sandboxes", "rt/containers", "images/holds", "oci", "keeper/run", "network/sandboxes"} {
		left, err := os.ReadDir(filepath.Join(w.dir, d))
		if err != nil && !errors.Is(err, os.ErrNotExist) || len(left) > 0 {
			w.t.Errorf("%s: left %v, %v", d, left, err)
		}
	}
	w.noCgroups(ctx)
	w.noLinks(ctx)
	if err := linux.InNamespace("net", w.netns, func() error { return network.Remove(ctx, networkConfig(w.dir)) }); err != nil {
		w.t.Error(err)
	}
	if out := w.inside("nft", "list", "tables"); out != "" {
		w.t.Errorf("nftables left: %s", out)
	}
	mounts, err := linux.MountsBelow(w.dir)
	if err != nil || !slices.Equal(mounts, []string{w.netns}) {
		w.t.Errorf("mounts left: %v, %v", mounts, err)
	}
	if w.t.Failed() {
		log, _ := os.ReadFile(filepath.Join(w.dir, "host.log"))
		w.t.Logf("host's log ends:\n%s", log[max(0, len(log)-4000):])
	}
}

// cleanUp ends and removes what a failed test has left, which is all of it.
func (w *world) cleanUp() {
	if w.t.Failed() {
		if w.cmd != nil && w.cmd.ProcessState == nil {
			w.kill()
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		layout, cgroupErr := linux.Cgroups()
		if cgroupErr == nil {
			cgroupErr = layout.Kill(ctx, crashCgroup(w.dir))
		}
		k, err := keeper.Launch(ctx, keeper.Config{Binary: filepath.Join(w.dir, "peapod-keeper"), Dir: filepath.Join(w.dir, "keeper")})
		if err == nil {
			err = k.Stop(ctx, true)
		}
		if cgroupErr == nil {
			cgroupErr = errors.Join(layout.Kill(ctx, crashCgroup(w.dir)), layout.Remove(ctx, crashCgroup(w.dir)))
		}
		if err := errors.Join(err, cgroupErr); err != nil {
			w.t.Error(err)
		}
	}
	mounts, err := linux.MountsBelow(w.dir)
	for _, m := range mounts {
		err = errors.Join(err, linux.Detach(m))
	}
	if err = errors.Join(err, os.RemoveAll(w.dir)); err != nil {
		w.t.Error(err)
	}
}

// inside runs a command in the machine's network.
func (w *world) inside(args ...string) (out string) {
	w.t.Helper()
	err := linux.InNamespace("net", w.netns, func() error {
		b, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		out = string(b)
		return err
	})
	if err != nil {
		w.t.Errorf("%v: %v: %s", args, err, out)
	}
	return out
}

// noCgroups: none is left below ours, nor a process in it.
func (w *world) noCgroups(ctx context.Context) {
	w.t.Helper()
	layout, err := linux.Cgroups()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, root := range layout.Roots() {
		dir := filepath.Join(root, crashCgroup(w.dir))
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() && path != dir {
				w.t.Errorf("cgroup left: %s", path)
			}
			return err
		})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			w.t.Error(err)
		}
	}
	if err := errors.Join(layout.Kill(ctx, crashCgroup(w.dir)), layout.Remove(ctx, crashCgroup(w.dir))); err != nil {
		w.t.Error(err)
	}
}

// noLinks waits until the links of ended sandboxes have gone with their
// namespaces, which the kernel does in its own time.
func (w *world) noLinks(ctx context.Context) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	ns, err := netns.GetFromPath(w.netns)
	if err != nil {
		w.t.Fatal(err)
	}
	defer ns.Close()
	news, done := make(chan netlink.LinkUpdate, 64), make(chan struct{})
	defer close(done)
	if err := netlink.LinkSubscribeAt(ns, news, done); err != nil {
		w.t.Fatal(err)
	}
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		w.t.Fatal(err)
	}
	defer h.Close()
	for {
		var left []string
		links, err := h.LinkList()
		if err != nil {
			w.t.Fatal(err)
		}
		for _, l := range links {
			if l.Type() == "veth" {
				left = append(left, l.Attrs().Name)
			}
		}
		if len(left) == 0 {
			break
		}
		select {
		case <-news:
		case <-ctx.Done():
			w.t.Errorf("links left: %v", left)
			return
		}
	}
	routes, err := h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil || len(routes) > 0 {
		w.t.Errorf("routes left: %v, %v", routes, err)
	}
}
