// SPDX-License-Identifier: Apache-2.0

package endpoints

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/controller/world"
)

func newService(ns, name string, change func(*corev1.ServiceSpec)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{"mine": "yes"}}}
	s.Spec.Selector = map[string]string{"app": "web"}
	s.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("web")}, {Name: "fixed", Port: 81, TargetPort: intstr.FromInt32(8081)}}
	if change != nil {
		change(&s.Spec)
	}
	return s
}

// serve makes a Pod that runs on a node with an address.
func serve(t *testing.T, ns, name, node, ip string, ready bool) *corev1.Pod {
	t.Helper()
	p := world.NewPod(ns, name, node)
	p.Spec.Hostname, p.Spec.Subdomain = "host-"+name, "headless"
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}
	world.Put(t, p)
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}}
	if ready {
		p.Status.Conditions[0].Status = corev1.ConditionTrue
	}
	if err := world.Client.Status().Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	return p
}

// addresses waits for what an Endpoints says: ready addresses, then those that
// are not, then ports, of each subset.
func addresses(t *testing.T, ns, name, want string) corev1.Endpoints {
	t.Helper()
	var list corev1.EndpointsList
	world.Until(t, name+" has the addresses "+want, &list, func() bool {
		if len(list.Items) != 1 {
			return want == "none" && len(list.Items) == 0
		}
		var got []string
		for _, s := range list.Items[0].Subsets {
			text := func(list []corev1.EndpointAddress) string {
				var all []string
				for _, a := range list {
					all = append(all, strings.TrimSuffix(a.IP+"/"+a.Hostname, "/"))
				}
				return strings.Join(all, ",")
			}
			var ports []string
			for _, p := range s.Ports {
				ports = append(ports, fmt.Sprint(p.Name, ":", p.Port))
			}
			slices.Sort(ports)
			got = append(got, fmt.Sprintf("%s|%s|%s", text(s.Addresses), text(s.NotReadyAddresses), strings.Join(ports, ",")))
		}
		t.Log(got)
		return strings.Join(got, " ") == want
	}, client.InNamespace(ns), client.MatchingFields{"metadata.name": name})
	if len(list.Items) == 0 {
		return corev1.Endpoints{}
	}
	return list.Items[0]
}

// sliced waits for what the slices of a Service say of each endpoint.
func sliced(t *testing.T, ns, name string, want ...string) []discoveryv1.EndpointSlice {
	t.Helper()
	var list discoveryv1.EndpointSliceList
	world.Until(t, fmt.Sprintf("%s has the endpoints %v", name, want), &list, func() bool {
		var got []string
		for _, s := range list.Items {
			for _, e := range s.Endpoints {
				flag := func(name string, b *bool) string {
					if b == nil || !*b {
						return ""
					}
					return " " + name
				}
				zone, host := "", ""
				if e.Zone != nil {
					zone = " " + *e.Zone
				}
				if e.Hostname != nil {
					host = " " + *e.Hostname
				}
				got = append(got, e.Addresses[0]+flag("ready", e.Conditions.Ready)+flag("serving", e.Conditions.Serving)+flag("terminating", e.Conditions.Terminating)+zone+host)
			}
		}
		slices.Sort(got)
		t.Log(got)
		return slices.Equal(got, want)
	}, client.InNamespace(ns), client.MatchingLabels{discoveryv1.LabelServiceName: name})
	return list.Items
}

