// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

func storageKinds() map[string]kind {
	return map[string]kind{
		"PersistentVolume": of(rules[corev1.PersistentVolume]{
			cluster: true, defaults: defaults.PersistentVolume, prepare: defaults.PreparePersistentVolume, check: validation.PersistentVolume,
			change: validation.PersistentVolumeUpdate, warn: validation.PersistentVolumeWarnings, columns: table.PersistentVolume(),
			parts: map[string]part[corev1.PersistentVolume]{"status": {prepare: defaults.PreparePersistentVolumeStatus, check: validation.PersistentVolumeStatusUpdate}},
		}),
		"PersistentVolumeClaim": of(rules[corev1.PersistentVolumeClaim]{
			defaults: defaults.PersistentVolumeClaim, prepare: defaults.PreparePersistentVolumeClaim, check: validation.PersistentVolumeClaim,
			change: validation.PersistentVolumeClaimUpdate, warn: validation.PersistentVolumeClaimWarnings, columns: table.PersistentVolumeClaim(),
			parts: map[string]part[corev1.PersistentVolumeClaim]{"status": {prepare: defaults.PreparePersistentVolumeClaimStatus, check: validation.PersistentVolumeClaimStatusUpdate}},
		}),
		"StorageClass": of(rules[storagev1.StorageClass]{cluster: true, defaults: defaults.StorageClass, check: validation.StorageClass, change: validation.StorageClassUpdate, warn: validation.StorageClassWarnings, columns: table.StorageClass()}),
		"VolumeAttachment": of(rules[storagev1.VolumeAttachment]{
			cluster: true, defaults: defaults.VolumeAttachment, check: validation.VolumeAttachment, change: validation.VolumeAttachmentUpdate, columns: table.VolumeAttachment(),
			parts: map[string]part[storagev1.VolumeAttachment]{"status": {prepare: keepMeta[storagev1.VolumeAttachment], check: validation.VolumeAttachmentUpdate}},
		}),
		"CSINode": of(rules[storagev1.CSINode]{
			cluster: true, check: validation.CSINode, change: validation.CSINodeUpdate, columns: table.CSINode(),
			parts: map[string]part[storagev1.CSINode]{"status": {prepare: func(n, old *storagev1.CSINode) { keepMeta(n, old); defaults.PrepareCSINodeStatus(n, old) }, check: validation.CSINodeStatusUpdate}},
		}),
		"CSIDriver":             of(rules[storagev1.CSIDriver]{cluster: true, defaults: defaults.CSIDriver, prepare: defaults.PrepareCSIDriver, check: validation.CSIDriver, change: validation.CSIDriverUpdate, warn: validation.CSIDriverWarnings, columns: table.CSIDriver()}),
		"CSIStorageCapacity":    of(rules[storagev1.CSIStorageCapacity]{check: validation.CSIStorageCapacity, change: validation.CSIStorageCapacityUpdate, warn: validation.CSIStorageCapacityWarnings, columns: table.CSIStorageCapacity()}),
		"VolumeAttributesClass": of(rules[storagev1.VolumeAttributesClass]{cluster: true, check: validation.VolumeAttributesClass, change: validation.VolumeAttributesClassUpdate, columns: table.VolumeAttributesClass()}),
	}
}

// keepMeta is what the API server does for a status that changes no metadata.
func keepMeta[T any](o, old *T) {
	metav1.ResetObjectMetaForStatus(any(o).(metav1.Object), any(old).(metav1.Object))
}
