// SPDX-License-Identifier: Apache-2.0

package endpoints

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/controller/world"
)

// The name server's Service and what says where it answers are there, and come
// back as they were when somebody deletes or changes them.
func TestClusterDNS(t *testing.T) {
	var services corev1.ServiceList
	var endpoints corev1.EndpointsList
	var endpointSlices discoveryv1.EndpointSliceList
	service := func() bool {
		return slices.ContainsFunc(services.Items, func(s corev1.Service) bool {
			return s.Name == "kube-dns" && s.Spec.ClusterIP == "10.96.0.10" && len(s.Spec.Selector) == 0 && len(s.Spec.Ports) == 2 &&
				s.Spec.Ports[0] == corev1.ServicePort{Name: "dns", Port: 53, TargetPort: intstr.FromInt32(53), Protocol: corev1.ProtocolUDP} &&
				s.Spec.Ports[1].Protocol == corev1.ProtocolTCP && s.Labels["k8s-app"] == "kube-dns"
		})
	}
	legacy := func() bool {
		return slices.ContainsFunc(endpoints.Items, func(e corev1.Endpoints) bool {
			return e.Name == "kube-dns" && len(e.Subsets) == 1 && len(e.Subsets[0].Ports) == 2 && e.Subsets[0].Addresses[0].IP == "10.96.0.10"
		})
	}
	slice := func() bool {
		return slices.ContainsFunc(endpointSlices.Items, func(e discoveryv1.EndpointSlice) bool {
			return e.Name == "kube-dns" && e.Labels[discoveryv1.LabelServiceName] == "kube-dns" && len(e.Endpoints) == 1 && e.Endpoints[0].Addresses[0] == "10.96.0.10" && len(e.Ports) == 2
		})
	}
	here := client.InNamespace(metav1.NamespaceSystem)
	all := func(t *testing.T) {
		t.Helper()
		world.Until(t, "the Service is as it should be", &services, service, here)
		world.Until(t, "so are its Endpoints", &endpoints, legacy, here)
		world.Until(t, "and its slice", &endpointSlices, slice, here)
	}
	all(t)
	meta := metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "kube-dns"}
	for _, o := range []client.Object{&corev1.Service{ObjectMeta: meta}, &corev1.Endpoints{ObjectMeta: meta}, &discoveryv1.EndpointSlice{ObjectMeta: meta}} {
		if err := world.Client.Delete(t.Context(), o); client.IgnoreNotFound(err) != nil { // Endpoints go with their Service
			t.Fatal(err)
		}
	}
	all(t)
	for patch, o := range map[string]client.Object{
		`{"spec":{"selector":{"k8s-app":"other"},"ports":[{"port":9153}]}}`: &corev1.Service{ObjectMeta: meta},
		`{"subsets":null}`:   &corev1.Endpoints{ObjectMeta: meta},
		`{"endpoints":null}`: &discoveryv1.EndpointSlice{ObjectMeta: meta},
	} {
		if err := world.Client.Patch(t.Context(), o, client.RawPatch("application/merge-patch+json", []byte(patch))); err != nil {
			t.Fatal(err)
		}
	}
	all(t)
}
