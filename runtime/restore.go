// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/keeper"
	"github.com/peapod/peapod/linux"
	"github.com/peapod/peapod/sandbox"
)

// past is what a start of the runtime finds.
type past struct {
	kept     map[string]keeper.State
	rebooted bool
	// another: the keeper is not the one of before, which was killed.
	another bool
	// launched are the containers that OCI runtimes have something of.
	launched map[string]bool
}

// restore reads the records, and sets them against this boot and the keeper.
// What was half made goes. So does what a record that cannot be read was of,
// with an error in the log that names the file: the rest must go on.
func (r *Runtime) restore(ctx context.Context) error {
	boot, err := linux.BootID()
	if err != nil {
		return err
	}
	was, err := os.ReadFile(filepath.Join(r.cfg.Dir, "boot"))
	find := past{kept: map[string]keeper.State{}, launched: map[string]bool{}, rebooted: err == nil && string(was) != boot}
	self := fmt.Sprint(r.cfg.Keeper.Process())
	last, err := os.ReadFile(filepath.Join(r.cfg.Dir, "keeper"))
	find.another = err == nil && string(last) != self && !find.rebooted
	states, err := r.cfg.Keeper.List(ctx)
	if err != nil {
		return err
	}
	for _, s := range states {
		find.kept[s.ID] = s
	}
	for _, l := range r.cfg.Launchers {
		ids, err := l.List(ctx)
		if err != nil {
			return err
		}
		for _, id := range ids {
			find.launched[id] = true
		}
	}
	if err := r.restorePods(ctx, find); err != nil {
		return err
	}
	if err := r.restoreContainers(ctx, find); err != nil {
		return err
	}
	if err := r.endStrangers(ctx, find); err != nil {
		return err
	}
	live := map[string]bool{}
	for id, p := range r.sandboxes {
		live[id] = p.ready()
	}
	if err := r.cfg.Network.Keep(ctx, live); err != nil {
		return err
	}
	if err := linux.WriteFile(filepath.Join(r.cfg.Dir, "keeper"), []byte(self), 0o600); err != nil {
		return err
	}
	return linux.WriteFile(filepath.Join(r.cfg.Dir, "boot"), []byte(boot), 0o600)
}

// endStrangers ends what keeper and OCI runtimes have and nobody here knows:
// exec sessions of a client that is gone, and what lost its record.
func (r *Runtime) endStrangers(ctx context.Context, find past) error {
	for id := range find.kept {
		if r.containers[id] == nil && r.heldBy(id) == nil {
			if err := r.endKept(ctx, id); err != nil {
				return err
			}
		}
	}
	for id := range find.launched {
		if r.containers[id] != nil {
			continue
		}
		for _, l := range r.cfg.Launchers {
			if err := l.Delete(ctx, id, true); err != nil {
				r.cfg.Log.Error("cannot remove a container that nobody knows", "container", id, "err", err)
			}
		}
	}
	return nil
}

// heldBy is the sandbox whose PID namespace the process of that ID holds. The
// caller holds mu, or is alone.
func (r *Runtime) heldBy(id string) *pod {
	p, ok := strings.CutPrefix(id, "hold-")
	if !ok {
		return nil
	}
	return r.sandboxes[p]
}

// readRecord reads a record with the CRI request in it.
func readRecord(file string, record any, raw func() []byte, config proto.Message) error {
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, record)
	}
	if err == nil {
		err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(raw(), config)
	}
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", file, err)
	}
	return nil
}

// restorePods reads the sandboxes of before.
func (r *Runtime) restorePods(ctx context.Context, find past) error {
	dirs, err := filepath.Glob(filepath.Join(r.cfg.Dir, "sandboxes", "*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		p := &pod{dir: dir, config: &runtimeapi.PodSandboxConfig{}}
		id := filepath.Base(dir)
		err := readRecord(filepath.Join(dir, "sandbox.json"), &p.podRecord, func() []byte { return p.Config }, p.config)
		if err == nil && (p.Version != 1 || p.ID != id) {
			err = fmt.Errorf("cannot read %s/sandbox.json: it is no record of that sandbox", dir)
		}
		if p.ns, err = pinned(dir, err); err != nil {
			if !errors.Is(err, os.ErrNotExist) {
				r.cfg.Log.Error("a sandbox is lost and will be removed", "sandbox", id, "err", err)
			}
			p.podRecord, p.config = podRecord{ID: id}, lostPod()
		}
		if !p.Made {
			if err := r.removePod(ctx, p); err != nil {
				r.cfg.Log.Error("cannot remove a sandbox that was not finished", "sandbox", id, "err", err)
			}
			continue
		}
		r.sandboxes[p.ID], r.names[p.name()] = p, p.ID
		if find.rebooted || !p.whole(find.kept) {
			if err := p.markStopped(); err != nil {
				return err
			}
		}
	}
	return nil
}

func pinned(dir string, err error) (sandbox.Namespaces, error) {
	if err != nil {
		return sandbox.Namespaces{}, err
	}
	return sandbox.Pinned(filepath.Join(dir, "ns"))
}

// lostPod has all that a sandbox could have, so that all is looked for when it
// is removed.
func lostPod() *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_POD},
	}}}
}

