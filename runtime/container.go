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
	// User is whom its first process begins as.
	User    *userRecord `json:"user,omitempty"`
	Created time.Time   `json:"created"`
	// Made is set when CreateContainer has succeeded.
	Made    bool      `json:"made,omitempty"`
	Started time.Time `json:"started,omitzero"`
	// StartError is why the program could not be started.
	StartError string    `json:"startError,omitempty"`
	Finished   time.Time `json:"finished,omitzero"`
	// OOMKilled is noted before the cgroup that tells goes.
	OOMKilled bool `json:"oomKilled,omitempty"`
}

type userRecord struct {
	UID    int64   `json:"uid"`
	GID    int64   `json:"gid"`
	Groups []int64 `json:"groups,omitempty"`
}

// container is one container of a sandbox.
type container struct {
	dir    string
	config *runtimeapi.ContainerConfig

	work     sync.Mutex    // one start or remove at a time
	cleaning chan struct{} // holds one token while somebody sweeps
	over     chan struct{} // closed when it has ended

	mu sync.Mutex // guards the fields below
	containerRecord
	exit   *keeper.Exit
	signal bool // the stop signal was sent
	clean  bool // nothing of it is left but its folder
	bereft bool // its keeper was killed while it ran
}

func newContainer(dir string, config *runtimeapi.ContainerConfig) *container {
	return &container{dir: dir, config: config, cleaning: make(chan struct{}, 1), over: make(chan struct{})}
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

func (c *container) rootfs() string     { return filepath.Join(c.dir, "rootfs") }
func (c *container) namespaces() string { return filepath.Join(c.dir, "ns") }

func (c *container) exitFile() string { return filepath.Join(c.dir, "exit.json") }

func (c *container) save() error {
	b, err := json.MarshalIndent(c.containerRecord, "", "  ")
	if err != nil {
		return err
	}
	return linux.ReplaceFile(filepath.Join(c.dir, "container.json"), append(b, '\n'), 0o600)
}

// finish notes how the container ended, once.
func (c *container) finish(e keeper.Exit, oom bool) (first bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.exit != nil {
		return false, nil
	}
	c.exit = &e
	if oom && !c.OOMKilled {
		c.OOMKilled = true
		err = c.save()
	}
	close(c.over)
	return true, err
}

// CreateContainer makes everything but the process: record, root file system,
// OCI bundle.
func (r *Runtime) CreateContainer(ctx context.Context, q *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	ctx, done, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
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
	c, err := r.describe(ctx, p, q.GetConfig())
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
	if !p.ready() {
		// Stopped meanwhile, by one who may not have seen this container.
		return nil, coded(errors.Join(failed("sandbox %s is not running", p.ID), r.removeContainer(ctx, c)))
	}
	r.publish(c, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	return &runtimeapi.CreateContainerResponse{ContainerId: c.ID}, nil
}

// describe makes the record of a new container.
func (r *Runtime) describe(ctx context.Context, p *pod, config *runtimeapi.ContainerConfig) (*container, error) {
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
	c := newContainer(filepath.Join(r.cfg.Dir, "containers", id), config)
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
	if err := r.mountImages(ctx, c); err != nil {
		return err
	}
	spec, err := r.spec(p, c)
	if err != nil {
		return err
	}
	if err := sandbox.WriteBundle(c.dir, spec); err != nil {
		return err
	}
	u := spec.Process.User
	c.User = &userRecord{UID: int64(u.UID), GID: int64(u.GID)}
	for _, g := range u.AdditionalGids {
		c.User.Groups = append(c.User.Groups, int64(g))
	}
	c.Made = true
	return c.save()
}

// StartContainer runs the program. One that cannot be started has ended, with
// code 128 and the OCI runtime's words as message.
func (r *Runtime) StartContainer(ctx context.Context, q *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	ctx, done, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	c, err := r.findContainer(q.GetContainerId())
	if err != nil {
		return nil, err
	}
	c.work.Lock()
	defer c.work.Unlock()
	if s := c.state(); s != runtimeapi.ContainerState_CONTAINER_CREATED {
		return nil, failed("container %s is in %s state", c.ID, s)
	}
	if p, err := r.findPod(c.SandboxID); err != nil || !p.ready() {
		return nil, failed("sandbox %s is not running", c.SandboxID)
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
	s.Args = r.launcher(c.Handler).Run(b)
	c.mu.Lock()
	c.clean = false
	c.mu.Unlock()
	err := r.runKept(ctx, s)
	switch {
	case err == nil:
		c.mu.Lock()
		defer c.mu.Unlock()
		c.Started = now()
		return c.save()
	case errors.Is(err, keeper.ErrGone):
		return err // the next keeper knows whether it runs
	}
	swept := r.sweep(context.WithoutCancel(ctx), c)
	if ctx.Err() != nil {
		// Given up: it is as if it had never been tried.
		return errors.Join(ctx.Err(), swept)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.StartError, c.Finished = startError(err), now()
	c.clean = swept == nil
	close(c.over)
	return errors.Join(fmt.Errorf("failed to start container %q: %w", c.ID, err), c.save(), swept)
}

// runKept runs something under the keeper. When ctx ends first, it is not left
// half started: either it is given up, or it runs.
func (r *Runtime) runKept(ctx context.Context, s keeper.Spec) error {
	whole := context.WithoutCancel(ctx)
	stop := context.AfterFunc(ctx, func() {
		_ = r.cfg.Keeper.Abort(whole, s.ID) // what became of it is told by Run
	})
	defer stop()
	_, err := r.cfg.Keeper.Run(whole, s)
	return err
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
