// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// claimTemplate checks the claim of an ephemeral volume. Of its metadata only
// labels and annotations are used.
func claimTemplate(t *corev1.PersistentVolumeClaimTemplate, at *field.Path) field.ErrorList {
	return append(claimTemplateMeta(&t.ObjectMeta, at.Child("metadata")), claimSpec(&t.Spec, at.Child("spec"))...)
}

func claimTemplateMeta(m *metav1.ObjectMeta, at *field.Path) field.ErrorList {
	errs := apivalidation.ValidateAnnotations(m.Annotations, at.Child("annotations"))
	errs = append(errs, metavalidation.ValidateLabels(m.Labels, at.Child("labels"))...)
	return append(errs, onlyFields(*m, map[string]bool{"Annotations": true, "Labels": true}, "cannot be set", at)...)
}

func claimSpec(s *corev1.PersistentVolumeClaimSpec, at *field.Path) (errs field.ErrorList) {
	modes := at.Child("accessModes")
	if len(s.AccessModes) == 0 {
		errs = append(errs, field.Required(modes, "at least 1 access mode is required"))
	}
	if s.Selector != nil {
		errs = append(errs, labelSelector(s.Selector, false, at.Child("selector"))...)
	}
	errs = append(errs, modesTogether(s.AccessModes, modes)...)
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

// PersistentVolumeClaim checks a claim.
func PersistentVolumeClaim(c *corev1.PersistentVolumeClaim) field.ErrorList {
	return append(meta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain), claimSpec(&c.Spec, spec)...)
}

// PersistentVolumeClaimUpdate checks a change: a claim is given its volume once,
// and its class if it had none; a bound one may ask for more.
func PersistentVolumeClaimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := append(metaUpdate(&c.ObjectMeta, &old.ObjectMeta), PersistentVolumeClaim(c)...)
	now, was := c.Spec.DeepCopy(), old.Spec.DeepCopy()
	if was.VolumeName == "" {
		was.VolumeName = now.VolumeName
	}
	before, annotated := old.Annotations[corev1.BetaStorageClassAnnotation]
	after, kept := c.Annotations[corev1.BetaStorageClassAnnotation]
	named := was.StorageClassName == nil && now.StorageClassName != nil
	if annotated && named && *now.StorageClassName == before && (!kept || after == before) {
		now.StorageClassName = nil
	} else {
		if before != after {
			errs = append(errs, field.Invalid(metadata.Child("annotations", corev1.BetaStorageClassAnnotation), after, immutable))
		}
		if named && (!annotated || *now.StorageClassName == before) {
			now.StorageClassName = was.StorageClassName
		}
	}
	if c.Status.Phase == corev1.ClaimBound {
		if now.Resources.Requests != nil {
			now.Resources.Requests[corev1.ResourceStorage] = was.Resources.Requests[corev1.ResourceStorage]
		}
		now.VolumeAttributesClassName = was.VolumeAttributesClassName
	}
	if !equality.Semantic.DeepEqual(now, was) {
		errs = append(errs, field.Forbidden(spec, fmt.Sprintf("spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n%v", diff.Diff(goFields{was}, goFields{now}))))
	}
	size, less := c.Spec.Resources.Requests[corev1.ResourceStorage], old.Status.Capacity[corev1.ResourceStorage]
	if size.Cmp(old.Spec.Resources.Requests[corev1.ResourceStorage]) < 0 && size.Cmp(less) <= 0 {
		errs = append(errs, field.Forbidden(spec.Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	errs = append(errs, apivalidation.ValidateImmutableField(c.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	return append(errs, attributesKept(c, old)...)
}

// attributesKept: a class that is in force can be changed for another only.
func attributesKept(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	name := c.Spec.VolumeAttributesClassName
	if equality.Semantic.DeepEqual(old.Spec.VolumeAttributesClassName, name) || old.Status.CurrentVolumeAttributesClassName == nil {
		return nil
	}
	at := spec.Child("volumeAttributesClassName")
	switch {
	case name == nil:
		return field.ErrorList{field.Forbidden(at, "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil")}
	case *name == "":
		return field.ErrorList{field.Forbidden(at, "update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil")}
	}
	return nil
}

// PersistentVolumeClaimStatusUpdate checks a change of the status.
func PersistentVolumeClaimStatusUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := append(metaUpdate(&c.ObjectMeta, &old.ObjectMeta), required(c.ResourceVersion, field.NewPath("resourceVersion"))...)
	if len(c.Spec.AccessModes) == 0 {
		errs = append(errs, field.Required(field.NewPath("Spec", "accessModes"), ""))
	}
	status := field.NewPath("status")
	for _, name := range slices.Sorted(maps.Keys(c.Status.Capacity)) {
		errs = append(errs, basicResource(c.Status.Capacity[name], status.Child("capacity").Key(string(name)))...)
	}
	resizes := []corev1.ClaimResourceStatus{
		corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
		corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible, corev1.PersistentVolumeClaimNodeResizePending,
	}
	at := status.Child("allocatedResourceStatuses")
	for _, name := range slices.Sorted(maps.Keys(c.Status.AllocatedResourceStatuses)) {
		errs = append(errs, claimResource(name, at)...)
		if !slices.Contains(resizes, c.Status.AllocatedResourceStatuses[name]) {
			errs = append(errs, field.NotSupported(at, name, resizes))
		}
	}
	at = status.Child("allocatedResources")
	for _, name := range slices.Sorted(maps.Keys(c.Status.AllocatedResources)) {
		q := c.Status.AllocatedResources[name]
		bad := claimResource(name, at)
		if len(bad) == 0 {
			bad = basicResource(q, at.Key(string(name)))
		}
		if len(bad) == 0 && q.MilliValue()%1000 != 0 {
			bad = append(bad, field.Invalid(at.Key(string(name)), q, "must be an integer"))
		}
		errs = append(errs, bad...)
	}
	return errs
}

// claimResource: of Kubernetes' own resources a claim has storage alone.
func claimResource(name corev1.ResourceName, at *field.Path) field.ErrorList {
	if bad := invalidAll(at, string(name), validation.IsQualifiedName(string(name))); len(bad) > 0 {
		return bad
	}
	if native(name) {
		return supported(name, at, corev1.ResourceStorage)
	}
	return nil
}

// PersistentVolumeClaimWarnings are the notes on what is old or has no sense.
func PersistentVolumeClaimWarnings(c, _ *corev1.PersistentVolumeClaim) []string {
	n := notes{}
	if _, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		n.add(metadata.Child("annotations").Key(corev1.BetaStorageClassAnnotation), `deprecated since v1.8; use "storageClassName" attribute instead`)
	}
	n.fraction(c.Spec.Resources.Requests, corev1.ResourceStorage, spec.Child("resources", "requests"))
	n.fraction(c.Spec.Resources.Limits, corev1.ResourceStorage, spec.Child("resources", "limits"))
	return n
}
