// SPDX-License-Identifier: Apache-2.0

// Package claim owns what those who make, bind, place and mount volumes agree
// in, beside what k8s.io/component-helpers/storage has of it.
package claim

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

const (
	// Finalizers that keep what is in use, as Kubernetes has them.
	ClaimProtection  = "kubernetes.io/pvc-protection"
	VolumeProtection = "kubernetes.io/pv-protection"
	ClassProtection  = "kubernetes.io/vac-protection"
	// NoProvisioner is of a class whose volumes somebody makes by hand.
	NoProvisioner = "kubernetes.io/no-provisioner"
	// LocalProvisioner is of a class whose volumes are folders of their node.
	LocalProvisioner = "peapod.dev/local"
)

// Annotations of the class that claims get which name none.
const (
	DefaultClass    = "storageclass.kubernetes.io/is-default-class"
	OldDefaultClass = "storageclass.beta.kubernetes.io/is-default-class"
)

// Default is the class that claims get which name none: of several the newest.
func Default(all []*storagev1.StorageClass) (first *storagev1.StorageClass) {
	for _, c := range all {
		if c.Annotations[DefaultClass] != "true" && c.Annotations[OldDefaultClass] != "true" {
			continue
		}
		if first == nil || c.CreationTimestamp.After(first.CreationTimestamp.Time) || c.CreationTimestamp.Equal(&first.CreationTimestamp) && c.Name < first.Name {
			first = c
		}
	}
	return first
}

// Delayed: claims of the class wait for a Pod that uses them.
func Delayed(class *storagev1.StorageClass) bool {
	return class != nil && ptr.Deref(class.VolumeBindingMode, storagev1.VolumeBindingImmediate) == storagev1.VolumeBindingWaitForFirstConsumer
}

// Bound: the claim has its volume, and the volume knows.
func Bound(c *corev1.PersistentVolumeClaim) bool {
	_, done := c.Annotations[volume.AnnBindCompleted]
	return done && c.Spec.VolumeName != ""
}

// Satisfies says in upstream's words why the volume that a claim names is none
// for it.
func Satisfies(v *corev1.PersistentVolume, c *corev1.PersistentVolumeClaim) error {
	have, want := v.Spec.Capacity[corev1.ResourceStorage], c.Spec.Resources.Requests[corev1.ResourceStorage]
	switch {
	case v.DeletionTimestamp != nil:
		return fmt.Errorf("the volume is marked for deletion %q", v.Name)
	case have.Cmp(want) < 0:
		return errors.New("requested PV is too small")
	case volume.GetPersistentVolumeClass(v) != volume.GetPersistentVolumeClaimClass(c):
		return errors.New("storageClassName does not match")
	case ptr.Deref(v.Spec.VolumeAttributesClassName, "") != ptr.Deref(c.Spec.VolumeAttributesClassName, ""):
		return errors.New("volumeAttributesClassName does not match")
	case volume.CheckVolumeModeMismatches(&c.Spec, &v.Spec):
		return errors.New("incompatible volumeMode")
	case !volume.CheckAccessModes(c, v):
		return errors.New("incompatible accessMode")
	}
	return nil
}

// Of is the name of the claim that a volume of a Pod uses; empty: none.
func Of(p *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return ephemeral.VolumeClaimName(p, v)
	}
	return ""
}
