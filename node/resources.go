// SPDX-License-Identifier: Apache-2.0

package node

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/api/pod"
)

// resourcesOf are a container's limits in the kernel's units; what it does not
// limit itself, the Pod's own limits do (KEP-2837). On cgroup v2 a container that
// is out of memory is killed whole, not one of its processes.
func resourcesOf(p *corev1.Pod, c *corev1.Container, capacity int64, v2 bool) *runtimeapi.LinuxContainerResources {
	cpu, memory := limitOf(p, c, corev1.ResourceCPU), limitOf(p, c, corev1.ResourceMemory)
	request := cpu
	if r, ok := c.Resources.Requests[corev1.ResourceCPU]; ok {
		request = r
	}
	out := linuxResources(&request, &cpu, &memory)
	out.OomScoreAdj = oomScore(p, c, capacity)
	out.MemorySwapLimitInBytes = out.MemoryLimitInBytes // no swap beyond memory
	if v2 {
		out.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return out
}

// podResources are the whole Pod's, for runtimes that size a sandbox.
func podResources(p *corev1.Pod) *runtimeapi.LinuxContainerResources {
	o := resourcehelper.PodResourcesOptions{ExcludeOverhead: true}
	requests, limits := resourcehelper.PodRequests(p, o), resourcehelper.PodLimits(p, o)
	request := limits.Cpu()
	if r, ok := requests[corev1.ResourceCPU]; ok {
		request = &r
	}
	return linuxResources(request, limits.Cpu(), limits.Memory())
}

func linuxResources(request, cpu, memory *resource.Quantity) *runtimeapi.LinuxContainerResources {
	r := &runtimeapi.LinuxContainerResources{CpuPeriod: cpuPeriod, CpuShares: shares(request.MilliValue()), MemoryLimitInBytes: memory.Value()}
	if !cpu.IsZero() {
		r.CpuQuota = quota(cpu.MilliValue())
	}
	return r
}

// criticalPriority is that of system-node-critical and above
// (SystemCriticalPriority plus 1000).
const criticalPriority = 2000001000

// oomScore ranks containers for the kernel's out-of-memory killer: Guaranteed
// last, BestEffort first, in between by the share of memory asked for. A
// sidecar goes no sooner than those it serves.
func oomScore(p *corev1.Pod, c *corev1.Container, capacity int64) int64 {
	qos := pod.QOS(p)
	switch {
	case p.Spec.Priority != nil && *p.Spec.Priority >= criticalPriority, qos == corev1.PodQOSGuaranteed:
		return -997
	case qos == corev1.PodQOSBestEffort:
		return 1000
	case capacity == 0:
		return 999
	}
	request, share := c.Resources.Requests.Memory().Value(), unassigned(p)
	if pod.Sidecar(c) {
		least := p.Spec.Containers[0].Resources.Requests.Memory().Value()
		for _, main := range p.Spec.Containers[1:] {
			least = min(least, main.Resources.Requests.Memory().Value())
		}
		request = max(request, least)
	}
	return min(max(1000-1000*(request+share)/capacity, 3), 999)
}

// unassigned is each container's share of the memory that the Pod asks for as a
// whole and its containers do not.
func unassigned(p *corev1.Pod) int64 {
	if p.Spec.Resources == nil || p.Spec.Resources.Requests.Memory().IsZero() {
		return 0
	}
	asked := resourcehelper.AggregateContainerRequests(p, resourcehelper.PodResourcesOptions{})
	left := p.Spec.Resources.Requests.Memory().Value() - asked.Memory().Value()
	return max(left, 0) / int64(len(p.Spec.Containers)+len(p.Spec.InitContainers))
}
