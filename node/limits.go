// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/api/pod"
)

// podLimits are those of a Pod's cgroup; 0 is none.
type podLimits struct {
	CPURequest int64 `json:"cpuRequest,omitempty"` // milli-CPUs, as are the next
	CPULimit   int64 `json:"cpuLimit,omitempty"`
	Memory     int64 `json:"memory,omitempty"` // bytes
}

// limitsOf are the Pod's own limits, or the sums of its containers'.
func limitsOf(p *corev1.Pod) podLimits {
	o := resourcehelper.PodResourcesOptions{}
	limits := resourcehelper.PodLimits(p, o)
	requests := resourcehelper.PodRequests(p, o)
	l := podLimits{CPURequest: requests.Cpu().MilliValue()}
	if limited(p, corev1.ResourceCPU) {
		l.CPULimit = limits.Cpu().MilliValue()
	}
	if limited(p, corev1.ResourceMemory) {
		l.Memory = limits.Memory().Value()
	}
	return l
}

// room are limits in which both fit.
func (l podLimits) room(other podLimits) podLimits {
	most := func(a, b int64) int64 {
		if a == 0 || b == 0 {
			return 0
		}
		return max(a, b)
	}
	return podLimits{max(l.CPURequest, other.CPURequest), most(l.CPULimit, other.CPULimit), most(l.Memory, other.Memory)}
}

// limitOf is a container's limit: its own, or the Pod's where it has none.
func limitOf(p *corev1.Pod, c *corev1.Container, name corev1.ResourceName) resource.Quantity {
	if own := c.Resources.Limits[name]; !own.IsZero() || p.Spec.Resources == nil {
		return own
	}
	return p.Spec.Resources.Limits[name]
}

// resizable are the resources that can be changed while a container runs.
func resizable() []corev1.ResourceName {
	return []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory}
}

// effective are the resources by which a container runs.
func effective(p *corev1.Pod, c *corev1.Container) corev1.ResourceRequirements {
	r := *c.Resources.DeepCopy()
	for _, name := range resizable() {
		limit := limitOf(p, c, name)
		if limit.IsZero() {
			continue
		}
		if r.Limits == nil {
			r.Limits = corev1.ResourceList{}
		}
		r.Limits[name] = limit
	}
	return r
}

// given are the resources with which an instance runs. An instance of whom it
// is not known has what it shall have.
func (m *memory) given(i *instance) *corev1.ResourceRequirements {
	if r, ok := m.updated[i.id]; ok {
		return &r
	}
	return i.resources
}

// oversized says whether the limits of an instance are not what was granted,
// and whether it must be restarted to have them.
func (m *memory) oversized(p *corev1.Pod, c *corev1.Container, i *instance) (resize, restart bool) {
	given := m.given(i)
	if given == nil {
		return false, false
	}
	for _, name := range resizable() {
		limit, request := limitOf(p, c, name), c.Resources.Requests[name]
		if limit.Cmp(given.Limits[name]) == 0 && request.Cmp(given.Requests[name]) == 0 {
			continue
		}
		resize = true
		for _, policy := range c.ResizePolicy {
			restart = restart || policy.ResourceName == name && policy.RestartPolicy == corev1.RestartContainer
		}
	}
	return resize, restart
}

// unfit are the running instances with other limits than were granted.
func (m *memory) unfit(p *corev1.Pod, have *observed) (out []newLimits) {
	for c := range pod.Containers(p) {
		at := have.current(c.Name)
		if at == nil || !at.running() {
			continue
		}
		if resize, restart := m.oversized(p, c, at); resize {
			out = append(out, newLimits{c, at, m.given(at), restart})
		}
	}
	return out
}

// planResize finds out whether limits have to be set.
func (d *decision) planResize(p *corev1.Pod, have *observed, m *memory, now time.Time) {
	inPlace := func(u newLimits) bool { return !u.restart }
	switch {
	case m.limits == limitsOf(p) && !slices.ContainsFunc(m.unfit(p, have), inPlace):
	case now.Before(m.resize.retryAt):
		d.wake(m.resize.retryAt)
	default:
		d.add(action{verb: resizePod})
	}
}

// unsized says whether anything of the Pod has other limits than were granted.
func unsized(p *corev1.Pod, have *observed, m *memory) bool {
	return m.prepared && m.limits != limitsOf(p) || len(m.unfit(p, have)) > 0
}

// setLimits gives the Pod's cgroup and its running containers the limits that
// were granted: room first, then the containers, then what is taken away.
func (a *Agent) setLimits(ctx context.Context, p *corev1.Pod, m limitChange) error {
	if err := a.shrinkable(ctx, p, m); err != nil {
		return err
	}
	if err := a.cgroups.limit(p, m.limits.room(m.was)); err != nil {
		return err
	}
	for _, u := range m.updates {
		config := resourcesOf(p, u.container, a.node.memory(), a.cgroups.layout.V2())
		if _, err := a.cfg.CRI.Runtime.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{ContainerId: u.instance.id, Linux: config}); err != nil {
			return err
		}
	}
	if err := a.cgroups.weigh(p); err != nil {
		return err
	}
	return a.cgroups.limit(p, m.limits)
}

