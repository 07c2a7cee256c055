// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func sidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func (c *context) containers(at *field.Path) (errs field.ErrorList) {
	if len(c.spec.Containers) == 0 {
		return field.ErrorList{field.Required(at, "")}
	}
	names, taken := &unique{}, &unique{}
	for i := range c.spec.Containers {
		k, p := &c.spec.Containers[i], at.Index(i)
		errs = append(errs, c.container(k, p)...)
		errs = append(errs, names.add(k.Name, p.Child("name"))...)
		errs = append(errs, c.lifecycle(k.Lifecycle, p.Child("lifecycle"))...)
		errs = append(errs, c.probes(k, p)...)
		errs = append(errs, restartRules(k, p)...)
	}
	for i := range c.spec.Containers {
		errs = append(errs, hostPorts(&c.spec.Containers[i], taken, at.Index(i))...)
	}
	return errs
}

// initContainers may have probes and hooks only as sidecars.
func (c *context) initContainers(at *field.Path) (errs field.ErrorList) {
	const sidecarsOnly = "may not be set for init containers without restartPolicy=Always"
	names := c.takenNames(c.spec.Containers)
	for i := range c.spec.InitContainers {
		k, p := &c.spec.InitContainers[i], at.Index(i)
		errs = append(errs, c.container(k, p)...)
		errs = append(errs, restartRules(k, p)...)
		if k.Name != "" || names.seen.Has("") {
			errs = append(errs, names.add(k.Name, p.Child("name"))...)
		}
		// One init container runs at a time: its ports collide with its own only.
		errs = append(errs, hostPorts(k, &unique{}, at.Index(0))...)
		if sidecar(k) {
			errs = append(errs, c.lifecycle(k.Lifecycle, p.Child("lifecycle"))...)
			errs = append(errs, c.probes(k, p)...)
			continue
		}
		for _, f := range []struct {
			name string
			set  bool
		}{{"lifecycle", k.Lifecycle != nil}, {"livenessProbe", k.LivenessProbe != nil}, {"readinessProbe", k.ReadinessProbe != nil}, {"startupProbe", k.StartupProbe != nil}} {
			if f.set {
				errs = append(errs, field.Forbidden(p.Child(f.name), sidecarsOnly))
			}
		}
		if c.old != nil && restartingInit(c.old) {
			continue
		}
		for j, r := range k.ResizePolicy {
			if r.RestartPolicy == corev1.RestartContainer {
				errs = append(errs, field.Invalid(p.Child("resizePolicy").Index(j).Child("restartPolicy"), r.RestartPolicy, "must not be set to 'RestartContainer' for non-sidecar initContainers"))
			}
		}
	}
	return errs
}

func restartingInit(s *corev1.PodSpec) bool {
	for i := range s.InitContainers {
		for _, r := range s.InitContainers[i].ResizePolicy {
			if r.RestartPolicy == corev1.RestartContainer && !sidecar(&s.InitContainers[i]) {
				return true
			}
		}
	}
	return false
}

func (c *context) takenNames(lists ...[]corev1.Container) *unique {
	names := &unique{}
	names.again("\x00") // makes the set
	for _, list := range lists {
		for _, k := range list {
			names.again(k.Name)
		}
	}
	return names
}

// ephemeral are the fields that an ephemeral container may have.
var ephemeral = map[string]bool{
	"Name": true, "Image": true, "Command": true, "Args": true, "WorkingDir": true, "EnvFrom": true, "Env": true,
	"VolumeMounts": true, "VolumeDevices": true, "TerminationMessagePath": true, "TerminationMessagePolicy": true,
	"ImagePullPolicy": true, "SecurityContext": true, "Stdin": true, "StdinOnce": true, "TTY": true,
}

func (c *context) ephemeralContainers(at *field.Path) (errs field.ErrorList) {
	const refused = "cannot be set for an Ephemeral Container"
	others := c.takenNames(c.spec.Containers, c.spec.InitContainers)
	names := c.takenNames(c.spec.Containers, c.spec.InitContainers)
	for i := range c.spec.EphemeralContainers {
		e, p := &c.spec.EphemeralContainers[i], at.Index(i)
		k := corev1.Container(e.EphemeralContainerCommon)
		errs = append(errs, c.container(&k, p)...)
		errs = append(errs, trimmedImage(&k, p)...)
		errs = append(errs, names.add(e.Name, p.Child("name"))...)
		if t := e.TargetContainerName; t != "" && !others.seen.Has(t) {
			errs = append(errs, field.NotFound(p.Child("targetContainerName"), t))
		}
		errs = append(errs, onlyFields(e.EphemeralContainerCommon, ephemeral, refused, p)...)
		for j, m := range e.VolumeMounts {
			if m.SubPath != "" {
				errs = append(errs, field.Forbidden(p.Child("volumeMounts").Index(j).Child("subPath"), refused))
			}
			if m.SubPathExpr != "" {
				errs = append(errs, field.Forbidden(p.Child("volumeMounts").Index(j).Child("subPathExpr"), refused))
			}
		}
	}
	return errs
}

