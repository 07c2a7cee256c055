// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/sandbox"
)

func (p *pod) status() *runtimeapi.PodSandboxStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &runtimeapi.PodSandboxStatus{
		Id: p.ID, Metadata: p.config.Metadata, CreatedAt: p.Created.UnixNano(), State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY,
		Labels: p.config.Labels, Annotations: p.config.Annotations, RuntimeHandler: p.Handler,
		Network: &runtimeapi.PodSandboxNetworkStatus{},
		Linux:   &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: p.options()}},
	}
	if p.Made && !p.Stopped {
		s.State = runtimeapi.PodSandboxState_SANDBOX_READY
	}
	for i, ip := range p.IPs {
		if i == 0 {
			s.Network.Ip = ip.String()
		} else {
			s.Network.AdditionalIps = append(s.Network.AdditionalIps, &runtimeapi.PodIP{Ip: ip.String()})
		}
	}
	return s
}

// PodSandboxStatus tells of one sandbox.
func (r *Runtime) PodSandboxStatus(_ context.Context, q *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	p, err := r.findPod(q.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	out := &runtimeapi.PodSandboxStatusResponse{Status: p.status(), Timestamp: now().UnixNano()}
	for _, c := range r.containersOf(p.ID) {
		out.ContainersStatuses = append(out.ContainersStatuses, c.status())
	}
	if q.GetVerbose() {
		out.Info = map[string]string{"dir": fmt.Sprintf("%q", p.dir)}
	}
	return out, nil
}

// ListPodSandbox lists sandboxes, newest first.
func (r *Runtime) ListPodSandbox(_ context.Context, q *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	f := q.GetFilter()
	r.mu.Lock()
	all := slices.Collect(maps.Values(r.sandboxes))
	r.mu.Unlock()
	out := &runtimeapi.ListPodSandboxResponse{}
	for _, p := range all {
		s := p.status()
		if f.GetId() != "" && !strings.HasPrefix(s.Id, f.GetId()) || f.GetState() != nil && f.GetState().State != s.State || !selected(f.GetLabelSelector(), s.Labels) {
			continue
		}
		out.Items = append(out.Items, &runtimeapi.PodSandbox{
			Id: s.Id, Metadata: s.Metadata, State: s.State, CreatedAt: s.CreatedAt, Labels: s.Labels, Annotations: s.Annotations, RuntimeHandler: s.RuntimeHandler,
		})
	}
	slices.SortFunc(out.Items, func(a, b *runtimeapi.PodSandbox) int { return int(b.CreatedAt - a.CreatedAt) })
	return out, nil
}

// StreamPodSandboxes is ListPodSandbox in pieces.
func (r *Runtime) StreamPodSandboxes(q *runtimeapi.StreamPodSandboxesRequest, s grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]) error {
	list, err := r.ListPodSandbox(s.Context(), &runtimeapi.ListPodSandboxRequest{Filter: q.GetFilter()})
	if err != nil {
		return err
	}
	return s.Send(&runtimeapi.StreamPodSandboxesResponse{PodSandboxes: list.Items})
}

