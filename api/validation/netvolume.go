// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"net"
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// need is a field that must not be empty.
type need struct{ name, value string }

func all(at *field.Path, list ...need) (errs field.ErrorList) {
	for _, n := range list {
		errs = append(errs, required(n.value, at.Child(n.name))...)
	}
	return errs
}

func disk(name, id string, partition int32, at *field.Path) field.ErrorList {
	errs := required(id, at.Child(name))
	if partition < 0 || partition > 255 {
		errs = append(errs, field.Invalid(at.Child("partition"), partition, validation.InclusiveRangeError(1, 255)))
	}
	return errs
}

func monitors(list []string, at *field.Path) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(at.Child("monitors"), "")}
	}
	return nil
}

func secretRef(r *corev1.LocalObjectReference, at *field.Path) field.ErrorList {
	if r == nil {
		return nil
	}
	return required(r.Name, at.Child("secretRef", "name"))
}

func gitRepo(g *corev1.GitRepoVolumeSource, at *field.Path) field.ErrorList {
	return append(required(g.Repository, at.Child("repository")), localPath(g.Directory, at.Child("directory"))...)
}

func nfs(n *corev1.NFSVolumeSource, at *field.Path) field.ErrorList {
	errs := all(at, need{"server", n.Server}, need{"path", n.Path})
	if !path.IsAbs(n.Path) {
		errs = append(errs, field.Invalid(at.Child("path"), n.Path, "must be an absolute path"))
	}
	return errs
}

// The three ways to name an iSCSI node (RFC 3720).
var iscsiNames = map[string]string{
	"iqn": `iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`,
	"eui": `^eui.[[:alnum:]]{16}$`,
	"naa": `^naa.[[:alnum:]]{32}$`,
}

func iscsiName(name string, at *field.Path) field.ErrorList {
	for prefix, format := range iscsiNames {
		if strings.HasPrefix(name, prefix) {
			if matches(format, name) {
				return nil
			}
			return field.ErrorList{field.Invalid(at, name, "must be valid format")}
		}
	}
	return field.ErrorList{field.Invalid(at, name, "must be valid format starting with iqn, eui, or naa")}
}

func iscsi(i *corev1.ISCSIVolumeSource, at *field.Path) field.ErrorList {
	errs := required(i.TargetPortal, at.Child("targetPortal"))
	if i.IQN == "" {
		errs = append(errs, field.Required(at.Child("iqn"), ""))
	} else {
		errs = append(errs, iscsiName(i.IQN, at.Child("iqn"))...)
	}
	if i.Lun < 0 || i.Lun > 255 {
		errs = append(errs, field.Invalid(at.Child("lun"), i.Lun, validation.InclusiveRangeError(0, 255)))
	}
	if (i.DiscoveryCHAPAuth || i.SessionCHAPAuth) && i.SecretRef == nil {
		errs = append(errs, field.Required(at.Child("secretRef"), ""))
	}
	if i.InitiatorName != nil {
		errs = append(errs, iscsiName(*i.InitiatorName, at.Child("initiatorname"))...)
	}
	return errs
}

func flocker(f *corev1.FlockerVolumeSource, at *field.Path) (errs field.ErrorList) {
	if f.DatasetName == "" && f.DatasetUUID == "" {
		errs = append(errs, field.Required(at, "one of datasetName and datasetUUID is required"))
	}
	if f.DatasetName != "" && f.DatasetUUID != "" {
		errs = append(errs, field.Invalid(at, "resource", "datasetName and datasetUUID can not be specified simultaneously"))
	}
	if strings.Contains(f.DatasetName, "/") {
		errs = append(errs, field.Invalid(at.Child("datasetName"), f.DatasetName, "must not contain '/'"))
	}
	return errs
}

