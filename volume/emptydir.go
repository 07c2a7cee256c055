// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"os"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"

	"github.com/peapod/peapod/linux"
)

// emptyDir is a folder, or a tmpfs for medium Memory. Anyone may write to it.
func (m *Mounter) emptyDir(p *corev1.Pod, name string, e *corev1.EmptyDirVolumeSource) (string, error) {
	path := m.path(p, "empty-dir", name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return "", err
	}
	if e.Medium == corev1.StorageMediumMemory {
		mounted, err := linux.IsMountPoint(path)
		if err != nil {
			return "", err
		}
		if !mounted {
			// Programs may be run from it, as from one on the disk.
			if err := linux.Tmpfs(path, m.memorySize(p, e), 0o777, 0); err != nil {
				return "", err
			}
		}
	}
	if err := os.Chmod(path, 0o777); err != nil {
		return "", err
	}
	if g := fsGroup(p); g != nil {
		return path, own(path, *g, 0o660)
	}
	return path, nil
}

// memorySize is the least of what the node can give, what the Pod may use, and
// what the volume may hold (KEP-1967), in bytes; 0 if none is known.
func (m *Mounter) memorySize(p *corev1.Pod, e *corev1.EmptyDirVolumeSource) int64 {
	allocatable := m.Allocatable()
	size := allocatable.Memory().Value()
	least := func(n int64) {
		if n > 0 && (size == 0 || n < size) {
			size = n
		}
	}
	if memoryLimited(p) {
		limits := resource.PodLimits(p, resource.PodResourcesOptions{})
		least(limits.Memory().Value())
	}
	if e.SizeLimit != nil {
		least(e.SizeLimit.Value())
	}
	return size
}

// memoryLimited tells whether every container of a Pod has a memory limit:
// only then has the Pod.
func memoryLimited(p *corev1.Pod) bool {
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for _, c := range list {
			if c.Resources.Limits.Memory().IsZero() {
				return false
			}
		}
	}
	return true
}
