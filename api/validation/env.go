// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func env(list []corev1.EnvVar, at *field.Path) (errs field.ErrorList) {
	for i, e := range list {
		errs = append(errs, requiredAnd(e.Name, at.Index(i).Child("name"), validation.IsRelaxedEnvVarName)...)
		if e.ValueFrom != nil {
			errs = append(errs, envSource(e, at.Index(i).Child("valueFrom"))...)
		}
	}
	return errs
}

func envSource(e corev1.EnvVar, at *field.Path) (errs field.ErrorList) {
	f, n := e.ValueFrom, 0
	if f.FieldRef != nil {
		n++
		errs = append(errs, fieldRef(f.FieldRef, envFields, at.Child("fieldRef"))...)
	}
	if f.ResourceFieldRef != nil {
		n++
		errs = append(errs, resourceRef(f.ResourceFieldRef, false, at.Child("resourceFieldRef"))...)
	}
	if r := f.ConfigMapKeyRef; r != nil {
		n++
		errs = append(errs, keyRef(r.Name, r.Key, at.Child("configMapKeyRef"))...)
	}
	if r := f.SecretKeyRef; r != nil {
		n++
		errs = append(errs, keyRef(r.Name, r.Key, at.Child("secretKeyRef"))...)
	}
	if r := f.FileKeyRef; r != nil {
		n++
		errs = append(errs, fileRef(r, at.Child("fileKeyRef"))...)
	}
	switch {
	case n == 0:
		errs = append(errs, field.Invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case e.Value != "":
		errs = append(errs, field.Invalid(at, "", "may not be specified when `value` is not empty"))
	case n > 1:
		errs = append(errs, field.Invalid(at, "", "may not have more than one field specified at a time"))
	}
	return errs
}

func keyRef(name, key string, at *field.Path) field.ErrorList {
	errs := invalidAll(at.Child("name"), name, apivalidation.NameIsDNSSubdomain(name, false))
	return append(errs, requiredAnd(key, at.Child("key"), validation.IsConfigMapKey)...)
}

func fileRef(r *corev1.FileKeySelector, at *field.Path) field.ErrorList {
	errs := requiredAnd(r.Key, at.Child("key"), validation.IsRelaxedEnvVarName)
	errs = append(errs, requiredAnd(r.VolumeName, at.Child("volumeName"), validation.IsDNS1123Label)...)
	errs = append(errs, required(r.Path, at.Child("path"))...)
	return append(errs, noBacksteps(r.Path, at.Child("path"))...)
}

// fileKeyVolumes: a variable read from a file comes from an emptyDir.
func fileKeyVolumes(s *corev1.PodSpec, at *field.Path) (errs field.ErrorList) {
	volumes := map[string]*corev1.VolumeSource{}
	for i := range s.Volumes {
		volumes[s.Volumes[i].Name] = &s.Volumes[i].VolumeSource
	}
	eachContainer(s, at, func(k *corev1.Container, at *field.Path) {
		for i, e := range k.Env {
			if e.ValueFrom == nil || e.ValueFrom.FileKeyRef == nil {
				continue
			}
			name, p := e.ValueFrom.FileKeyRef.VolumeName, at.Child("env").Index(i).Child("valueFrom", "fileKeyRef", "volumeName")
			if v, ok := volumes[name]; !ok {
				errs = append(errs, field.NotFound(p, name))
			} else if v.EmptyDir == nil {
				errs = append(errs, field.Invalid(p, name, "referenced volume must be of type emptyDir"))
			}
		}
	})
	return errs
}

// The fields of a Pod that its containers can be told, in a variable and in a
// file; and all that the API has a name for.
var (
	envFields    = []string{"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
	volumeFields = []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}
	knownFields  = append([]string{"metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase", "spec.host"}, envFields...)
)

func fieldRef(r *corev1.ObjectFieldSelector, allowed []string, at *field.Path) field.ErrorList {
	if r.APIVersion == "" {
		return field.ErrorList{field.Required(at.Child("apiVersion"), "")}
	}
	if r.FieldPath == "" {
		return field.ErrorList{field.Required(at.Child("fieldPath"), "")}
	}
	bad := func(why, what string) field.ErrorList {
		return field.ErrorList{field.Invalid(at.Child("fieldPath"), r.FieldPath, fmt.Sprintf("error converting fieldPath: %s: %s", why, what))}
	}
	if r.APIVersion != "v1" {
		return bad("unsupported pod version", r.APIVersion)
	}
	if name, key, ok := subscript(r.FieldPath); ok {
		switch name {
		case "metadata.annotations":
			key = strings.ToLower(key)
			return invalidAll(at, key, validation.IsQualifiedName(key))
		case "metadata.labels":
			return invalidAll(at, key, validation.IsQualifiedName(key))
		}
		return bad("field label does not support subscript", r.FieldPath)
	}
	if !slices.Contains(knownFields, r.FieldPath) {
		return bad("field label not supported", r.FieldPath)
	}
	name := r.FieldPath
	if name == "spec.host" {
		name = "spec.nodeName" // what it was called once
	}
	return supported(name, at.Child("fieldPath"), allowed...)
}

// subscript splits name['key'].
func subscript(p string) (name, key string, ok bool) {
	name, rest, found := strings.Cut(p, "['")
	key, closed := strings.CutSuffix(rest, "']")
	return name, key, found && closed && name != ""
}

// The resources of a container that it can be told.
var resourceFields = []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"}

func resourceRef(r *corev1.ResourceFieldSelector, needContainer bool, at *field.Path) (errs field.ErrorList) {
	_, name, _ := strings.Cut(r.Resource, ".")
	pages := strings.HasPrefix(r.Resource, "requests.hugepages-") || strings.HasPrefix(r.Resource, "limits.hugepages-")
	known := slices.Contains(resourceFields, r.Resource)
	switch {
	case needContainer && r.ContainerName == "":
		errs = append(errs, field.Required(at.Child("containerName"), ""))
	case r.Resource == "":
		errs = append(errs, field.Required(at.Child("resource"), ""))
	case !known && !pages:
		errs = append(errs, field.NotSupported(at.Child("resource"), r.Resource, resourceFields))
	}
	if r.Divisor.IsZero() || !known && !pages {
		return errs
	}
	units, what := []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}, name
	switch {
	case name == "cpu":
		units = []string{"1m", "1"}
	case name == "ephemeral-storage":
		what = "local ephemeral storage"
	case pages:
		what = "hugepages"
	}
	if !slices.Contains(units, r.Divisor.String()) {
		list := strings.Join(units, ", ")
		if name == "cpu" {
			list = strings.Join(units, " and ")
		}
		errs = append(errs, field.Invalid(at.Child("divisor"), r.Resource, fmt.Sprintf("only divisor's values %s are supported with the %s resource", list, what)))
	}
	return errs
}

func envFrom(list []corev1.EnvFromSource, at *field.Path) (errs field.ErrorList) {
	prefixName := func(name string) []string { return apivalidation.NameIsDNSSubdomain(name, true) }
	for i, e := range list {
		p, n := at.Index(i), 0
		errs = append(errs, ifSet(e.Prefix, p.Child("prefix"), validation.IsRelaxedEnvVarName)...)
		if e.ConfigMapRef != nil {
			n++
			errs = append(errs, requiredAnd(e.ConfigMapRef.Name, p.Child("configMapRef", "name"), prefixName)...)
		}
		if e.SecretRef != nil {
			n++
			errs = append(errs, requiredAnd(e.SecretRef.Name, p.Child("secretRef", "name"), prefixName)...)
		}
		if n == 0 {
			errs = append(errs, field.Invalid(at, "", "must specify one of: `configMapRef` or `secretRef`"))
		} else if n > 1 {
			errs = append(errs, field.Invalid(at, "", "may not have more than one field specified at a time"))
		}
	}
	return errs
}
