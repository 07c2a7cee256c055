// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// volumeSet checks the volumes and returns the good ones by name.
func (c *context) volumeSet(at *field.Path) (map[string]corev1.VolumeSource, field.ErrorList) {
	out, claims := map[string]corev1.VolumeSource{}, map[string]bool{}
	var errs field.ErrorList
	for _, v := range c.spec.Volumes {
		if v.Ephemeral != nil && c.pod != nil && c.pod.Name != "" {
			claims[c.pod.Name+"-"+v.Name] = true
		}
	}
	for i, v := range c.spec.Volumes {
		p := at.Index(i)
		bad := c.volumeSource(&v, p)
		bad = append(bad, requiredAnd(v.Name, p.Child("name"), validation.IsDNS1123Label)...)
		if _, again := out[v.Name]; again {
			bad = append(bad, field.Duplicate(p.Child("name"), v.Name))
		}
		if len(bad) == 0 {
			out[v.Name] = v.VolumeSource
		}
		errs = append(errs, bad...)
		if k := v.PersistentVolumeClaim; k != nil && claims[k.ClaimName] {
			errs = append(errs, field.Invalid(p.Child("persistentVolumeClaim", "claimName"), k.ClaimName, "must not reference a PVC that gets created for an ephemeral volume"))
		}
	}
	return out, errs
}

// source is one kind of volume: its name, whether it is used, and its check.
type source struct {
	name  string
	set   bool
	check func(at *field.Path) field.ErrorList
}

// volumeSource checks that there is exactly one source, and that one.
func (c *context) volumeSource(v *corev1.Volume, at *field.Path) (errs field.ErrorList) {
	used := false
	for _, s := range c.sources(v, at) {
		switch {
		case !s.set:
		case used:
			errs = append(errs, field.Forbidden(at.Child(misspelt(s.name)), "may not specify more than 1 volume type"))
		default:
			used = true
			errs = append(errs, s.check(at.Child(s.name))...)
		}
		if i := v.ISCSI; s.name == "iscsi" && i != nil && i.InitiatorName != nil && len(v.Name+":"+i.TargetPortal) > 64 {
			errs = append(errs, field.Invalid(at.Child("name"), v.Name, "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified."))
		}
	}
	if !used {
		errs = append(errs, field.Required(at, "must specify a volume type"))
	}
	return errs
}

// misspelt is how Kubernetes calls two fields when they are one too many.
func misspelt(name string) string {
	switch name {
	case "downwardAPI":
		return "downwarAPI"
	case "cephfs":
		return "cephFS"
	}
	return name
}

// sources lists the kinds of volumes in the order in which they are looked at.
func (c *context) sources(v *corev1.Volume, volume *field.Path) []source {
	type path = *field.Path
	type list = field.ErrorList
	return []source{
		{"emptyDir", v.EmptyDir != nil, func(at path) list { return emptyDir(v.EmptyDir, at) }},
		{"hostPath", v.HostPath != nil, func(at path) list { return hostPath(v.HostPath, at) }},
		{"gitRepo", v.GitRepo != nil, func(at path) list { return gitRepo(v.GitRepo, at) }},
		{"gcePersistentDisk", v.GCEPersistentDisk != nil, func(path) list {
			return disk("pdName", v.GCEPersistentDisk.PDName, v.GCEPersistentDisk.Partition, volume.Child("persistentDisk"))
		}},
		{"awsElasticBlockStore", v.AWSElasticBlockStore != nil, func(at path) list {
			return disk("volumeID", v.AWSElasticBlockStore.VolumeID, v.AWSElasticBlockStore.Partition, at)
		}},
		{"secret", v.Secret != nil, func(at path) list {
			errs := required(v.Secret.SecretName, at.Child("secretName"))
			errs = append(errs, mode(v.Secret.DefaultMode, at.Child("defaultMode"))...)
			return append(errs, keyPaths(v.Secret.Items, at.Child("items"))...)
		}},
		{"nfs", v.NFS != nil, func(at path) list { return nfs(v.NFS, at) }},
		{"iscsi", v.ISCSI != nil, func(at path) list { return iscsi(v.ISCSI, at) }},
		{"glusterfs", v.Glusterfs != nil, func(at path) list {
			return all(at, need{"endpoints", v.Glusterfs.EndpointsName}, need{"path", v.Glusterfs.Path})
		}},
		{"flocker", v.Flocker != nil, func(at path) list { return flocker(v.Flocker, at) }},
		{"persistentVolumeClaim", v.PersistentVolumeClaim != nil, func(at path) list {
			return all(at, need{"claimName", v.PersistentVolumeClaim.ClaimName})
		}},
		{"rbd", v.RBD != nil, func(at path) list {
			return append(monitors(v.RBD.CephMonitors, at), required(v.RBD.RBDImage, at.Child("image"))...)
		}},
		{"cinder", v.Cinder != nil, func(at path) list {
			return append(all(at, need{"volumeID", v.Cinder.VolumeID}), secretRef(v.Cinder.SecretRef, at)...)
		}},
		{"cephfs", v.CephFS != nil, func(at path) list { return monitors(v.CephFS.Monitors, at) }},
		{"quobyte", v.Quobyte != nil, func(at path) list { return quobyte(v.Quobyte, at) }},
		{"downwardAPI", v.DownwardAPI != nil, func(at path) list {
			errs := mode(v.DownwardAPI.DefaultMode, at.Child("defaultMode"))
			for _, f := range v.DownwardAPI.Items {
				errs = append(errs, downwardFile(f, at)...)
			}
			return errs
		}},
		{"fc", v.FC != nil, func(at path) list { return fibreChannel(v.FC, at) }},
		{"flexVolume", v.FlexVolume != nil, func(at path) list { return flexVolume(v.FlexVolume, at) }},
		{"configMap", v.ConfigMap != nil, func(at path) list {
			errs := required(v.ConfigMap.Name, at.Child("name"))
			errs = append(errs, mode(v.ConfigMap.DefaultMode, at.Child("defaultMode"))...)
			return append(errs, keyPaths(v.ConfigMap.Items, at.Child("items"))...)
		}},
		{"azureFile", v.AzureFile != nil, func(at path) list {
			return all(at, need{"secretName", v.AzureFile.SecretName}, need{"shareName", v.AzureFile.ShareName})
		}},
		{"vsphereVolume", v.VsphereVolume != nil, func(at path) list { return all(at, need{"volumePath", v.VsphereVolume.VolumePath}) }},
		{"photonPersistentDisk", v.PhotonPersistentDisk != nil, func(at path) list { return all(at, need{"pdID", v.PhotonPersistentDisk.PdID}) }},
		{"portworxVolume", v.PortworxVolume != nil, func(at path) list { return all(at, need{"volumeID", v.PortworxVolume.VolumeID}) }},
		{"azureDisk", v.AzureDisk != nil, func(at path) list { return azureDisk(v.AzureDisk, at) }},
		{"storageos", v.StorageOS != nil, func(at path) list { return storageOS(v.StorageOS, at) }},
		{"projected", v.Projected != nil, func(at path) list { return c.projected(v.Projected, at) }},
		{"scaleIO", v.ScaleIO != nil, func(at path) list {
			return all(at, need{"gateway", v.ScaleIO.Gateway}, need{"system", v.ScaleIO.System}, need{"volumeName", v.ScaleIO.VolumeName})
		}},
		{"csi", v.CSI != nil, func(at path) list { return csi(v.CSI, at) }},
		{"ephemeral", v.Ephemeral != nil, func(path) list { return c.ephemeralVolume(v, volume) }},
		{"image", v.Image != nil, func(at path) list { return c.imageVolume(v.Image, at) }},
	}
}

