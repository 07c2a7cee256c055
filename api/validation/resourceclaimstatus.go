// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/device"
)

// ResourceClaimStatusUpdate checks what was allocated to a claim, for whom it
// is reserved, and what the drivers tell of its devices.
func ResourceClaimStatusUpdate(c, old *resourcev1.ResourceClaim) field.ErrorList {
	at, now, was := field.NewPath("status"), &c.Status, &old.Status
	allocation := allocationOf(now.Allocation, was.Allocation, requestsOf(&c.Spec.Devices), at.Child("allocation"))
	f := &found{written: metaUpdate(&c.ObjectMeta, &old.ObjectMeta), declared: allocation.declared}
	reserved := at.Child("reservedFor")
	f.consumers(now.ReservedFor, reserved)
	f.deviceStatuses(now, at.Child("devices"))
	switch {
	case len(now.ReservedFor) == 0:
	case now.Allocation == nil:
		f.write(field.Forbidden(reserved, "may not be specified when `allocated` is not set"))
	case c.DeletionTimestamp != nil && slices.ContainsFunc(now.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool { return !slices.Contains(was.ReservedFor, r) }):
		f.write(field.Forbidden(reserved, "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"))
	}
	f.write(allocation.written...)
	return f.all()
}

func (f *found) consumers(list []resourcev1.ResourceClaimConsumerReference, at *field.Path) {
	if !few(f, list, resourcev1.ResourceClaimReservedForMaxSize, at) {
		return
	}
	different(f, list, func(r resourcev1.ResourceClaimConsumerReference) types.UID { return r.UID }, at)
	for i, r := range list {
		at := at.Index(i)
		f.write(required(r.Resource, at.Child("resource"))...)
		f.write(required(r.Name, at.Child("name"))...)
		f.write(required(string(r.UID), at.Child("uid"))...)
	}
}

func (f *found) deviceStatuses(s *resourcev1.ResourceClaimStatus, at *field.Path) {
	given := device.Allocated(s.Allocation)
	different(f, s.Devices, func(d resourcev1.AllocatedDeviceStatus) device.ID { return device.Told(&d) }, at)
	for i := range s.Devices {
		f.deviceStatus(&s.Devices[i], given, at.Index(i))
	}
}

func (f *found) deviceStatus(d *resourcev1.AllocatedDeviceStatus, given map[device.ID]bool, at *field.Path) {
	f.write(driverName(d.Driver, at.Child("driver"))...)
	f.write(poolName(d.Pool, at.Child("pool"))...)
	f.write(label(d.Device, at.Child("device"))...)
	if d.ShareID != nil {
		f.declare(byType(validate.UUID[string], *d.ShareID, at.Child("shareID")))
	}
	if id := device.Told(d); !given[id] {
		f.write(field.Invalid(at, id, "must be an allocated device in the claim"))
	}
	conditions := at.Child("conditions")
	if n := len(d.Conditions); n > resourcev1.AllocatedDeviceStatusMaxConditions {
		f.write(field.TooMany(conditions, n, resourcev1.AllocatedDeviceStatusMaxConditions))
	}
	f.write(metavalidation.ValidateConditions(d.Conditions, conditions)...)
	if d.Data != nil && len(d.Data.Raw) > 0 {
		f.write(rawObject(*d.Data, resourcev1.AllocatedDeviceStatusDataMaxLength, at.Child("data"))...)
	}
	if d.NetworkData != nil {
		f.networkData(d.NetworkData, at.Child("networkData"))
	}
}

func (f *found) networkData(n *resourcev1.NetworkDeviceData, at *field.Path) {
	short := func(v string, most int, at *field.Path) {
		if len(v) > most {
			f.declare(field.ErrorList{field.TooLong(at, "" /* unused */, most)})
		}
	}
	short(n.InterfaceName, resourcev1.NetworkDeviceDataInterfaceNameMaxLength, at.Child("interfaceName"))
	if ips := at.Child("ips"); few(f, n.IPs, resourcev1.NetworkDeviceDataMaxIPs, ips) {
		different(f, n.IPs, itself, ips)
		for i, ip := range n.IPs {
			f.write(validation.IsValidInterfaceAddress(ips.Index(i), ip)...)
		}
	}
	short(n.HardwareAddress, resourcev1.NetworkDeviceDataHardwareAddressMaxLength, at.Child("hardwareAddress"))
}

// allocationOf checks a new allocation. One that is there may go, and not
// change.
func allocationOf(a, old *resourcev1.AllocationResult, names requests, at *field.Path) *found {
	f := &found{}
	switch {
	case a == nil:
	case old == nil:
		f.allocation(a, names, at)
	case !equality.Semantic.DeepEqual(a, old):
		f.declare(field.ErrorList{field.Invalid(at, nil, "field cannot be modified once set")})
	}
	return f
}

func (f *found) allocation(a *resourcev1.AllocationResult, names requests, at *field.Path) {
	devices := at.Child("devices")
	if at := devices.Child("results"); few(f, a.Devices.Results, resourcev1.AllocationResultsMaxSize, at) {
		for i := range a.Devices.Results {
			f.result(&a.Devices.Results[i], names, at.Index(i))
		}
	}
	// A class configures as much as a claim may.
	if at := devices.Child("config"); few(f, a.Devices.Config, 2*resourcev1.DeviceConfigMaxSize, at) {
		for i, c := range a.Devices.Config {
			at := at.Index(i)
			f.declare(oneOf(c.Source, at.Child("source"), resourcev1.AllocationConfigSourceClaim, resourcev1.AllocationConfigSourceClass))
			f.references(c.Requests, names, at)
			f.configuration(c.DeviceConfiguration, false, at)
		}
	}
	if a.NodeSelector != nil {
		f.write(nodeSelector(a.NodeSelector, false, at.Child("nodeSelector", "nodeSelectorTerms"))...)
	}
}

func (f *found) result(r *resourcev1.DeviceRequestAllocationResult, names requests, at *field.Path) {
	f.write(names.named(r.Request, at.Child("request"))...)
	f.declare(declaredDriver(r.Driver, at.Child("driver")))
	if pool := at.Child("pool"); r.Pool == "" {
		f.declare(field.ErrorList{field.Required(pool, "")})
	} else {
		f.declare(byType(validate.ResourcePoolName[string], r.Pool, pool))
	}
	f.write(label(r.Device, at.Child("device"))...)
	f.write(bindingConditions(r.BindingConditions, r.BindingFailureConditions, at)...)
	f.deviceTolerations(r.Tolerations, at.Child("tolerations"))
	f.fewConditions(r.BindingConditions, r.BindingFailureConditions, at)
	if r.ShareID != nil {
		f.declare(byType(validate.UUID[types.UID], *r.ShareID, at.Child("shareID")))
	}
}