func selected(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func (c *container) status() *runtimeapi.ContainerStatus {
	state := c.state()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &runtimeapi.ContainerStatus{
		Id: c.ID, Metadata: c.config.Metadata, State: state, CreatedAt: c.Created.UnixNano(),
		Image: &runtimeapi.ImageSpec{Image: c.ImageRef, UserSpecifiedImage: c.config.GetImage().GetUserSpecifiedImage()}, ImageRef: c.ImageID, ImageId: c.ImageID,
		Labels: c.config.Labels, Annotations: c.config.Annotations, Mounts: c.config.Mounts, LogPath: c.LogPath,
		Resources: &runtimeapi.ContainerResources{Linux: c.config.GetLinux().GetResources()},
	}
	if c.User != nil {
		s.User = &runtimeapi.ContainerUser{Linux: &runtimeapi.LinuxContainerUser{Uid: c.User.UID, Gid: c.User.GID, SupplementalGroups: c.User.Groups}}
	}
	if sig, err := sandbox.StopSignal(c.config, c.Image.StopSignal); err == nil {
		s.StopSignal = runtimeapi.Signal(runtimeapi.Signal_value[signalName(sig)])
	}
	if !c.Started.IsZero() {
		s.StartedAt = c.Started.UnixNano()
	}
	switch {
	case state == runtimeapi.ContainerState_CONTAINER_RUNNING && c.bereft:
		s.Reason, s.Message = "OutputMayBeLost", "The keeper of containers was killed: the last output before that may be missing from the log"
	case c.StartError != "":
		s.ExitCode, s.Reason, s.Message, s.FinishedAt = 128, "StartError", c.StartError, c.Finished.UnixNano()
	case c.exit != nil:
		s.ExitCode, s.FinishedAt = int32(c.exit.Code), c.exit.At.UnixNano()
		s.Reason, s.Message = c.reason()
	}
	return s
}

// signalName is CRI's name of a signal.
func signalName(sig unix.Signal) string {
	// As in the C library, which keeps the first two for itself.
	const rtMin, rtMax = 34, 64
	switch n := int(sig); {
	case n == rtMin:
		return "SIGNAL_SIGRTMIN"
	case n == rtMax:
		return "SIGNAL_SIGRTMAX"
	case n > rtMin && n <= rtMin+15:
		return fmt.Sprintf("SIGNAL_SIGRTMINPLUS%d", n-rtMin)
	case n > rtMin:
		return fmt.Sprintf("SIGNAL_SIGRTMAXMINUS%d", rtMax-n)
	}
	return "SIGNAL_" + unix.SignalName(sig)
}

// reason is why a container ended, in the words kubelets know.
func (c *container) reason() (reason, message string) {
	switch {
	case c.OOMKilled:
		return "OOMKilled", ""
	case c.exit.Unknown != "":
		return "Unknown", c.exit.Unknown
	case c.exit.Code == 0:
		return "Completed", ""
	}
	return "Error", ""
}

// ContainerStatus tells of one container.
func (r *Runtime) ContainerStatus(_ context.Context, q *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	c, err := r.findContainer(q.GetContainerId())
	if err != nil {
		return nil, err
	}
	out := &runtimeapi.ContainerStatusResponse{Status: c.status()}
	if q.GetVerbose() {
		info := map[string]any{"sandboxID": c.SandboxID, "dir": c.dir, "cgroup": c.Cgroup}
		if out.Status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			if info["pid"], err = c.pid(); err != nil {
				return nil, err
			}
		}
		b, err := json.Marshal(info)
		if err != nil {
			return nil, err
		}
		out.Info = map[string]string{"info": string(b)}
	}
	return out, nil
}

// ListContainers lists containers, newest first.
func (r *Runtime) ListContainers(_ context.Context, q *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	f := q.GetFilter()
	r.mu.Lock()
	all := slices.Collect(maps.Values(r.containers))
	r.mu.Unlock()
	out := &runtimeapi.ListContainersResponse{}
	for _, c := range all {
		s := c.status()
		if f.GetId() != "" && !strings.HasPrefix(s.Id, f.GetId()) || f.GetState() != nil && f.GetState().State != s.State ||
			f.GetPodSandboxId() != "" && !strings.HasPrefix(c.SandboxID, f.GetPodSandboxId()) || !selected(f.GetLabelSelector(), s.Labels) {
			continue
		}
		out.Containers = append(out.Containers, &runtimeapi.Container{
			Id: s.Id, PodSandboxId: c.SandboxID, Metadata: s.Metadata, Image: s.Image, ImageRef: s.ImageRef, ImageId: s.ImageId,
			State: s.State, CreatedAt: s.CreatedAt, Labels: s.Labels, Annotations: s.Annotations,
		})
	}
	slices.SortFunc(out.Containers, func(a, b *runtimeapi.Container) int { return int(b.CreatedAt - a.CreatedAt) })
	return out, nil
}

// StreamContainers is ListContainers in pieces.
func (r *Runtime) StreamContainers(q *runtimeapi.StreamContainersRequest, s grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	list, err := r.ListContainers(s.Context(), &runtimeapi.ListContainersRequest{Filter: q.GetFilter()})
	if err != nil {
		return err
	}
	return s.Send(&runtimeapi.StreamContainersResponse{Containers: list.Containers})
}

// Status says whether Pods can run, and what the runtime offers.
func (r *Runtime) Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	out := &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: runtimeapi.RuntimeReady, Status: true}, {Type: runtimeapi.NetworkReady, Status: true},
	}}, Features: &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true}}
	select {
	case <-r.cfg.Keeper.Done():
		out.Status.Conditions[0] = &runtimeapi.RuntimeCondition{Type: runtimeapi.RuntimeReady, Reason: "KeeperGone", Message: "the keeper has died"}
	default:
	}
	for name := range r.cfg.Launchers {
		out.RuntimeHandlers = append(out.RuntimeHandlers, &runtimeapi.RuntimeHandler{Name: name, Features: &runtimeapi.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: true}})
	}
	return out, nil
}

// RuntimeConfig tells which cgroup driver clients must use.
func (r *Runtime) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: runtimeapi.CgroupDriver_CGROUPFS}}, nil
}

// UpdateRuntimeConfig takes a Pod range, which the network was given already.
func (r *Runtime) UpdateRuntimeConfig(context.Context, *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
}
