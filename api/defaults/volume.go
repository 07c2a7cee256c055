// SPDX-License-Identifier: Apache-2.0

package defaults

import corev1 "k8s.io/api/core/v1"

// volume fills in a volume; one without a source is an emptyDir.
func volume(v *corev1.Volume) {
	s := &v.VolumeSource
	if *s == (corev1.VolumeSource{}) {
		s.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	switch {
	case s.HostPath != nil:
		set(&s.HostPath.Type, corev1.HostPathUnset)
	case s.Secret != nil:
		set(&s.Secret.DefaultMode, corev1.SecretVolumeSourceDefaultMode)
	case s.ConfigMap != nil:
		set(&s.ConfigMap.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode)
	case s.DownwardAPI != nil:
		set(&s.DownwardAPI.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
		downward(s.DownwardAPI.Items)
	case s.Projected != nil:
		set(&s.Projected.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode)
		for i := range s.Projected.Sources {
			projection(&s.Projected.Sources[i])
		}
	case s.Image != nil:
		zero(&s.Image.PullPolicy, pullPolicy(s.Image.Reference))
	case s.Ephemeral != nil && s.Ephemeral.VolumeClaimTemplate != nil:
		set(&s.Ephemeral.VolumeClaimTemplate.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	}
	networkVolume(s)
}

func projection(p *corev1.VolumeProjection) {
	if p.DownwardAPI != nil {
		downward(p.DownwardAPI.Items)
	}
	if t := p.ServiceAccountToken; t != nil {
		set(&t.ExpirationSeconds, int64(60*60))
	}
}

func downward(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		if items[i].FieldRef != nil {
			zero(&items[i].FieldRef.APIVersion, "v1")
		}
	}
}

// networkVolume keeps the defaults of the older network file systems.
func networkVolume(s *corev1.VolumeSource) {
	switch {
	case s.ISCSI != nil:
		zero(&s.ISCSI.ISCSIInterface, "default")
	case s.RBD != nil:
		zero(&s.RBD.RBDPool, "rbd")
		zero(&s.RBD.RadosUser, "admin")
		zero(&s.RBD.Keyring, "/etc/ceph/keyring")
	case s.AzureDisk != nil:
		set(&s.AzureDisk.CachingMode, corev1.AzureDataDiskCachingReadWrite)
		set(&s.AzureDisk.Kind, corev1.AzureSharedBlobDisk)
		set(&s.AzureDisk.FSType, "ext4")
		set(&s.AzureDisk.ReadOnly, false)
	case s.ScaleIO != nil:
		zero(&s.ScaleIO.StorageMode, "ThinProvisioned")
		zero(&s.ScaleIO.FSType, "xfs")
	}
}
