// SPDX-License-Identifier: Apache-2.0

package defaults

import (
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PersistentVolume fills in a volume.
func PersistentVolume(v *corev1.PersistentVolume) {
	zero(&v.Status.Phase, corev1.VolumePending)
	zero(&v.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	set(&v.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	limits(v.Spec.Capacity)
	persistentSource(&v.Spec.PersistentVolumeSource)
}

// VolumeAttachment fills in the volume that an attachment may bring.
func VolumeAttachment(a *storagev1.VolumeAttachment) {
	if s := a.Spec.Source.InlineVolumeSpec; s != nil {
		limits(s.Capacity)
		persistentSource(&s.PersistentVolumeSource)
	}
}

func persistentSource(s *corev1.PersistentVolumeSource) {
	switch {
	case s.HostPath != nil:
		set(&s.HostPath.Type, corev1.HostPathUnset)
	case s.RBD != nil:
		zero(&s.RBD.RBDPool, "rbd")
		zero(&s.RBD.RadosUser, "admin")
		zero(&s.RBD.Keyring, "/etc/ceph/keyring")
	case s.ISCSI != nil:
		zero(&s.ISCSI.ISCSIInterface, "default")
	case s.AzureDisk != nil:
		networkVolume(&corev1.VolumeSource{AzureDisk: s.AzureDisk})
	case s.ScaleIO != nil:
		zero(&s.ScaleIO.StorageMode, "ThinProvisioned")
		zero(&s.ScaleIO.FSType, "xfs")
	}
}

// PersistentVolumeClaim fills in a claim.
func PersistentVolumeClaim(c *corev1.PersistentVolumeClaim) {
	zero(&c.Status.Phase, corev1.ClaimPending)
	set(&c.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	for _, list := range []corev1.ResourceList{c.Spec.Resources.Limits, c.Spec.Resources.Requests, c.Status.Capacity, c.Status.AllocatedResources} {
		limits(list)
	}
}

// StorageClass fills in a class.
func StorageClass(c *storagev1.StorageClass) {
	set(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
	set(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
}

// CSIDriver fills in what is said of a driver.
func CSIDriver(d *storagev1.CSIDriver) {
	s := &d.Spec
	set(&s.AttachRequired, true)
	set(&s.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	for _, no := range []**bool{&s.PodInfoOnMount, &s.StorageCapacity, &s.RequiresRepublish, &s.SELinuxMount, &s.PreventPodSchedulingIfMissing} {
		set(no, false)
	}
	if len(s.VolumeLifecycleModes) == 0 {
		s.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
}

// PreparePersistentVolume begins the phases of a new volume.
func PreparePersistentVolume(v, old *corev1.PersistentVolume) {
	if old == nil {
		now := metav1.Now()
		v.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: &now}
	}
}

// PreparePersistentVolumeStatus stamps a change of the phase, unless its writer
// has.
func PreparePersistentVolumeStatus(v, old *corev1.PersistentVolume) {
	if now, was := v.Status.LastPhaseTransitionTime, old.Status.LastPhaseTransitionTime; v.Status.Phase != old.Status.Phase && (now == nil || now.Equal(was)) {
		t := metav1.Now()
		v.Status.LastPhaseTransitionTime = &t
	}
}

// PreparePersistentVolumeClaim has both fields of a data source say the same
// (KEP-1495). The older one knew claims and snapshots only, and a source in
// another namespace is alpha, and off.
func PreparePersistentVolumeClaim(c, old *corev1.PersistentVolumeClaim) {
	s := &c.Spec
	had := old != nil && (old.Spec.DataSource != nil || old.Spec.DataSourceRef != nil)
	if r := s.DataSourceRef; r != nil && r.Namespace != nil && *r.Namespace != "" && (old == nil || old.Spec.DataSourceRef == nil) {
		s.DataSourceRef = nil
	}
	if !had && s.DataSourceRef == nil && !claimOrSnapshot(s.DataSource) {
		s.DataSource = nil
	}
	sameDataSource(s)
	if old != nil {
		sameDataSource(&old.Spec)
	}
}

func claimOrSnapshot(r *corev1.TypedLocalObjectReference) bool {
	if r == nil {
		return false
	}
	group := ""
	if r.APIGroup != nil {
		group = *r.APIGroup
	}
	return r.Kind == "PersistentVolumeClaim" && group == "" || r.Kind == "VolumeSnapshot" && group == "snapshot.storage.k8s.io"
}

func sameDataSource(s *corev1.PersistentVolumeClaimSpec) {
	switch plain, ref := s.DataSource, s.DataSourceRef; {
	case plain != nil && ref == nil:
		s.DataSourceRef = &corev1.TypedObjectReference{Kind: plain.Kind, Name: plain.Name, APIGroup: plain.APIGroup}
	case ref != nil && plain == nil && (ref.Namespace == nil || *ref.Namespace == ""):
		s.DataSource = &corev1.TypedLocalObjectReference{Kind: ref.Kind, Name: ref.Name, APIGroup: ref.APIGroup}
	}
}

// PreparePersistentVolumeClaimStatus drops what is alpha, and off.
func PreparePersistentVolumeClaimStatus(c, old *corev1.PersistentVolumeClaim) {
	if old.Status.HealthStatus == nil {
		c.Status.HealthStatus = nil
	}
}

// PrepareCSIDriver counts the changes of the spec, from the first on.
func PrepareCSIDriver(d, old *storagev1.CSIDriver) {
	if old != nil && !equality.Semantic.DeepEqual(old.Spec, d.Spec) {
		d.Generation = old.Generation + 1
	}
}

// PrepareCSINodeStatus drops what is alpha, and off.
func PrepareCSINodeStatus(n, old *storagev1.CSINode) {
	if len(old.Status.StorageHealth) == 0 {
		n.Status.StorageHealth = nil
	}
}
