// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/peapod/peapod/api/pod"
	"github.com/peapod/peapod/linux"
)

// cpuPeriod is the kernel's default, in microseconds.
const cpuPeriod = 100_000

// cgroups makes the cgroups of Pods, as kubelets lay them out:
//
//	<root>/kubepods/pod<uid>             Guaranteed
//	<root>/kubepods/burstable/pod<uid>
//	<root>/kubepods/besteffort/pod<uid>
type cgroups struct {
	root   string
	layout linux.CgroupLayout

	mu        sync.Mutex          // guards the field below
	burstable map[types.UID]int64 // milli-CPUs that each Burstable Pod asks for
}

func newCgroups(root string) (*cgroups, error) {
	layout, err := linux.Cgroups()
	if err != nil {
		return nil, err
	}
	return &cgroups{root: root, layout: layout}, nil
}

func (g *cgroups) path(p *corev1.Pod) string {
	class := ""
	switch pod.QOS(p) {
	case corev1.PodQOSBurstable:
		class = "burstable"
	case corev1.PodQOSBestEffort:
		class = "besteffort"
	}
	return filepath.Join("/", g.root, "kubepods", class, "pod"+string(p.UID))
}

// controllers are those whose v1 hierarchies a Pod's cgroup is made in.
func controllers() []string { return []string{"cpu", "cpuacct", "memory", "pids"} }

// delegated are those that v2's cgroups hand down to Pods, as far as the
// machine has them: kubelets', and io, by which containers are measured.
func delegated() []string { return []string{"cpu", "cpuset", "hugetlb", "io", "memory", "pids"} }

// make makes the Pod's cgroup with its limits.
func (g *cgroups) make(p *corev1.Pod, l podLimits) error {
	path := g.path(p)
	if err := g.mkdir(path); err != nil {
		return fmt.Errorf("cannot make cgroup %s: %w", path, err)
	}
	if err := g.weigh(p); err != nil {
		return err
	}
	return g.limit(p, l)
}

// limit sets the limits of the Pod's cgroup; one that is 0 stays as it is.
func (g *cgroups) limit(p *corev1.Pod, l podLimits) error {
	path := g.path(p)
	if err := g.setShares(path, l.CPURequest); err != nil {
		return err
	}
	if l.Memory > 0 {
		if err := g.set("memory", path, "memory.limit_in_bytes", "memory.max", l.Memory, nil); err != nil {
			return err
		}
	}
	if l.CPULimit > 0 {
		return g.setQuota(path, quota(l.CPULimit))
	}
	return nil
}

// memoryUsed is the memory that the Pod uses now, in bytes.
func (g *cgroups) memoryUsed(p *corev1.Pod) (int64, error) {
	name := "memory.usage_in_bytes"
	if g.layout.V2() {
		name = "memory.current"
	}
	dir := g.layout.Path("memory", g.path(p))
	if dir == "" {
		return 0, nil // the machine does not count it
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return 0, fmt.Errorf("cannot tell how much memory pod %s uses: %w", key(p), err)
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

// weigh gives the class of a Pod its weight beside Guaranteed Pods: as little as
// can be for BestEffort, what its Pods ask for together for Burstable.
func (g *cgroups) weigh(p *corev1.Pod) error {
	switch pod.QOS(p) {
	case corev1.PodQOSBestEffort:
		return g.setShares(filepath.Dir(g.path(p)), 0)
	case corev1.PodQOSBurstable:
		req := resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{})
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.burstable == nil {
			g.burstable = map[types.UID]int64{}
		}
		g.burstable[p.UID] = req.Cpu().MilliValue()
		return g.weighBurstable()
	}
	return nil
}

// lighten takes a Pod from the weight of its class.
func (g *cgroups) lighten(uid types.UID) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, counted := g.burstable[uid]; !counted {
		return nil
	}
	delete(g.burstable, uid)
	return g.weighBurstable()
}

// weighBurstable needs mu.
func (g *cgroups) weighBurstable() error {
	var milli int64
	for _, n := range g.burstable {
		milli += n
	}
	return g.setShares(filepath.Join("/", g.root, "kubepods", "burstable"), milli)
}

