// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/keeper"
	"github.com/peapod/peapod/linux"
	"github.com/peapod/peapod/sandbox"
)

// ended takes in one exit from the keeper. ctx is Run's.
func (r *Runtime) ended(ctx context.Context, e keeper.Exit) {
	r.mu.Lock()
	waiting := r.execs[e.ID]
	delete(r.execs, e.ID)
	c, held := r.containers[e.ID], r.heldBy(e.ID)
	r.mu.Unlock()
	switch {
	case waiting != nil:
		waiting <- e
	case held != nil:
		// With the holder its PID namespace has ended, and all in it.
		if err := held.markStopped(); err != nil {
			r.cfg.Log.Error("cannot save that sandbox has ended", "sandbox", held.ID, "err", err)
		}
	case c != nil:
		r.containerEnded(ctx, c, e)
	}
}

func (r *Runtime) containerEnded(ctx context.Context, c *container, e keeper.Exit) {
	first, err := c.finish(e, r.oomKilled(c))
	if err != nil {
		r.cfg.Log.Error("cannot save how container ended", "container", c.ID, "err", err)
	}
	if !first {
		return
	}
	r.cfg.Log.Info("container ended", "container", c.ID, "sandbox", c.SandboxID, "code", e.Code)
	if ctx, done, err := r.begin(ctx); err == nil {
		go func() {
			defer done()
			if err := r.tidy(ctx, c); err != nil && ctx.Err() == nil {
				r.cfg.Log.Warn("cannot tidy up after container", "container", c.ID, "err", err)
			}
		}()
	}
	r.publish(c, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

// tidy returns when nothing of an ended container runs any more and neither
// kernel nor OCI runtime keep anything of it. It may be repeated.
func (r *Runtime) tidy(ctx context.Context, c *container) error {
	select {
	case c.cleaning <- struct{}{}:
		defer func() { <-c.cleaning }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c.mu.Lock()
	clean := c.clean
	c.mu.Unlock()
	if clean {
		return nil
	}
	err := r.sweep(ctx, c)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clean = err == nil
	return err
}

// sweep kills what a container left in its cgroup: without a PID namespace of
// its own nothing else ends the children of its first process, and its exec
// sessions. Then it removes what the OCI runtime keeps, and the cgroup.
func (r *Runtime) sweep(ctx context.Context, c *container) error {
	if c.Cgroup != "" {
		if err := r.host.Cgroups.Kill(ctx, c.Cgroup); err != nil {
			return err
		}
	}
	if err := r.launcher(c.Handler).Delete(ctx, c.ID, true); err != nil {
		return err
	}
	if c.Cgroup == "" {
		return nil
	}
	return r.host.Cgroups.Remove(ctx, c.Cgroup)
}

// StopContainer asks the container to end, and makes it end after timeout.
// A later call with a shorter timeout shortens an earlier one that still
// waits: each call has its own clock, and the first to run out kills.
func (r *Runtime) StopContainer(ctx context.Context, q *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	ctx, done, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	c, err := r.findContainer(q.GetContainerId())
	if err != nil {
		return &runtimeapi.StopContainerResponse{}, nil
	}
	timeout := time.Duration(min(q.GetTimeout(), math.MaxInt64/int64(time.Second))) * time.Second
	if err := r.stop(ctx, c, timeout); err != nil {
		return nil, coded(fmt.Errorf("cannot stop container %s: %w", c.ID, err))
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

// stop waits for a start that is under way, then ends the container.
func (r *Runtime) stop(ctx context.Context, c *container, timeout time.Duration) error {
	c.work.Lock()
	state := c.state()
	c.work.Unlock()
	return r.stopIn(ctx, c, state, timeout)
}

func (r *Runtime) stopIn(ctx context.Context, c *container, state runtimeapi.ContainerState, timeout time.Duration) error {
	switch state {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		return nil
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		return r.tidy(ctx, c)
	}
	if timeout > 0 {
		if err := r.askToEnd(ctx, c); err != nil {
			return err
		}
		clock := time.NewTimer(timeout)
		defer clock.Stop()
		if over, err := r.awaitEnd(ctx, c, clock.C); over || err != nil {
			return err
		}
	}
	if err := r.host.Cgroups.Thaw(c.Cgroup); err != nil {
		return err
	}
	// The first process takes its PID namespace along; tidy what is outside.
	err := r.cfg.Keeper.Signal(ctx, c.ID, int(unix.SIGKILL))
	if err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, keeper.ErrNotFound) {
		return err
	}
	_, err = r.awaitEnd(ctx, c, nil)
	return err
}

// awaitEnd waits until the container has ended and is tidy, or for the clock.
func (r *Runtime) awaitEnd(ctx context.Context, c *container, clock <-chan time.Time) (over bool, err error) {
	select {
	case <-c.over:
		return true, r.tidy(ctx, c)
	case <-r.cfg.Keeper.Done():
		return false, keeper.ErrGone
	case <-ctx.Done():
		return false, ctx.Err()
	case <-clock:
		return false, nil
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

// RemoveContainer removes a container, killing it if it runs.
func (r *Runtime) RemoveContainer(ctx context.Context, q *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	ctx, done, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
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
	if err := r.stopIn(ctx, c, c.state(), 0); err != nil {
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
	if p := r.sandboxes[c.SandboxID]; p != nil && known {
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
	if err := sandbox.Unpin(c.namespaces()); err != nil {
		return err
	}
	if err := r.unmountImages(c); err != nil {
		return err
	}
	// While the folder is there the next start of ours knows of the hold.
	if err := r.cfg.Images.Release(c.ID); err != nil {
		return err
	}
	return os.RemoveAll(c.dir)
}
