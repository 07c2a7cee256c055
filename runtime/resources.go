// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/sandbox"
)

// UpdateContainerResources changes the limits of a container that runs, or that
// will.
func (r *Runtime) UpdateContainerResources(ctx context.Context, q *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
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
	limits := sandbox.Resources(q.GetLinux(), r.host)
	switch c.state() {
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		err = r.launcher(c.Handler).Update(ctx, c.ID, limits)
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		err = c.relimit(limits)
	default:
		return nil, failed("container %s is not running", c.ID)
	}
	if err == nil {
		err = c.noteResources(q.GetLinux())
	}
	if err != nil {
		return nil, coded(fmt.Errorf("cannot update resources of container %s: %w", c.ID, err))
	}
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}

// relimit changes the limits with which a container will start.
func (c *container) relimit(limits *specs.LinuxResources) error {
	s, err := sandbox.ReadBundle(c.dir)
	if err != nil {
		return err
	}
	limits.Devices = s.Linux.Resources.Devices
	s.Linux.Resources = limits
	return sandbox.WriteBundle(c.dir, s)
}

// noteResources puts the limits into the record, for the status.
func (c *container) noteResources(l *runtimeapi.LinuxContainerResources) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Others may be reading the old one.
	config := proto.CloneOf(c.config)
	if config.Linux == nil {
		config.Linux = &runtimeapi.LinuxContainerConfig{}
	}
	config.Linux.Resources = l
	raw, err := protojson.Marshal(config)
	if err != nil {
		return err
	}
	c.config, c.Config = config, raw
	return c.save()
}

// ReopenContainerLog goes on in a new file after a rotation.
func (r *Runtime) ReopenContainerLog(ctx context.Context, q *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	c, err := r.findContainer(q.GetContainerId())
	if err != nil {
		return nil, err
	}
	if c.state() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return nil, failed("container %s is not running", c.ID)
	}
	if err := r.cfg.Keeper.ReopenLog(ctx, c.ID); err != nil {
		return nil, coded(err)
	}
	return &runtimeapi.ReopenContainerLogResponse{}, nil
}
