// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"os"

	corev1 "k8s.io/api/core/v1"

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
			size := int64(0)
			if e.SizeLimit != nil {
				size = e.SizeLimit.Value()
			}
			if err := linux.Tmpfs(path, size, 0o777); err != nil {
				return "", err
			}
		}
	}
	if err := os.Chmod(path, 0o777); err != nil {
		return "", err
	}
	if g := fsGroup(p); g != nil {
		if err := os.Chown(path, -1, int(*g)); err != nil {
			return "", err
		}
		if err := os.Chmod(path, 0o777|os.ModeSetgid); err != nil {
			return "", err
		}
	}
	return path, nil
}