// onlyFields refuses fields that are set and not allowed, in their order.
func onlyFields(object any, allowed map[string]bool, text string, at *field.Path) (errs field.ErrorList) {
	v := reflect.ValueOf(object)
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if !allowed[name] && !reflect.DeepEqual(v.Field(i).Interface(), reflect.Zero(v.Field(i).Type()).Interface()) {
			errs = append(errs, field.Forbidden(at.Child(strings.ToLower(name[:1])+name[1:]), text))
		}
	}
	return errs
}

// container checks what all three kinds of container share.
func (c *context) container(k *corev1.Container, at *field.Path) (errs field.ErrorList) {
	errs = append(errs, requiredAnd(k.Name, at.Child("name"), validation.IsDNS1123Label)...)
	errs = append(errs, required(k.Image, at.Child("image"))...)
	errs = append(errs, oneOf(k.TerminationMessagePolicy, at.Child("terminationMessagePolicy"), corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)...)
	errs = append(errs, ports(k.Ports, at.Child("ports"))...)
	errs = append(errs, env(k.Env, at.Child("env"))...)
	errs = append(errs, envFrom(k.EnvFrom, at.Child("envFrom"))...)
	errs = append(errs, c.mounts(k, at.Child("volumeMounts"))...)
	errs = append(errs, c.devices(k, at.Child("volumeDevices"))...)
	errs = append(errs, pullPolicy(k.ImagePullPolicy, at.Child("imagePullPolicy"))...)
	errs = append(errs, c.containerResources(&k.Resources, at.Child("resources"))...)
	errs = append(errs, c.resizePolicy(k.ResizePolicy, at.Child("resizePolicy"))...)
	return append(errs, c.security(k.SecurityContext, at.Child("securityContext"))...)
}

// trimmedImage is asked of Pods, not of templates.
func trimmedImage(k *corev1.Container, at *field.Path) field.ErrorList {
	if strings.TrimSpace(k.Image) != k.Image {
		return field.ErrorList{field.Invalid(at.Child("image"), k.Image, "must not have leading or trailing whitespace")}
	}
	return nil
}

