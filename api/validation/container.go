// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func containers(s *corev1.PodSpec, volumes map[string]corev1.VolumeSource, names *unique, path *field.Path) (errs field.ErrorList) {
	at := path.Child("containers")
	if len(s.Containers) == 0 {
		return field.ErrorList{field.Required(at, "")}
	}
	for i := range s.Containers {
		c := &s.Containers[i]
		errs = append(errs, container(c, volumes, names, at.Index(i))...)
		errs = append(errs, lifecycle(c.Lifecycle, at.Index(i).Child("lifecycle"))...)
		errs = append(errs, probes(c, at.Index(i))...)
		if c.RestartPolicy != nil {
			errs = append(errs, oneOf(*c.RestartPolicy, at.Index(i).Child("restartPolicy"), corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyOnFailure, corev1.ContainerRestartPolicyNever)...)
		}
	}
	return append(errs, hostPortsUnique(s.Containers, at)...)
}

// initContainers may have probes and hooks only as sidecars.
func initContainers(s *corev1.PodSpec, volumes map[string]corev1.VolumeSource, names *unique, path *field.Path) (errs field.ErrorList) {
	at := path.Child("initContainers")
	for i := range s.InitContainers {
		c, p := &s.InitContainers[i], at.Index(i)
		errs = append(errs, container(c, volumes, names, p)...)
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			errs = append(errs, lifecycle(c.Lifecycle, p.Child("lifecycle"))...)
			errs = append(errs, probes(c, p)...)
			continue
		}
		if c.Lifecycle != nil {
			errs = append(errs, field.Forbidden(p.Child("lifecycle"), "may not be set for init containers without restartPolicy=Always"))
		}
		if c.LivenessProbe != nil {
			errs = append(errs, field.Forbidden(p.Child("livenessProbe"), "may not be set for init containers without restartPolicy=Always"))
		}
		if c.ReadinessProbe != nil {
			errs = append(errs, field.Forbidden(p.Child("readinessProbe"), "may not be set for init containers without restartPolicy=Always"))
		}
		if c.StartupProbe != nil {
			errs = append(errs, field.Forbidden(p.Child("startupProbe"), "may not be set for init containers without restartPolicy=Always"))
		}
	}
	return errs
}

func ephemeralContainers(s *corev1.PodSpec, volumes map[string]corev1.VolumeSource, names *unique, path *field.Path) (errs field.ErrorList) {
	at := path.Child("ephemeralContainers")
	for i := range s.EphemeralContainers {
		c := corev1.Container(s.EphemeralContainers[i].EphemeralContainerCommon)
		p := at.Index(i)
		errs = append(errs, container(&c, volumes, names, p)...)
		if t := s.EphemeralContainers[i].TargetContainerName; t != "" && !hasContainer(s, t) {
			errs = append(errs, field.NotFound(p.Child("targetContainerName"), t))
		}
		for _, f := range []named[bool]{
			{"ports", len(c.Ports) > 0}, {"livenessProbe", c.LivenessProbe != nil}, {"readinessProbe", c.ReadinessProbe != nil},
			{"startupProbe", c.StartupProbe != nil}, {"lifecycle", c.Lifecycle != nil}, {"resources", len(c.Resources.Limits)+len(c.Resources.Requests) > 0},
		} {
			if f.value {
				errs = append(errs, field.Forbidden(p.Child(f.name), "cannot be set for an Ephemeral Container"))
			}
		}
	}
	return errs
}

func hasContainer(s *corev1.PodSpec, name string) bool {
	for _, list := range [][]corev1.Container{s.Containers, s.InitContainers} {
		for _, c := range list {
			if c.Name == name {
				return true
			}
		}
	}
	return false
}

