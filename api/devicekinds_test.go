// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	resourcev1 "k8s.io/api/resource/v1"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

func deviceKinds() map[string]kind {
	return map[string]kind{
		"DeviceClass": of(rules[resourcev1.DeviceClass]{cluster: true, check: validation.DeviceClass, change: validation.DeviceClassUpdate, columns: table.DeviceClass()}),
		"DeviceTaintRule": of(rules[resourcev1.DeviceTaintRule]{
			cluster: true, defaults: defaults.DeviceTaintRule, prepare: defaults.PrepareDeviceTaintRule, check: validation.DeviceTaintRule, change: validation.DeviceTaintRuleUpdate, columns: table.DeviceTaintRule(),
			parts: map[string]part[resourcev1.DeviceTaintRule]{"status": {prepare: keepMeta[resourcev1.DeviceTaintRule], check: validation.DeviceTaintRuleStatusUpdate}},
		}),
		"ResourceClaim": of(rules[resourcev1.ResourceClaim]{
			defaults: defaults.ResourceClaim, prepare: defaults.PrepareResourceClaim, check: validation.ResourceClaim, change: validation.ResourceClaimUpdate, columns: table.ResourceClaim(),
			parts: map[string]part[resourcev1.ResourceClaim]{"status": {
				prepare: func(c, old *resourcev1.ResourceClaim) { keepMeta(c, old); defaults.PrepareResourceClaimStatus(c, old) },
				check:   validation.ResourceClaimStatusUpdate,
			}},
		}),
		"ResourceClaimTemplate": of(rules[resourcev1.ResourceClaimTemplate]{defaults: defaults.ResourceClaimTemplate, prepare: defaults.PrepareResourceClaimTemplate, check: validation.ResourceClaimTemplate, change: validation.ResourceClaimTemplateUpdate, columns: table.ResourceClaimTemplate()}),
		"ResourceSlice":         of(rules[resourcev1.ResourceSlice]{cluster: true, defaults: defaults.ResourceSlice, prepare: defaults.PrepareResourceSlice, check: validation.ResourceSlice, change: validation.ResourceSliceUpdate, warn: validation.ResourceSliceWarnings, columns: table.ResourceSlice()}),
	}
}
