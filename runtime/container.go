// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/encoding/protojson"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/keeper"
	"github.com/peapod/peapod/linux"
	"github.com/peapod/peapod/sandbox"
)

// containerRecord is container.json.
type containerRecord struct {
	Version   int                `json:"version"`
	ID        string             `json:"id"`
	SandboxID string             `json:"sandboxID"`
	Handler   string             `json:"handler,omitempty"`
	Config    json.RawMessage    `json:"config"` // ContainerConfig
	ImageID   string             `json:"imageID"`
	ImageRef  string             `json:"imageRef"`
	Image     ispecs.ImageConfig `json:"image"`
	LogPath   string             `json:"logPath,omitempty"`
	Cgroup    string             `json:"cgroup"`
	Created   time.Time          `json:"created"`
	// Made is set when CreateContainer has succeeded.
	Made    bool      `json:"made,omitempty"`
	Started time.Time `json:"started,omitzero"`
	// StartError is why the program could not be started.
	StartError string    `json:"startError,omitempty"`
	Finished   time.Time `json:"finished,omitzero"`
}

// container is one container of a sandbox.
type container struct {
	dir    string
	config *runtimeapi.ContainerConfig

	work     sync.Mutex // one start or remove at a time
	cleaning sync.Once
	cleaned  chan struct{} // closed when the OCI runtime has forgotten it
	over     chan struct{} // closed when it has ended

	mu sync.Mutex // guards the fields below
	containerRecord
	exit   *keeper.Exit
	oom    bool
	signal bool // the stop signal was sent
}

// state follows from the record and the exit.
func (c *container) state() runtimeapi.ContainerState {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.exit != nil || c.StartError != "":
		return runtimeapi.ContainerState_CONTAINER_EXITED
	case !c.Started.IsZero():
		return runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	return runtimeapi.ContainerState_CONTAINER_CREATED
}

func (c *container) name(p *pod) string {
	m := c.config.GetMetadata()
	return fmt.Sprintf("container/%s/%s/%d", p.ID, m.GetName(), m.GetAttempt())
}

func (c *container) rootfs() string   { return filepath.Join(c.dir, "rootfs") }
func (c *container) exitFile() string { return filepath.Join(c.dir, "exit.json") }

func (c *container) save() error {
	b, err := json.MarshalIndent(c.containerRecord, "", "  ")
	if err != nil {
		return err
	}
	return linux.ReplaceFile(filepath.Join(c.dir, "container.json"), append(b, '\n'), 0o600)
}

// finish notes how the container ended, once.
func (c *container) finish(e keeper.Exit, oom bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.exit != nil {
		return false
	}
	c.exit, c.oom = &e, oom
	close(c.over)
	return true
}

