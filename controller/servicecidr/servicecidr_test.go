// SPDX-License-Identifier: Apache-2.0

package servicecidr

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/controller/world"
)

// A range is used when it is new, and stays while a Service has an address of
// it that is of no other.
func TestRangesOfServices(t *testing.T) {
	ns := world.Space(t)
	named := func(name string) []client.ListOption {
		return []client.ListOption{client.MatchingFields{"metadata.name": name}}
	}
	var ranges networkingv1.ServiceCIDRList
	ready := func(status metav1.ConditionStatus, reason string) func() bool {
		return func() bool {
			if len(ranges.Items) != 1 {
				return false
			}
			c := meta.FindStatusCondition(ranges.Items[0].Status.Conditions, networkingv1.ServiceCIDRConditionReady)
			return c != nil && c.Status == status && c.Reason == reason && len(ranges.Items[0].Finalizers) == 1
		}
	}
	outer := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "outer"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.77.0.0/24"}}}
	world.Put(t, outer)
	world.Until(t, "the range is used", &ranges, ready(metav1.ConditionTrue, ""), named("outer")...)
	v := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "v"}, Spec: corev1.ServiceSpec{ClusterIP: "10.77.0.9", Ports: []corev1.ServicePort{{Port: 80}}}}
	world.Put(t, v)
	var addresses networkingv1.IPAddressList
	world.Until(t, "the address is told of", &addresses, func() bool { return len(addresses.Items) == 1 }, named("10.77.0.9")...)
	was := addresses.Items[0].UID
	world.Erase(t, &addresses.Items[0], metav1.DeletePropagationBackground)
	world.Until(t, "the address is told of again", &addresses, func() bool { return len(addresses.Items) == 1 && addresses.Items[0].UID != was }, named("10.77.0.9")...)

	world.Erase(t, outer, metav1.DeletePropagationBackground)
	world.Until(t, "the range waits", &ranges, ready(metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating), named("outer")...)
	inner := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "inner"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.77.0.0/28"}}}
	world.Put(t, inner)
	world.Until(t, "the range is gone", &ranges, func() bool { return len(ranges.Items) == 0 }, named("outer")...)
	world.Erase(t, v, metav1.DeletePropagationBackground)
	world.Erase(t, inner, metav1.DeletePropagationBackground) // it goes when its time is over
}
