// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"maps"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (in Input) resources(s *specs.Spec) error {
	s.Linux.Resources = Resources(in.Container.GetLinux().GetResources(), in.Host)
	return nil
}

// Resources translates CRI limits, at the start of a container and at an
// update. Limits for which the machine has no controller are left out.
func Resources(r *runtimeapi.LinuxContainerResources, h Host) *specs.LinuxResources {
	out := &specs.LinuxResources{}
	if r == nil {
		return out
	}
	if h.Cgroups.Has("cpu") || h.Cgroups.Has("cpuset") {
		out.CPU = cpu(r, h)
	}
	if h.Cgroups.Has("memory") {
		out.Memory = memory(r, h)
	}
	if h.Cgroups.Has("hugetlb") {
		for _, l := range r.GetHugepageLimits() {
			out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: l.GetPageSize(), Limit: l.GetLimit()})
		}
	}
	if h.Cgroups.V2() && len(r.GetUnified()) > 0 {
		out.Unified = maps.Clone(r.GetUnified())
	}
	return out
}

func cpu(r *runtimeapi.LinuxContainerResources, h Host) *specs.LinuxCPU {
	c := &specs.LinuxCPU{}
	if h.Cgroups.Has("cpu") {
		if v := uint64(r.GetCpuShares()); v != 0 {
			c.Shares = &v
		}
		if v := r.GetCpuQuota(); v != 0 {
			c.Quota = &v
		}
		if v := uint64(r.GetCpuPeriod()); v != 0 {
			c.Period = &v
		}
	}
	if h.Cgroups.Has("cpuset") {
		c.Cpus, c.Mems = r.GetCpusetCpus(), r.GetCpusetMems()
	}
	if *c == (specs.LinuxCPU{}) {
		return nil
	}
	return c
}

// memory: a limit without a word about swap means no swap beyond it.
func memory(r *runtimeapi.LinuxContainerResources, h Host) *specs.LinuxMemory {
	m := &specs.LinuxMemory{}
	limit, swap := r.GetMemoryLimitInBytes(), r.GetMemorySwapLimitInBytes()
	if limit != 0 {
		m.Limit = &limit
		if swap == 0 {
			swap = limit
		}
	}
	if swap != 0 && h.SwapLimit {
		m.Swap = &swap
	}
	if m.Limit == nil && m.Swap == nil {
		return nil
	}
	return m
}
