// SPDX-License-Identifier: Apache-2.0

// Package device owns how the devices of resource.k8s.io are told apart.
package device

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/utils/ptr"
)

// ID names a device, or one share of a device that has several.
type ID struct{ Driver, Pool, Device, ShareID string }

// Told is the device that a driver tells of.
func Told(s *resourcev1.AllocatedDeviceStatus) ID {
	return ID{s.Driver, s.Pool, s.Device, ptr.Deref(s.ShareID, "")}
}

// Allocated are the devices that were given to a claim, if any were.
func Allocated(a *resourcev1.AllocationResult) map[ID]bool {
	out := map[ID]bool{}
	if a == nil {
		return out
	}
	for _, r := range a.Devices.Results {
		out[ID{r.Driver, r.Pool, r.Device, string(ptr.Deref(r.ShareID, ""))}] = true
	}
	return out
}
