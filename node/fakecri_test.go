// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// program is how a container behaves, by its name.
type program struct {
	runs   time.Duration // until it ends by itself; 0: for ever
	code   int32         // its own exit code
	onTerm time.Duration // until it ends after TERM; negative: it ignores it
	// startErr fails the start; exec answers commands after a while.
	startErr error
	exec     func(ctx context.Context, command []string) (time.Duration, int32)
	says     string // on stdout of exec
}

// fakeCRI is a container runtime in memory: it keeps the promises of CRI, in
// the time of the test.
type fakeCRI struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer
	w *world

	mu         sync.Mutex // guards the fields below
	programs   map[string]program
	images     map[string]bool
	pullErr    error
	pulls      int
	calls      int
	statusErr  error
	sandboxErr error
	stopErr    error
	updateErr  error
	memory     uint64 // that each container uses
	sandboxes  []*fakeSandbox
	containers []*fakeContainer
	followers  map[chan *runtimeapi.ContainerEventResponse]bool
	n          int
}

type fakeSandbox struct {
	id     string
	ready  bool
	config *runtimeapi.PodSandboxConfig
	at     time.Time
}

type fakeContainer struct {
	id, sandbox string
	config      *runtimeapi.ContainerConfig
	status      *runtimeapi.ContainerStatus
	over        chan struct{}
}

func newFakeCRI(w *world) *fakeCRI {
	return &fakeCRI{w: w, programs: map[string]program{}, images: map[string]bool{"peapod.dev/test:1": true}, followers: map[chan *runtimeapi.ContainerEventResponse]bool{}}
}

func (f *fakeCRI) tell(uid, id string, kind runtimeapi.ContainerEventType) {
	e := &runtimeapi.ContainerEventResponse{ContainerId: id, ContainerEventType: kind, PodSandboxStatus: &runtimeapi.PodSandboxStatus{Labels: map[string]string{labelPodUID: uid}}}
	for c := range f.followers {
		c <- e
	}
}

func (f *fakeCRI) GetContainerEvents(_ *runtimeapi.GetEventsRequest, s grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	c := make(chan *runtimeapi.ContainerEventResponse, 1000)
	f.mu.Lock()
	f.followers[c] = true
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.followers, c)
		f.mu.Unlock()
	}()
	for {
		select {
		case e := <-c:
			if err := s.Send(e); err != nil {
				return err
			}
		case <-s.Context().Done():
			return nil
		}
	}
}

func (f *fakeCRI) RunPodSandbox(_ context.Context, q *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sandboxErr != nil {
		return nil, f.sandboxErr
	}
	f.n++
	s := &fakeSandbox{id: fmt.Sprintf("sandbox%d", f.n), ready: true, config: q.Config, at: time.Now()}
	f.sandboxes = append(f.sandboxes, s)
	f.w.note("sandbox attempt=%d", q.Config.Metadata.Attempt)
	f.tell(q.Config.Metadata.Uid, s.id, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: s.id}, nil
}