func pullPolicy(p corev1.PullPolicy, at *field.Path) field.ErrorList {
	return oneOf(p, at, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
}

func (c *context) resizePolicy(list []corev1.ContainerResizePolicy, at *field.Path) (errs field.ErrorList) {
	seen := &unique{}
	for i, p := range list {
		if seen.again(string(p.ResourceName)) {
			errs = append(errs, field.Duplicate(at.Index(i), p.ResourceName))
		}
		errs = append(errs, oneOf(p.ResourceName, at, corev1.ResourceCPU, corev1.ResourceMemory)...)
		errs = append(errs, oneOf(p.RestartPolicy, at, corev1.NotRequired, corev1.RestartContainer)...)
		if c.spec.RestartPolicy == corev1.RestartPolicyNever && p.RestartPolicy != corev1.NotRequired {
			errs = append(errs, field.Invalid(at, p.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'"))
		}
	}
	return errs
}

// restartRules checks a container's own restart policy (KEP-5307).
func restartRules(k *corev1.Container, at *field.Path) (errs field.ErrorList) {
	if k.RestartPolicy == nil {
		if len(k.RestartPolicyRules) == 0 {
			return nil
		}
		errs = append(errs, field.Required(at.Child("restartPolicy"), "must specify restartPolicy when restart rules are used"))
		if strings.Contains(at.String(), "initContainers") {
			return errs
		}
	} else {
		errs = append(errs, supported(*k.RestartPolicy, at.Child("restartPolicy"), corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)...)
	}
	if n := len(k.RestartPolicyRules); n > 20 {
		errs = append(errs, field.TooMany(at.Child("restartPolicyRules"), n, 20))
	}
	for i, r := range k.RestartPolicyRules {
		p := at.Child("restartPolicyRules").Index(i)
		errs = append(errs, supported(r.Action, p.Child("action"), corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)...)
		if r.ExitCodes == nil {
			errs = append(errs, field.Required(p.Child("exitCodes"), "must be specified"))
			continue
		}
		errs = append(errs, supported(r.ExitCodes.Operator, p.Child("exitCodes", "operator"), corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)...)
		if n := len(r.ExitCodes.Values); n > 255 {
			errs = append(errs, field.TooMany(p.Child("exitCodes", "values"), n, 255))
		}
	}
	return errs
}

func ports(list []corev1.ContainerPort, at *field.Path) (errs field.ErrorList) {
	names := &unique{}
	for i, p := range list {
		index := at.Index(i)
		if problems := validation.IsValidPortName(p.Name); p.Name != "" && len(problems) > 0 {
			errs = append(errs, invalidAll(index.Child("name"), p.Name, problems)...)
		} else if p.Name != "" {
			errs = append(errs, names.add(p.Name, index.Child("name"))...)
		}
		if p.ContainerPort == 0 {
			errs = append(errs, field.Required(index.Child("containerPort"), ""))
		} else {
			errs = append(errs, port(p.ContainerPort, index.Child("containerPort"))...)
		}
		if p.HostPort != 0 {
			errs = append(errs, port(p.HostPort, index.Child("hostPort"))...)
		}
		errs = append(errs, oneOf(p.Protocol, index.Child("protocol"), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
	}
	return errs
}

// hostPorts: a port of the node leads to one container.
func hostPorts(k *corev1.Container, taken *unique, at *field.Path) (errs field.ErrorList) {
	for i, p := range k.Ports {
		if p.HostPort != 0 {
			errs = append(errs, taken.add(fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort), at.Child("ports").Index(i).Child("hostPort"))...)
		}
	}
	return errs
}

func (c *context) mounts(k *corev1.Container, at *field.Path) (errs field.ErrorList) {
	points, devices := &unique{}, map[string]string{} // of a device that is there twice, the last path counts
	for _, d := range k.VolumeDevices {
		devices[d.Name] = d.DevicePath
	}
	for i, m := range k.VolumeMounts {
		p := at.Index(i)
		errs = append(errs, required(m.Name, p.Child("name"))...)
		if _, ok := c.volumes[m.Name]; !ok {
			errs = append(errs, field.NotFound(p.Child("name"), m.Name))
		}
		errs = append(errs, required(m.MountPath, p.Child("mountPath"))...)
		if points.again(m.MountPath) {
			errs = append(errs, field.Invalid(p.Child("mountPath"), m.MountPath, "must be unique"))
		}
		if _, both := devices[m.Name]; both {
			errs = append(errs, field.Invalid(p.Child("name"), m.Name, "must not already exist in volumeDevices"))
		}
		if slices.Contains(slices.Collect(maps.Values(devices)), m.MountPath) {
			errs = append(errs, field.Invalid(p.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices"))
		}
		if m.SubPath != "" {
			errs = append(errs, localPath(m.SubPath, at.Child("subPath"))...)
		}
		if m.SubPathExpr != "" {
			if m.SubPath != "" {
				errs = append(errs, field.Invalid(p.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
			}
			errs = append(errs, localPath(m.SubPathExpr, at.Child("subPathExpr"))...)
		}
		errs = append(errs, propagation(k, m, at)...)
	}
	return errs
}

func propagation(k *corev1.Container, m corev1.VolumeMount, at *field.Path) (errs field.ErrorList) {
	errs = supportedIfSet(m.MountPropagation, at.Child("mountPropagation"), corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
	privileged := k.SecurityContext != nil && yes(k.SecurityContext.Privileged)
	if m.MountPropagation != nil && *m.MountPropagation == corev1.MountPropagationBidirectional && !privileged {
		errs = append(errs, field.Forbidden(at.Child("mountPropagation"), "Bidirectional mount propagation is available only to privileged containers"))
	}
	r := m.RecursiveReadOnly
	if r == nil || *r == corev1.RecursiveReadOnlyDisabled {
		return errs
	}
	p := at.Child("recursiveReadOnly")
	if *r != corev1.RecursiveReadOnlyEnabled && *r != corev1.RecursiveReadOnlyIfPossible {
		return append(errs, supported(*r, p, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible)...)
	}
	if !m.ReadOnly {
		errs = append(errs, field.Forbidden(p, "may only be specified when readOnly is true"))
	}
	if m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
		errs = append(errs, field.Forbidden(p, "may only be specified when mountPropagation is None or not specified"))
	}
	return errs
}

// devices are volumes that a container sees as block devices.
func (c *context) devices(k *corev1.Container, at *field.Path) (errs field.ErrorList) {
	names, paths, mounts := &unique{}, &unique{}, map[string]string{}
	for _, m := range k.VolumeMounts {
		mounts[m.Name] = m.MountPath
	}
	for i, d := range k.VolumeDevices {
		p := at.Index(i)
		errs = append(errs, required(d.Name, p.Child("name"))...)
		if d.Name != "" && names.again(d.Name) {
			errs = append(errs, field.Invalid(p.Child("name"), d.Name, "must be unique"))
		}
		if v, ok := c.volumes[d.Name]; !ok {
			errs = append(errs, field.NotFound(p.Child("name"), d.Name))
		} else if v.PersistentVolumeClaim == nil && v.Ephemeral == nil {
			errs = append(errs, field.Invalid(p.Child("name"), d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"))
		}
		errs = append(errs, required(d.DevicePath, p.Child("devicePath"))...)
		if paths.seen.Has(d.DevicePath) {
			errs = append(errs, field.Invalid(p.Child("devicePath"), d.DevicePath, "must be unique"))
		}
		if len(noBacksteps(d.DevicePath, at)) > 0 {
			errs = append(errs, field.Invalid(p.Child("devicePath"), d.DevicePath, "can not contain backsteps ('..')"))
		} else {
			paths.again(d.DevicePath)
		}
		if _, both := mounts[d.Name]; both {
			errs = append(errs, field.Invalid(p.Child("name"), d.Name, "must not already exist in volumeMounts"))
		}
		if slices.Contains(slices.Collect(maps.Values(mounts)), d.DevicePath) {
			errs = append(errs, field.Invalid(p.Child("devicePath"), d.DevicePath, "must not already exist as a path in volumeMounts"))
		}
	}
	return errs
}
