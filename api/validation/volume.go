// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"path/filepath"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// volumeSet checks the volumes and returns them by name.
func volumeSet(list []corev1.Volume, path *field.Path) (map[string]corev1.VolumeSource, field.ErrorList) {
	out, names := map[string]corev1.VolumeSource{}, &unique{}
	var errs field.ErrorList
	for i, v := range list {
		at := path.Index(i)
		bad := volumeSource(&v.VolumeSource, at)
		if v.Name == "" {
			bad = append(bad, field.Required(at.Child("name"), ""))
		} else {
			bad = append(bad, invalidAll(at.Child("name"), v.Name, validation.IsDNS1123Label(v.Name))...)
		}
		bad = append(bad, names.add(v.Name, at.Child("name"))...)
		if len(bad) == 0 {
			out[v.Name] = v.VolumeSource
		}
		errs = append(errs, bad...)
	}
	return out, errs
}

// volumeSource checks that there is exactly one source, and that one.
func volumeSource(s *corev1.VolumeSource, path *field.Path) (errs field.ErrorList) {
	v, n := reflect.ValueOf(*s), 0
	for i := range v.NumField() {
		if v.Field(i).IsNil() {
			continue
		}
		if n++; n > 1 {
			name, _, _ := cutTag(v.Type().Field(i).Tag.Get("json"))
			errs = append(errs, field.Forbidden(path.Child(name), "may not specify more than 1 volume type"))
		}
	}
	if n == 0 {
		return field.ErrorList{field.Required(path, "must specify a volume type")}
	}
	switch {
	case s.HostPath != nil:
		errs = append(errs, hostPath(s.HostPath, path.Child("hostPath"))...)
	case s.EmptyDir != nil:
		if q := s.EmptyDir.SizeLimit; q != nil && q.Sign() < 0 {
			errs = append(errs, field.Forbidden(path.Child("emptyDir", "sizeLimit"), "SizeLimit field must be a valid resource quantity"))
		}
	case s.Secret != nil:
		if s.Secret.SecretName == "" {
			errs = append(errs, field.Required(path.Child("secret", "secretName"), ""))
		}
		errs = append(errs, mode(s.Secret.DefaultMode, path.Child("secret", "defaultMode"))...)
		errs = append(errs, keyPaths(s.Secret.Items, path.Child("secret", "items"))...)
	case s.ConfigMap != nil:
		if s.ConfigMap.Name == "" {
			errs = append(errs, field.Required(path.Child("configMap", "name"), ""))
		}
		errs = append(errs, mode(s.ConfigMap.DefaultMode, path.Child("configMap", "defaultMode"))...)
		errs = append(errs, keyPaths(s.ConfigMap.Items, path.Child("configMap", "items"))...)
	case s.DownwardAPI != nil:
		errs = append(errs, mode(s.DownwardAPI.DefaultMode, path.Child("downwardAPI", "defaultMode"))...)
		errs = append(errs, downward(s.DownwardAPI.Items, path.Child("downwardAPI"))...)
	case s.Projected != nil:
		errs = append(errs, mode(s.Projected.DefaultMode, path.Child("projected", "defaultMode"))...)
		errs = append(errs, projections(s.Projected.Sources, path.Child("projected", "sources"))...)
	case s.PersistentVolumeClaim != nil:
		if s.PersistentVolumeClaim.ClaimName == "" {
			errs = append(errs, field.Required(path.Child("persistentVolumeClaim", "claimName"), ""))
		}
	}
	return errs
}

func cutTag(tag string) (string, string, bool) {
	for i := range tag {
		if tag[i] == ',' {
			return tag[:i], tag[i+1:], true
		}
	}
	return tag, "", false
}

func hostPath(h *corev1.HostPathVolumeSource, path *field.Path) field.ErrorList {
	if h.Path == "" {
		return field.ErrorList{field.Required(path.Child("path"), "")}
	}
	errs := noBacksteps(h.Path, path.Child("path"))
	if h.Type != nil && *h.Type != corev1.HostPathUnset {
		errs = append(errs, oneOf(*h.Type, path.Child("type"), corev1.HostPathUnset, corev1.HostPathBlockDev, corev1.HostPathCharDev, corev1.HostPathDirectory,
			corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket)...)
	}
	return errs
}

func mode(m *int32, path *field.Path) field.ErrorList {
	if m != nil && (*m > 0o777 || *m < 0) {
		return field.ErrorList{field.Invalid(path, *m, "must be a number between 0 and 0777 (octal), both inclusive")}
	}
	return nil
}

