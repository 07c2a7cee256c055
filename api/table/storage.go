// SPDX-License-Identifier: Apache-2.0

package table

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"

	"github.com/peapod/peapod/api/claim"
)

func yesOrNo(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "boolean", Description: description}
}

// modes are access modes in their short forms, each once.
func modes(list []corev1.PersistentVolumeAccessMode) string {
	var out []string
	for _, m := range []struct {
		mode  corev1.PersistentVolumeAccessMode
		short string
	}{{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"}} {
		for _, x := range list {
			if x == m.mode {
				out = append(out, m.short)
				break
			}
		}
	}
	return strings.Join(out, ",")
}

func storage(list corev1.ResourceList) string {
	q := list[corev1.ResourceStorage]
	return q.String()
}

func phase[T ~string](p T, m *metav1.ObjectMeta) string {
	if m.DeletionTimestamp != nil {
		return "Terminating"
	}
	return string(p)
}

// PersistentVolume are the columns of volumes.
func PersistentVolume() Columns[corev1.PersistentVolume] {
	doc, status := corev1.PersistentVolumeSpec{}.SwaggerDoc(), corev1.PersistentVolumeStatus{}.SwaggerDoc()
	return Columns[corev1.PersistentVolume]{
		Definitions: []metav1.TableColumnDefinition{
			name(), text("Capacity", doc["capacity"]), text("Access Modes", doc["accessModes"]), text("Reclaim Policy", doc["persistentVolumeReclaimPolicy"]),
			text("Status", status["phase"]), text("Claim", doc["claimRef"]), text("StorageClass", "StorageClass of the pv"),
			text("VolumeAttributesClass", "VolumeAttributesClass of the pv"), text("Reason", status["reason"]), ageColumn(), wide(text("VolumeMode", doc["volumeMode"])),
		},
		Cells: func(v *corev1.PersistentVolume, now time.Time) []any {
			bound := ""
			if r := v.Spec.ClaimRef; r != nil {
				bound = r.Namespace + "/" + r.Name
			}
			return []any{
				v.Name, storage(v.Spec.Capacity), modes(v.Spec.AccessModes), string(v.Spec.PersistentVolumeReclaimPolicy), phase(v.Status.Phase, &v.ObjectMeta), bound,
				volume.GetPersistentVolumeClass(v), or(v.Spec.VolumeAttributesClassName, unset), v.Status.Reason, age(v.CreationTimestamp, now), string(or(v.Spec.VolumeMode, unset)),
			}
		},
	}
}

// PersistentVolumeClaim are the columns of claims.
func PersistentVolumeClaim() Columns[corev1.PersistentVolumeClaim] {
	doc, status := corev1.PersistentVolumeClaimSpec{}.SwaggerDoc(), corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()
	return Columns[corev1.PersistentVolumeClaim]{
		Definitions: []metav1.TableColumnDefinition{
			name(), text("Status", status["phase"]), text("Volume", doc["volumeName"]), text("Capacity", status["capacity"]), text("Access Modes", status["accessModes"]),
			text("StorageClass", "StorageClass of the pvc"), text("VolumeAttributesClass", "VolumeAttributesClass of the pvc"), ageColumn(), wide(text("VolumeMode", doc["volumeMode"])),
		},
		Cells: func(c *corev1.PersistentVolumeClaim, now time.Time) []any {
			size, how := "", ""
			if c.Spec.VolumeName != "" {
				size, how = storage(c.Status.Capacity), modes(c.Status.AccessModes)
			}
			return []any{
				c.Name, phase(c.Status.Phase, &c.ObjectMeta), c.Spec.VolumeName, size, how, volume.GetPersistentVolumeClaimClass(c),
				or(c.Spec.VolumeAttributesClassName, unset), age(c.CreationTimestamp, now), string(or(c.Spec.VolumeMode, unset)),
			}
		},
	}
}

// StorageClass are the columns of classes; in a list the default one says so.
func StorageClass() Columns[storagev1.StorageClass] {
	doc := storagev1.StorageClass{}.SwaggerDoc()
	return Columns[storagev1.StorageClass]{
		Definitions: []metav1.TableColumnDefinition{
			name(), text("Provisioner", doc["provisioner"]), text("ReclaimPolicy", doc["reclaimPolicy"]), text("VolumeBindingMode", doc["volumeBindingMode"]),
			text("AllowVolumeExpansion", doc["allowVolumeExpansion"]), ageColumn(),
		},
		Cells: func(c *storagev1.StorageClass, now time.Time) []any {
			return []any{
				c.Name, c.Provisioner, string(or(c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)), string(or(c.VolumeBindingMode, storagev1.VolumeBindingImmediate)),
				or(c.AllowVolumeExpansion, false), age(c.CreationTimestamp, now),
			}
		},
		Listed: func(all []*storagev1.StorageClass) func(*storagev1.StorageClass, []any) {
			first := claim.Default(all)
			return func(c *storagev1.StorageClass, cells []any) {
				if c == first {
					cells[0] = c.Name + " (default)"
				}
			}
		},
	}
}

// CSINode are the columns of what drivers nodes have.
func CSINode() Columns[storagev1.CSINode] {
	return Columns[storagev1.CSINode]{
		Definitions: []metav1.TableColumnDefinition{name(), number("Drivers", "Drivers indicates the number of CSI drivers registered on the node"), ageColumn()},
		Cells: func(n *storagev1.CSINode, now time.Time) []any {
			return []any{n.Name, int64(len(n.Spec.Drivers)), age(n.CreationTimestamp, now)}
		},
	}
}

// CSIDriver are the columns of drivers.
func CSIDriver() Columns[storagev1.CSIDriver] {
	doc := storagev1.CSIDriverSpec{}.SwaggerDoc()
	return Columns[storagev1.CSIDriver]{
		Definitions: []metav1.TableColumnDefinition{
			name(), yesOrNo("AttachRequired", doc["attachRequired"]), yesOrNo("PodInfoOnMount", doc["podInfoOnMount"]), yesOrNo("StorageCapacity", doc["storageCapacity"]),
			text("TokenRequests", doc["tokenRequests"]), yesOrNo("RequiresRepublish", doc["requiresRepublish"]), text("Modes", doc["volumeLifecycleModes"]), ageColumn(),
		},
		Cells: func(d *storagev1.CSIDriver, now time.Time) []any {
			var how, audiences []string
			for _, m := range d.Spec.VolumeLifecycleModes {
				how = append(how, string(m))
			}
			tokens := unset
			if d.Spec.TokenRequests != nil {
				for _, t := range d.Spec.TokenRequests {
					audiences = append(audiences, t.Audience)
				}
				tokens = strings.Join(audiences, ",")
			}
			return []any{
				d.Name, or(d.Spec.AttachRequired, true), or(d.Spec.PodInfoOnMount, false), or(d.Spec.StorageCapacity, false), tokens,
				or(d.Spec.RequiresRepublish, false), joinOrNone(how), age(d.CreationTimestamp, now),
			}
		},
	}
}

// CSIStorageCapacity are the columns of capacities.
func CSIStorageCapacity() Columns[storagev1.CSIStorageCapacity] {
	doc := storagev1.CSIStorageCapacity{}.SwaggerDoc()
	return Columns[storagev1.CSIStorageCapacity]{
		Definitions: []metav1.TableColumnDefinition{name(), text("StorageClassName", doc["storageClassName"]), text("Capacity", doc["capacity"])},
		Cells: func(c *storagev1.CSIStorageCapacity, _ time.Time) []any {
			room := unset
			if c.Capacity != nil {
				room = c.Capacity.String()
			}
			return []any{c.Name, c.StorageClassName, room}
		},
	}
}

// VolumeAttachment are the columns of attachments.
func VolumeAttachment() Columns[storagev1.VolumeAttachment] {
	doc := storagev1.VolumeAttachmentSpec{}.SwaggerDoc()
	attacher := text("Attacher", doc["attacher"])
	attacher.Format = "name"
	return Columns[storagev1.VolumeAttachment]{
		Definitions: []metav1.TableColumnDefinition{
			name(), attacher, text("PV", storagev1.VolumeAttachmentSource{}.SwaggerDoc()["persistentVolumeName"]), text("Node", doc["nodeName"]),
			yesOrNo("Attached", storagev1.VolumeAttachmentStatus{}.SwaggerDoc()["attached"]), ageColumn(),
		},
		Cells: func(a *storagev1.VolumeAttachment, now time.Time) []any {
			return []any{a.Name, a.Spec.Attacher, or(a.Spec.Source.PersistentVolumeName, ""), a.Spec.NodeName, a.Status.Attached, age(a.CreationTimestamp, now)}
		},
	}
}

// VolumeAttributesClass are the columns of classes of attributes.
func VolumeAttributesClass() Columns[storagev1.VolumeAttributesClass] {
	return Columns[storagev1.VolumeAttributesClass]{
		Definitions: []metav1.TableColumnDefinition{name(), text("DriverName", storagev1.VolumeAttributesClass{}.SwaggerDoc()["driverName"]), ageColumn()},
		Cells: func(c *storagev1.VolumeAttributesClass, now time.Time) []any {
			return []any{c.Name, c.DriverName, age(c.CreationTimestamp, now)}
		},
	}
}