func emptyDir(e *corev1.EmptyDirVolumeSource, at *field.Path) (errs field.ErrorList) {
	if q := e.SizeLimit; q != nil && q.Sign() < 0 {
		errs = append(errs, field.Forbidden(at.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity"))
	}
	return errs
}

func hostPath(h *corev1.HostPathVolumeSource, at *field.Path) field.ErrorList {
	if h.Path == "" {
		return field.ErrorList{field.Required(at.Child("path"), "")}
	}
	errs := noBacksteps(h.Path, at.Child("path"))
	return append(errs, supportedIfSet(h.Type, at.Child("type"), corev1.HostPathUnset, corev1.HostPathBlockDev, corev1.HostPathCharDev, corev1.HostPathDirectory,
		corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket)...)
}

func keyPaths(list []corev1.KeyToPath, at *field.Path) (errs field.ErrorList) {
	for i, k := range list {
		errs = append(errs, keyPath(k, at.Index(i))...)
	}
	return errs
}

func keyPath(k corev1.KeyToPath, at *field.Path) field.ErrorList {
	errs := required(k.Key, at.Child("key"))
	errs = append(errs, required(k.Path, at.Child("path"))...)
	errs = append(errs, unreservedPath(k.Path, at.Child("path"))...)
	return append(errs, mode(k.Mode, at.Child("mode"))...)
}

func downwardFile(f corev1.DownwardAPIVolumeFile, at *field.Path) field.ErrorList {
	errs := required(f.Path, at.Child("path"))
	errs = append(errs, unreservedPath(f.Path, at.Child("path"))...)
	switch {
	case f.FieldRef != nil:
		errs = append(errs, fieldRef(f.FieldRef, volumeFields, at.Child("fieldRef"))...)
		if f.ResourceFieldRef != nil {
			errs = append(errs, field.Invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		}
	case f.ResourceFieldRef != nil:
		errs = append(errs, resourceRef(f.ResourceFieldRef, true, at.Child("resourceFieldRef"))...)
	default:
		errs = append(errs, field.Required(at, "one of fieldRef and resourceFieldRef is required"))
	}
	return append(errs, mode(f.Mode, at.Child("mode"))...)
}

// ephemeralVolume is a claim of its own, made for the Pod.
func (c *context) ephemeralVolume(v *corev1.Volume, at *field.Path) (errs field.ErrorList) {
	p := at.Child("ephemeral", "volumeClaimTemplate")
	if t := v.Ephemeral.VolumeClaimTemplate; t == nil {
		errs = append(errs, field.Required(p, ""))
	} else {
		errs = append(errs, claimTemplate(t, p)...)
	}
	if c.pod != nil && c.pod.Name != "" && v.Name != "" {
		name := c.pod.Name + "-" + v.Name
		for _, problem := range apivalidation.NameIsDNSSubdomain(name, false) {
			errs = append(errs, field.Invalid(at.Child("name"), v.Name, fmt.Sprintf("PVC name %q: %v", name, problem)))
		}
	}
	return errs
}

func (c *context) imageVolume(i *corev1.ImageVolumeSource, at *field.Path) (errs field.ErrorList) {
	if c.old == nil || !emptyImageVolume(c.old) {
		errs = append(errs, required(i.Reference, at.Child("reference"))...)
	}
	return append(errs, pullPolicy(i.PullPolicy, at.Child("pullPolicy"))...)
}

func emptyImageVolume(s *corev1.PodSpec) bool {
	for _, v := range s.Volumes {
		if v.Image != nil && v.Image.Reference == "" {
			return true
		}
	}
	return false
}
