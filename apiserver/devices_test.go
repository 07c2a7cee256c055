// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	resourceclient "k8s.io/client-go/kubernetes/typed/resource/v1"
	"k8s.io/utils/ptr"
)

func deviceClaim(name string, admin bool) *resourcev1.ResourceClaim {
	return &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
		{Name: "gpu", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu.example.com", AdminAccess: ptr.To(admin)}},
	}}}}
}

// Devices that others have are for namespaces that say so.
func TestAdminDevices(t *testing.T) {
	namespace(t, "plain-devices", nil)
	namespace(t, "admin-devices", map[string]string{resourcev1.DRAAdminNamespaceLabelKey: "true"})
	const why = "spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace"
	claim, template := deviceClaim("c", true), &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Name: "c"}}
	template.Spec.Spec = claim.Spec
	for ns, may := range map[string]bool{"plain-devices": false, "admin-devices": true} {
		_, claimErr := admin.ResourceV1().ResourceClaims(ns).Create(t.Context(), claim, metav1.CreateOptions{})
		_, templateErr := admin.ResourceV1().ResourceClaimTemplates(ns).Create(t.Context(), template, metav1.CreateOptions{})
		for _, err := range []error{claimErr, templateErr} {
			if may && err != nil || !may && (!apierrors.IsInvalid(err) || !strings.Contains(err.Error(), why)) {
				t.Errorf("in %s: %v", ns, err)
			}
		}
	}
}

// What was given to a claim is written by those who may bind claims, and what
// is told of a device by those who may for its driver.
func TestWhoWritesClaims(t *testing.T) {
	namespace(t, "allocated", nil)
	writing := func(name, verb, part, driver string) resourceclient.ResourceClaimInterface {
		rule := func(verb, resource string, names ...string) rbacv1.PolicyRule {
			return rbacv1.PolicyRule{APIGroups: []string{resourcev1.GroupName}, Verbs: []string{verb}, Resources: []string{resource}, ResourceNames: names}
		}
		// userWith waits for the first rule.
		rules := []rbacv1.PolicyRule{certificateRule("get", "signers"), rule("*", "resourceclaims/status")}
		if driver != "" {
			rules = append(rules, rule(verb, part, driver))
		} else if part != "" {
			rules = append(rules, rule(verb, part))
		}
		return userWith(t, name, rules...).ResourceV1().ResourceClaims("allocated")
	}
	writer := writing("claim-writer", "", "", "")
	binder := writing("claim-binder", "update", "resourceclaims/binding", "")
	driver := writing("claim-driver", "arbitrary-node:update", "resourceclaims/driver", "gpu.example.com")
	other := writing("claim-other", "arbitrary-node:update", "resourceclaims/driver", "other.example.com")
	c, err := admin.ResourceV1().ResourceClaims("allocated").Create(t.Context(), deviceClaim("c", false), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	write := func(by resourceclient.ResourceClaimInterface, refusal string) {
		t.Helper()
		got, err := by.UpdateStatus(t.Context(), c, metav1.UpdateOptions{})
		switch {
		case refusal == "" && err != nil:
			t.Fatal(err)
		case refusal == "":
			c = got
		case err == nil || !strings.Contains(err.Error(), refusal):
			t.Errorf("want %s, got %v", refusal, err)
		}
	}
	c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Request: "gpu", Driver: "gpu.example.com", Pool: "p", Device: "d"}}}}
	for _, by := range []resourceclient.ResourceClaimInterface{writer, driver} {
		write(by, `status.allocation: Forbidden: changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="update" permission: resourceclaims.resource.k8s.io is forbidden: User "claim-`)
	}
	write(binder, "")
	c.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: "gpu.example.com", Pool: "p", Device: "d", Conditions: []metav1.Condition{}}}
	for _, by := range []resourceclient.ResourceClaimInterface{binder, other} {
		write(by, `status.devices: Forbidden: changing status.devices requires resource="resourceclaims/driver", verb="[arbitrary-node:update]" permission: resourceclaims.resource.k8s.io "gpu.example.com" is forbidden: User "claim-`)
	}
	write(driver, "")
}

// A driver in a Pod on the claim's node is not one elsewhere.
func TestOnTheNodeOfAClaim(t *testing.T) {
	on := func(node string) *resourcev1.AllocationResult {
		return &resourcev1.AllocationResult{NodeSelector: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}}}}
	}
	u := &user.DefaultInfo{Name: "system:serviceaccount:ns:driver", Extra: map[string][]string{serviceaccount.NodeNameKey: {"one"}}}
	if !onNode(u, nodeOf(on("one"))) || onNode(u, nodeOf(on("two"))) || onNode(u, nodeOf(&resourcev1.AllocationResult{})) {
		t.Error("the node of a claim is not the driver's own")
	}
	if u.Name = "somebody"; onNode(u, "one") {
		t.Error("a person is on a node")
	}
}
