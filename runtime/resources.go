// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/sandbox"
)

// UpdateContainerResources changes the limits of a container.
func (r *Runtime) UpdateContainerResources(ctx context.Context, q *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	c, err := r.findContainer(q.GetContainerId())
	if err != nil {
		return nil, err
	}
	if c.state() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return nil, failed("container %s is not running", c.ID)
	}
	if err := r.launcher(c.Handler).Update(ctx, c.ID, sandbox.Resources(q.GetLinux(), r.host)); err != nil {
		return nil, coded(fmt.Errorf("cannot update resources of container %s: %w", c.ID, err))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.config.Linux == nil {
		c.config.Linux = &runtimeapi.LinuxContainerConfig{}
	}
	c.config.Linux.Resources = q.GetLinux()
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
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

// readCounter reads one number of a cgroup, or the value of a key in it.
func (r *Runtime) readCounter(controller, cgroup, file, key string) (uint64, bool) {
	b, err := os.ReadFile(filepath.Join(r.host.Cgroups.Path(controller, cgroup), file))
	if err != nil {
		return 0, false
	}
	text := strings.TrimSpace(string(b))
	if key != "" {
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), key+" "); ok {
				text = v
			}
		}
	}
	n, err := strconv.ParseUint(text, 10, 64)
	return n, err == nil
}

func (r *Runtime) stats(c *container) *runtimeapi.ContainerStats {
	at := now().UnixNano()
	out := &runtimeapi.ContainerStats{Attributes: &runtimeapi.ContainerAttributes{Id: c.ID, Metadata: c.config.Metadata, Labels: c.config.Labels, Annotations: c.config.Annotations}}
	var cpu, memory, inactive uint64
	var okCPU, okMemory bool
	if r.host.Cgroups.V2() {
		cpu, okCPU = r.readCounter("cpu", c.Cgroup, "cpu.stat", "usage_usec")
		cpu *= 1000
		memory, okMemory = r.readCounter("memory", c.Cgroup, "memory.current", "")
		inactive, _ = r.readCounter("memory", c.Cgroup, "memory.stat", "inactive_file")
	} else {
		cpu, okCPU = r.readCounter("cpuacct", c.Cgroup, "cpuacct.usage", "")
		memory, okMemory = r.readCounter("memory", c.Cgroup, "memory.usage_in_bytes", "")
		inactive, _ = r.readCounter("memory", c.Cgroup, "memory.stat", "total_inactive_file")
	}
	if okCPU {
		out.Cpu = &runtimeapi.CpuUsage{Timestamp: at, UsageCoreNanoSeconds: &runtimeapi.UInt64Value{Value: cpu}}
	}
	if okMemory {
		out.Memory = &runtimeapi.MemoryUsage{Timestamp: at, UsageBytes: &runtimeapi.UInt64Value{Value: memory}, WorkingSetBytes: &runtimeapi.UInt64Value{Value: memory - min(inactive, memory)}}
	}
	return out
}

// ContainerStats measures one container.
func (r *Runtime) ContainerStats(_ context.Context, q *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	c, err := r.findContainer(q.GetContainerId())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStatsResponse{Stats: r.stats(c)}, nil
}

// ListContainerStats measures the running containers.
func (r *Runtime) ListContainerStats(ctx context.Context, q *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	f := q.GetFilter()
	list, err := r.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: f.GetId(), PodSandboxId: f.GetPodSandboxId(), LabelSelector: f.GetLabelSelector()}})
	if err != nil {
		return nil, err
	}
	out := &runtimeapi.ListContainerStatsResponse{}
	for _, x := range list.Containers {
		if c, err := r.findContainer(x.Id); err == nil && x.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			out.Stats = append(out.Stats, r.stats(c))
		}
	}
	return out, nil
}

// StreamContainerStats is ListContainerStats in pieces.
func (r *Runtime) StreamContainerStats(q *runtimeapi.StreamContainerStatsRequest, s grpc.ServerStreamingServer[runtimeapi.StreamContainerStatsResponse]) error {
	list, err := r.ListContainerStats(s.Context(), &runtimeapi.ListContainerStatsRequest{Filter: q.GetFilter()})
	if err != nil {
		return err
	}
	return s.Send(&runtimeapi.StreamContainerStatsResponse{ContainerStats: list.Stats})
}

func (r *Runtime) podStats(ctx context.Context, p *pod) (*runtimeapi.PodSandboxStats, error) {
	list, err := r.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{PodSandboxId: p.ID}})
	if err != nil {
		return nil, err
	}
	out := &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{Id: p.ID, Metadata: p.config.Metadata, Labels: p.config.Labels, Annotations: p.config.Annotations},
		Linux:      &runtimeapi.LinuxPodSandboxStats{Containers: list.Stats},
	}
	var cpu, memory, work uint64
	for _, s := range list.Stats {
		cpu += s.GetCpu().GetUsageCoreNanoSeconds().GetValue()
		memory += s.GetMemory().GetUsageBytes().GetValue()
		work += s.GetMemory().GetWorkingSetBytes().GetValue()
	}
	at := now().UnixNano()
	out.Linux.Cpu = &runtimeapi.CpuUsage{Timestamp: at, UsageCoreNanoSeconds: &runtimeapi.UInt64Value{Value: cpu}}
	out.Linux.Memory = &runtimeapi.MemoryUsage{Timestamp: at, UsageBytes: &runtimeapi.UInt64Value{Value: memory}, WorkingSetBytes: &runtimeapi.UInt64Value{Value: work}}
	return out, nil
}

// PodSandboxStats measures one sandbox: the sum of its containers.
func (r *Runtime) PodSandboxStats(ctx context.Context, q *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	p, err := r.findPod(q.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	s, err := r.podStats(ctx, p)
	return &runtimeapi.PodSandboxStatsResponse{Stats: s}, err
}

// ListPodSandboxStats measures the sandboxes that are ready.
func (r *Runtime) ListPodSandboxStats(ctx context.Context, q *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	f := q.GetFilter()
	list, err := r.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		Id: f.GetId(), LabelSelector: f.GetLabelSelector(), State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
	}})
	if err != nil {
		return nil, err
	}
	out := &runtimeapi.ListPodSandboxStatsResponse{}
	for _, x := range list.Items {
		if p, err := r.findPod(x.Id); err == nil {
			s, err := r.podStats(ctx, p)
			if err != nil {
				return nil, err
			}
			out.Stats = append(out.Stats, s)
		}
	}
	return out, nil
}

// StreamPodSandboxStats is ListPodSandboxStats in pieces.
func (r *Runtime) StreamPodSandboxStats(q *runtimeapi.StreamPodSandboxStatsRequest, s grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxStatsResponse]) error {
	list, err := r.ListPodSandboxStats(s.Context(), &runtimeapi.ListPodSandboxStatsRequest{Filter: q.GetFilter()})
	if err != nil {
		return err
	}
	return s.Send(&runtimeapi.StreamPodSandboxStatsResponse{PodSandboxStats: list.Stats})
}
