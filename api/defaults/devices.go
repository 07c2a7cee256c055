// SPDX-License-Identifier: Apache-2.0

package defaults

import (
	"slices"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/api/device"
)

// ResourceClaim fills in a claim to devices.
func ResourceClaim(c *resourcev1.ResourceClaim) {
	deviceClaim(&c.Spec.Devices)
	if a := c.Status.Allocation; a != nil {
		for i := range a.Devices.Results {
			deviceTolerations(a.Devices.Results[i].Tolerations)
		}
	}
}

// ResourceClaimTemplate fills in a template of claims.
func ResourceClaimTemplate(t *resourcev1.ResourceClaimTemplate) { deviceClaim(&t.Spec.Spec.Devices) }

func deviceClaim(c *resourcev1.DeviceClaim) {
	for i := range c.Requests {
		r := &c.Requests[i]
		if e := r.Exactly; e != nil {
			deviceAmount(&e.AllocationMode, &e.Count)
			deviceTolerations(e.Tolerations)
		}
		for i := range r.FirstAvailable {
			s := &r.FirstAvailable[i]
			deviceAmount(&s.AllocationMode, &s.Count)
			deviceTolerations(s.Tolerations)
		}
	}
}

func deviceAmount(mode *resourcev1.DeviceAllocationMode, count *int64) {
	zero(mode, resourcev1.DeviceAllocationModeExactCount)
	if *mode == resourcev1.DeviceAllocationModeExactCount {
		zero(count, 1)
	}
}

func deviceTolerations(list []resourcev1.DeviceToleration) {
	for i := range list {
		zero(&list[i].Operator, resourcev1.DeviceTolerationOpEqual)
	}
}

// ResourceSlice says when the devices of a slice were tainted.
func ResourceSlice(s *resourcev1.ResourceSlice) {
	for i := range s.Spec.Devices {
		for j := range s.Spec.Devices[i].Taints {
			deviceTaint(&s.Spec.Devices[i].Taints[j])
		}
	}
}

// DeviceTaintRule says when the devices of a rule were tainted.
func DeviceTaintRule(r *resourcev1.DeviceTaintRule) { deviceTaint(&r.Spec.Taint) }

func deviceTaint(t *resourcev1.DeviceTaint) {
	if t.TimeAdded == nil {
		t.TimeAdded = thisSecond()
	}
}

// thisSecond is the time as it can be written.
func thisSecond() *metav1.Time { return &metav1.Time{Time: time.Now().Truncate(time.Second)} }

// PrepareDeviceTaintRule counts the time anew when the effect of a rule is
// another.
func PrepareDeviceTaintRule(r, old *resourcev1.DeviceTaintRule) {
	if old == nil {
		return
	}
	now, was := &r.Spec.Taint, &old.Spec.Taint
	if now.Effect != was.Effect && now.TimeAdded.Equal(was.TimeAdded) {
		now.TimeAdded = thisSecond()
	}
}

// PrepareResourceClaim leaves away what is off by default in Kubernetes 1.37.
func PrepareResourceClaim(c, _ *resourcev1.ResourceClaim) { plainRequests(&c.Spec.Devices) }

// PrepareResourceClaimTemplate does so for a template.
func PrepareResourceClaimTemplate(t, _ *resourcev1.ResourceClaimTemplate) {
	plainRequests(&t.Spec.Spec.Devices)
}

func plainRequests(c *resourcev1.DeviceClaim) {
	for i := range c.Requests {
		r := &c.Requests[i]
		if r.Exactly != nil {
			r.Exactly.DerivedAttributes = nil
		}
		for i := range r.FirstAvailable {
			r.FirstAvailable[i].DerivedAttributes = nil
		}
	}
}

// PrepareResourceClaimStatus leaves away what is off by default, and what is
// told of devices that the claim no longer has.
func PrepareResourceClaimStatus(c, old *resourcev1.ResourceClaim) {
	if a := c.Status.Allocation; a != nil {
		for i := range a.Devices.Results {
			a.Devices.Results[i].SkipNodeOperations = nil
		}
	}
	now, was := device.Allocated(c.Status.Allocation), device.Allocated(old.Status.Allocation)
	c.Status.Devices = slices.DeleteFunc(c.Status.Devices, func(d resourcev1.AllocatedDeviceStatus) bool {
		id := device.Told(&d)
		return was[id] && !now[id]
	})
	if len(c.Status.Devices) == 0 {
		c.Status.Devices = nil
	}
}

// PrepareResourceSlice leaves away what is off by default in Kubernetes 1.37.
func PrepareResourceSlice(s, _ *resourcev1.ResourceSlice) {
	s.Spec.PartitionTypeAttribute, s.Spec.SkipNodeOperations = nil, nil
	for i := range s.Spec.Devices {
		d := &s.Spec.Devices[i]
		d.NodeAllocatableResources = nil
		for i := range d.ConsumesCounters {
			d.ConsumesCounters[i].CompatibilityGroups = nil
		}
		for name, a := range d.Attributes {
			a.IntValues, a.BoolValues, a.StringValues, a.VersionValues = nil, nil, nil, nil
			d.Attributes[name] = a
		}
	}
}
