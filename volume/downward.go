// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func (m *Mounter) downward(p *corev1.Pod, items []corev1.DownwardAPIVolumeFile) (files, error) {
	out := files{}
	for _, i := range items {
		var text string
		var err error
		if i.FieldRef != nil {
			text, err = FieldValue(p, i.FieldRef.FieldPath)
		} else {
			text, err = ResourceValue(p, i.ResourceFieldRef.ContainerName, i.ResourceFieldRef, m.Allocatable())
		}
		if err != nil {
			return nil, err
		}
		out[filepath.Clean(i.Path)] = file{data: []byte(text), mode: modeOf(i.Mode)}
	}
	return out, nil
}

// FieldValue reads a field of a Pod by its path, as fieldRef means it.
func FieldValue(p *corev1.Pod, path string) (string, error) {
	if name, key, ok := strings.Cut(strings.TrimSuffix(path, "']"), "['"); ok {
		switch name {
		case "metadata.labels":
			return p.Labels[key], nil
		case "metadata.annotations":
			return p.Annotations[key], nil
		}
	}
	switch path {
	case "metadata.name":
		return p.Name, nil
	case "metadata.namespace":
		return p.Namespace, nil
	case "metadata.uid":
		return string(p.UID), nil
	case "metadata.labels":
		return formatMap(p.Labels), nil
	case "metadata.annotations":
		return formatMap(p.Annotations), nil
	case "spec.nodeName":
		return p.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return p.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return p.Status.HostIP, nil
	case "status.hostIPs":
		var ips []string
		for _, i := range p.Status.HostIPs {
			ips = append(ips, i.IP)
		}
		return strings.Join(ips, ","), nil
	case "status.podIP":
		return p.Status.PodIP, nil
	case "status.podIPs":
		var ips []string
		for _, i := range p.Status.PodIPs {
			ips = append(ips, i.IP)
		}
		return strings.Join(ips, ","), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

func formatMap(m map[string]string) string {
	var b strings.Builder
	for i, k := range sortedKeys(m) {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s=%q", k, m[k])
	}
	return b.String()
}

// ResourceValue reads a request or limit of a container, in units of the
// divisor, rounded up. A missing limit is what the node can give.
func ResourceValue(p *corev1.Pod, container string, s *corev1.ResourceFieldSelector, allocatable corev1.ResourceList) (string, error) {
	var c *corev1.Container
	for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == container {
				c = &list[i]
			}
		}
	}
	if c == nil {
		return "", fmt.Errorf("container %s not found", container)
	}
	kind, name, ok := strings.Cut(s.Resource, ".")
	if !ok || kind != "limits" && kind != "requests" {
		return "", fmt.Errorf("unsupported container resource : %v", s.Resource)
	}
	list := c.Resources.Requests
	if kind == "limits" {
		list = c.Resources.Limits
	}
	q, set := list[corev1.ResourceName(name)]
	if (!set || q.IsZero()) && kind == "limits" {
		q = allocatable[corev1.ResourceName(name)]
	}
	return divide(q, s.Divisor, name), nil
}

func divide(q, divisor resource.Quantity, name string) string {
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if name == string(corev1.ResourceCPU) {
		return strconv.FormatInt(int64(math.Ceil(float64(q.MilliValue())/float64(divisor.MilliValue()))), 10)
	}
	return strconv.FormatInt(int64(math.Ceil(float64(q.Value())/float64(divisor.Value()))), 10)
}
