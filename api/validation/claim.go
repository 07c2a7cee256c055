// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// claimTemplate checks the claim of an ephemeral volume. Of its metadata only
// labels and annotations are used.
func claimTemplate(t *corev1.PersistentVolumeClaimTemplate, at *field.Path) field.ErrorList {
	m := at.Child("metadata")
	errs := apivalidation.ValidateAnnotations(t.Annotations, m.Child("annotations"))
	errs = append(errs, metavalidation.ValidateLabels(t.Labels, m.Child("labels"))...)
	errs = append(errs, onlyFields(t.ObjectMeta, map[string]bool{"Annotations": true, "Labels": true}, "cannot be set", m)...)
	return append(errs, claimSpec(&t.Spec, at.Child("spec"))...)
}

func claimSpec(s *corev1.PersistentVolumeClaimSpec, at *field.Path) (errs field.ErrorList) {
	modes := at.Child("accessModes")
	if len(s.AccessModes) == 0 {
		errs = append(errs, field.Required(modes, "at least 1 access mode is required"))
	}
	if s.Selector != nil {
		errs = append(errs, labelSelector(s.Selector, false, at.Child("selector"))...)
	}
	known := []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod}
	alone, shared := false, false
	for _, m := range s.AccessModes {
		errs = append(errs, supported(m, modes, known...)...)
		alone = alone || m == corev1.ReadWriteOncePod
		shared = shared || m != corev1.ReadWriteOncePod && slices.Contains(known, m)
	}
	if alone && shared {
		errs = append(errs, field.Forbidden(modes, "may not use ReadWriteOncePod with other access modes"))
	}
	size := at.Child("resources").Key(string(corev1.ResourceStorage))
	if q, ok := s.Resources.Requests[corev1.ResourceStorage]; !ok {
		errs = append(errs, field.Required(size, ""))
	} else if q.Sign() <= 0 {
		errs = append(errs, field.Invalid(size, q.String(), "must be greater than zero"))
	}
	className := func(name *string, at *field.Path) {
		if name != nil {
			errs = append(errs, ifSet(*name, at, whole(apivalidation.NameIsDNSSubdomain))...)
		}
	}
	className(s.StorageClassName, at.Child("storageClassName"))
	errs = append(errs, supportedIfSet(s.VolumeMode, at.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	errs = append(errs, claimSources(s, at)...)
	className(s.VolumeAttributesClassName, at.Child("volumeAttributesClassName"))
	return errs
}

func claimSources(s *corev1.PersistentVolumeClaimSpec, at *field.Path) (errs field.ErrorList) {
	one := func(name, kind string, group *string, at *field.Path) {
		errs = append(errs, all(at, need{"name", name}, need{"kind", kind})...)
		if group != nil && *group != "" {
			errs = append(errs, invalidAll(at.Child("apiGroup"), *group, validation.IsDNS1123Subdomain(*group))...)
		} else if kind != "PersistentVolumeClaim" {
			errs = append(errs, field.Invalid(at, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
		}
	}
	plain, ref := s.DataSource, s.DataSourceRef
	if plain != nil {
		one(plain.Name, plain.Kind, plain.APIGroup, at.Child("dataSource"))
	}
	if ref == nil {
		return errs
	}
	p := at.Child("dataSourceRef")
	one(ref.Name, ref.Kind, ref.APIGroup, p)
	foreign := ref.Namespace != nil && *ref.Namespace != ""
	if foreign {
		errs = append(errs, invalidAll(p.Child("namespace"), *ref.Namespace, apivalidation.ValidateNamespaceName(*ref.Namespace, false))...)
	}
	switch {
	case plain == nil:
	case foreign:
		errs = append(errs, field.Invalid(at, at.Child("dataSource"), "may not be specified when dataSourceRef.namespace is specified"))
	case !reflect.DeepEqual(plain.APIGroup, ref.APIGroup) || plain.Kind != ref.Kind || plain.Name != ref.Name:
		errs = append(errs, field.Invalid(at, at.Child("dataSource"), "must match dataSourceRef"))
	}
	return errs
}
