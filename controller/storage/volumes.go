// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storagehelper "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	apiclaim "github.com/peapod/peapod/api/claim"
)

// volume looks whose a volume is, and takes back what is nobody's any more.
func (b *binder) volume(ctx context.Context, r reconcile.Request) (reconcile.Result, error) {
	v := &corev1.PersistentVolume{}
	if err := b.live.Get(ctx, r.NamespacedName, v); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	ref := v.Spec.ClaimRef
	if ref == nil || ref.UID == "" {
		return reconcile.Result{}, b.volumePhase(ctx, v, corev1.VolumeAvailable, "")
	}
	c := &corev1.PersistentVolumeClaim{}
	switch err := b.live.Get(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, c); {
	case apierrors.IsNotFound(err) || err == nil && c.UID != ref.UID:
		return reconcile.Result{}, b.release(ctx, v)
	case err != nil:
		return reconcile.Result{}, err
	}
	switch {
	case c.Spec.VolumeName == v.Name:
		return reconcile.Result{}, b.volumePhase(ctx, v, corev1.VolumeBound, "")
	case c.Spec.VolumeName == "":
		if storagehelper.CheckVolumeModeMismatches(&c.Spec, &v.Spec) {
			b.events.Eventf(v, corev1.EventTypeWarning, "VolumeMismatch", "Cannot bind PersistentVolume to requested PersistentVolumeClaim %q due to incompatible volumeMode.", c.Name)
			b.events.Eventf(c, corev1.EventTypeWarning, "VolumeMismatch", "Cannot bind PersistentVolume %q to requested PersistentVolumeClaim due to incompatible volumeMode.", v.Name)
		}
		return reconcile.Result{}, nil // the claim's own turn binds it
	case metav1.HasAnnotation(v.ObjectMeta, storagehelper.AnnDynamicallyProvisioned) && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return reconcile.Result{}, b.release(ctx, v) // made for a claim that has got another
	}
	return reconcile.Result{}, b.unbind(ctx, v)
}

// unbind gives a volume free that its claim does not want.
func (b *binder) unbind(ctx context.Context, v *corev1.PersistentVolume) error {
	if metav1.HasAnnotation(v.ObjectMeta, storagehelper.AnnBoundByController) {
		delete(v.Annotations, storagehelper.AnnBoundByController)
		v.Spec.ClaimRef = nil
	} else {
		v.Spec.ClaimRef.UID = "" // its owner keeps it for that name
	}
	if err := b.client.Update(ctx, v); err != nil {
		return err
	}
	return b.volumePhase(ctx, v, corev1.VolumeAvailable, "")
}

// release ends the use of a volume whose claim is gone.
func (b *binder) release(ctx context.Context, v *corev1.PersistentVolume) error {
	if v.Status.Phase != corev1.VolumeReleased && v.Status.Phase != corev1.VolumeFailed {
		if err := b.volumePhase(ctx, v, corev1.VolumeReleased, ""); err != nil {
			return err
		}
	}
	switch v.Spec.PersistentVolumeReclaimPolicy {
	case corev1.PersistentVolumeReclaimDelete:
		return b.remove(ctx, v)
	case corev1.PersistentVolumeReclaimRecycle:
		return b.fail(ctx, v, "VolumeFailedRecycle", "No recycler plugin found for the volume!")
	}
	return nil
}

// remove deletes what was made here. What another provisioner made it removes
// itself.
func (b *binder) remove(ctx context.Context, v *corev1.PersistentVolume) error {
	switch by := v.Annotations[storagehelper.AnnDynamicallyProvisioned]; {
	case by == apiclaim.LocalProvisioner && b.here(v):
		if err := b.folders.Remove(v.Name); err != nil {
			return b.fail(ctx, v, "VolumeFailedDelete", err.Error())
		}
		return client.IgnoreNotFound(b.client.Delete(ctx, v, client.Preconditions{UID: &v.UID}))
	case by != "" || v.Spec.CSI != nil:
		return nil
	}
	return b.fail(ctx, v, "VolumeFailedDelete", fmt.Sprintf("error getting deleter volume plugin for volume %q: no deletable volume plugin matched", v.Name))
}

func (b *binder) fail(ctx context.Context, v *corev1.PersistentVolume, reason, text string) error {
	if v.Status.Phase != corev1.VolumeFailed || v.Status.Message != text {
		b.events.Event(v, corev1.EventTypeWarning, reason, text)
	}
	return b.volumePhase(ctx, v, corev1.VolumeFailed, text)
}

