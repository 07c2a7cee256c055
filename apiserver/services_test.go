// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/api/allocation"
)

var dryRun = []string{metav1.DryRunAll}

// nodePortService is a Service that asks for a node port, or for any with 0.
func nodePortService(name string, port int32) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80, NodePort: port}}},
	}
}

// makeService stores a Service and removes it when the test is over.
func makeService(t *testing.T, v *corev1.Service) *corev1.Service {
	t.Helper()
	services := admin.CoreV1().Services("default")
	got, err := services.Create(t.Context(), v, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := services.Delete(context.Background(), got.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	return got
}

func mustRefuse(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestServicesGetAddresses(t *testing.T) {
	services := admin.CoreV1().Services("default")
	own, err := services.Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil || own.Spec.ClusterIP != "10.96.0.1" {
		t.Fatalf("kubernetes: %v, %v", own.Spec.ClusterIP, err)
	}
	a := makeService(t, nodePortService("addresses-a", 0))
	ip, port := a.Spec.ClusterIP, a.Spec.Ports[0].NodePort
	if p, err := netip.ParseAddr(ip); err != nil || !server.config.Services.Contains(p) || port < allocation.FirstNodePort || port > allocation.LastNodePort {
		t.Fatalf("was given %q and %d", ip, port)
	}
	b := nodePortService("addresses-b", port)
	_, err = services.Create(t.Context(), b, metav1.CreateOptions{})
	mustRefuse(t, err, fmt.Sprintf(`Service "addresses-b" is invalid: spec.ports[0].nodePort: Invalid value: %d: provided port is already allocated`, port))
	_, err = services.Create(t.Context(), b, metav1.CreateOptions{DryRun: dryRun})
	mustRefuse(t, err, fmt.Sprintf(`Service "addresses-b" is invalid: spec.ports[0].nodePort: Invalid value: %d: provided port is already allocated`, port))
	b.Spec.Ports[0].NodePort, b.Spec.ClusterIP = 0, ip
	_, err = services.Create(t.Context(), b, metav1.CreateOptions{})
	mustRefuse(t, err, fmt.Sprintf(`Service "addresses-b" is invalid: spec.clusterIPs: Invalid value: [%q]: failed to allocate IP %s: provided IP is already allocated`, ip, ip))
	b.Spec.ClusterIP = "10.97.0.1"
	_, err = services.Create(t.Context(), b, metav1.CreateOptions{})
	mustRefuse(t, err, `Service "addresses-b" is invalid: spec.clusterIPs: Invalid value: ["10.97.0.1"]: failed to allocate IP 10.97.0.1: the provided network does not match the current range`)
	b.Spec.ClusterIP, b.Spec.Ports[0].NodePort = "", 40000
	_, err = services.Create(t.Context(), b, metav1.CreateOptions{})
	mustRefuse(t, err, `Service "addresses-b" is invalid: spec.ports[0].nodePort: Invalid value: 40000: provided port is not in the valid range. The range of valid ports is 30000-32767`)

	// What is not mentioned stays; what is deleted is free.
	a.Spec.Ports[0].Port, a.Spec.Ports[0].NodePort = 81, 0
	a.Spec.ClusterIP, a.Spec.ClusterIPs, a.ResourceVersion = "", nil, ""
	up, err := services.Update(t.Context(), a, metav1.UpdateOptions{})
	if err != nil || up.Spec.ClusterIP != ip || up.Spec.Ports[0].NodePort != port {
		t.Fatalf("update: %v, %v", up, err)
	}
	if err := services.Delete(t.Context(), a.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	b.Spec.ClusterIP, b.Spec.Ports[0].NodePort = ip, port
	makeService(t, b)
}

// What fails, and what is a dry run, takes nothing.
func TestServiceTakesNothingInVain(t *testing.T) {
	services := admin.CoreV1().Services("default")
	v := nodePortService("vain", 30500)
	v.Spec.ClusterIP = "10.96.5.0"
	dry, err := services.Create(t.Context(), v, metav1.CreateOptions{DryRun: dryRun})
	if err != nil || dry.Spec.ClusterIP != "10.96.5.0" || dry.Spec.Ports[0].NodePort != 30500 {
		t.Fatalf("dry run: %v, %v", dry, err)
	}
	bad := v.DeepCopy()
	bad.Spec.Selector = map[string]string{"a!": "b"}
	if _, err := services.Create(t.Context(), bad, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Fatalf("a bad selector: %v", err)
	}
	got := makeService(t, v)
	other := makeService(t, nodePortService("vain-too", 0))
	// A change that fails keeps what there was.
	other.Spec.Ports[0].NodePort = 30500
	_, err = services.Update(t.Context(), other, metav1.UpdateOptions{})
	mustRefuse(t, err, `Service "vain-too" is invalid: spec.ports[0].nodePort: Invalid value: 30500: provided port is already allocated`)
	got.Spec.Type, got.Spec.Selector = corev1.ServiceTypeClusterIP, map[string]string{"a!": "b"}
	if _, err := services.Update(t.Context(), got, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Fatalf("a bad selector: %v", err)
	}
	got.Spec.Selector = nil
	if _, err := services.Update(t.Context(), got, metav1.UpdateOptions{DryRun: dryRun}); err != nil {
		t.Fatal(err)
	}
	_, err = services.Create(t.Context(), nodePortService("vain-three", 30500), metav1.CreateOptions{})
	mustRefuse(t, err, `Service "vain-three" is invalid: spec.ports[0].nodePort: Invalid value: 30500: provided port is already allocated`)
	// One that succeeds lets go.
	up, err := services.Update(t.Context(), got, metav1.UpdateOptions{})
	if err != nil || up.Spec.Ports[0].NodePort != 0 || up.Spec.ClusterIP != "10.96.5.0" {
		t.Fatalf("update: %+v, %v", up.Spec, err)
	}
	makeService(t, nodePortService("vain-three", 30500))
}

func TestServicesRaceForAPort(t *testing.T) {
	services := admin.CoreV1().Services("default")
	waiting := []*corev1.Service{makeService(t, nodePortService("race-x", 0)), makeService(t, nodePortService("race-y", 0))}
	for round := range int32(8) {
		port := 30600 + round
		results := make([]error, 4)
		var all sync.WaitGroup
		for i := range results {
			all.Go(func() {
				if i < len(waiting) {
					patch := fmt.Appendf(nil, `{"spec":{"ports":[{"port":80,"nodePort":%d}]}}`, port)
					_, results[i] = services.Patch(t.Context(), waiting[i].Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
					return
				}
				name := fmt.Sprintf("race-%d-%d", round, i)
				if _, results[i] = services.Create(t.Context(), nodePortService(name, port), metav1.CreateOptions{}); results[i] == nil {
					t.Cleanup(func() { services.Delete(context.Background(), name, metav1.DeleteOptions{}) })
				}
			})
		}
		all.Wait()
		won := 0
		for _, err := range results {
			switch {
			case err == nil:
				won++
			case !apierrors.IsInvalid(err):
				t.Errorf("the loser hears: %v", err)
			}
		}
		if won != 1 {
			t.Fatalf("%d Services have the node port %d: %v", won, port, results)
		}
	}
}

func TestServiceTypes(t *testing.T) {
	services := admin.CoreV1().Services("default")
	makeService(t, nodePortService("types", 0))
	patch := func(p string) *corev1.Service {
		t.Helper()
		got, err := services.Patch(t.Context(), "types", types.MergePatchType, []byte(p), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	v := patch(`{"spec":{"type":"ExternalName","externalName":"a.example.com"}}`)
	if v.Spec.ClusterIP != "" || v.Spec.ClusterIPs != nil || v.Spec.IPFamilies != nil || v.Spec.IPFamilyPolicy != nil || v.Spec.Ports[0].NodePort != 0 || v.Spec.ExternalTrafficPolicy != "" || v.Spec.InternalTrafficPolicy != nil {
		t.Errorf("as an external name it keeps %+v", v.Spec)
	}
	v = patch(`{"spec":{"type":"ClusterIP","externalName":null}}`)
	if v.Spec.ClusterIP == "" || len(v.Spec.ClusterIPs) != 1 || len(v.Spec.IPFamilies) != 1 || v.Spec.Ports[0].NodePort != 0 {
		t.Errorf("with an address again it has %+v", v.Spec)
	}
	// A status is not a reason to give anything.
	v.Status.Conditions = []metav1.Condition{{Type: "a", Status: "True", Reason: "R", LastTransitionTime: metav1.Now()}}
	v.Spec.Type = corev1.ServiceTypeNodePort
	if v, err := services.UpdateStatus(t.Context(), v, metav1.UpdateOptions{}); err != nil || v.Spec.Type != corev1.ServiceTypeClusterIP || len(v.Status.Conditions) != 1 {
		t.Errorf("status: %+v, %v", v, err)
	}
}
