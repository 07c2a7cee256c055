// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var spec = field.NewPath("spec")

// PersistentVolume checks a volume.
func PersistentVolume(v *corev1.PersistentVolume) field.ErrorList {
	errs := meta(&v.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, volumeSpec(&v.Spec, v.Name, spec)...)
	return append(errs, mountOptions(v)...)
}

// mountOptions as an annotation are for some kinds of volumes only.
func mountOptions(v *corev1.PersistentVolume) field.ErrorList {
	s := &v.Spec
	network := s.Glusterfs != nil || s.NFS != nil || s.RBD != nil || s.Quobyte != nil || s.ISCSI != nil || s.Cinder != nil || s.CephFS != nil || s.AzureFile != nil
	disk := s.GCEPersistentDisk != nil || s.AWSElasticBlockStore != nil || s.VsphereVolume != nil || s.AzureDisk != nil || s.PhotonPersistentDisk != nil
	if _, ok := v.Annotations[corev1.MountOptionAnnotation]; ok && !network && !disk {
		return field.ErrorList{field.Forbidden(metadata.Child("annotations", corev1.MountOptionAnnotation), "may not specify mount options for this volume type")}
	}
	return nil
}

var accessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod}

// modesTogether: who is alone with a volume shares it in no other mode.
func modesTogether(list []corev1.PersistentVolumeAccessMode, at *field.Path) (errs field.ErrorList) {
	alone, shared := false, false
	for _, m := range list {
		errs = append(errs, supported(m, at, accessModes...)...)
		alone = alone || m == corev1.ReadWriteOncePod
		shared = shared || m != corev1.ReadWriteOncePod && slices.Contains(accessModes, m)
	}
	if alone && shared {
		errs = append(errs, field.Forbidden(at, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

func volumeSpec(s *corev1.PersistentVolumeSpec, name string, at *field.Path) (errs field.ErrorList) {
	if len(s.AccessModes) == 0 {
		errs = append(errs, field.Required(at.Child("accessModes"), ""))
	}
	errs = append(errs, modesTogether(s.AccessModes, at.Child("accessModes"))...)
	errs = append(errs, volumeCapacity(s.Capacity, at.Child("capacity"))...)
	if s.PersistentVolumeReclaimPolicy != "" {
		errs = append(errs, supported(s.PersistentVolumeReclaimPolicy, at.Child("persistentVolumeReclaimPolicy"),
			corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)...)
	}
	if a := s.NodeAffinity; a != nil && a.Required == nil {
		errs = append(errs, field.Required(at.Child("nodeAffinity", "required"), "must specify required node constraints"))
	} else if a != nil {
		errs = append(errs, nodeSelector(a.Required, false, at.Child("nodeAffinity", "required", "nodeSelectorTerms"))...)
	}
	errs = append(errs, persistentSource(s, name, at)...)
	if s.HostPath != nil && path.Clean(s.HostPath.Path) == "/" && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		errs = append(errs, field.Forbidden(at.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'"))
	}
	errs = append(errs, ifSet(s.StorageClassName, at.Child("storageClassName"), whole(apivalidation.NameIsDNSSubdomain))...)
	errs = append(errs, supportedIfSet(s.VolumeMode, at.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	return append(errs, attributesOf(s, at)...)
}

func attributesOf(s *corev1.PersistentVolumeSpec, at *field.Path) (errs field.ErrorList) {
	name := s.VolumeAttributesClassName
	if name == nil {
		return nil
	}
	if p := at.Child("volumeAttributesClassName"); *name == "" {
		errs = append(errs, field.Required(p, "an empty string is disallowed"))
	} else {
		errs = append(errs, invalidAll(p, *name, apivalidation.NameIsDNSSubdomain(*name, false))...)
	}
	if s.CSI == nil {
		errs = append(errs, field.Required(at.Child("csi"), "has to be specified when using volumeAttributesClassName"))
	}
	return errs
}

func volumeCapacity(list corev1.ResourceList, at *field.Path) (errs field.ErrorList) {
	if len(list) == 0 {
		errs = append(errs, field.Required(at, ""))
	}
	if _, ok := list[corev1.ResourceStorage]; !ok || len(list) > 1 {
		errs = append(errs, field.NotSupported(at, list, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for _, name := range slices.Sorted(maps.Keys(list)) {
		q := list[name]
		errs = append(errs, basicResource(q, at.Key(string(name)))...)
		if q.Sign() <= 0 {
			errs = append(errs, field.Invalid(at.Key(string(name)), q.String(), "must be greater than zero"))
		}
	}
	return errs
}

func basicResource(q resource.Quantity, at *field.Path) field.ErrorList {
	if q.Value() < 0 {
		return field.ErrorList{field.Invalid(at, q.Value(), "must be a valid resource quantity")}
	}
	return nil
}

// persistentSource checks that there is exactly one source, and that one.
func persistentSource(s *corev1.PersistentVolumeSpec, name string, at *field.Path) (errs field.ErrorList) {
	used := false
	for _, x := range slices.Concat(persistentDisks(s, at), persistentNetwork(s, name)) {
		switch {
		case !x.set:
		case used && x.name != "flexVolume":
			word := x.name
			if word == "cephfs" {
				word = "cephFS"
			}
			errs = append(errs, field.Forbidden(at.Child(word), "may not specify more than 1 volume type"))
		default:
			used = true
			errs = append(errs, x.check(at.Child(x.name))...)
		}
	}
	if !used {
		errs = append(errs, field.Required(at, "must specify a volume type"))
	}
	return errs
}

func persistentDisks(s *corev1.PersistentVolumeSpec, spec *field.Path) []source {
	type path = *field.Path
	type list = field.ErrorList
	return []source{
		{"hostPath", s.HostPath != nil, func(at path) list { return hostPath(s.HostPath, at) }},
		{"gcePersistentDisk", s.GCEPersistentDisk != nil, func(path) list {
			return disk("pdName", s.GCEPersistentDisk.PDName, s.GCEPersistentDisk.Partition, spec.Child("persistentDisk"))
		}},
		{"awsElasticBlockStore", s.AWSElasticBlockStore != nil, func(at path) list {
			return disk("volumeID", s.AWSElasticBlockStore.VolumeID, s.AWSElasticBlockStore.Partition, at)
		}},
		{"vsphereVolume", s.VsphereVolume != nil, func(at path) list { return all(at, need{"volumePath", s.VsphereVolume.VolumePath}) }},
		{"photonPersistentDisk", s.PhotonPersistentDisk != nil, func(at path) list { return all(at, need{"pdID", s.PhotonPersistentDisk.PdID}) }},
		{"portworxVolume", s.PortworxVolume != nil, func(at path) list { return all(at, need{"volumeID", s.PortworxVolume.VolumeID}) }},
		{"azureDisk", s.AzureDisk != nil, func(at path) list { return azureDisk(s.AzureDisk, at) }},
		{"local", s.Local != nil, func(at path) list {
			errs := required(s.Local.Path, at.Child("path"))
			if s.Local.Path != "" {
				errs = noBacksteps(s.Local.Path, at.Child("path"))
			}
			if s.NodeAffinity == nil {
				errs = append(errs, field.Required(spec.Child("nodeAffinity"), "Local volume requires node affinity"))
			}
			return errs
		}},
	}
}

func persistentNetwork(s *corev1.PersistentVolumeSpec, name string) []source {
	type path = *field.Path
	type list = field.ErrorList
	return []source{
		{"glusterfs", s.Glusterfs != nil, func(at path) list { return glusterfs(s.Glusterfs, at) }},
		{"flocker", s.Flocker != nil, func(at path) list { return flocker(s.Flocker, at) }},
		{"nfs", s.NFS != nil, func(at path) list { return nfs(s.NFS, at) }},
		{"rbd", s.RBD != nil, func(at path) list {
			return append(monitors(s.RBD.CephMonitors, at), required(s.RBD.RBDImage, at.Child("image"))...)
		}},
		{"quobyte", s.Quobyte != nil, func(at path) list { return quobyte(s.Quobyte, at) }},
		{"cephfs", s.CephFS != nil, func(at path) list { return monitors(s.CephFS.Monitors, at) }},
		{"iscsi", s.ISCSI != nil, func(at path) list { return persistentISCSI(s.ISCSI, name, at) }},
		{"cinder", s.Cinder != nil, func(at path) list {
			return append(all(at, need{"volumeID", s.Cinder.VolumeID}), secretOf(s.Cinder.SecretRef, at.Child("secretRef"))...)
		}},
		{"fc", s.FC != nil, func(at path) list { return fibreChannel(s.FC, at) }},
		{"flexVolume", s.FlexVolume != nil, func(at path) list {
			return flexVolume(&corev1.FlexVolumeSource{Driver: s.FlexVolume.Driver, Options: s.FlexVolume.Options}, at)
		}},
		{"azureFile", s.AzureFile != nil, func(at path) list {
			errs := all(at, need{"secretName", s.AzureFile.SecretName}, need{"shareName", s.AzureFile.ShareName})
			if n := s.AzureFile.SecretNamespace; n != nil {
				errs = append(errs, required(*n, at.Child("secretNamespace"))...)
			}
			return errs
		}},
		{"scaleIO", s.ScaleIO != nil, func(at path) list {
			return all(at, need{"gateway", s.ScaleIO.Gateway}, need{"system", s.ScaleIO.System}, need{"volumeName", s.ScaleIO.VolumeName})
		}},
		{"storageos", s.StorageOS != nil, func(at path) list {
			errs := storageOS(&corev1.StorageOSVolumeSource{VolumeName: s.StorageOS.VolumeName, VolumeNamespace: s.StorageOS.VolumeNamespace}, at)
			if r := s.StorageOS.SecretRef; r != nil {
				errs = append(errs, all(at.Child("secretRef"), need{"name", r.Name}, need{"namespace", r.Namespace})...)
			}
			return errs
		}},
		{"csi", s.CSI != nil, func(at path) list { return persistentCSI(s.CSI, at) }},
	}
}

func glusterfs(g *corev1.GlusterfsPersistentVolumeSource, at *field.Path) field.ErrorList {
	errs := all(at, need{"endpoints", g.EndpointsName}, need{"path", g.Path})
	switch n, p := g.EndpointsNamespace, at.Child("endpointsNamespace"); {
	case n == nil:
	case *n == "":
		errs = append(errs, field.Invalid(p, *n, "if the endpointnamespace is set, it must be a valid namespace name"))
	default:
		errs = append(errs, invalidAll(p, *n, apivalidation.ValidateNamespaceName(*n, false))...)
	}
	return errs
}

func persistentISCSI(i *corev1.ISCSIPersistentVolumeSource, name string, at *field.Path) field.ErrorList {
	errs := required(i.TargetPortal, at.Child("targetPortal"))
	if i.InitiatorName != nil && len(name+":"+i.TargetPortal) > 64 {
		errs = append(errs, field.Invalid(at.Child("targetportal"), i.TargetPortal, "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified."))
	}
	named := func(name string, at *field.Path) {
		for prefix, format := range iscsiNames {
			if strings.HasPrefix(name, prefix) && matches(format, name) {
				return
			}
		}
		errs = append(errs, field.Invalid(at, name, "must be valid format"))
	}
	if i.IQN == "" {
		errs = append(errs, field.Required(at.Child("iqn"), ""))
	} else {
		named(i.IQN, at.Child("iqn"))
	}
	if i.Lun < 0 || i.Lun > 255 {
		errs = append(errs, field.Invalid(at.Child("lun"), i.Lun, validation.InclusiveRangeError(0, 255)))
	}
	if (i.DiscoveryCHAPAuth || i.SessionCHAPAuth) && i.SecretRef == nil {
		errs = append(errs, field.Required(at.Child("secretRef"), ""))
	}
	if i.SecretRef != nil {
		errs = append(errs, required(i.SecretRef.Name, at.Child("secretRef", "name"))...)
	}
	if i.InitiatorName != nil {
		named(*i.InitiatorName, at.Child("initiatorname"))
	}
	return errs
}

// secretOf is a Secret that must be named wholly.
func secretOf(r *corev1.SecretReference, at *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	return all(at, need{"name", r.Name}, need{"namespace", r.Namespace})
}

func persistentCSI(s *corev1.CSIPersistentVolumeSource, at *field.Path) field.ErrorList {
	errs := driverName(s.Driver, at.Child("driver"))
	errs = append(errs, required(s.VolumeHandle, at.Child("volumeHandle"))...)
	for _, x := range []struct {
		name string
		ref  *corev1.SecretReference
	}{
		{"controllerPublishSecretRef", s.ControllerPublishSecretRef}, {"controllerExpandSecretRef", s.ControllerExpandSecretRef},
		{"nodePublishSecretRef", s.NodePublishSecretRef}, {"nodeExpandSecretRef", s.NodeExpandSecretRef},
	} {
		if x.ref != nil {
			p := at.Child(x.name)
			errs = append(errs, requiredAnd(x.ref.Name, p.Child("name"), validation.IsDNS1123Subdomain)...)
			errs = append(errs, requiredAnd(x.ref.Namespace, p.Child("namespace"), validation.IsDNS1123Label)...)
		}
	}
	return errs
}

const longestDriver = 63

// driverName is the name of a CSI driver, also with capitals.
func driverName(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	if len(name) > longestDriver {
		errs = append(errs, field.TooLong(at, "" /* unused */, longestDriver))
	}
	return append(errs, invalidAll(at, name, validation.IsDNS1123Subdomain(strings.ToLower(name)))...)
}

// PersistentVolumeUpdate checks a change: what the volume is made of stays.
func PersistentVolumeUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	errs := PersistentVolume(v)
	now := v.Spec.PersistentVolumeSource
	if o := old.Spec.CSI; o != nil && o.ControllerExpandSecretRef == nil && now.CSI != nil {
		c := *now.CSI
		c.ControllerExpandSecretRef = nil // may be given later
		now.CSI = &c
	}
	if was := old.Spec.PersistentVolumeSource; !equality.Semantic.DeepEqual(now, was) {
		errs = append(errs, field.Forbidden(spec.Child("persistentvolumesource"), fmt.Sprintf("spec.persistentvolumesource is immutable after creation\n%v", diff.Diff(goFields{was}, goFields{now}))))
	}
	errs = append(errs, apivalidation.ValidateImmutableField(v.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if was := old.Spec.NodeAffinity; was != nil && !equality.Semantic.DeepEqual(renewed(v.Spec.NodeAffinity), renewed(was)) {
		errs = append(errs, field.Invalid(field.NewPath("nodeAffinity"), goFields{v.Spec.NodeAffinity}, immutable+", except for updating from beta label to GA"))
	}
	if old.Spec.VolumeAttributesClassName != nil && v.Spec.VolumeAttributesClassName == nil {
		errs = append(errs, field.Forbidden(spec.Child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
	}
	return errs
}

// renewed names old labels of nodes as they are called now.
func renewed(a *corev1.VolumeNodeAffinity) *corev1.VolumeNodeAffinity {
	if a == nil || a.Required == nil {
		return a
	}
	a = a.DeepCopy()
	now := map[string]string{
		corev1.LabelFailureDomainBetaZone: corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
		corev1.LabelInstanceType: corev1.LabelInstanceTypeStable, "beta.kubernetes.io/os": corev1.LabelOSStable, "beta.kubernetes.io/arch": corev1.LabelArchStable,
	}
	for _, t := range a.Required.NodeSelectorTerms {
		for i, e := range t.MatchExpressions {
			if key, ok := now[e.Key]; ok {
				t.MatchExpressions[i].Key = key
			}
		}
	}
	return a
}

// PersistentVolumeStatusUpdate checks a change of the status.
func PersistentVolumeStatusUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	return append(metaUpdate(&v.ObjectMeta, &old.ObjectMeta), required(v.ResourceVersion, field.NewPath("resourceVersion"))...)
}

// PersistentVolumeWarnings are the notes on what is old.
func PersistentVolumeWarnings(v, _ *corev1.PersistentVolume) []string {
	n := notes{}
	for _, old := range [][2]string{
		{corev1.BetaStorageClassAnnotation, `deprecated since v1.8; use "storageClassName" attribute instead`},
		{corev1.MountOptionAnnotation, `deprecated since v1.31; use "mountOptions" attribute instead`},
	} {
		if _, ok := v.Annotations[old[0]]; ok {
			n.add(metadata.Child("annotations").Key(old[0]), "%s", old[1])
		}
	}
	if v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		n.add(spec.Child("persistentVolumeReclaimPolicy"), "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	if a := v.Spec.NodeAffinity; a != nil && a.Required != nil {
		for i, t := range a.Required.NodeSelectorTerms {
			n.nodeTerm(t, false, spec.Child("nodeAffinity", "required", "nodeSelectorTerms").Index(i))
		}
	}
	s := &v.Spec
	for _, x := range []struct {
		name, since, gone string
		set               bool
	}{
		{"cephfs", "v1.28", "v1.31+", s.CephFS != nil}, {"photonPersistentDisk", "v1.11", "v1.16+", s.PhotonPersistentDisk != nil},
		{"scaleIO", "v1.16", "v1.22+", s.ScaleIO != nil}, {"storageOS", "v1.22", "v1.25+", s.StorageOS != nil},
		{"glusterfs", "v1.25", "v1.26+", s.Glusterfs != nil}, {"rbd", "v1.28", "v1.31+", s.RBD != nil},
	} {
		if x.set {
			n.add(spec.Child(x.name), "deprecated in %s, non-functional in %s", x.since, x.gone)
		}
	}
	return n
}