func keyPaths(list []corev1.KeyToPath, path *field.Path) (errs field.ErrorList) {
	for i, k := range list {
		at := path.Index(i)
		if k.Key == "" {
			errs = append(errs, field.Required(at.Child("key"), ""))
		}
		if k.Path == "" {
			errs = append(errs, field.Required(at.Child("path"), ""))
		} else {
			errs = append(errs, localPath(k.Path, at.Child("path"))...)
		}
		errs = append(errs, mode(k.Mode, at.Child("mode"))...)
	}
	return errs
}

// localPath is a relative path without "..", and not one of the names that
// the atomic writer keeps for itself.
func localPath(p string, path *field.Path) field.ErrorList {
	if filepath.IsAbs(p) {
		return field.ErrorList{field.Invalid(path, p, "must be a relative path")}
	}
	if errs := noBacksteps(p, path); len(errs) > 0 {
		return errs
	}
	if len(p) >= 2 && p[:2] == ".." {
		return field.ErrorList{field.Invalid(path, p, "must not start with '..'")}
	}
	return nil
}

func downward(list []corev1.DownwardAPIVolumeFile, path *field.Path) (errs field.ErrorList) {
	for _, f := range list {
		if f.Path == "" {
			errs = append(errs, field.Required(path.Child("path"), ""))
		} else {
			errs = append(errs, localPath(f.Path, path.Child("path"))...)
		}
		switch {
		case f.FieldRef != nil && f.ResourceFieldRef != nil:
			errs = append(errs, field.Invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		case f.FieldRef != nil:
			errs = append(errs, fieldRef(f.FieldRef, volumeFields, path.Child("fieldRef"))...)
		case f.ResourceFieldRef != nil:
			if f.ResourceFieldRef.ContainerName == "" {
				errs = append(errs, field.Required(path.Child("resourceFieldRef", "containerName"), ""))
			}
			if f.ResourceFieldRef.Resource == "" {
				errs = append(errs, field.Required(path.Child("resourceFieldRef", "resource"), ""))
			}
		default:
			errs = append(errs, field.Required(path, "one of fieldRef and resourceFieldRef is required"))
		}
		errs = append(errs, mode(f.Mode, path.Child("mode"))...)
	}
	return errs
}

func projections(list []corev1.VolumeProjection, path *field.Path) (errs field.ErrorList) {
	paths := &unique{}
	claim := func(p string, at *field.Path) {
		for range paths.add(p, at) {
			errs = append(errs, field.Invalid(at, p, "conflicting duplicate paths"))
		}
	}
	for i, s := range list {
		at, n := path.Index(i), 0
		if s.Secret != nil {
			n++
			if s.Secret.Name == "" {
				errs = append(errs, field.Required(at.Child("secret", "name"), ""))
			}
			errs = append(errs, keyPaths(s.Secret.Items, at.Child("secret", "items"))...)
		}
		if s.ConfigMap != nil {
			n++
			if s.ConfigMap.Name == "" {
				errs = append(errs, field.Required(at.Child("configMap", "name"), ""))
			}
			errs = append(errs, keyPaths(s.ConfigMap.Items, at.Child("configMap", "items"))...)
		}
		if s.DownwardAPI != nil {
			n++
			errs = append(errs, downward(s.DownwardAPI.Items, at.Child("downwardAPI"))...)
		}
		if t := s.ServiceAccountToken; t != nil {
			n++
			if t.Path == "" {
				errs = append(errs, field.Required(at.Child("serviceAccountToken", "path"), ""))
			} else {
				claim(t.Path, at.Child("serviceAccountToken", "path"))
				errs = append(errs, localPath(t.Path, at.Child("serviceAccountToken", "path"))...)
			}
			if e := t.ExpirationSeconds; e != nil && *e < 600 {
				errs = append(errs, field.Invalid(at.Child("serviceAccountToken", "expirationSeconds"), *e, "may not specify a duration less than 10 minutes"))
			}
		}
		if s.ClusterTrustBundle != nil || s.PodCertificate != nil {
			n++
		}
		if n == 0 {
			errs = append(errs, field.Required(at, "must specify one of: `secret`, `configMap`, `downwardAPI`, `serviceAccountToken`, `clusterTrustBundle` or `podCertificate`"))
		} else if n > 1 {
			errs = append(errs, field.Forbidden(at, "may not specify more than 1 volume type"))
		}
	}
	return errs
}