func (f *fakeCRI) StopPodSandbox(_ context.Context, q *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		if c.sandbox == q.PodSandboxId {
			f.end(c, 137)
		}
	}
	for _, s := range f.sandboxes {
		if s.id == q.PodSandboxId && s.ready {
			s.ready = false
			f.tell(s.config.Metadata.Uid, s.id, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
		}
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

func (f *fakeCRI) RemovePodSandbox(_ context.Context, q *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.containers = slices.DeleteFunc(f.containers, func(c *fakeContainer) bool { return c.sandbox == q.PodSandboxId })
	for _, s := range f.sandboxes {
		if s.id == q.PodSandboxId {
			f.tell(s.config.Metadata.Uid, s.id, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
		}
	}
	f.sandboxes = slices.DeleteFunc(f.sandboxes, func(s *fakeSandbox) bool { return s.id == q.PodSandboxId })
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

func selectedBy(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func (s *fakeSandbox) state() runtimeapi.PodSandboxState {
	if s.ready {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

func (f *fakeCRI) ListPodSandbox(_ context.Context, q *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	out := &runtimeapi.ListPodSandboxResponse{}
	for _, s := range f.sandboxes {
		if selectedBy(q.GetFilter().GetLabelSelector(), s.config.Labels) {
			out.Items = append(out.Items, &runtimeapi.PodSandbox{Id: s.id, Metadata: s.config.Metadata, State: s.state(), CreatedAt: s.at.UnixNano(), Labels: s.config.Labels})
		}
	}
	return out, nil
}

func (f *fakeCRI) PodSandboxStatus(_ context.Context, q *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.sandboxes {
		if s.id == q.PodSandboxId {
			st := &runtimeapi.PodSandboxStatus{Id: s.id, Metadata: s.config.Metadata, State: s.state(), Network: &runtimeapi.PodSandboxNetworkStatus{}}
			if s.ready {
				st.Network.Ip = "10.0.0." + strings.TrimPrefix(s.id, "sandbox")
			}
			return &runtimeapi.PodSandboxStatusResponse{Status: st}, nil
		}
	}
	return nil, grpcstatus.Error(codes.NotFound, "no such sandbox")
}

func (f *fakeCRI) CreateContainer(_ context.Context, q *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		if c.sandbox == q.PodSandboxId && c.config.Metadata.Name == q.Config.Metadata.Name && c.config.Metadata.Attempt == q.Config.Metadata.Attempt {
			return nil, grpcstatus.Errorf(codes.AlreadyExists, "name %s_%d is reserved", q.Config.Metadata.Name, q.Config.Metadata.Attempt)
		}
	}
	f.n++
	c := &fakeContainer{id: fmt.Sprintf("c%d", f.n), sandbox: q.PodSandboxId, config: q.Config, over: make(chan struct{})}
	c.status = &runtimeapi.ContainerStatus{
		Id: c.id, Metadata: q.Config.Metadata, State: runtimeapi.ContainerState_CONTAINER_CREATED, CreatedAt: time.Now().UnixNano(), Image: q.Config.Image, ImageRef: "sha256:1",
		Labels: q.Config.Labels, Annotations: q.Config.Annotations, LogPath: f.w.dir + "/" + q.Config.LogPath,
	}
	f.containers = append(f.containers, c)
	return &runtimeapi.CreateContainerResponse{ContainerId: c.id}, nil
}

func (f *fakeCRI) find(id string) *fakeContainer {
	for _, c := range f.containers {
		if c.id == id {
			return c
		}
	}
	return nil
}

func (f *fakeCRI) StartContainer(_ context.Context, q *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.find(q.ContainerId)
	if c == nil || c.status.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		return nil, grpcstatus.Error(codes.FailedPrecondition, "not created")
	}
	name := c.config.Metadata.Name
	for _, other := range f.containers {
		if other.config.Metadata.Name == name && other.config.Labels[labelPodUID] == c.config.Labels[labelPodUID] && other.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			f.w.t.Errorf("container %s is started while another one runs", name)
		}
	}
	p := f.programs[name]
	if p.startErr != nil {
		f.w.note("start of %s fails", name)
		if grpcstatus.Code(p.startErr) != codes.Unavailable { // else it stays created
			c.status.State, c.status.ExitCode, c.status.Reason, c.status.FinishedAt = runtimeapi.ContainerState_CONTAINER_EXITED, 128, "StartError", time.Now().UnixNano()
		}
		return nil, p.startErr
	}
	c.status.State, c.status.StartedAt = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	f.w.note("start %s #%d", name, c.config.Metadata.Attempt)
	f.tell(c.config.Labels[labelPodUID], c.id, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	if p.runs > 0 {
		time.AfterFunc(p.runs, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.end(c, p.code)
		})
	}
	return &runtimeapi.StartContainerResponse{}, nil
}

// end is the death of a container's process.
func (f *fakeCRI) end(c *fakeContainer, code int32) {
	if c.status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return
	}
	c.status.State, c.status.ExitCode, c.status.FinishedAt, c.status.Reason = runtimeapi.ContainerState_CONTAINER_EXITED, code, time.Now().UnixNano(), "Error"
	if code == 0 {
		c.status.Reason = "Completed"
	}
	f.w.note("end %s %d", c.config.Metadata.Name, code)
	close(c.over)
	f.tell(c.config.Labels[labelPodUID], c.id, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

// crash ends a container of this name from outside.
func (f *fakeCRI) crash(name string, code int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		if c.config.Metadata.Name == name {
			f.end(c, code)
		}
	}
}

func (f *fakeCRI) StopContainer(ctx context.Context, q *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	f.mu.Lock()
	c, err := f.find(q.ContainerId), f.stopErr
	if c == nil || err != nil || c.status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		f.mu.Unlock()
		return &runtimeapi.StopContainerResponse{}, err
	}
	name := c.config.Metadata.Name
	p := f.programs[name]
	if q.Timeout > 0 {
		f.w.note("TERM %s", name)
		if p.onTerm >= 0 {
			time.AfterFunc(p.onTerm, func() {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.end(c, p.code)
			})
		}
	}
	if q.Timeout == 0 {
		f.w.note("KILL %s", name)
		f.end(c, 137)
	}
	f.mu.Unlock()
	clock := time.NewTimer(time.Duration(q.Timeout) * time.Second)
	defer clock.Stop()
	select {
	case <-c.over:
		return &runtimeapi.StopContainerResponse{}, nil
	case <-ctx.Done():
		return nil, grpcstatus.FromContextError(ctx.Err()).Err()
	case <-clock.C:
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
		f.w.note("KILL %s by the runtime", name)
		f.end(c, 137)
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

func (f *fakeCRI) RemoveContainer(_ context.Context, q *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.find(q.ContainerId); c != nil && c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
		f.w.t.Errorf("container %s is removed while it runs", c.config.Metadata.Name)
	}
	f.containers = slices.DeleteFunc(f.containers, func(c *fakeContainer) bool { return c.id == q.ContainerId })
	return &runtimeapi.RemoveContainerResponse{}, nil
}

func (f *fakeCRI) ListContainers(_ context.Context, q *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &runtimeapi.ListContainersResponse{}
	for _, c := range f.containers {
		if selectedBy(q.GetFilter().GetLabelSelector(), c.config.Labels) {
			out.Containers = append(out.Containers, &runtimeapi.Container{Id: c.id, PodSandboxId: c.sandbox, Metadata: c.config.Metadata, State: c.status.State, Labels: c.config.Labels})
		}
	}
	return out, nil
}

func (f *fakeCRI) ContainerStatus(_ context.Context, q *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.statusErr != nil {
		return nil, f.statusErr
	}
	c := f.find(q.ContainerId)
	if c == nil {
		return nil, grpcstatus.Error(codes.NotFound, "no such container")
	}
	return &runtimeapi.ContainerStatusResponse{Status: proto.Clone(c.status).(*runtimeapi.ContainerStatus)}, nil
}

func (f *fakeCRI) ExecSync(ctx context.Context, q *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	f.mu.Lock()
	c := f.find(q.ContainerId)
	if c == nil || c.status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		f.mu.Unlock()
		return nil, grpcstatus.Error(codes.FailedPrecondition, "not running")
	}
	p := f.programs[c.config.Metadata.Name]
	f.mu.Unlock()
	f.w.note("exec %s %s", c.config.Metadata.Name, strings.Join(q.Cmd, " "))
	var takes time.Duration
	var code int32
	if p.exec != nil {
		takes, code = p.exec(ctx, q.Cmd)
	}
	if q.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(q.Timeout)*time.Second)
		defer cancel()
	}
	clock := time.NewTimer(takes)
	defer clock.Stop()
	select {
	case <-clock.C:
		return &runtimeapi.ExecSyncResponse{ExitCode: code, Stdout: []byte(p.says)}, nil
	case <-c.over:
		return &runtimeapi.ExecSyncResponse{ExitCode: 137}, nil
	case <-ctx.Done():
		return nil, grpcstatus.FromContextError(ctx.Err()).Err()
	}
}

func (f *fakeCRI) ImageStatus(_ context.Context, q *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.images[q.Image.Image] {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: "sha256:1", RepoTags: []string{q.Image.Image}, Size: 42, Username: ""}}, nil
}

func (f *fakeCRI) PullImage(_ context.Context, q *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pulls++
	f.w.note("pull %s", q.Image.Image)
	if f.pullErr != nil {
		return nil, f.pullErr
	}
	f.images[q.Image.Image] = true
	return &runtimeapi.PullImageResponse{ImageRef: "sha256:1"}, nil
}

func (f *fakeCRI) UpdateContainerResources(_ context.Context, q *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.find(q.ContainerId)
	if c == nil || c.status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return nil, grpcstatus.Error(codes.FailedPrecondition, "not running")
	}
	if f.updateErr != nil {
		return nil, f.updateErr
	}
	f.w.note("update %s shares=%d quota=%d memory=%d", c.config.Metadata.Name, q.Linux.CpuShares, q.Linux.CpuQuota, q.Linux.MemoryLimitInBytes)
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}

func (f *fakeCRI) ContainerStats(_ context.Context, q *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &runtimeapi.ContainerStatsResponse{Stats: &runtimeapi.ContainerStats{Memory: &runtimeapi.MemoryUsage{UsageBytes: &runtimeapi.UInt64Value{Value: f.memory}}}}, nil
}