// limitChange is what setLimits has to do.
type limitChange struct {
	was, limits podLimits
	updates     []newLimits // limits that shrink first
}

type newLimits struct {
	container *corev1.Container
	instance  *instance
	given     *corev1.ResourceRequirements
	restart   bool // it has to be made anew for them
}

func (m *memory) limitChange(p *corev1.Pod, have *observed) limitChange {
	updates := slices.DeleteFunc(m.unfit(p, have), func(u newLimits) bool { return u.restart })
	slices.SortStableFunc(updates, func(x, y newLimits) int { return before(x.shrinks(p), y.shrinks(p)) })
	return limitChange{was: m.limits, limits: limitsOf(p), updates: updates}
}

// shrinks says whether an update takes memory away.
func (u newLimits) shrinks(p *corev1.Pod) bool {
	limit, was := limitOf(p, u.container, corev1.ResourceMemory), u.given.Limits.Memory()
	return !limit.IsZero() && (was.IsZero() || limit.Cmp(*was) < 0)
}

// shrinkable makes sure that nobody is told to live in less memory than it
// uses: the kernel would kill it.
func (a *Agent) shrinkable(ctx context.Context, p *corev1.Pod, m limitChange) error {
	var problems []string
	if m.limits.Memory > 0 && (m.was.Memory == 0 || m.limits.Memory < m.was.Memory) {
		used, err := a.cgroups.memoryUsed(p)
		if err != nil {
			return err
		}
		if used >= m.limits.Memory {
			problems = append(problems, fmt.Sprintf("attempting to set pod memory limit (%d) below current usage (%d)", m.limits.Memory, used))
		}
	}
	for _, u := range m.updates {
		if !u.shrinks(p) {
			continue
		}
		r, err := a.cfg.CRI.Runtime.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: u.instance.id})
		if err != nil {
			return err
		}
		memory := limitOf(p, u.container, corev1.ResourceMemory)
		limit, used := memory.Value(), r.GetStats().GetMemory().GetUsageBytes()
		switch {
		case used == nil:
			problems = append(problems, fmt.Sprintf("missing container %q memory usage", u.container.Name))
		case int64(used.Value) >= limit:
			problems = append(problems, fmt.Sprintf("attempting to set container %q memory limit (%d) below current usage (%d)", u.container.Name, limit, used.Value))
		}
	}
	switch len(problems) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("cannot decrease memory limits: %s", problems[0])
	}
	return fmt.Errorf("cannot decrease memory limits: [%s]", strings.Join(problems, ", "))
}

// reportedResources are an instance's resources for the status: what it runs
// with, or shall.
func reportedResources(c *corev1.Container, i *instance, m *memory) *corev1.ResourceRequirements {
	r := c.Resources.DeepCopy()
	given := m.given(i)
	if !i.running() || given == nil {
		return r
	}
	for _, name := range resizable() {
		for _, side := range []struct{ to, from corev1.ResourceList }{{r.Limits, given.Limits}, {r.Requests, given.Requests}} {
			if q, ok := side.from[name]; ok && side.to != nil {
				side.to[name] = q
			}
		}
	}
	return r
}

// reportedPodResources are those of the whole Pod: while it runs the limits of
// its cgroup.
func reportedPodResources(p *corev1.Pod, phase corev1.PodPhase, m *memory) *corev1.ResourceRequirements {
	r := p.Spec.Resources.DeepCopy()
	if r == nil {
		r = &corev1.ResourceRequirements{}
	}
	o := resourcehelper.PodResourcesOptions{}
	if phase != corev1.PodRunning {
		r.Requests, r.Limits = resourcehelper.PodRequests(p, o), resourcehelper.PodLimits(p, o)
		return r
	}
	if r.Requests == nil {
		r.Requests = corev1.ResourceList{}
	}
	if r.Limits == nil {
		r.Limits = corev1.ResourceList{}
	}
	l := limitsOf(p)
	if m.prepared {
		l = m.limits
	}
	if l.CPURequest > minMilliCPU || r.Requests.Cpu().MilliValue() > minMilliCPU {
		r.Requests[corev1.ResourceCPU] = *resource.NewMilliQuantity(l.CPURequest, resource.DecimalSI)
	}
	if _, ok := r.Requests[corev1.ResourceMemory]; !ok {
		if q, ok := resourcehelper.PodRequests(p, o)[corev1.ResourceMemory]; ok {
			r.Requests[corev1.ResourceMemory] = q
		}
	}
	if l.CPULimit > 0 {
		r.Limits[corev1.ResourceCPU] = *resource.NewMilliQuantity(l.CPULimit, resource.DecimalSI)
	}
	if l.Memory > 0 {
		r.Limits[corev1.ResourceMemory] = *resource.NewQuantity(l.Memory, resource.BinarySI)
	}
	return r
}

// minMilliCPU is the least that a cgroup's weight can express.
const minMilliCPU = 2
