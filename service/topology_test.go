// SPDX-License-Identifier: Apache-2.0

package service

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// meant is an endpoint at 10.244.0.<last> and what it is meant for.
type meant struct {
	last         string
	nodes, zones []string
	ready        bool
	draining     bool
}

func (m meant) endpoint() discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{"10.244.0." + m.last}, Conditions: discoveryv1.EndpointConditions{
		Ready: ptr.To(m.ready), Serving: ptr.To(m.ready || m.draining), Terminating: ptr.To(m.draining),
	}}
	if len(m.nodes)+len(m.zones) > 0 {
		e.Hints = &discoveryv1.EndpointHints{}
	}
	for _, n := range m.nodes {
		e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: n})
	}
	for _, z := range m.zones {
		e.Hints.ForZones = append(e.Hints.ForZones, discoveryv1.ForZone{Name: z})
	}
	return e
}

// TestHints says where clients of the node "here" in the zone "z" are led, as
// kube-proxy's CategorizeEndpoints has it.
func TestHints(t *testing.T) {
	here, there, z, y := []string{"here"}, []string{"there"}, []string{"z"}, []string{"y"}
	for about, c := range map[string]struct {
		endpoints []meant
		noZone    bool
		want      []string
	}{
		"no hints":                            {endpoints: []meant{{last: "1", ready: true}, {last: "2", ready: true}}, want: []string{"1", "2"}},
		"this node's":                         {endpoints: []meant{{last: "1", nodes: here, ready: true}, {last: "2", nodes: there, ready: true}}, want: []string{"1"}},
		"one is meant for nobody":             {endpoints: []meant{{last: "1", nodes: here, ready: true}, {last: "2", ready: true}}, want: []string{"1", "2"}},
		"none is this node's":                 {endpoints: []meant{{last: "1", nodes: there, ready: true}, {last: "2", nodes: there, ready: true}}, want: []string{"1", "2"}},
		"this zone's":                         {endpoints: []meant{{last: "1", zones: z, ready: true}, {last: "2", zones: y, ready: true}, {last: "3", zones: append(y, "z"), ready: true}}, want: []string{"1", "3"}},
		"none is this zone's":                 {endpoints: []meant{{last: "1", zones: y, ready: true}}, want: []string{"1"}},
		"the node has no zone":                {endpoints: []meant{{last: "1", zones: z, ready: true}, {last: "2", zones: y, ready: true}}, noZone: true, want: []string{"1", "2"}},
		"the node before the zone":            {endpoints: []meant{{last: "1", nodes: here, zones: y, ready: true}, {last: "2", nodes: there, zones: z, ready: true}}, want: []string{"1"}},
		"the zone when the node has none":     {endpoints: []meant{{last: "1", nodes: there, zones: z, ready: true}, {last: "2", nodes: there, zones: y, ready: true}}, want: []string{"1"}},
		"who is not ready has no say":         {endpoints: []meant{{last: "1", zones: z, ready: true}, {last: "2", zones: y, ready: true}, {last: "3"}}, want: []string{"1"}},
		"who is meant for here is not ready":  {endpoints: []meant{{last: "1", nodes: here}, {last: "2", nodes: there, ready: true}}, want: []string{"2"}},
		"all end, and hints do not count":     {endpoints: []meant{{last: "1", nodes: here, draining: true}, {last: "2", nodes: there, draining: true}}, want: []string{"1", "2"}},
		"a ready one elsewhere before an end": {endpoints: []meant{{last: "1", nodes: here, draining: true}, {last: "2", nodes: there, ready: true}}, want: []string{"2"}},
	} {
		w := site{node: "here", zone: "z"}
		if c.noZone {
			w.zone = ""
		}
		slice := &discoveryv1.EndpointSlice{Ports: []discoveryv1.EndpointPort{{Port: ptr.To[int32](80)}}}
		for _, m := range c.endpoints {
			slice.Endpoints = append(slice.Endpoints, m.endpoint())
		}
		service := &corev1.Service{Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, ClusterIP: "10.96.0.7", ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, Ports: []corev1.ServicePort{{Port: 80, NodePort: 30080}},
		}}
		var want []netip.AddrPort
		for _, last := range c.want {
			want = append(want, netip.MustParseAddrPort("10.244.0."+last+":80"))
		}
		got := w.frontends(service, []*discoveryv1.EndpointSlice{slice})
		same := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
		if diff := cmp.Diff(want, got[0].backends, same); diff != "" {
			t.Errorf("%s: by the cluster IP (-want +got):\n%s", about, diff)
		}
		if diff := cmp.Diff(want, got[1].near, same); diff != "" {
			t.Errorf("%s: from inside by the node port (-want +got):\n%s", about, diff)
		}
	}
}

// A node that moves to another zone looks at all its Services anew; what is said
// of other nodes, or changes nothing, wakes nobody.
func TestZone(t *testing.T) {
	p := newProxy(configOf(false), nil)
	p.takeService(nil, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}})
	rung := func() bool {
		select {
		case <-p.bell:
			return true
		default:
			return false
		}
	}
	rung()
	clear(p.dirty)
	node := func(name, zone string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: zone}}}
	}
	for _, c := range []struct {
		node *corev1.Node
		want bool
	}{{node("there", "z"), false}, {node("here", "z"), true}, {node("here", "z"), false}, {node("here", "y"), true}, {nil, false}, {node("here", ""), true}} {
		p.takeNode(nil, c.node)
		if got := rung(); got != c.want || p.dirty["ns/web"] != c.want {
			t.Errorf("%v: woken %v, to look at %v", c.node, got, p.dirty)
		}
		clear(p.dirty)
	}
}
