// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/controller/world"
)

func amounts(pairs ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return out
}

// limited makes a quota and waits until it holds.
func limited(t *testing.T, ns string, spec corev1.ResourceQuotaSpec) *corev1.ResourceQuota {
	t.Helper()
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: ns, GenerateName: "q-"}, Spec: spec}
	world.Put(t, q)
	list := &corev1.ResourceQuotaList{}
	world.Until(t, "the quota holds", list, func() bool {
		return len(list.Items) == 1 && len(list.Items[0].Status.Used) == len(spec.Hard)
	}, client.InNamespace(ns), client.MatchingFields{"metadata.name": q.Name})
	return q
}

// usedIs waits until a quota has been used so far.
func usedIs(t *testing.T, q *corev1.ResourceQuota, pairs ...string) {
	t.Helper()
	want := amounts(pairs...)
	list := &corev1.ResourceQuotaList{}
	world.Until(t, strings.Join(pairs, " "), list, func() bool {
		for n, v := range want {
			if got := list.Items[0].Status.Used[n]; got.Cmp(v) != 0 {
				t.Logf("%s is %s", n, got.String())
				return false
			}
		}
		return true
	}, client.InNamespace(q.Namespace), client.MatchingFields{"metadata.name": q.Name})
}

func costing(ns, name, cpu string) *corev1.Pod {
	c := corev1.Container{Name: "c", Image: "i"}
	if cpu != "" {
		c.Resources.Requests = amounts("cpu", cpu)
	}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{c}, TerminationGracePeriodSeconds: ptr.To[int64](0)}}
}

// refused says that a quota does not let an object be made.
func refused(t *testing.T, o client.Object, want string) {
	t.Helper()
	err := world.Client.Create(t.Context(), o)
	if err == nil {
		err = world.Client.Delete(context.Background(), o, client.GracePeriodSeconds(0))
		t.Errorf("%s was not refused; %v", o.GetName(), err)
		return
	}
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v", o.GetName(), err)
	}
}