// CreateContainer makes everything but the process: record, root file system,
// OCI bundle.
func (r *Runtime) CreateContainer(ctx context.Context, q *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	p, err := r.findPod(q.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if q.GetConfig().GetMetadata() == nil {
		return nil, invalidArgument("container config has no metadata")
	}
	if !p.ready() {
		return nil, failed("sandbox %s is not running", p.ID)
	}
	c, err := r.newContainer(ctx, p, q.GetConfig())
	if err != nil {
		return nil, coded(err)
	}
	if err := r.reserve(c.name(p), c.ID); err != nil {
		return nil, err
	}
	if err := r.makeContainer(ctx, p, c); err != nil {
		undo := r.removeFiles(c)
		r.release(c.name(p))
		return nil, coded(errors.Join(fmt.Errorf("cannot create container %s: %w", c.config.Metadata.Name, err), undo))
	}
	r.mu.Lock()
	r.containers[c.ID] = c
	r.mu.Unlock()
	r.publish(c, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	return &runtimeapi.CreateContainerResponse{ContainerId: c.ID}, nil
}

func (r *Runtime) newContainer(ctx context.Context, p *pod, config *runtimeapi.ContainerConfig) (*container, error) {
	img, err := r.cfg.Images.Get(ctx, config.GetImage().GetImage())
	if err != nil {
		return nil, err
	}
	raw, err := protojson.Marshal(config)
	if err != nil {
		return nil, invalidArgument("container config: %v", err)
	}
	id := newID()
	parent := p.config.GetLinux().GetCgroupParent()
	if parent == "" {
		parent = filepath.Join(r.cfg.CgroupRoot, p.ID)
	}
	c := &container{dir: filepath.Join(r.cfg.Dir, "containers", id), config: config, cleaned: make(chan struct{}), over: make(chan struct{})}
	c.containerRecord = containerRecord{
		Version: 1, ID: id, SandboxID: p.ID, Handler: p.Handler, Config: raw, ImageID: img.ID, ImageRef: config.GetImage().GetImage(), Image: img.Config,
		Cgroup: filepath.Join(parent, id), Created: now(),
	}
	if dir := p.config.GetLogDirectory(); dir != "" && config.GetLogPath() != "" {
		c.LogPath = filepath.Join(dir, config.GetLogPath())
	}
	return c, nil
}

func (r *Runtime) makeContainer(ctx context.Context, p *pod, c *container) error {
	for _, d := range []string{"", "rootfs", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(c.dir, d), 0o700); err != nil {
			return err
		}
	}
	// The mount point and upper are what a container sees as /.
	for _, d := range []string{"rootfs", "upper"} {
		if err := os.Chmod(filepath.Join(c.dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := c.save(); err != nil {
		return err
	}
	lower, err := r.cfg.Images.Hold(ctx, c.ID, c.ImageID)
	if err != nil {
		return err
	}
	if err := linux.Overlay(linux.OverlayMount{Lower: lower, Upper: filepath.Join(c.dir, "upper"), Work: filepath.Join(c.dir, "work")}, c.rootfs()); err != nil {
		return err
	}
	spec, err := r.spec(p, c)
	if err != nil {
		return err
	}
	if err := sandbox.WriteBundle(c.dir, spec); err != nil {
		return err
	}
	c.Made = true
	return c.save()
}

// StartContainer runs the program. One that cannot be started has ended, with
// code 128 and the OCI runtime's words as message.
func (r *Runtime) StartContainer(ctx context.Context, q *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	c, err := r.findContainer(q.GetContainerId())
	if err != nil {
		return nil, err
	}
	c.work.Lock()
	defer c.work.Unlock()
	if s := c.state(); s != runtimeapi.ContainerState_CONTAINER_CREATED {
		return nil, failed("container %s is in %s state", c.ID, s)
	}
	if err := r.start(ctx, c); err != nil {
		return nil, coded(err)
	}
	r.cfg.Log.Info("container started", "container", c.ID, "sandbox", c.SandboxID)
	r.publish(c, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	return &runtimeapi.StartContainerResponse{}, nil
}

func (r *Runtime) start(ctx context.Context, c *container) error {
	if c.LogPath != "" {
		if err := os.MkdirAll(filepath.Dir(c.LogPath), 0o755); err != nil {
			return fmt.Errorf("cannot start container %s: %w", c.ID, err)
		}
	}
	b := sandbox.Bundle{ID: c.ID, Dir: c.dir, PidFile: "pid"}
	s := keeper.Spec{
		ID: c.ID, Dir: c.dir, PidFile: "pid", LogPath: c.LogPath, ExitFile: c.exitFile(),
		Terminal: c.config.GetTty(), Stdin: c.config.GetStdin(), StdinOnce: c.config.GetStdinOnce(),
	}
	if s.Terminal {
		b.ConsoleSocket, s.ConsoleSocket = "tty.sock", "tty.sock"
	}
	l := r.launcher(c.Handler)
	s.Args = l.Run(b)
	_, err := r.cfg.Keeper.Run(ctx, s)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err() // the keeper goes on; a later restore finds it
		}
		c.StartError, c.Finished = startError(err), now()
		close(c.over)
		cleaned := l.Delete(context.WithoutCancel(ctx), c.ID, true)
		c.cleaning.Do(func() { close(c.cleaned) })
		return errors.Join(fmt.Errorf("failed to start container %q: %w", c.ID, err), c.save(), cleaned)
	}
	c.Started = now()
	return c.save()
}

// startError is the OCI runtime's complaint, without our own words around it.
func startError(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err.Error()
		}
		err = inner
	}
}

// StopContainer asks the container to end, and makes it end after timeout.
// A later call with a shorter timeout shortens an earlier one that still
// waits: each call has its own clock, and the first to run out kills.
func (r *Runtime) StopContainer(ctx context.Context, q *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	c, err := r.findContainer(q.GetContainerId())
	if err != nil {
		return &runtimeapi.StopContainerResponse{}, nil
	}
	if err := r.stop(ctx, c, time.Duration(q.GetTimeout())*time.Second); err != nil {
		return nil, coded(fmt.Errorf("cannot stop container %s: %w", c.ID, err))
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

func (r *Runtime) stop(ctx context.Context, c *container, timeout time.Duration) error {
	if c.state() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		if c.state() == runtimeapi.ContainerState_CONTAINER_EXITED {
			return r.awaitClean(ctx, c)
		}
		return nil
	}
	if timeout > 0 {
		if err := r.askToEnd(ctx, c); err != nil {
			return err
		}
		clock := time.NewTimer(timeout)
		defer clock.Stop()
		select {
		case <-c.over:
			return r.awaitClean(ctx, c)
		case <-ctx.Done():
			return ctx.Err()
		case <-clock.C:
		}
	}
	if err := r.kill(ctx, c); err != nil {
		return err
	}
	select {
	case <-c.over:
		return r.awaitClean(ctx, c)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// askToEnd sends the stop signal to the first process, once.
func (r *Runtime) askToEnd(ctx context.Context, c *container) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.signal {
		return nil
	}
	sig, err := sandbox.StopSignal(c.config, c.Image.StopSignal)
	if err != nil {
		return err
	}
	if err := r.cfg.Keeper.Signal(ctx, c.ID, int(sig)); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	c.signal = true
	return nil
}

// kill ends the first process; its PID namespace goes with it, and what is
// outside of one is killed through the cgroup when the container is cleaned.
func (r *Runtime) kill(ctx context.Context, c *container) error {
	err := r.cfg.Keeper.Signal(ctx, c.ID, 9)
	if err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, keeper.ErrNotFound) {
		return err
	}
	return nil
}

// awaitClean waits until nothing of an ended container runs any more.
func (r *Runtime) awaitClean(ctx context.Context, c *container) error {
	r.clean(context.WithoutCancel(ctx), c)
	select {
	case <-c.cleaned:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// RemoveContainer removes a container, killing it if it runs.
func (r *Runtime) RemoveContainer(ctx context.Context, q *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	c, err := r.findContainer(q.GetContainerId())
	if err != nil {
		return &runtimeapi.RemoveContainerResponse{}, nil
	}
	if err := r.removeContainer(ctx, c); err != nil {
		return nil, coded(fmt.Errorf("cannot remove container %s: %w", c.ID, err))
	}
	return &runtimeapi.RemoveContainerResponse{}, nil
}

func (r *Runtime) removeContainer(ctx context.Context, c *container) error {
	c.work.Lock()
	defer c.work.Unlock()
	if err := r.stop(ctx, c, 0); err != nil {
		return err
	}
	if err := r.cfg.Keeper.Forget(ctx, c.ID); err != nil {
		return err
	}
	if err := r.removeFiles(c); err != nil {
		return err
	}
	r.mu.Lock()
	known := r.containers[c.ID] != nil
	delete(r.containers, c.ID)
	p := r.sandboxes[c.SandboxID]
	if p != nil {
		delete(r.names, c.name(p))
	}
	r.mu.Unlock()
	if known {
		r.publish(c, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	}
	return nil
}

func (r *Runtime) removeFiles(c *container) error {
	if err := linux.Detach(c.rootfs()); err != nil {
		return err
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return err
	}
	return r.cfg.Images.Release(c.ID)
}

// restoreContainers reads the containers of before and asks the keeper what
// has become of them.
func (r *Runtime) restoreContainers(ctx context.Context, kept map[string]keeper.State, rebooted bool) error {
	dirs, err := filepath.Glob(filepath.Join(r.cfg.Dir, "containers", "*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		c := &container{dir: dir, config: &runtimeapi.ContainerConfig{}, cleaned: make(chan struct{}), over: make(chan struct{})}
		c.ID = filepath.Base(dir)
		b, err := os.ReadFile(filepath.Join(dir, "container.json"))
		if err == nil {
			err = json.Unmarshal(b, &c.containerRecord)
		}
		if err == nil {
			err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(c.Config, c.config)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot read %s/container.json: %w", dir, err)
		}
		p := r.sandboxes[c.SandboxID]
		if err != nil || !c.Made || p == nil {
			// Half made, or its sandbox was.
			if err := r.removeFiles(c); err != nil {
				return err
			}
			continue
		}
		if err := r.restoreState(ctx, c, kept, rebooted); err != nil {
			return err
		}
		r.containers[c.ID], r.names[c.name(p)] = c, c.ID
	}
	return nil
}

func (r *Runtime) restoreState(ctx context.Context, c *container, kept map[string]keeper.State, rebooted bool) error {
	s, known := kept[c.ID]
	switch {
	case c.StartError != "":
		close(c.over)
		return nil
	case known && s.Starting:
		// The OCI runtime was at work when we died. It is ended, and the
		// container is as if it had never been started.
		if err := r.cfg.Keeper.Forget(ctx, c.ID); err != nil {
			return err
		}
		return r.launcher(c.Handler).Delete(ctx, c.ID, true)
	case known && c.Started.IsZero():
		// It started while we died: only the record was missing.
		c.Started = now()
		return c.save()
	case known || c.Started.IsZero():
		return nil
	}
	// Started once, and the keeper does not have it: the exit is on disk, or
	// nobody can know.
	exit := keeper.Exit{ID: c.ID, Code: 255, At: now(), Unknown: "the keeper has no memory of the process"}
	if rebooted {
		exit.Unknown = "the machine was restarted"
	}
	if b, err := os.ReadFile(c.exitFile()); err == nil {
		if err := json.Unmarshal(b, &exit); err != nil {
			return fmt.Errorf("cannot read %s: %w", c.exitFile(), err)
		}
	}
	c.finish(exit, false)
	return nil
}
