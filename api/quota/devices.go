// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

const deviceClaimCount corev1.ResourceName = "count/resourceclaims.resource.k8s.io"

func deviceResources(n corev1.ResourceName) bool {
	return n == deviceClaimCount || strings.HasSuffix(string(n), corev1.ResourceClaimsPerClass)
}

// deviceUsage counts the devices of each class that a claim can be given at
// most: of requests that the first of some would do for, the dearest.
func deviceUsage(c *resourcev1.ResourceClaim) corev1.ResourceList {
	counts := map[string]int64{}
	for _, r := range c.Spec.Devices.Requests {
		if e := r.Exactly; e != nil {
			counts[e.DeviceClassName] += atMost(e.AllocationMode, e.Count)
			continue
		}
		dearest := map[string]int64{}
		for _, s := range r.FirstAvailable {
			dearest[s.DeviceClassName] = max(dearest[s.DeviceClassName], atMost(s.AllocationMode, s.Count))
		}
		for class, n := range dearest {
			counts[class] += n
		}
	}
	out := corev1.ResourceList{deviceClaimCount: one()}
	for class, n := range counts {
		out[corev1.ResourceName(class+corev1.ResourceClaimsPerClass)] = *resource.NewQuantity(n, resource.DecimalSI)
	}
	return out
}

// atMost: all that there are are no more than a claim can be given.
func atMost(mode resourcev1.DeviceAllocationMode, count int64) int64 {
	if mode == resourcev1.DeviceAllocationModeAll {
		return resourcev1.AllocationResultsMaxSize
	}
	return count
}