func quobyte(q *corev1.QuobyteVolumeSource, at *field.Path) (errs field.ErrorList) {
	const pairs = "must be a host:port pair or multiple pairs separated by commas"
	switch {
	case q.Registry == "":
		errs = append(errs, field.Required(at.Child("registry"), pairs))
	case len(q.Tenant) >= 65:
		errs = append(errs, field.Required(at.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters"))
	default:
		for _, pair := range strings.Split(q.Registry, ",") {
			if _, _, err := net.SplitHostPort(pair); err != nil {
				errs = append(errs, field.Invalid(at.Child("registry"), q.Registry, pairs))
			}
		}
	}
	return append(errs, required(q.Volume, at.Child("volume"))...)
}

func fibreChannel(f *corev1.FCVolumeSource, at *field.Path) (errs field.ErrorList) {
	names := at.Child("targetWWNs")
	if len(f.TargetWWNs) == 0 && len(f.WWIDs) == 0 {
		errs = append(errs, field.Required(names, "must specify either targetWWNs or wwids, but not both"))
	}
	if len(f.TargetWWNs) > 0 && len(f.WWIDs) > 0 {
		errs = append(errs, field.Invalid(names, f.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously"))
	}
	switch {
	case len(f.TargetWWNs) == 0:
	case f.Lun == nil:
		errs = append(errs, field.Required(at.Child("lun"), "lun is required if targetWWNs is specified"))
	case *f.Lun < 0 || *f.Lun > 255:
		errs = append(errs, field.Invalid(at.Child("lun"), f.Lun, validation.InclusiveRangeError(0, 255)))
	}
	return errs
}

func flexVolume(f *corev1.FlexVolumeSource, at *field.Path) field.ErrorList {
	errs := required(f.Driver, at.Child("driver"))
	for _, k := range sorted(f.Options) {
		domain, _, _ := strings.Cut(k, "/")
		domain = "." + strings.ToLower(domain)
		if strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io") {
			errs = append(errs, field.Invalid(at.Child("options").Key(k), k, "kubernetes.io and k8s.io namespaces are reserved"))
		}
	}
	return errs
}

func azureDisk(d *corev1.AzureDiskVolumeSource, at *field.Path) field.ErrorList {
	errs := all(at, need{"diskName", d.DiskName}, need{"diskURI", d.DataDiskURI})
	errs = append(errs, supportedIfSet(d.CachingMode, at.Child("cachingMode"), corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)...)
	errs = append(errs, supportedIfSet(d.Kind, at.Child("kind"), corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk, corev1.AzureSharedBlobDisk)...)
	if d.Kind == nil {
		return errs
	}
	if *d.Kind == corev1.AzureManagedDisk && !strings.HasPrefix(d.DataDiskURI, "/subscriptions/") {
		errs = append(errs, field.NotSupported(at.Child("diskURI"), d.DataDiskURI, []string{"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"}))
	}
	if *d.Kind != corev1.AzureManagedDisk && !strings.HasPrefix(d.DataDiskURI, "https://") {
		errs = append(errs, field.NotSupported(at.Child("diskURI"), d.DataDiskURI, []string{"https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"}))
	}
	return errs
}

func storageOS(s *corev1.StorageOSVolumeSource, at *field.Path) field.ErrorList {
	errs := requiredAnd(s.VolumeName, at.Child("volumeName"), validation.IsDNS1123Label)
	errs = append(errs, ifSet(s.VolumeNamespace, at.Child("volumeNamespace"), validation.IsDNS1123Label)...)
	return append(errs, secretRef(s.SecretRef, at)...)
}

func csi(s *corev1.CSIVolumeSource, at *field.Path) field.ErrorList {
	driver := at.Child("driver")
	errs := required(s.Driver, driver)
	if len(s.Driver) > 63 {
		errs = append(errs, field.TooLong(driver, "" /* unused */, 63))
	}
	if s.Driver != "" {
		errs = append(errs, invalidAll(driver, s.Driver, validation.IsDNS1123Subdomain(strings.ToLower(s.Driver)))...)
	}
	if r := s.NodePublishSecretRef; r != nil {
		if r.Name == "" {
			return append(errs, field.Required(at.Child("nodePublishSecretRef", "name"), ""))
		}
		errs = append(errs, invalidAll(at.Child("name"), r.Name, apivalidation.NameIsDNSSubdomain(r.Name, false))...)
	}
	return errs
}
