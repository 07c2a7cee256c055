// SPDX-License-Identifier: Apache-2.0

package service

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// key is what a packet is recognised by. A zero address is a port of the node,
// on each address that is its own.
type key struct {
	addr  netip.Addr
	proto string // as nft has it: tcp, udp, sctp
	port  uint16
}

// kind is how the source of a connection is treated.
type kind string

const (
	clusterKind  kind = "cluster"  // a cluster IP: what is no Pod takes the node's address
	externalKind kind = "external" // from outside, to any node's endpoints: all take the node's address
	localKind    kind = "local"    // from outside, to this node's endpoints: sources are kept
	nearKind     kind = "near"     // the same address, used by Pods and by the node itself
)

// verdict is what becomes of a connection that no endpoint can take.
type verdict string

const (
	rejects verdict = "goto " + rejectChain
	drops   verdict = "drop" // another node could take it: the client may try that
	accepts verdict = "accept"
)

// frontend is one address and port of a Service, and where it leads.
type frontend struct {
	key
	owner    string // namespace/name of the Service
	port     string // owner, protocol and name of the port
	since    metav1.Time
	kind     kind
	backends []netip.AddrPort
	// near is where Pods and the node itself are led, for localKind.
	near []netip.AddrPort
	// otherwise is told to clients when there are no backends.
	otherwise verdict
	// sticky is for how many seconds a client stays with its backend; 0 is no
	// session affinity.
	sticky int32
	// sources may use the address; none is everybody.
	sources []netip.Prefix
}

// served says that the address itself is the one endpoint, as it is for
// default/kubernetes: nothing is to be translated.
func (f *frontend) served() bool {
	return len(f.backends) == 1 && f.backends[0] == netip.AddrPortFrom(f.addr, f.key.port)
}

// endpoint is an address of an EndpointSlice, for one port.
type endpoint struct {
	at              netip.AddrPort
	ready, draining bool // draining is serving and terminating
	local           bool
	hints           hints
}

// site is what the choice of endpoints has to know of this node.
type site struct {
	node, zone string
	ip6        bool
}

// frontends are all addresses of a Service in one address family. It follows
// kube-proxy's ServicePort and CategorizeEndpoints, and so KEP-1669: endpoints
// that end, and still serve, are used when no other is left.
func (w site) frontends(s *corev1.Service, slices []*discoveryv1.EndpointSlice) (out []frontend) {
	ip, ok := w.clusterIP(s)
	if !ok {
		return nil
	}
	for _, port := range s.Spec.Ports {
		eps := w.endpoints(slices, port)
		inside := w.frontend(s, port, eps, s.Spec.InternalTrafficPolicy != nil && *s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal)
		inside.kind, inside.near, inside.addr = clusterKind, nil, ip
		out = append(out, inside)
		outside := w.frontend(s, port, eps, s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal)
		for _, a := range s.Spec.ExternalIPs {
			if outside.addr, ok = w.parse(a); ok {
				out = append(out, outside)
			}
		}
		if port.NodePort != 0 {
			node := outside
			node.addr, node.key.port = netip.Addr{}, uint16(port.NodePort)
			out = append(out, node)
		}
		if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
			continue
		}
		outside.sources = w.sources(s)
		for _, in := range s.Status.LoadBalancer.Ingress {
			if in.IPMode != nil && *in.IPMode != corev1.LoadBalancerIPModeVIP {
				continue
			}
			if outside.addr, ok = w.parse(in.IP); ok {
				out = append(out, outside)
			}
		}
	}
	return out
}

// proxyName marks a Service that another proxy serves (KEP-2447).
const proxyName = "service.kubernetes.io/service-proxy-name"

