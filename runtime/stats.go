// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/linux"
)

// readCounter reads one number of a cgroup, or the value of a key in it.
func (r *Runtime) readCounter(controller, cgroup, file, key string) (uint64, bool) {
	b, err := os.ReadFile(filepath.Join(r.host.Cgroups.Path(controller, cgroup), file))
	if err != nil {
		return 0, false
	}
	text := strings.TrimSpace(string(b))
	if key != "" {
		text = ""
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
	c.mu.Lock()
	config := c.config
	c.mu.Unlock()
	out := &runtimeapi.ContainerStats{Attributes: &runtimeapi.ContainerAttributes{Id: c.ID, Metadata: config.Metadata, Labels: config.Labels, Annotations: config.Annotations}}
	out.Cpu, out.Memory = r.cpuUsage(c.Cgroup, at), r.memoryUsage(c.Cgroup, at)
	if n, files, err := diskUsage(filepath.Join(c.dir, "upper")); err == nil {
		out.WritableLayer = &runtimeapi.FilesystemUsage{
			Timestamp: at, FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: r.cfg.Dir},
			UsedBytes: &runtimeapi.UInt64Value{Value: n}, InodesUsed: &runtimeapi.UInt64Value{Value: files},
		}
	}
	return out
}

// cpuUsage is nil for a cgroup that is gone.
func (r *Runtime) cpuUsage(cgroup string, at int64) *runtimeapi.CpuUsage {
	n, ok := r.readCounter("cpuacct", cgroup, "cpuacct.usage", "")
	if r.host.Cgroups.V2() {
		n, ok = r.readCounter("cpu", cgroup, "cpu.stat", "usage_usec")
		n *= 1000
	}
	if !ok {
		return nil
	}
	return &runtimeapi.CpuUsage{Timestamp: at, UsageCoreNanoSeconds: &runtimeapi.UInt64Value{Value: n}}
}

// memoryUsage is nil for a cgroup that is gone. The working set is what the
// kernel cannot take back by forgetting files, as kubelets count it; available
// is what is left of a limit.
func (r *Runtime) memoryUsage(cgroup string, at int64) *runtimeapi.MemoryUsage {
	names := struct{ usage, limit, inactive, rss, faults, major string }{
		"memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file", "total_rss", "total_pgfault", "total_pgmajfault"}
	if r.host.Cgroups.V2() {
		names.usage, names.limit = "memory.current", "memory.max"
		names.inactive, names.rss, names.faults, names.major = "inactive_file", "anon", "pgfault", "pgmajfault"
	}
	usage, ok := r.readCounter("memory", cgroup, names.usage, "")
	if !ok {
		return nil
	}
	stat := func(key string) *runtimeapi.UInt64Value {
		n, ok := r.readCounter("memory", cgroup, "memory.stat", key)
		if !ok {
			return nil
		}
		return &runtimeapi.UInt64Value{Value: n}
	}
	work := usage - min(stat(names.inactive).GetValue(), usage)
	out := &runtimeapi.MemoryUsage{
		Timestamp: at, UsageBytes: &runtimeapi.UInt64Value{Value: usage}, WorkingSetBytes: &runtimeapi.UInt64Value{Value: work},
		RssBytes: stat(names.rss), PageFaults: stat(names.faults), MajorPageFaults: stat(names.major),
	}
	// No limit is "max" on v2, and on v1 more than anybody has.
	const unlimited = 1 << 62
	if limit, ok := r.readCounter("memory", cgroup, names.limit, ""); ok && limit < unlimited {
		out.AvailableBytes = &runtimeapi.UInt64Value{Value: limit - min(work, limit)}
	}
	return out
}

// diskUsage measures a folder: bytes on the disk, and files.
func diskUsage(dir string) (bytes, files uint64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went while we looked
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if st, ok := info.Sys().(*syscall.Stat_t); err == nil && ok {
			bytes += uint64(st.Blocks) * 512 // st_blocks counts these (stat(2))
			files++
		}
		return err
	})
	return bytes, files, err
}

// traffic reads what the sandbox's link has carried.
func traffic(netns string) (*runtimeapi.NetworkUsage, error) {
	out := &runtimeapi.NetworkUsage{Timestamp: now().UnixNano()}
	var text []byte
	err := linux.InNamespace("net", netns, func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/dev")
		return err
	})
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		name, counts, ok := strings.Cut(strings.TrimSpace(line), ":")
		// proc_pid_net(5): received bytes, packets, errors ..., the same of sent
		// ones from the ninth on.
		f := strings.Fields(counts)
		if !ok || name == "lo" || len(f) < 16 {
			continue
		}
		value := func(i int) *runtimeapi.UInt64Value {
			n, _ := strconv.ParseUint(f[i], 10, 64) // 0 if the kernel wrote no number
			return &runtimeapi.UInt64Value{Value: n}
		}
		u := &runtimeapi.NetworkInterfaceUsage{Name: name, RxBytes: value(0), RxErrors: value(2), TxBytes: value(8), TxErrors: value(10)}
		if name == "eth0" {
			out.DefaultInterface = u
		} else {
			out.Interfaces = append(out.Interfaces, u)
		}
	}
	return out, nil
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
	p.mu.Lock()
	netns := p.ns.Net
	p.mu.Unlock()
	if netns != "" {
		// The sandbox may be ending: then there is nothing to tell of.
		if u, err := traffic(netns); err == nil {
			out.Linux.Network = u
		}
	}
	var cpu, memory, work, processes uint64
	for _, s := range list.Stats {
		if c, err := r.findContainer(s.GetAttributes().GetId()); err == nil {
			n, _ := r.readCounter("pids", c.Cgroup, "pids.current", "")
			processes += n
		}
		cpu += s.GetCpu().GetUsageCoreNanoSeconds().GetValue()
		memory += s.GetMemory().GetUsageBytes().GetValue()
		work += s.GetMemory().GetWorkingSetBytes().GetValue()
	}
	at := now().UnixNano()
	out.Linux.Process = &runtimeapi.ProcessUsage{Timestamp: at, ProcessCount: &runtimeapi.UInt64Value{Value: processes}}
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