// container checks what all three kinds of container share.
func container(c *corev1.Container, volumes map[string]corev1.VolumeSource, names *unique, path *field.Path) (errs field.ErrorList) {
	if c.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	} else if problems := validation.IsDNS1123Label(c.Name); len(problems) > 0 {
		errs = append(errs, invalidAll(path.Child("name"), c.Name, problems)...)
	} else {
		errs = append(errs, names.add(c.Name, path.Child("name"))...)
	}
	if c.Image == "" {
		errs = append(errs, field.Required(path.Child("image"), ""))
	} else if strings.TrimSpace(c.Image) != c.Image {
		errs = append(errs, field.Invalid(path.Child("image"), c.Image, "must not have leading or trailing whitespace"))
	}
	errs = append(errs, oneOf(c.TerminationMessagePolicy, path.Child("terminationMessagePolicy"), corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)...)
	errs = append(errs, oneOf(c.ImagePullPolicy, path.Child("imagePullPolicy"), corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	errs = append(errs, ports(c.Ports, path.Child("ports"))...)
	errs = append(errs, env(c.Env, path.Child("env"))...)
	errs = append(errs, envFrom(c.EnvFrom, path.Child("envFrom"))...)
	errs = append(errs, mounts(c.VolumeMounts, volumes, path.Child("volumeMounts"))...)
	errs = append(errs, resources(&c.Resources, path.Child("resources"))...)
	errs = append(errs, security(c.SecurityContext, path.Child("securityContext"))...)
	return errs
}

func ports(list []corev1.ContainerPort, path *field.Path) (errs field.ErrorList) {
	names := &unique{}
	for i, p := range list {
		at := path.Index(i)
		if p.Name != "" {
			if problems := validation.IsValidPortName(p.Name); len(problems) > 0 {
				errs = append(errs, invalidAll(at.Child("name"), p.Name, problems)...)
			} else {
				errs = append(errs, names.add(p.Name, at.Child("name"))...)
			}
		}
		if p.ContainerPort == 0 {
			errs = append(errs, field.Required(at.Child("containerPort"), ""))
		} else {
			errs = append(errs, port(int(p.ContainerPort), at.Child("containerPort"))...)
		}
		if p.HostPort != 0 {
			errs = append(errs, port(int(p.HostPort), at.Child("hostPort"))...)
		}
		errs = append(errs, oneOf(p.Protocol, at.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		if p.HostIP != "" {
			errs = append(errs, ip(p.HostIP, at.Child("hostIP"))...)
		}
	}
	return errs
}

// hostPortsUnique: a port of the node leads to one container.
func hostPortsUnique(list []corev1.Container, path *field.Path) (errs field.ErrorList) {
	seen := map[string]bool{}
	for i, c := range list {
		for j, p := range c.Ports {
			if p.HostPort == 0 {
				continue
			}
			key := strings.Join([]string{string(p.Protocol), p.HostIP, itoa(p.HostPort)}, "/")
			if seen[key] {
				errs = append(errs, field.Duplicate(path.Index(i).Child("ports").Index(j).Child("hostPort"), key))
			}
			seen[key] = true
		}
	}
	return errs
}

func env(list []corev1.EnvVar, path *field.Path) (errs field.ErrorList) {
	for i, e := range list {
		at := path.Index(i)
		if e.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		} else {
			errs = append(errs, invalidAll(at.Child("name"), e.Name, validation.IsRelaxedEnvVarName(e.Name))...)
		}
		if e.ValueFrom != nil {
			errs = append(errs, envSource(e, at.Child("valueFrom"))...)
		}
	}
	return errs
}

func envSource(e corev1.EnvVar, path *field.Path) (errs field.ErrorList) {
	f, n := e.ValueFrom, 0
	if f.FieldRef != nil {
		n++
		errs = append(errs, fieldRef(f.FieldRef, envFields, path.Child("fieldRef"))...)
	}
	if f.ResourceFieldRef != nil {
		n++
		if f.ResourceFieldRef.Resource == "" {
			errs = append(errs, field.Required(path.Child("resourceFieldRef", "resource"), ""))
		}
	}
	if r := f.ConfigMapKeyRef; r != nil {
		n++
		errs = append(errs, keyRef(r.Name, r.Key, path.Child("configMapKeyRef"))...)
	}
	if r := f.SecretKeyRef; r != nil {
		n++
		errs = append(errs, keyRef(r.Name, r.Key, path.Child("secretKeyRef"))...)
	}
	if f.FileKeyRef != nil {
		n++
	}
	switch {
	case n == 0:
		errs = append(errs, field.Invalid(path, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case e.Value != "":
		errs = append(errs, field.Invalid(path, "", "may not be specified when `value` is not empty"))
	case n > 1:
		errs = append(errs, field.Invalid(path, "", "may not have more than one field specified at a time"))
	}
	return errs
}

func keyRef(name, key string, path *field.Path) (errs field.ErrorList) {
	if name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	if key == "" {
		return append(errs, field.Required(path.Child("key"), ""))
	}
	return append(errs, invalidAll(path.Child("key"), key, validation.IsConfigMapKey(key))...)
}

var (
	envFields    = []string{"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
	volumeFields = []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}
)

func fieldRef(r *corev1.ObjectFieldSelector, allowed []string, path *field.Path) field.ErrorList {
	if r.APIVersion == "" {
		return field.ErrorList{field.Required(path.Child("apiVersion"), "")}
	}
	if r.FieldPath == "" {
		return field.ErrorList{field.Required(path.Child("fieldPath"), "")}
	}
	if name, key, ok := strings.Cut(r.FieldPath, "['"); ok && strings.HasSuffix(key, "']") {
		key = strings.TrimSuffix(key, "']")
		switch name {
		case "metadata.annotations":
			return invalidAll(path, key, validation.IsQualifiedName(strings.ToLower(key)))
		case "metadata.labels":
			return invalidAll(path, key, validation.IsQualifiedName(key))
		}
		return field.ErrorList{field.Invalid(path, r.FieldPath, "does not support subscript")}
	}
	for _, a := range allowed {
		if r.FieldPath == a {
			return nil
		}
	}
	return field.ErrorList{field.NotSupported(path.Child("fieldPath"), r.FieldPath, allowed)}
}

func envFrom(list []corev1.EnvFromSource, path *field.Path) (errs field.ErrorList) {
	for i, e := range list {
		at, n := path.Index(i), 0
		if e.Prefix != "" {
			errs = append(errs, invalidAll(at.Child("prefix"), e.Prefix, validation.IsRelaxedEnvVarName(e.Prefix))...)
		}
		if e.ConfigMapRef != nil {
			n++
			if e.ConfigMapRef.Name == "" {
				errs = append(errs, field.Required(at.Child("configMapRef", "name"), ""))
			}
		}
		if e.SecretRef != nil {
			n++
			if e.SecretRef.Name == "" {
				errs = append(errs, field.Required(at.Child("secretRef", "name"), ""))
			}
		}
		if n == 0 {
			errs = append(errs, field.Invalid(at, "", "must specify one of: `configMapRef` or `secretRef`"))
		} else if n > 1 {
			errs = append(errs, field.Invalid(at, "", "may not have more than one field specified at a time"))
		}
	}
	return errs
}

func mounts(list []corev1.VolumeMount, volumes map[string]corev1.VolumeSource, path *field.Path) (errs field.ErrorList) {
	points := &unique{}
	for i, m := range list {
		at := path.Index(i)
		if m.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		}
		if _, ok := volumes[m.Name]; !ok {
			errs = append(errs, field.NotFound(at.Child("name"), m.Name))
		}
		if m.MountPath == "" {
			errs = append(errs, field.Required(at.Child("mountPath"), ""))
		}
		for range points.add(m.MountPath, at.Child("mountPath")) {
			errs = append(errs, field.Invalid(at.Child("mountPath"), m.MountPath, "must be unique"))
		}
		if m.SubPath != "" {
			errs = append(errs, insidePath(m.SubPath, at.Child("subPath"))...)
		}
		if m.SubPathExpr != "" {
			if m.SubPath != "" {
				errs = append(errs, field.Invalid(at.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
			}
			errs = append(errs, insidePath(m.SubPathExpr, at.Child("subPathExpr"))...)
		}
	}
	return errs
}

// insidePath refuses a path that leaves where it starts.
func insidePath(p string, path *field.Path) field.ErrorList {
	if filepath.IsAbs(p) {
		return field.ErrorList{field.Invalid(path, p, "must be a relative path")}
	}
	return noBacksteps(p, path)
}

func noBacksteps(p string, path *field.Path) field.ErrorList {
	for _, part := range strings.Split(filepath.ToSlash(p), "/") {
		if part == ".." {
			return field.ErrorList{field.Invalid(path, p, "must not contain '..'")}
		}
	}
	return nil
}