// clusterIP is the Service's address in this family, for those that have one
// and are ours.
func (w site) clusterIP(s *corev1.Service) (netip.Addr, bool) {
	if _, foreign := s.Labels[proxyName]; foreign || s.Spec.Type == corev1.ServiceTypeExternalName {
		return netip.Addr{}, false
	}
	for _, a := range append([]string{s.Spec.ClusterIP}, s.Spec.ClusterIPs...) {
		if ip, ok := w.parse(a); ok {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

func (w site) parse(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	return a, err == nil && a.Is6() == w.ip6 && a.Zone() == ""
}

// sources are the ranges that may use a Service's load balancer. Ranges of the
// other family say nothing about this one.
func (w site) sources(s *corev1.Service) (out []netip.Prefix) {
	ranges := s.Spec.LoadBalancerSourceRanges
	if a := s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]; len(ranges) == 0 && a != "" {
		ranges = strings.Split(a, ",")
	}
	for _, r := range ranges {
		if p, err := netip.ParsePrefix(strings.TrimSpace(r)); err == nil && p.Addr().Is6() == w.ip6 {
			out = append(out, p.Masked())
		}
	}
	return out
}

// frontend is a port of a Service without its address. local leads outside
// clients to endpoints of this node alone.
func (w site) frontend(s *corev1.Service, port corev1.ServicePort, eps []endpoint, local bool) frontend {
	proto := strings.ToLower(string(cmp.Or(port.Protocol, corev1.ProtocolTCP)))
	owner := s.Namespace + "/" + s.Name
	f := frontend{
		key: key{proto: proto, port: uint16(port.Port)}, owner: owner, port: fmt.Sprintf("%s/%s/%s", owner, proto, port.Name),
		since: s.CreationTimestamp, kind: externalKind, otherwise: rejects,
	}
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		f.sticky = corev1.DefaultClientIPServiceAffinitySeconds
		if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil {
			f.sticky = ptr.Deref(c.ClientIP.TimeoutSeconds, f.sticky)
		}
	}
	all := usable(w.preferred(eps))
	if !local {
		f.backends = all
		return f
	}
	f.kind, f.near = localKind, all
	f.backends = usable(slices.DeleteFunc(slices.Clone(eps), func(e endpoint) bool { return !e.local }))
	if len(all) > 0 {
		f.otherwise = drops
	}
	return f
}

// usable are the ready endpoints, or else those that end and still serve.
func usable(eps []endpoint) (out []netip.AddrPort) {
	for _, e := range eps {
		if e.ready {
			out = append(out, e.at)
		}
	}
	if len(out) > 0 {
		return out
	}
	for _, e := range eps {
		if e.draining {
			out = append(out, e.at)
		}
	}
	return out
}

// endpoints are those of one port of a Service, each once, in the order of
// their addresses.
func (w site) endpoints(all []*discoveryv1.EndpointSlice, port corev1.ServicePort) []endpoint {
	found := map[netip.AddrPort]endpoint{}
	for _, slice := range all {
		number, ok := targetPort(slice, port)
		if !ok {
			continue
		}
		for _, e := range slice.Endpoints {
			if len(e.Addresses) == 0 {
				continue
			}
			// The addresses of one endpoint are interchangeable (discovery/v1).
			addr, ok := w.parse(e.Addresses[0])
			if !ok {
				continue
			}
			at := netip.AddrPortFrom(addr, number)
			ready := ptr.Deref(e.Conditions.Ready, true)
			draining := ptr.Deref(e.Conditions.Serving, ready) && ptr.Deref(e.Conditions.Terminating, false)
			have := found[at] // a Pod that moves from one slice to another is in both for a moment
			found[at] = endpoint{at, ready || have.ready, draining || have.draining, have.local || e.NodeName != nil && *e.NodeName == w.node, have.hints.and(e.Hints)}
		}
	}
	out := make([]endpoint, 0, len(found))
	for _, e := range found {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b endpoint) int { return a.at.Compare(b.at) })
	return out
}

// targetPort is the number behind a Service's port in a slice, found by name.
func targetPort(s *discoveryv1.EndpointSlice, port corev1.ServicePort) (uint16, bool) {
	for _, p := range s.Ports {
		proto := ptr.Deref(p.Protocol, corev1.ProtocolTCP)
		if ptr.Deref(p.Name, "") == port.Name && proto == cmp.Or(port.Protocol, corev1.ProtocolTCP) && p.Port != nil {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}
