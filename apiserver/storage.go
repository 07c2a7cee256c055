// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

// storageRows are volumes, the claims to them, and what is known of who makes
// them.
func storageRows() []*row {
	core, storage := corev1.SchemeGroupVersion, storagev1.SchemeGroupVersion
	return []*row{
		resource[corev1.PersistentVolume, corev1.PersistentVolumeList](core, "PersistentVolume", "persistentvolumes", "persistentvolume", hooks[corev1.PersistentVolume]{
			Defaults: defaults.PersistentVolume, Validate: validation.PersistentVolume, ValidateUpdate: validation.PersistentVolumeUpdate,
			ValidateStatus: validation.PersistentVolumeStatusUpdate, Warn: warn(validation.PersistentVolumeWarnings), Columns: table.PersistentVolume(),
			Prepare:       func(_ context.Context, v, old *corev1.PersistentVolume) { defaults.PreparePersistentVolume(v, old) },
			PrepareStatus: defaults.PreparePersistentVolumeStatus,
		}, shortNames("pv"), clusterScoped, withoutGeneration, echoDeleted),
		resource[corev1.PersistentVolumeClaim, corev1.PersistentVolumeClaimList](core, "PersistentVolumeClaim", "persistentvolumeclaims", "persistentvolumeclaim", hooks[corev1.PersistentVolumeClaim]{
			Defaults: defaults.PersistentVolumeClaim, Validate: validation.PersistentVolumeClaim, ValidateUpdate: validation.PersistentVolumeClaimUpdate,
			ValidateStatus: validation.PersistentVolumeClaimStatusUpdate, Warn: warn(validation.PersistentVolumeClaimWarnings), Columns: table.PersistentVolumeClaim(),
			Prepare: func(_ context.Context, c, old *corev1.PersistentVolumeClaim) {
				defaults.PreparePersistentVolumeClaim(c, old)
			},
			PrepareStatus: defaults.PreparePersistentVolumeClaimStatus,
		}, shortNames("pvc"), withoutGeneration, echoDeleted),
		resource[storagev1.StorageClass, storagev1.StorageClassList](storage, "StorageClass", "storageclasses", "storageclass", hooks[storagev1.StorageClass]{
			Defaults: defaults.StorageClass, Validate: validation.StorageClass, ValidateUpdate: validation.StorageClassUpdate,
			Warn: warn(validation.StorageClassWarnings), Columns: table.StorageClass(),
		}, shortNames("sc"), clusterScoped, echoDeleted),
		resource[storagev1.VolumeAttachment, storagev1.VolumeAttachmentList](storage, "VolumeAttachment", "volumeattachments", "volumeattachment", hooks[storagev1.VolumeAttachment]{
			Defaults: defaults.VolumeAttachment, Validate: validation.VolumeAttachment, ValidateUpdate: validation.VolumeAttachmentUpdate,
			ValidateStatus: validation.VolumeAttachmentUpdate, Columns: table.VolumeAttachment(),
		}, clusterScoped, withoutGeneration, strictUpdate, metadataKept, echoDeleted),
		resource[storagev1.CSINode, storagev1.CSINodeList](storage, "CSINode", "csinodes", "csinode", hooks[storagev1.CSINode]{
			Validate: validation.CSINode, ValidateUpdate: validation.CSINodeUpdate, ValidateStatus: validation.CSINodeStatusUpdate,
			PrepareStatus: defaults.PrepareCSINodeStatus, Columns: table.CSINode(),
		}, clusterScoped, withoutGeneration, strictUpdate, metadataKept, echoDeleted),
		resource[storagev1.CSIDriver, storagev1.CSIDriverList](storage, "CSIDriver", "csidrivers", "csidriver", hooks[storagev1.CSIDriver]{
			Defaults: defaults.CSIDriver, Validate: validation.CSIDriver, ValidateUpdate: validation.CSIDriverUpdate,
			Prepare: func(_ context.Context, d, old *storagev1.CSIDriver) { defaults.PrepareCSIDriver(d, old) },
			Warn:    warn(validation.CSIDriverWarnings), Columns: table.CSIDriver(),
		}, clusterScoped, withoutGeneration, strictUpdate, echoDeleted),
		resource[storagev1.CSIStorageCapacity, storagev1.CSIStorageCapacityList](storage, "CSIStorageCapacity", "csistoragecapacities", "csistoragecapacity", hooks[storagev1.CSIStorageCapacity]{
			Validate: validation.CSIStorageCapacity, ValidateUpdate: validation.CSIStorageCapacityUpdate,
			Warn: warn(validation.CSIStorageCapacityWarnings), Columns: table.CSIStorageCapacity(),
		}, strictUpdate),
		resource[storagev1.VolumeAttributesClass, storagev1.VolumeAttributesClassList](storage, "VolumeAttributesClass", "volumeattributesclasses", "volumeattributesclass", hooks[storagev1.VolumeAttributesClass]{
			Validate: validation.VolumeAttributesClass, ValidateUpdate: validation.VolumeAttributesClassUpdate, Columns: table.VolumeAttributesClass(),
		}, shortNames("vac"), clusterScoped, echoDeleted),
	}
}
