// SPDX-License-Identifier: Apache-2.0

package service

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// hints are the nodes and the zones that an endpoint is meant for: the
// EndpointSlice controller says so by the Service's trafficDistribution.
type hints struct{ nodes, zones []string }

// and adds those of a slice.
func (h hints) and(of *discoveryv1.EndpointHints) hints {
	if of == nil {
		return h
	}
	for _, n := range of.ForNodes {
		h.nodes = append(h.nodes, n.Name)
	}
	for _, z := range of.ForZones {
		h.zones = append(h.zones, z.Name)
	}
	return h
}

// preferred are the endpoints that clients of this node are led to: those meant
// for the node, or else for its zone, or else all. Hints count if every ready
// endpoint has some and one is meant for here, so that none of the cluster's
// endpoints is left out by half of the news (kube-proxy's topologyModeFromHints).
func (w site) preferred(eps []endpoint) []endpoint {
	for _, by := range []struct {
		here  string
		hints func(endpoint) []string
	}{
		{w.node, func(e endpoint) []string { return e.hints.nodes }},
		{w.zone, func(e endpoint) []string { return e.hints.zones }},
	} {
		meant, every := []endpoint(nil), true
		for _, e := range eps {
			if !e.ready {
				continue
			}
			every = every && len(by.hints(e)) > 0
			if slices.Contains(by.hints(e), by.here) {
				meant = append(meant, e)
			}
		}
		if every && len(meant) > 0 {
			return meant
		}
	}
	return eps
}

// takeNode learns this node's zone. When it changes all Services are looked at.
func (p *Proxy) takeNode(_, new *corev1.Node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if new == nil || new.Name != p.site.node || new.Labels[corev1.LabelTopologyZone] == p.site.zone {
		return
	}
	p.site.zone = new.Labels[corev1.LabelTopologyZone]
	for name := range p.services {
		p.dirty[name] = true
	}
	p.ring()
}