// mkdir makes a cgroup and its parents, in every v1 hierarchy or in v2, where
// each parent hands its controllers down.
func (g *cgroups) mkdir(path string) error {
	if !g.layout.V2() {
		for _, c := range controllers() {
			if dir := g.layout.Path(c, path); dir != "" {
				if err := os.MkdirAll(dir, 0o755); err != nil {
					return err
				}
			}
		}
		return nil
	}
	dir := g.layout.Path("", "/")
	for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if err := g.delegate(dir); err != nil {
			return err
		}
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// delegate hands the controllers of a v2 cgroup to those below it.
func (g *cgroups) delegate(dir string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "cgroup.subtree_control")
	handed, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var missing []string
	for _, c := range delegated() {
		switch {
		case slices.Contains(strings.Fields(string(handed)), c):
		case slices.Contains(strings.Fields(string(have)), c):
			if err := os.WriteFile(file, []byte("+"+c), 0); err != nil {
				return fmt.Errorf("controller %s cannot be handed down: %w", c, err)
			}
		case slices.Contains(g.layout.UnifiedControllers, c):
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("cgroup %q has some missing controllers: %v", dir, strings.Join(missing, ", "))
	}
	return nil
}

func (g *cgroups) setShares(path string, milli int64) error {
	return g.set("cpu", path, "cpu.shares", "cpu.weight", shares(milli), weight)
}

// set writes a limit under its v1 or v2 name.
func (g *cgroups) set(controller, path, v1, v2 string, value int64, convert func(int64) int64) error {
	name := v1
	if g.layout.V2() {
		name = v2
		if convert != nil {
			value = convert(value)
		}
	}
	dir := g.layout.Path(controller, path)
	if dir == "" {
		return nil
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(strconv.FormatInt(value, 10)), 0); err != nil {
		return fmt.Errorf("cannot set limit of cgroup %s: %w", path, err)
	}
	return nil
}

func (g *cgroups) setQuota(path string, quota int64) error {
	if g.layout.V2() {
		file := filepath.Join(g.layout.Path("cpu", path), "cpu.max")
		if err := os.WriteFile(file, fmt.Appendf(nil, "%d %d", quota, cpuPeriod), 0); err != nil {
			return fmt.Errorf("cannot set limit of cgroup %s: %w", path, err)
		}
		return nil
	}
	return g.set("cpu", path, "cpu.cfs_quota_us", "", quota, nil)
}

// classes are the folders of Pods' cgroups; guaranteed ones have none.
func classes() []string { return []string{"", "burstable", "besteffort"} }

// pods are those that have a cgroup in any hierarchy.
func (g *cgroups) pods() (out []types.UID, err error) {
	for _, root := range g.layout.Roots() {
		for _, class := range classes() {
			names, err := entries(filepath.Join(root, g.root, "kubepods", class))
			if err != nil {
				return nil, err
			}
			for _, n := range names {
				if uid, ok := strings.CutPrefix(n, "pod"); ok {
					out = append(out, types.UID(uid))
				}
			}
		}
	}
	return out, nil
}

// remove removes the Pod's cgroup; what is not there is fine.
func (g *cgroups) remove(p *corev1.Pod) error {
	for _, class := range classes() {
		path := filepath.Join("/", g.root, "kubepods", class, "pod"+string(p.UID))
		for _, root := range g.layout.Roots() {
			if err := os.Remove(filepath.Join(root, path)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("cannot remove cgroup %s: %w", path, err)
			}
		}
	}
	return g.lighten(p.UID)
}

// limited tells whether the Pod as a whole has a limit: one of its own
// (spec.resources, KEP-2837), or one of each of its containers.
func limited(p *corev1.Pod, name corev1.ResourceName) bool {
	if r := p.Spec.Resources; r != nil && !r.Limits.Name(name, resource.DecimalSI).IsZero() {
		return true
	}
	for c := range pod.Containers(p) {
		if c.Resources.Limits.Name(name, resource.DecimalSI).IsZero() {
			return false
		}
	}
	return true
}

// shares is cpu.shares for milli-CPUs: 1024 per CPU, at least 2.
func shares(milli int64) int64 {
	return min(max(milli*1024/1000, 2), 262144)
}

// weight is v2's cpu.weight for shares.
func weight(shares int64) int64 { return 1 + (shares-2)*9999/262142 }

// quota is the time per period for milli-CPUs, at least 1 ms.
func quota(milli int64) int64 { return max(milli*cpuPeriod/1000, 1000) }