func (b *binder) volumePhase(ctx context.Context, v *corev1.PersistentVolume, p corev1.PersistentVolumePhase, message string) error {
	if v.Status.Phase == p && v.Status.Message == message {
		return nil
	}
	v.Status.Phase, v.Status.Message = p, message
	return b.client.Status().Update(ctx, v)
}

// here: the volume is a folder of this machine.
func (b *binder) here(v *corev1.PersistentVolume) bool {
	return b.folders != nil && v.Spec.Local != nil && v.Spec.Local.Path == b.folders.Path(v.Name)
}

// provision has a volume made for a claim: here, or by whom its class names.
func (b *binder) provision(ctx context.Context, c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	if class == nil {
		b.events.Eventf(c, corev1.EventTypeWarning, "ProvisioningFailed", "storageclass.storage.k8s.io %q not found", storagehelper.GetPersistentVolumeClaimClass(c))
		return b.phase(ctx, c, corev1.ClaimPending, nil)
	}
	if c.Annotations[storagehelper.AnnStorageProvisioner] != class.Provisioner {
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, storagehelper.AnnStorageProvisioner, class.Provisioner)
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, storagehelper.AnnBetaStorageProvisioner, class.Provisioner)
		if err := b.client.Update(ctx, c); err != nil {
			return err
		}
	}
	switch class.Provisioner {
	case apiclaim.LocalProvisioner:
		return b.makeFolder(ctx, c, class)
	case apiclaim.NoProvisioner:
		b.events.Eventf(c, corev1.EventTypeWarning, "ProvisioningFailed", "no volume plugin matched name: %s", class.Provisioner)
	default:
		b.events.Eventf(c, corev1.EventTypeNormal, "ExternalProvisioning", "Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. "+
			"If volume creation is delayed, please verify that the provisioner is running and correctly registered.", class.Provisioner)
	}
	return b.phase(ctx, c, corev1.ClaimPending, nil)
}

// makeFolder makes a volume that is a folder of this node. A claim that a Pod
// of another node waits for is given back to the scheduler.
func (b *binder) makeFolder(ctx context.Context, c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	refuse := func(why string) error {
		b.events.Eventf(c, corev1.EventTypeWarning, "ProvisioningFailed", "Failed to provision volume with StorageClass %q: %v", class.Name, why)
		return b.phase(ctx, c, corev1.ClaimPending, nil)
	}
	switch node := c.Annotations[storagehelper.AnnSelectedNode]; {
	case node != "" && node != b.node:
		delete(c.Annotations, storagehelper.AnnSelectedNode)
		if err := b.client.Update(ctx, c); err != nil {
			return err
		}
		return refuse(fmt.Sprintf("node %q has no folders for volumes", node))
	case b.folders == nil:
		return refuse("there is no folder for volumes")
	case ptr.Deref(c.Spec.VolumeMode, corev1.PersistentVolumeFilesystem) != corev1.PersistentVolumeFilesystem:
		return refuse(fmt.Sprintf("%s does not support block volume provisioning", apiclaim.LocalProvisioner))
	case c.Spec.DataSource != nil || c.Spec.DataSourceRef != nil:
		b.events.Eventf(c, corev1.EventTypeWarning, "ProvisioningFailed", "plugin %q is not a CSI plugin. Only CSI plugin can provision a claim with a datasource", apiclaim.LocalProvisioner)
		return b.phase(ctx, c, corev1.ClaimPending, nil)
	}
	v := b.folderVolume(c, class)
	if err := b.folders.Make(v.Name); err != nil {
		return refuse(err.Error())
	}
	if err := b.client.Create(ctx, v); apierrors.IsAlreadyExists(err) {
		return nil // the cache was old
	} else if err != nil {
		return err
	}
	b.events.Eventf(c, corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume %s using %s", v.Name, apiclaim.LocalProvisioner)
	return nil
}

func (b *binder) folderVolume(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) *corev1.PersistentVolume {
	name := "pvc-" + string(c.UID)
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{
			storagehelper.AnnBoundByController: "yes", storagehelper.AnnDynamicallyProvisioned: apiclaim.LocalProvisioner,
		}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: c.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes: c.Spec.AccessModes, StorageClassName: class.Name, VolumeMode: ptr.To(corev1.PersistentVolumeFilesystem),
			PersistentVolumeReclaimPolicy: ptr.Deref(class.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete),
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: b.folders.Path(name)}},
			ClaimRef: &corev1.ObjectReference{
				Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: c.Namespace, Name: c.Name, UID: c.UID, ResourceVersion: c.ResourceVersion,
			},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{b.node}}},
			}}}},
		},
	}
}