// What is made is charged at once; what has ended or gone is given back.
func TestQuotaOfPods(t *testing.T) {
	ns := world.Space(t)
	before := costing(ns, "before", "100m")
	world.Put(t, before)
	q := limited(t, ns, corev1.ResourceQuotaSpec{Hard: amounts("pods", "2", "requests.cpu", "500m", "count/pods", "5")})
	usedIs(t, q, "pods", "1", "requests.cpu", "100m", "count/pods", "1")
	refused(t, costing(ns, "silent", ""), "failed quota: "+q.Name+": must specify requests.cpu for: c")
	refused(t, costing(ns, "large", "401m"), "exceeded quota: "+q.Name+", requested: requests.cpu=401m, used: requests.cpu=100m, limited: requests.cpu=500m")
	second := costing(ns, "second", "400m")
	world.Put(t, second)
	usedIs(t, q, "pods", "2", "requests.cpu", "500m", "count/pods", "2")
	refused(t, costing(ns, "third", "0"), "exceeded quota: "+q.Name+", requested: pods=1, used: pods=2, limited: pods=2")
	before.Status.Phase = corev1.PodSucceeded
	if err := world.Client.Status().Update(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	usedIs(t, q, "pods", "1", "requests.cpu", "400m", "count/pods", "2")
	world.Erase(t, second, metav1.DeletePropagationBackground)
	usedIs(t, q, "pods", "0", "requests.cpu", "0", "count/pods", "1")
	q.Spec.Hard = amounts("count/pods", "1")
	if err := world.Client.Patch(t.Context(), q, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"hard":{"pods":null,"requests.cpu":null,"count/pods":"1"}}}`))); err != nil {
		t.Fatal(err)
	}
	list := &corev1.ResourceQuotaList{}
	world.Until(t, "only one is counted", list, func() bool { return len(list.Items[0].Status.Used) == 1 && len(list.Items[0].Status.Hard) == 1 }, client.InNamespace(ns))
}

// What others write to the status does not stay.
func TestQuotaStatusIsPutRight(t *testing.T) {
	ns := world.Space(t)
	q := limited(t, ns, corev1.ResourceQuotaSpec{Hard: amounts("pods", "2")})
	if err := world.Client.Status().Patch(t.Context(), q, client.RawPatch("application/merge-patch+json", []byte(`{"status":{"hard":{"pods":"7"}}}`))); err != nil {
		t.Fatal(err)
	}
	list := &corev1.ResourceQuotaList{}
	world.Until(t, "the limit is its own again", list, func() bool { n := list.Items[0].Status.Hard["pods"]; return n.Value() == 2 }, client.InNamespace(ns))
}

// A quota is about its scope only.
func TestQuotaScopes(t *testing.T) {
	ns := world.Space(t)
	q := limited(t, ns, corev1.ResourceQuotaSpec{Hard: amounts("pods", "1"), Scopes: []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeTerminating}})
	world.Put(t, costing(ns, "forever", ""))
	short := costing(ns, "short", "")
	short.Spec.ActiveDeadlineSeconds = ptr.To[int64](3600)
	world.Put(t, short)
	usedIs(t, q, "pods", "1")
	other := costing(ns, "other", "")
	other.Spec.ActiveDeadlineSeconds = ptr.To[int64](3600)
	refused(t, other, "exceeded quota: "+q.Name)
}

// Objects of all kinds can be counted, also those that are defined.
func TestQuotaOfNumbers(t *testing.T) {
	const group, kind = "counted.example.com", "Coin"
	world.Define(t, group, "coins", kind)
	ns := world.Space(t)
	list := &corev1.ConfigMapList{}
	world.Until(t, "the root CA is there", list, func() bool { return len(list.Items) == 1 }, client.InNamespace(ns))
	q := limited(t, ns, corev1.ResourceQuotaSpec{Hard: amounts("configmaps", "2", "count/coins."+group, "1", "services", "1", "services.nodeports", "2", "count/secrets", "0")})
	usedIs(t, q, "configmaps", "1")
	world.Put(t, world.MapOf(ns, "a"), world.Custom(group, kind, ns, "one"))
	usedIs(t, q, "configmaps", "2", "count/coins."+group, "1")
	refused(t, world.MapOf(ns, "b"), "exceeded quota: "+q.Name+", requested: configmaps=1, used: configmaps=2, limited: configmaps=2")
	refused(t, world.Custom(group, kind, ns, "two"), "requested: count/coins."+group+"=1")
	refused(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "s"}}, "requested: count/secrets=1")
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "s"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Name: "a", Port: 1}, {Name: "b", Port: 2}}}}
	world.Put(t, service)
	usedIs(t, q, "services", "1", "services.nodeports", "2")
	service.Spec.Type = corev1.ServiceTypeClusterIP
	for i := range service.Spec.Ports {
		service.Spec.Ports[i].NodePort = 0
	}
	if err := world.Client.Update(t.Context(), service); err != nil {
		t.Fatal(err)
	}
	usedIs(t, q, "services", "1", "services.nodeports", "0")
	world.Erase(t, world.Custom(group, kind, ns, "one"), metav1.DeletePropagationBackground)
	usedIs(t, q, "count/coins."+group, "0")
}

// Claims to devices cost what they can be given of each class.
func TestQuotaOfDevices(t *testing.T) {
	ns := world.Space(t)
	const perClass = "gpu.example.com.deviceclass.resource.k8s.io/devices"
	claim := func(name string, r ...resourcev1.DeviceRequest) *resourcev1.ResourceClaim {
		return &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: r}}}
	}
	exactly := func(name string, n int64) resourcev1.DeviceRequest {
		return resourcev1.DeviceRequest{Name: name, Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu.example.com", Count: n}}
	}
	before := claim("before", exactly("a", 2))
	world.Put(t, before)
	q := limited(t, ns, corev1.ResourceQuotaSpec{Hard: amounts(perClass, "7", "count/resourceclaims.resource.k8s.io", "2")})
	usedIs(t, q, perClass, "2", "count/resourceclaims.resource.k8s.io", "1")
	refused(t, claim("all", resourcev1.DeviceRequest{Name: "a", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu.example.com", AllocationMode: resourcev1.DeviceAllocationModeAll}}),
		"exceeded quota: "+q.Name+", requested: "+perClass+"=32, used: "+perClass+"=2, limited: "+perClass+"=7")
	world.Put(t, claim("first", exactly("a", 1), resourcev1.DeviceRequest{Name: "b", FirstAvailable: []resourcev1.DeviceSubRequest{
		{Name: "many", DeviceClassName: "gpu.example.com", Count: 4}, {Name: "few", DeviceClassName: "gpu.example.com", Count: 2}, {Name: "other", DeviceClassName: "other.example.com", Count: 9},
	}}))
	usedIs(t, q, perClass, "7", "count/resourceclaims.resource.k8s.io", "2")
	world.Erase(t, before, metav1.DeletePropagationBackground)
	usedIs(t, q, perClass, "5", "count/resourceclaims.resource.k8s.io", "1")
}
