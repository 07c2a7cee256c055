// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apiserver/pkg/admission"
	storage "k8s.io/component-helpers/storage/volume"
)

const (
	serviceCount corev1.ResourceName = "count/services"
	claimCount   corev1.ResourceName = "count/persistentvolumeclaims"
	byClass                          = ".storageclass.storage.k8s.io/"
)

func serviceResources(n corev1.ResourceName) bool {
	return n == serviceCount || n == corev1.ResourceServices || n == corev1.ResourceServicesNodePorts || n == corev1.ResourceServicesLoadBalancers
}

// serviceUsage counts node ports by what is asked for: they are not given yet
// when a Service is charged.
func serviceUsage(s *corev1.Service) corev1.ResourceList {
	var ports, balancers int64
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		ports = int64(len(s.Spec.Ports))
	case corev1.ServiceTypeLoadBalancer:
		balancers = 1
		for _, p := range s.Spec.Ports {
			if p.NodePort != 0 || s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts {
				ports++
			}
		}
	}
	return corev1.ResourceList{
		serviceCount: one(), corev1.ResourceServices: one(),
		corev1.ResourceServicesNodePorts:     *resource.NewQuantity(ports, resource.DecimalSI),
		corev1.ResourceServicesLoadBalancers: *resource.NewQuantity(balancers, resource.DecimalSI),
	}
}

func claimResources(n corev1.ResourceName) bool {
	if n == claimCount || n == corev1.ResourcePersistentVolumeClaims || n == corev1.ResourceRequestsStorage {
		return true
	}
	return strings.HasSuffix(string(n), byClass+string(corev1.ResourcePersistentVolumeClaims)) || strings.HasSuffix(string(n), byClass+string(corev1.ResourceRequestsStorage))
}

// claimHandled: a claim may grow, and its status may tell of more than it asks.
func claimHandled(a admission.Attributes, c, old *corev1.PersistentVolumeClaim) bool {
	switch a.GetSubresource() {
	case "":
		return true
	case "status":
		return c != nil && old != nil && (!c.Status.AllocatedResources.Storage().Equal(*old.Status.AllocatedResources.Storage()) ||
			!equality.Semantic.DeepEqual(attributesClasses(c), attributesClasses(old)))
	}
	return false
}

// claimUsage charges a claim, also to its storage class. Storage counts in whole
// bytes.
func claimUsage(c *corev1.PersistentVolumeClaim) corev1.ResourceList {
	used := corev1.ResourceList{claimCount: one(), corev1.ResourcePersistentVolumeClaims: one()}
	class := storage.GetPersistentVolumeClaimClass(c)
	charge := func(n corev1.ResourceName, q resource.Quantity) {
		used[n] = q
		if class != "" {
			used[corev1.ResourceName(class+byClass)+n] = q
		}
	}
	charge(corev1.ResourcePersistentVolumeClaims, one())
	if q, ok := c.Spec.Resources.Requests[corev1.ResourceStorage]; ok {
		if more, ok := c.Status.AllocatedResources[corev1.ResourceStorage]; ok && more.Cmp(q) > 0 {
			q = more
		}
		q = q.DeepCopy()
		q.RoundUp(0)
		charge(corev1.ResourceRequestsStorage, q)
	}
	return used
}

func claimInScope(r corev1.ScopedResourceSelectorRequirement, c *corev1.PersistentVolumeClaim) (bool, error) {
	if r.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass {
		return false, nil
	}
	return named(r, attributesClasses(c)...)
}

// attributesClasses are the classes that a claim has, or had, or is to have.
func attributesClasses(c *corev1.PersistentVolumeClaim) (out []string) {
	add := func(name *string) {
		if name != nil && *name != "" {
			out = append(out, *name)
		}
	}
	add(c.Spec.VolumeAttributesClassName)
	add(c.Status.CurrentVolumeAttributesClassName)
	if m := c.Status.ModifyVolumeStatus; m != nil {
		add(&m.TargetVolumeAttributesClassName)
	}
	return out
}
