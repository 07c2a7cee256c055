// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/claim"
)

// claimOf is the claim of a request to the claims themselves, or nil.
func claimOf(a admission.Attributes) *corev1.PersistentVolumeClaim {
	if a.GetSubresource() != "" {
		return nil
	}
	c, _ := a.GetObject().(*corev1.PersistentVolumeClaim)
	return c
}

// defaultClass gives a claim that names no class the default one
// (DefaultStorageClass).
type defaultClass struct {
	*admission.Handler
	Objects
}

func (d defaultClass) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	c := claimOf(a)
	if c == nil || volume.PersistentVolumeClaimHasClass(c) {
		return nil
	}
	all, err := d.StorageClasses.List(labels.Everything())
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("cannot find the default storage class: %w", err))
	}
	if first := claim.Default(all); first != nil {
		c.Spec.StorageClassName = ptr.To(first.Name)
	}
	return nil
}

// inUse gives claims, volumes and classes of attributes the finalizer that keeps
// them while they are used (StorageObjectInUseProtection).
type inUse struct{ *admission.Handler }

func (inUse) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetSubresource() != "" {
		return nil
	}
	var m *metav1.ObjectMeta
	finalizer := ""
	switch o := a.GetObject().(type) {
	case *corev1.PersistentVolumeClaim:
		m, finalizer = &o.ObjectMeta, claim.ClaimProtection
	case *corev1.PersistentVolume:
		m, finalizer = &o.ObjectMeta, claim.VolumeProtection
	case *storagev1.VolumeAttributesClass:
		m, finalizer = &o.ObjectMeta, claim.ClassProtection
	}
	if m != nil && !slices.Contains(m.Finalizers, finalizer) {
		m.Finalizers = append(m.Finalizers, finalizer)
	}
	return nil
}

// claimResize refuses to let a claim ask for more that cannot have it
// (PersistentVolumeClaimResize).
type claimResize struct {
	*admission.Handler
	Objects
}

func (r claimResize) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	c := claimOf(a)
	old, _ := a.GetOldObject().(*corev1.PersistentVolumeClaim)
	if c == nil || old == nil {
		return nil
	}
	size := c.Spec.Resources.Requests[corev1.ResourceStorage]
	if size.Cmp(old.Spec.Resources.Requests[corev1.ResourceStorage]) <= 0 {
		return nil
	}
	if old.Status.Phase != corev1.ClaimBound {
		return admission.NewForbidden(a, errors.New("Only bound persistent volume claims can be expanded")) //nolint:staticcheck // upstream's text
	}
	name := volume.GetPersistentVolumeClaimClass(c)
	if name != "" && name == volume.GetPersistentVolumeClaimClass(old) {
		if class, err := r.StorageClasses.Get(name); err == nil && ptr.Deref(class.AllowVolumeExpansion, false) {
			return nil
		}
	}
	return admission.NewForbidden(a, errors.New("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
}