// TestEndpointsOfPods: the life of a Service's endpoints.
func TestEndpointsOfPods(t *testing.T) {
	ns := world.Space(t)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{GenerateName: "node-", Labels: map[string]string{corev1.LabelTopologyZone: "west"}}}
	world.Put(t, node)
	svc := newService(ns, "svc", nil)
	world.Put(t, svc, newService(ns, "all", func(s *corev1.ServiceSpec) { s.PublishNotReadyAddresses = true }),
		newService(ns, "headless", func(s *corev1.ServiceSpec) { s.ClusterIP, s.Ports = corev1.ClusterIPNone, nil }))
	const ports = "|fixed:8081,http:8080"
	addresses(t, ns, "svc", "")
	a, b := serve(t, ns, "a", node.Name, "10.0.0.1", true), serve(t, ns, "b", node.Name, "10.0.0.2", false)
	over := serve(t, ns, "over", node.Name, "10.0.0.3", true)
	over.Status.Phase, over.Status.Conditions[0].Status = corev1.PodSucceeded, corev1.ConditionFalse
	if err := world.Client.Status().Update(t.Context(), over); err != nil {
		t.Fatal(err)
	}
	e := addresses(t, ns, "svc", "10.0.0.1|10.0.0.2"+ports)
	if got := e.Labels; fmt.Sprint(got) != "map[endpoints.kubernetes.io/managed-by:endpoint-controller mine:yes]" {
		t.Errorf("labels of Endpoints: %v", got)
	}
	if r := e.Subsets[0].Addresses[0]; r.TargetRef == nil || *r.TargetRef != (corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: "a", UID: a.UID}) || r.NodeName == nil || *r.NodeName != node.Name {
		t.Errorf("an address: %+v", r)
	}
	addresses(t, ns, "all", "10.0.0.1,10.0.0.2|"+ports)
	e = addresses(t, ns, "headless", "10.0.0.1/host-a|10.0.0.2/host-b|")
	if _, labelled := e.Labels[corev1.IsHeadlessService]; !labelled {
		t.Errorf("labels of a headless Service's Endpoints: %v", e.Labels)
	}
	s := sliced(t, ns, "svc", "10.0.0.1 ready serving west", "10.0.0.2 west")
	if r := s[0].Endpoints[0]; len(s) != 1 || r.NodeName == nil || *r.NodeName != node.Name || r.TargetRef == nil || r.TargetRef.Kind != "Pod" {
		t.Errorf("%d slices, an endpoint: %+v", len(s), r)
	}
	if s[0].Labels[discoveryv1.LabelManagedBy] != sliceController || s[0].Labels["mine"] != "yes" || !metav1.IsControlledBy(&s[0], svc) {
		t.Errorf("a slice: %v %v", s[0].Labels, s[0].OwnerReferences)
	}
	sliced(t, ns, "all", "10.0.0.1 ready serving west", "10.0.0.2 ready west")
	sliced(t, ns, "headless", "10.0.0.1 ready serving west host-a", "10.0.0.2 west host-b")

	b.Status.Conditions[0].Status = corev1.ConditionTrue
	if err := world.Client.Status().Update(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	addresses(t, ns, "svc", "10.0.0.1,10.0.0.2|"+ports)
	if err := world.Client.Delete(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	addresses(t, ns, "svc", "10.0.0.2|"+ports)
	addresses(t, ns, "all", "10.0.0.1,10.0.0.2|"+ports)
	sliced(t, ns, "svc", "10.0.0.1 serving terminating west", "10.0.0.2 ready serving west")
	sliced(t, ns, "all", "10.0.0.1 ready serving terminating west", "10.0.0.2 ready serving west")
	if err := world.Client.Delete(t.Context(), a, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	sliced(t, ns, "svc", "10.0.0.2 ready serving west")
	if err := world.Client.Patch(t.Context(), b, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"other"}}}`))); err != nil {
		t.Fatal(err)
	}
	addresses(t, ns, "svc", "")
	sliced(t, ns, "svc")

	var list discoveryv1.EndpointSliceList
	ours := client.MatchingLabels{discoveryv1.LabelServiceName: "svc"}
	if err := world.Client.DeleteAllOf(t.Context(), &discoveryv1.EndpointSlice{}, client.InNamespace(ns), ours); err != nil {
		t.Fatal(err)
	}
	world.Until(t, "a slice removed by hand is back", &list, func() bool { return len(list.Items) == 1 }, client.InNamespace(ns), ours)
	if err := world.Client.Delete(t.Context(), svc); err != nil {
		t.Fatal(err)
	}
	addresses(t, ns, "svc", "none")
	world.Until(t, "the slices go with the Service", &list, func() bool { return len(list.Items) == 0 }, client.InNamespace(ns), ours)
}

// TestManySlices: no slice has more than a hundred endpoints.
func TestManySlices(t *testing.T) {
	ns, node := world.Space(t), world.NewNode(t)
	var want []string
	for i := range maxPerSlice + 20 {
		ip := fmt.Sprintf("10.1.1.%d", i+1)
		serve(t, ns, fmt.Sprint("p", i), node, ip, true)
		want = append(want, ip+" ready serving")
	}
	slices.Sort(want)
	world.Put(t, newService(ns, "many", nil))
	var sizes []int
	for _, s := range sliced(t, ns, "many", want...) {
		sizes = append(sizes, len(s.Endpoints))
	}
	slices.Sort(sizes)
	if !slices.Equal(sizes, []int{20, maxPerSlice}) {
		t.Errorf("the sizes of the slices are %v", sizes)
	}
}

// TestMirroring: Endpoints made by hand become slices, for a Service without a
// selector, as long as they are meant to.
func TestMirroring(t *testing.T) {
	ns := world.Space(t)
	svc := newService(ns, "hand", func(s *corev1.ServiceSpec) { s.Selector = nil })
	e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "hand", Labels: map[string]string{"l": "1"}, Annotations: map[string]string{
		"a": "1", corev1.LastAppliedConfigAnnotation: "{}", corev1.EndpointsLastChangeTriggerTime: "2026-01-01T00:00:00Z",
	}}}
	e.Subsets = []corev1.EndpointSubset{{
		Addresses:         []corev1.EndpointAddress{{IP: "192.0.2.1", Hostname: "one"}, {IP: "2001:db8::1"}},
		NotReadyAddresses: []corev1.EndpointAddress{{IP: "192.0.2.2"}}, Ports: []corev1.EndpointPort{{Name: "http", Port: 80}},
	}}
	world.Put(t, e)
	sliced(t, ns, "hand")
	world.Put(t, svc)
	all := sliced(t, ns, "hand", "192.0.2.1 ready one", "192.0.2.2", "2001:db8::1 ready")
	if len(all) != 2 {
		t.Fatalf("%d slices for two families", len(all))
	}
	for _, s := range all {
		if fmt.Sprint(s.Labels) != fmt.Sprintf("map[%s:%s %s:hand l:1]", discoveryv1.LabelManagedBy, mirrorController, discoveryv1.LabelServiceName) || fmt.Sprint(s.Annotations) != "map[a:1]" ||
			!metav1.IsControlledBy(&s, e) || !strings.HasPrefix(s.Name, "hand-") || *s.Ports[0].Name != "http" || *s.Ports[0].Port != 80 || *s.Ports[0].Protocol != corev1.ProtocolTCP {
			t.Errorf("a slice: %v %v %v %v %v", s.Name, s.Labels, s.Annotations, s.OwnerReferences, s.Ports)
		}
	}
	change := func(patch any) {
		t.Helper()
		b, err := json.Marshal(patch)
		if err != nil {
			t.Fatal(err)
		}
		if err := world.Client.Patch(t.Context(), e, client.RawPatch(types.MergePatchType, b)); err != nil {
			t.Fatal(err)
		}
	}
	change(map[string]any{"subsets": []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "192.0.2.9"}}, Ports: []corev1.EndpointPort{{Name: "other", Port: 81}}}}})
	kept := sliced(t, ns, "hand", "192.0.2.9 ready")
	if len(kept) != 1 || !slices.ContainsFunc(all, func(s discoveryv1.EndpointSlice) bool { return s.UID == kept[0].UID }) || *kept[0].Ports[0].Name != "other" {
		t.Errorf("a slice that can be kept is not: %v", kept)
	}
	change(map[string]any{"metadata": map[string]any{"labels": map[string]any{discoveryv1.LabelSkipMirror: "true"}}})
	sliced(t, ns, "hand")
	change(map[string]any{"metadata": map[string]any{"labels": map[string]any{discoveryv1.LabelSkipMirror: nil}}})
	sliced(t, ns, "hand", "192.0.2.9 ready")
	if err := world.Client.Patch(t.Context(), svc, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"selector":{"app":"none"}}}`))); err != nil {
		t.Fatal(err)
	}
	sliced(t, ns, "hand")
	addresses(t, ns, "hand", "")
}

// TestTooManyMirrored: more than can be mirrored are told of.
func TestTooManyMirrored(t *testing.T) {
	ns := world.Space(t)
	e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "big"}, Subsets: []corev1.EndpointSubset{{Ports: []corev1.EndpointPort{{Port: 80}}}}}
	for i := range maxMirrored + 2 {
		e.Subsets[0].Addresses = append(e.Subsets[0].Addresses, corev1.EndpointAddress{IP: fmt.Sprintf("10.2.%d.%d", i/250, i%250+1)})
	}
	world.Put(t, newService(ns, "big", func(s *corev1.ServiceSpec) { s.Selector = nil }), e)
	var events corev1.EventList
	const want = "A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. 2 addresses were skipped"
	world.Until(t, "it is told", &events, func() bool {
		return slices.ContainsFunc(events.Items, func(e corev1.Event) bool { return e.Reason == "TooManyAddressesToMirror" && e.Message == want })
	}, client.InNamespace(ns))
	var list discoveryv1.EndpointSliceList
	world.Until(t, "a thousand are mirrored", &list, func() bool { return len(list.Items) == 1 && len(list.Items[0].Endpoints) == maxMirrored }, client.InNamespace(ns))
}
