// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/allocation"
)

// parentOf is the Service that an address is said to be of, or "".
func parentOf(t *testing.T, ip string) string {
	t.Helper()
	a, err := admin.NetworkingV1().IPAddresses().Get(t.Context(), ip, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	p := a.Spec.ParentRef
	return p.Group + p.Resource + "/" + p.Namespace + "/" + p.Name + " " + a.Labels["ipaddress.kubernetes.io/managed-by"] + " " + a.Labels["ipaddress.kubernetes.io/ip-family"]
}

func wantParent(t *testing.T, ip, want string) {
	t.Helper()
	if want != "" {
		want = "services/default/" + want + " ipallocator.k8s.io IPv4"
	}
	eventually(t, ip+" is told to be of "+want, func() bool { return parentOf(t, ip) == want })
}

func TestTheClustersOwnRange(t *testing.T) {
	c, err := admin.NetworkingV1().ServiceCIDRs().Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil || fmt.Sprint(c.Spec.CIDRs) != "[10.96.0.0/16]" || !meta.IsStatusConditionTrue(c.Status.Conditions, "Ready") {
		t.Errorf("%+v, %v", c, err)
	}
	wantParent(t, "10.96.0.1", "kubernetes")
}

// IPAddresses come and go with what Services hold.
func TestAddressesFollowServices(t *testing.T) {
	services := admin.CoreV1().Services("default")
	v := nodePortService("told", 0)
	v.Spec.ClusterIP = "10.96.7.7"
	if _, err := services.Create(t.Context(), v, metav1.CreateOptions{DryRun: dryRun}); err != nil {
		t.Fatal(err)
	}
	wantParent(t, "10.96.7.7", "")
	bad := v.DeepCopy()
	bad.Spec.Selector = map[string]string{"a!": "b"}
	if _, err := services.Create(t.Context(), bad, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Fatal(err)
	}
	wantParent(t, "10.96.7.7", "")
	makeService(t, v)
	wantParent(t, "10.96.7.7", "told")
	patch := func(p string) *corev1.Service {
		t.Helper()
		got, err := services.Patch(t.Context(), "told", types.MergePatchType, []byte(p), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	patch(`{"spec":{"type":"ExternalName","externalName":"a.example.com"}}`)
	wantParent(t, "10.96.7.7", "")
	again := patch(`{"spec":{"type":"ClusterIP","externalName":null}}`)
	wantParent(t, again.Spec.ClusterIP, "told")
	if err := services.Delete(t.Context(), "told", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wantParent(t, again.Spec.ClusterIP, "")
}

// An address that somebody else has is given to no Service.
func TestAddressesOfOthers(t *testing.T) {
	addresses := admin.NetworkingV1().IPAddresses()
	if _, err := addresses.Create(t.Context(), &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: "10.96.8.8"}, Spec: networkingv1.IPAddressSpec{
		ParentRef: &networkingv1.ParentReference{Group: "gateway.example.com", Resource: "gateways", Name: "g"},
	}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	v := nodePortService("others", 0)
	v.Spec.ClusterIP = "10.96.8.8"
	_, err := admin.CoreV1().Services("default").Create(t.Context(), v, metav1.CreateOptions{})
	mustRefuse(t, err, `Service "others" is invalid: spec.clusterIPs: Invalid value: ["10.96.8.8"]: failed to allocate IP 10.96.8.8: provided IP is already allocated`)
	if err := addresses.Delete(t.Context(), "10.96.8.8", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	makeService(t, v)
}

// Further ranges are given from when they are ready.
func TestFurtherRanges(t *testing.T) {
	ranges, services := admin.NetworkingV1().ServiceCIDRs(), admin.CoreV1().Services("default")
	c, err := ranges.Create(t.Context(), &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "further"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.55.0.0/24"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ranges.Delete(context.Background(), "further", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	v := nodePortService("further", 0)
	v.Spec.ClusterIP = "10.55.0.5"
	const refusal = `Service "further" is invalid: spec.clusterIPs: Invalid value: ["10.55.0.5"]: failed to allocate IP 10.55.0.5: the provided network does not match the current range`
	_, err = services.Create(t.Context(), v, metav1.CreateOptions{})
	mustRefuse(t, err, refusal)
	meta.SetStatusCondition(&c.Status.Conditions, metav1.Condition{Type: "Ready", Status: metav1.ConditionTrue})
	if _, err := ranges.UpdateStatus(t.Context(), c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the range is given from", func() bool {
		_, err := services.Create(t.Context(), v, metav1.CreateOptions{DryRun: dryRun})
		return err == nil
	})
	makeService(t, v)
	wantParent(t, "10.55.0.5", "further")
}

// What a crash left is put right by the next start.
func TestAddressesAreSettled(t *testing.T) {
	v := makeService(t, nodePortService("settled", 0))
	wantParent(t, v.Spec.ClusterIP, "settled")
	ctx := genericapirequest.WithNamespace(t.Context(), "")
	if _, _, err := server.addressStore().Delete(ctx, v.Spec.ClusterIP, rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	gone := makeService(t, nodePortService("gone", 0))
	if err := admin.CoreV1().Services("default").Delete(t.Context(), "gone", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wantParent(t, gone.Spec.ClusterIP, "")
	left := allocation.IPAddress(allocation.Addresses(gone)[0], gone)
	if _, err := admin.NetworkingV1().IPAddresses().Create(t.Context(), left, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := server.settleAddresses(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantParent(t, v.Spec.ClusterIP, "settled")
	wantParent(t, gone.Spec.ClusterIP, "")
}