// whole tells whether a sandbox still has its namespaces.
func (p *pod) whole(kept map[string]keeper.State) bool {
	o := p.options()
	node := runtimeapi.NamespaceMode_NODE
	return (o.GetNetwork() == node || p.ns.Net != "" && p.ns.UTS != "") && (o.GetIpc() == node || p.ns.IPC != "") &&
		(o.GetPid() != runtimeapi.NamespaceMode_POD || p.ns.PID != "" && kept[p.holderID()].Running)
}

// restoreContainers reads the containers of before and asks the keeper what
// has become of them.
func (r *Runtime) restoreContainers(ctx context.Context, find past) error {
	dirs, err := filepath.Glob(filepath.Join(r.cfg.Dir, "containers", "*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		c := newContainer(dir, &runtimeapi.ContainerConfig{})
		id := filepath.Base(dir)
		err := readRecord(filepath.Join(dir, "container.json"), &c.containerRecord, func() []byte { return c.Config }, c.config)
		if err == nil && (c.Version != 1 || c.ID != id) {
			err = fmt.Errorf("cannot read %s/container.json: it is no record of that container", dir)
		}
		p := r.sandboxes[c.SandboxID]
		switch {
		case errors.Is(err, os.ErrNotExist):
			c.containerRecord = containerRecord{}
		case err != nil:
			c.containerRecord = containerRecord{}
			r.cfg.Log.Error("a container is lost and will be removed", "container", id, "err", err)
		case c.Made && p == nil:
			r.cfg.Log.Error("a container without sandbox will be removed", "container", id, "sandbox", c.SandboxID)
		}
		if c.Cgroup != "" {
			if err := r.host.Cgroups.Thaw(c.Cgroup); err != nil {
				return err
			}
		}
		if c.ID = id; err != nil || !c.Made || p == nil {
			if spec, err := sandbox.ReadBundle(dir); err == nil {
				c.Cgroup = spec.Linux.CgroupsPath
				if err := r.host.Cgroups.Thaw(c.Cgroup); err != nil {
					return err
				}
			}
			if err := r.discard(ctx, c); err != nil {
				r.cfg.Log.Error("cannot remove a container that was not finished", "container", id, "err", err)
			}
			continue
		}
		if err := r.restoreContainer(ctx, c, find); err != nil {
			return fmt.Errorf("cannot take up container %s: %w", c.ID, err)
		}
		r.containers[c.ID], r.names[c.name(p)] = c, c.ID
	}
	return nil
}

// discard ends and removes a container that nobody can know.
func (r *Runtime) discard(ctx context.Context, c *container) error {
	if err := r.endKept(ctx, c.ID); err != nil {
		return err
	}
	if err := r.sweep(ctx, c); err != nil {
		return err
	}
	return r.removeFiles(c)
}

func (r *Runtime) restoreContainer(ctx context.Context, c *container, find past) error {
	if err := c.removeSessions(); err != nil {
		return err
	}
	s, known := find.kept[c.ID]
	// One whose launcher was at work may have left something since we asked the
	// launchers.
	touched := known || find.launched[c.ID]
	if known && s.Starting {
		// The OCI runtime was at work when we died. It is ended, unless it has
		// done its work by now.
		if err := r.cfg.Keeper.Abort(ctx, c.ID); err != nil {
			return err
		}
		now, err := r.cfg.Keeper.List(ctx)
		if err != nil {
			return err
		}
		known = slices.ContainsFunc(now, func(s keeper.State) bool { return s.ID == c.ID })
	}
	c.clean = !touched
	switch {
	case c.StartError != "":
		close(c.over)
		return nil
	case known && c.Started.IsZero():
		// It started while we died: only the record was missing.
		c.Started = now()
		return c.save()
	case known:
		c.bereft = find.another
		return nil // its end, if it has ended, is told in Run
	case c.Started.IsZero():
		// Never started, or not to the end: then it is as if it never was.
		if touched {
			return r.sweep(ctx, c)
		}
		return r.host.Cgroups.Remove(ctx, c.Cgroup)
	}
	return r.restoreExit(c, find.rebooted)
}

// restoreExit is for a container that was started and that the keeper does not
// have: the exit is on disk, or nobody can know.
func (r *Runtime) restoreExit(c *container, rebooted bool) error {
	var exit keeper.Exit
	b, err := os.ReadFile(c.exitFile())
	if err == nil {
		err = json.Unmarshal(b, &exit)
	}
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			r.cfg.Log.Error("how a container ended is lost", "container", c.ID, "err", fmt.Errorf("cannot read %s: %w", c.exitFile(), err))
		}
		exit = keeper.Exit{ID: c.ID, Code: 255, At: now(), Unknown: "the keeper has no memory of the process"}
		if rebooted {
			exit.Unknown = "the machine was restarted"
		}
		if b, err = json.MarshalIndent(exit, "", "  "); err != nil {
			return err
		}
		// The next start must not give it another time.
		if err := linux.WriteFile(c.exitFile(), append(b, '\n'), 0o600); err != nil {
			return err
		}
	}
	_, err = c.finish(exit, false)
	return err
}

// removeSessions removes the folders of exec sessions, which have ended with
// their client.
func (c *container) removeSessions() error {
	dirs, err := filepath.Glob(filepath.Join(c.dir, "exec-*"))
	for _, d := range dirs {
		err = errors.Join(err, os.RemoveAll(d))
	}
	return err
}
