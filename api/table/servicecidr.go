// SPDX-License-Identifier: Apache-2.0

package table

import (
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// ServiceCIDR are the columns of ranges of Services.
func ServiceCIDR() Columns[networkingv1.ServiceCIDR] {
	return Columns[networkingv1.ServiceCIDR]{
		Definitions: []metav1.TableColumnDefinition{name(), text("CIDRs", networkingv1.ServiceCIDRSpec{}.SwaggerDoc()["cidrs"]), ageColumn()},
		Cells: func(c *networkingv1.ServiceCIDR, now time.Time) []any {
			return []any{c.Name, strings.Join(c.Spec.CIDRs, ","), age(c.CreationTimestamp, now)}
		},
	}
}

// IPAddress are the columns of addresses. As in Kubernetes the age has no
// column, though its cell is there.
func IPAddress() Columns[networkingv1.IPAddress] {
	parent := func(p *networkingv1.ParentReference) string {
		if p == nil {
			return none
		}
		path := []string{strings.ToLower(schema.GroupResource{Group: p.Group, Resource: p.Resource}.String())}
		if p.Namespace != "" {
			path = append(path, p.Namespace)
		}
		return strings.Join(append(path, p.Name), "/")
	}
	return Columns[networkingv1.IPAddress]{
		Definitions: []metav1.TableColumnDefinition{name(), text("ParentRef", networkingv1.IPAddressSpec{}.SwaggerDoc()["parentRef"])},
		Cells: func(a *networkingv1.IPAddress, now time.Time) []any {
			return []any{a.Name, parent(a.Spec.ParentRef), age(a.CreationTimestamp, now)}
		},
	}
}
