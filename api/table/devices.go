// SPDX-License-Identifier: Apache-2.0

package table

import (
	"strings"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DeviceClass are the columns of classes of devices.
func DeviceClass() Columns[resourcev1.DeviceClass] {
	return Columns[resourcev1.DeviceClass]{
		Definitions: []metav1.TableColumnDefinition{name(), ageColumn()},
		Cells: func(c *resourcev1.DeviceClass, now time.Time) []any {
			return []any{c.Name, age(c.CreationTimestamp, now)}
		},
	}
}

// ResourceClaimTemplate are the columns of templates of claims.
func ResourceClaimTemplate() Columns[resourcev1.ResourceClaimTemplate] {
	return Columns[resourcev1.ResourceClaimTemplate]{
		Definitions: []metav1.TableColumnDefinition{name(), ageColumn()},
		Cells: func(t *resourcev1.ResourceClaimTemplate, now time.Time) []any {
			return []any{t.Name, age(t.CreationTimestamp, now)}
		},
	}
}

// ResourceClaim are the columns of claims to devices.
func ResourceClaim() Columns[resourcev1.ResourceClaim] {
	state := func(c *resourcev1.ResourceClaim) string {
		var all []string
		if c.DeletionTimestamp != nil {
			all = append(all, "deleted")
		}
		switch {
		case c.Status.Allocation != nil:
			all = append(all, "allocated")
			if len(c.Status.ReservedFor) > 0 {
				all = append(all, "reserved")
			}
		case c.DeletionTimestamp == nil:
			all = append(all, "pending")
		}
		return strings.Join(all, ",")
	}
	return Columns[resourcev1.ResourceClaim]{
		Definitions: []metav1.TableColumnDefinition{
			name(), text("State", "A summary of the current state (allocated, pending, reserved, etc.)."), ageColumn(),
		},
		Cells: func(c *resourcev1.ResourceClaim, now time.Time) []any {
			return []any{c.Name, state(c), age(c.CreationTimestamp, now)}
		},
	}
}

// ResourceSlice are the columns of what drivers have.
func ResourceSlice() Columns[resourcev1.ResourceSlice] {
	doc := resourcev1.ResourceSliceSpec{}.SwaggerDoc()
	return Columns[resourcev1.ResourceSlice]{
		Definitions: []metav1.TableColumnDefinition{
			name(), text("Node", doc["nodeName"]), text("Driver", doc["driver"]), text("Pool", resourcev1.ResourcePool{}.SwaggerDoc()["name"]), ageColumn(),
		},
		Cells: func(s *resourcev1.ResourceSlice, now time.Time) []any {
			return []any{s.Name, or(s.Spec.NodeName, ""), s.Spec.Driver, s.Spec.Pool.Name, age(s.CreationTimestamp, now)}
		},
	}
}

// DeviceTaintRule are the columns of rules that taint devices.
func DeviceTaintRule() Columns[resourcev1.DeviceTaintRule] {
	doc := resourcev1.DeviceTaint{}.SwaggerDoc()
	return Columns[resourcev1.DeviceTaintRule]{
		Definitions: []metav1.TableColumnDefinition{
			name(), text("Key", doc["key"]), text("Value", doc["value"]), text("Effect", doc["effect"]), text("TimeAdded", doc["timeAdded"]), ageColumn(),
		},
		Cells: func(r *resourcev1.DeviceTaintRule, now time.Time) []any {
			t, added := r.Spec.Taint, ""
			if t.TimeAdded != nil {
				added = age(*t.TimeAdded, now)
			}
			return []any{r.Name, t.Key, t.Value, string(t.Effect), added, age(r.CreationTimestamp, now)}
		},
	}
}
