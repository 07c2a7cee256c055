// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/peapod/peapod/api/claim"
)

// claimed is the volume that a Pod's claim has: a path of this node.
func (m *Mounter) claimed(ctx context.Context, p *corev1.Pod, v *corev1.Volume) (string, error) {
	name := claim.Of(p, v)
	pv, err := m.volumeOf(ctx, p, v, name)
	if err != nil {
		return "", fmt.Errorf("error processing PVC %s/%s: %w", p.Namespace, name, err)
	}
	switch {
	case pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == corev1.PersistentVolumeBlock:
		return "", fmt.Errorf("no volume plugin matched: volume %s is a block device", pv.Name)
	case pv.Spec.HostPath != nil:
		return hostPath(pv.Spec.HostPath)
	case pv.Spec.Local != nil:
		return local(pv.Spec.Local.Path, fsGroup(p))
	}
	return "", fmt.Errorf("no volume plugin matched: volume %s is neither local nor a path of the node", pv.Name)
}

// volumeOf follows a Pod's claim to its volume.
func (m *Mounter) volumeOf(ctx context.Context, p *corev1.Pod, v *corev1.Volume, name string) (*corev1.PersistentVolume, error) {
	c, err := m.Sources.Claim(ctx, p.Namespace, name)
	if err != nil {
		return nil, fmt.Errorf("failed to fetch PVC from API server: %w", err)
	}
	if v.Ephemeral != nil {
		if err := ephemeral.VolumeIsForPod(p, c); err != nil {
			return nil, err
		}
	}
	switch {
	case c.DeletionTimestamp != nil:
		return nil, errors.New("PVC is being deleted")
	case c.Status.Phase != corev1.ClaimBound || c.Spec.VolumeName == "":
		return nil, errors.New("PVC is not bound")
	}
	pv, err := m.Sources.PersistentVolume(ctx, c.Spec.VolumeName)
	if err != nil {
		return nil, fmt.Errorf("failed to fetch PV %s from API server: %w", c.Spec.VolumeName, err)
	}
	if r := pv.Spec.ClaimRef; r == nil || r.UID != c.UID {
		return nil, fmt.Errorf("found PV object %s with spec.ClaimRef that does not match the PVC", pv.Name)
	}
	return pv, nil
}

// local is a folder of the node, which is given to the Pod's group, if it has
// one, with all that is in it. One that is the group's already is left alone.
func local(path string, group *int64) (string, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("path %q does not exist", path)
	}
	if err != nil || group == nil || owned(info, *group) {
		return path, err
	}
	return path, own(path, *group, 0o660)
}

func owned(info os.FileInfo, group int64) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int64(stat.Gid) == group && info.Mode()&os.ModeSetgid != 0
}
