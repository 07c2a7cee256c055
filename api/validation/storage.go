// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// StorageClass checks a class.
func StorageClass(c *storagev1.StorageClass) field.ErrorList {
	errs := meta(&c.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, provisioner(c.Provisioner, field.NewPath("provisioner"))...)
	errs = append(errs, parameters(c.Parameters, field.NewPath("parameters"))...)
	if p := c.ReclaimPolicy; p != nil && *p != "" {
		errs = append(errs, supported(*p, field.NewPath("reclaimPolicy"), corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	}
	mode := field.NewPath("volumeBindingMode")
	if c.VolumeBindingMode == nil {
		errs = append(errs, field.Required(mode, ""))
	} else {
		errs = append(errs, supported(*c.VolumeBindingMode, mode, storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
	}
	return append(errs, topologies(c.AllowedTopologies, field.NewPath("allowedTopologies"))...)
}

func provisioner(name string, at *field.Path) field.ErrorList {
	return requiredAnd(strings.ToLower(name), at, validation.IsQualifiedName)
}

// What parameters may weigh.
const (
	mostParameters    = 512
	mostParameterSize = 256 << 10
)

func parameters(list map[string]string, at *field.Path) (errs field.ErrorList) {
	if len(list) > mostParameters {
		return field.ErrorList{field.TooLong(at, "" /* unused */, mostParameters)}
	}
	size := 0
	for k, v := range list {
		if k == "" {
			errs = append(errs, field.Invalid(at, k, "field can not be empty."))
		}
		size += len(k) + len(v)
	}
	if size > mostParameterSize {
		errs = append(errs, field.TooLong(at, "" /* unused */, mostParameterSize))
	}
	return errs
}

func topologies(list []corev1.TopologySelectorTerm, at *field.Path) (errs field.ErrorList) {
	var seen []map[string]sets.Set[string]
	for i, t := range list {
		term := map[string]sets.Set[string]{}
		p := at.Index(i).Child("matchLabelExpressions")
		for j, e := range t.MatchLabelExpressions {
			values := sets.New[string]()
			if len(e.Values) == 0 {
				errs = append(errs, field.Required(p.Index(j).Child("values"), ""))
			}
			for k, v := range e.Values {
				if values.Has(v) {
					errs = append(errs, field.Duplicate(p.Index(j).Child("values").Index(k), v))
				}
				values.Insert(v)
			}
			errs = append(errs, metavalidation.ValidateLabelName(e.Key, p.Index(j).Child("key"))...)
			if _, again := term[e.Key]; again {
				errs = append(errs, field.Duplicate(p.Index(j).Child("key"), e.Key))
			}
			term[e.Key] = values
		}
		for _, other := range seen {
			if equality.Semantic.DeepEqual(other, term) {
				errs = append(errs, field.Duplicate(p, ""))
			}
		}
		// Upstream compares with as many empty terms as there are terms, too.
		if len(term) == 0 {
			for range list {
				errs = append(errs, field.Duplicate(p, ""))
			}
		}
		seen = append(seen, term)
	}
	return errs
}

// StorageClassUpdate checks a change: only what is said about topologies,
// expansion and mount options can change.
func StorageClassUpdate(c, old *storagev1.StorageClass) field.ErrorList {
	errs := append(StorageClass(c), metaUpdate(&c.ObjectMeta, &old.ObjectMeta)...)
	for _, x := range []struct {
		name    string
		changed bool
	}{
		{"provisioner", c.Provisioner != old.Provisioner}, {"parameters", !equality.Semantic.DeepEqual(c.Parameters, old.Parameters)},
		{"reclaimPolicy", !equality.Semantic.DeepEqual(c.ReclaimPolicy, old.ReclaimPolicy)},
		{"volumeBindingMode", !equality.Semantic.DeepEqual(c.VolumeBindingMode, old.VolumeBindingMode)},
	} {
		errs = append(errs, declaredKept(x.changed, field.NewPath(x.name))...)
	}
	return errs
}

// StorageClassWarnings are the notes on old labels of nodes.
func StorageClassWarnings(c, _ *storagev1.StorageClass) []string {
	n := notes{}
	for i, t := range c.AllowedTopologies {
		for j, e := range t.MatchLabelExpressions {
			if text, old := oldNodeLabels[e.Key]; old {
				n.add(field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(j).Child("key"), "%s", text)
			}
		}
	}
	return n
}

// VolumeAttributesClass checks a class.
func VolumeAttributesClass(c *storagev1.VolumeAttributesClass) field.ErrorList {
	errs := meta(&c.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, provisioner(c.DriverName, field.NewPath("driverName"))...)
	errs = append(errs, parameters(c.Parameters, field.NewPath("parameters"))...)
	if len(c.Parameters) == 0 {
		errs = append(errs, field.Required(field.NewPath("parameters"), "must contain at least one key/value pair"))
	}
	return errs
}

// VolumeAttributesClassUpdate checks a change; the class itself stays.
func VolumeAttributesClassUpdate(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
	errs := metaUpdate(&c.ObjectMeta, &old.ObjectMeta)
	if c.DriverName != old.DriverName {
		errs = append(errs, field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
	}
	if !equality.Semantic.DeepEqual(c.Parameters, old.Parameters) {
		errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
	}
	return append(errs, VolumeAttributesClass(c)...)
}

// VolumeAttachment checks an attachment.
func VolumeAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	errs := meta(&a.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	attacher := requiredAnd(a.Spec.Attacher, spec.Child("attacher"), content.IsDNS1123SubdomainCaseless)
	if len(a.Spec.Attacher) > longestDriver {
		attacher = append(attacher, field.TooLong(spec.Child("attacher"), "" /* unused */, longestDriver))
	}
	from := spec.Child("source")
	const one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
	switch s := a.Spec.Source; {
	case s.InlineVolumeSpec == nil && s.PersistentVolumeName == nil:
		errs = append(errs, field.Required(from, one))
	case s.InlineVolumeSpec != nil && s.PersistentVolumeName != nil:
		errs = append(errs, field.Forbidden(from, one))
	case s.PersistentVolumeName != nil && *s.PersistentVolumeName == "":
		errs = append(errs, field.Required(from.Child("persistentVolumeName"), "must specify non empty persistentVolumeName"))
	case s.InlineVolumeSpec != nil:
		errs = append(errs, inlineVolume(s.InlineVolumeSpec, from.Child("inlineVolumeSpec"))...)
	}
	errs = append(errs, invalidAll(spec.Child("nodeName"), a.Spec.NodeName, apivalidation.NameIsDNSSubdomain(a.Spec.NodeName, false))...)
	errs = append(errs, attachmentStatus(&a.Status, field.NewPath("status"))...)
	if name := a.Spec.Source.PersistentVolumeName; name != nil {
		errs = append(errs, invalidAll(field.NewPath("spec.source.persistentVolumeName"), *name, apivalidation.NameIsDNSSubdomain(*name, false))...)
	}
	return reported(errs, attacher)
}

// inlineVolume is a volume that a Pod brings, which only drivers know.
func inlineVolume(s *corev1.PersistentVolumeSpec, at *field.Path) (errs field.ErrorList) {
	const context = "in the context of inline volumes"
	forbid := func(set bool, name string) {
		if set {
			errs = append(errs, field.Forbidden(at.Child(name), "may not be specified "+context))
		}
	}
	forbid(s.ClaimRef != nil, "claimRef")
	forbid(len(s.Capacity) != 0, "capacity")
	if s.CSI == nil {
		errs = append(errs, field.Required(at.Child("csi"), "has to be specified "+context))
	}
	if len(s.AccessModes) == 0 {
		errs = append(errs, field.Required(at.Child("accessModes"), ""))
	}
	errs = append(errs, modesTogether(s.AccessModes, at.Child("accessModes"))...)
	if p := s.PersistentVolumeReclaimPolicy; p != "" && p != corev1.PersistentVolumeReclaimRetain {
		errs = append(errs, field.Forbidden(at.Child("persistentVolumeReclaimPolicy"), "may only be Retain "+context))
	}
	forbid(s.NodeAffinity != nil, "nodeAffinity")
	errs = append(errs, persistentSource(s, "", at)...)
	forbid(s.StorageClassName != "", "storageClassName")
	if m := s.VolumeMode; m != nil && *m != corev1.PersistentVolumeFilesystem {
		errs = append(errs, field.Forbidden(at.Child("volumeMode"), "may not specify volumeMode other than Filesystem "+context))
	}
	return errs
}

// What the status of an attachment may weigh.
const (
	mostAttachmentMetadata = 256 << 10
	longestVolumeError     = 1024
)

func attachmentStatus(s *storagev1.VolumeAttachmentStatus, at *field.Path) (errs field.ErrorList) {
	size := 0
	for k, v := range s.AttachmentMetadata {
		size += len(k) + len(v)
	}
	if size > mostAttachmentMetadata {
		errs = append(errs, field.TooLong(at.Child("attachmentMetadata"), "" /* unused */, mostAttachmentMetadata))
	}
	for _, x := range []struct {
		name string
		err  *storagev1.VolumeError
	}{{"attachError", s.AttachError}, {"detachError", s.DetachError}} {
		if x.err == nil {
			continue
		}
		if len(x.err.Message) > longestVolumeError {
			errs = append(errs, field.TooLong(at.Child(x.name, "message"), "" /* unused */, longestVolumeError))
		}
		if c := x.err.ErrorCode; c != nil && *c < 0 {
			errs = append(errs, field.Invalid(at.Child(x.name, "errorCode"), *c, validation.InclusiveRangeError(0, math.MaxInt32)))
		}
	}
	return errs
}

// VolumeAttachmentUpdate checks a change, also of the status; what is attached
// where stays.
func VolumeAttachmentUpdate(a, old *storagev1.VolumeAttachment) field.ErrorList {
	return append(VolumeAttachment(a), declaredKept(!equality.Semantic.DeepEqual(a.Spec, old.Spec), spec)...)
}

// CSINode checks what drivers a node has.
func CSINode(n *storagev1.CSINode) field.ErrorList {
	errs := meta(&n.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	seen := sets.New[string]()
	for i, d := range n.Spec.Drivers {
		at := spec.Child("drivers").Index(i)
		errs = append(errs, driverName(d.Name, at.Child("name"))...)
		errs = append(errs, required(d.NodeID, at.Child("nodeID"))...)
		if len(d.NodeID) > longestNodeID {
			errs = append(errs, field.Invalid(at.Child("nodeID"), d.NodeID, fmt.Sprintf("must be %d characters or less", longestNodeID)))
		}
		if a := d.Allocatable; a != nil && a.Count != nil {
			errs = append(errs, nonNegative(int64(*a.Count), at.Child("allocatable", "count"))...)
		}
		if seen.Has(d.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), d.Name))
		}
		seen.Insert(d.Name)
		keys := sets.New[string]()
		for _, k := range d.TopologyKeys {
			errs = append(errs, required(k, at)...)
			if keys.Has(k) {
				errs = append(errs, field.Duplicate(at, k))
			}
			keys.Insert(k)
			errs = append(errs, invalidAll(at, k, validation.IsQualifiedName(k))...)
		}
	}
	return errs
}

const longestNodeID = 256

// CSINodeUpdate checks a change: a driver that stays says the same, but for how
// many volumes it takes.
func CSINodeUpdate(n, old *storagev1.CSINode) field.ErrorList {
	errs := CSINode(n)
	for _, was := range old.Spec.Drivers {
		for _, d := range n.Spec.Drivers {
			if d.Name == was.Name {
				d.Allocatable, was.Allocatable = nil, nil
				if !equality.Semantic.DeepEqual(d, was) {
					errs = append(errs, field.Invalid(spec.Child("drivers"), goFields{d}, immutable))
				}
			}
		}
	}
	return errs
}

// CSINodeStatusUpdate checks a change of the status, of which nothing is served.
func CSINodeStatusUpdate(n, old *storagev1.CSINode) field.ErrorList {
	return metaUpdate(&n.ObjectMeta, &old.ObjectMeta)
}

// CSIDriver checks what is said of a driver.
func CSIDriver(d *storagev1.CSIDriver) field.ErrorList {
	return append(meta(&d.ObjectMeta, false, apivalidation.NameIsDNSSubdomain), driverSpec(&d.Spec, spec)...)
}

func driverSpec(s *storagev1.CSIDriverSpec, at *field.Path) (errs field.ErrorList) {
	said := func(set bool, name string) {
		if !set {
			errs = append(errs, field.Required(at.Child(name), ""))
		}
	}
	said(s.AttachRequired != nil, "attachedRequired")
	said(s.PodInfoOnMount != nil, "podInfoOnMount")
	said(s.StorageCapacity != nil, "storageCapacity")
	errs = append(errs, supportedIfSet(s.FSGroupPolicy, at.Child("fsGroupPolicy"), storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)...)
	errs = append(errs, driverTokens(s.TokenRequests, at.Child("tokenRequests"))...)
	for _, m := range s.VolumeLifecycleModes {
		errs = append(errs, supported(m, at.Child("volumeLifecycleModes"), storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral)...)
	}
	said(s.SELinuxMount != nil, "seLinuxMount")
	if p := s.NodeAllocatableUpdatePeriodSeconds; p != nil && *p < 10 {
		errs = append(errs, field.Invalid(at.Child("nodeAllocatableUpdatePeriodSeconds"), *p, "must be greater than or equal to 10 seconds"))
	}
	if t := s.ServiceAccountTokenInSecrets; t != nil && len(s.TokenRequests) == 0 {
		errs = append(errs, field.Invalid(at.Child("serviceAccountTokenInSecrets"), *t, "serviceAccountTokenInSecrets is set but no tokenRequests are specified"))
	}
	said(s.PreventPodSchedulingIfMissing != nil, "preventPodSchedulingIfMissing")
	return errs
}

func driverTokens(list []storagev1.TokenRequest, at *field.Path) (errs field.ErrorList) {
	seen := sets.New[string]()
	for i, t := range list {
		if seen.Has(t.Audience) {
			errs = append(errs, field.Duplicate(at.Index(i).Child("audience"), t.Audience))
			continue
		}
		seen.Insert(t.Audience)
		p := at.Index(i).Child("expirationSeconds")
		switch s := t.ExpirationSeconds; {
		case s == nil:
		case *s < 600:
			errs = append(errs, field.Invalid(p, *s, "may not specify a duration less than 10 minutes"))
		case *s > 1<<32:
			errs = append(errs, field.Invalid(p, *s, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	return errs
}

// CSIDriverUpdate checks a change: whether and how volumes are attached stays.
func CSIDriverUpdate(d, old *storagev1.CSIDriver) field.ErrorList {
	errs := append(metaUpdate(&d.ObjectMeta, &old.ObjectMeta), driverSpec(&d.Spec, spec)...)
	errs = append(errs, apivalidation.ValidateImmutableField(d.Spec.AttachRequired, old.Spec.AttachRequired, spec.Child("attachedRequired"))...)
	return append(errs, apivalidation.ValidateImmutableField(d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes, spec.Child("volumeLifecycleModes"))...)
}

// CSIDriverWarnings: tokens are better kept in secrets.
func CSIDriverWarnings(d, old *storagev1.CSIDriver) []string {
	same := old != nil && equality.Semantic.DeepEqual(old.Spec.TokenRequests, d.Spec.TokenRequests)
	if len(d.Spec.TokenRequests) == 0 || d.Spec.ServiceAccountTokenInSecrets != nil || same {
		return nil
	}
	return []string{"spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"}
}

// CSIStorageCapacity checks how much room there is somewhere.
func CSIStorageCapacity(c *storagev1.CSIStorageCapacity) field.ErrorList { return capacity(c, false) }

func capacity(c *storagev1.CSIStorageCapacity, anyValue bool) field.ErrorList {
	errs := meta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, labelSelector(c.NodeTopology, anyValue, field.NewPath("nodeTopology"))...)
	errs = append(errs, invalidAll(field.NewPath("storageClassName"), c.StorageClassName, apivalidation.NameIsDNSSubdomain(c.StorageClassName, false))...)
	if q := c.Capacity; q != nil && q.Sign() < 0 {
		errs = append(errs, field.Invalid(field.NewPath("capacity"), q.String(), apivalidation.IsNegativeErrorMsg))
	}
	return errs
}

// CSIStorageCapacityUpdate checks a change: where and of what stays.
func CSIStorageCapacityUpdate(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
	errs := capacity(c, len(labelSelector(old.NodeTopology, false, nil)) > 0)
	errs = append(errs, metaUpdate(&c.ObjectMeta, &old.ObjectMeta)...)
	if !equality.Semantic.DeepEqual(c.NodeTopology, old.NodeTopology) {
		errs = append(errs, field.Invalid(field.NewPath("nodeTopology"), c.NodeTopology, "field is immutable"))
	}
	if c.StorageClassName != old.StorageClassName {
		errs = append(errs, field.Invalid(field.NewPath("storageClassName"), c.StorageClassName, "field is immutable"))
	}
	return errs
}

// CSIStorageCapacityWarnings are the notes on the labels of its nodes.
func CSIStorageCapacityWarnings(c, _ *storagev1.CSIStorageCapacity) []string {
	n := notes{}
	if s := c.NodeTopology; s != nil {
		n.labelSelector(s, field.NewPath("nodeTopology"))
	}
	return n
}

func (n *notes) labelSelector(s *metav1.LabelSelector, at *field.Path) {
	for i, e := range s.MatchExpressions {
		if text, old := oldNodeLabels[e.Key]; old {
			n.add(at.Child("matchExpressions").Index(i).Child("key"), "%s is %s", e.Key, text)
		}
	}
	for _, k := range sorted(s.MatchLabels) {
		if text, old := oldNodeLabels[k]; old {
			n.add(at.Child("matchLabels").Child(k), "%s", text)
		}
	}
}
