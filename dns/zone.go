// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

// ttl is how long clients may keep what is said about the cluster, in seconds,
// as in Kubernetes' Corefile.
const ttl = 30

// version is of the specification that is served.
const version = "1.1.0"

// origin is the zone's name.
const origin = Domain + "."

// zone answers for the cluster's names, and the addresses behind them.
type zone struct {
	address                      netip.Addr // this server's
	services, slices, namespaces cache.Indexer
	newest                       []interface{ LastSyncResourceVersion() string }
}

// Indexes of the shared cache that the zone looks things up by.
const (
	byService = "dns/service" // slices, by namespace/name of their Service
	byAddress = "dns/address" // Services by cluster IPs, slices by those of endpoints with a hostname
)

func newZone(cfg Config) (*zone, error) {
	if err := index(cfg.Services, cache.Indexers{byAddress: serviceAddresses}); err != nil {
		return nil, err
	}
	if err := index(cfg.Slices, cache.Indexers{byService: sliceService, byAddress: sliceAddresses}); err != nil {
		return nil, err
	}
	z := &zone{address: cfg.Listen.Addr(), services: cfg.Services.GetIndexer(), slices: cfg.Slices.GetIndexer(), namespaces: cfg.Namespaces.GetIndexer()}
	z.newest = append(z.newest, cfg.Services, cfg.Slices, cfg.Namespaces)
	return z, nil
}

func index(i cache.SharedIndexInformer, by cache.Indexers) error {
	if err := i.AddIndexers(by); err != nil {
		return fmt.Errorf("cannot index the cache: %w", err)
	}
	return nil
}

func serviceAddresses(o any) ([]string, error) {
	return clusterIPs(o.(*corev1.Service)), nil
}

// clusterIPs are a Service's addresses; a headless one has none.
func clusterIPs(s *corev1.Service) []string {
	if s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil
	}
	if len(s.Spec.ClusterIPs) == 0 && s.Spec.ClusterIP != "" {
		return []string{s.Spec.ClusterIP}
	}
	return s.Spec.ClusterIPs
}

func sliceService(o any) ([]string, error) {
	s := o.(*discoveryv1.EndpointSlice)
	return []string{s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]}, nil
}

func sliceAddresses(o any) (out []string, _ error) {
	for _, e := range o.(*discoveryv1.EndpointSlice).Endpoints {
		if ptr.Deref(e.Hostname, "") != "" {
			out = append(out, e.Addresses...)
		}
	}
	return out, nil
}

// found is what the zone has for a question.
type found struct {
	rcode                    int
	answer, extra, authority []dns.RR
	// alias is where the answer leads on to.
	alias string
}

// host is something with an address that a name stands for.
type host struct {
	name    string // its own, in full
	address netip.Addr
	port    uint16 // 0 without a port
}

// find answers a question; ours is false for what others have to be asked.
func (z *zone) find(q dns.Question) (f found, ours bool) {
	labels, ok := within(q.Name, origin)
	if !ok {
		// What the cluster has no name for, others may have.
		if a, ok := reversed(q.Name); ok && q.Qtype == dns.TypePTR {
			for _, n := range z.namesOf(a) {
				f.answer = append(f.answer, &dns.PTR{Hdr: header(q.Name, dns.TypePTR), Ptr: n})
			}
		}
		return f, len(f.answer) > 0
	}
	n := parse(labels)
	switch n.kind {
	case apexName:
		f.answer = z.apex(q)
		return z.close(f, true), true
	case versionName:
		if q.Qtype == dns.TypeTXT {
			f.answer = []dns.RR{&dns.TXT{Hdr: header(q.Name, dns.TypeTXT), Txt: []string{version}}}
		}
		return z.close(f, true), true
	case branchName:
		return z.close(f, true), true
	case serverName:
		f.answer = addresses(q, []host{{address: z.address}})
		return z.close(f, true), true
	case podName:
		return z.pod(q, n), true
	case serviceName, protocolName:
		return z.service(q, n), true
	}
	return z.close(f, false), true
}

// close says what there is not: without an answer the authority tells for how
// long that holds, and whether the name itself exists.
func (z *zone) close(f found, exists bool) found {
	if !exists {
		f.rcode = dns.RcodeNameError
	}
	if len(f.answer) == 0 {
		f.authority = []dns.RR{z.soa(origin)}
	}
	return f
}

// apex is what the zone says about itself.
func (z *zone) apex(q dns.Question) []dns.RR {
	switch q.Qtype {
	case dns.TypeSOA:
		return []dns.RR{z.soa(q.Name)}
	case dns.TypeNS:
		return []dns.RR{&dns.NS{Hdr: header(q.Name, dns.TypeNS), Ns: "ns.dns." + origin}}
	}
	return nil
}

// soa has as serial number the newest version that the cache has seen.
func (z *zone) soa(name string) dns.RR {
	var serial uint64
	for _, i := range z.newest {
		if v, err := strconv.ParseUint(i.LastSyncResourceVersion(), 10, 64); err == nil {
			serial = max(serial, v)
		}
	}
	return &dns.SOA{
		Hdr: header(name, dns.TypeSOA), Ns: "ns.dns." + origin, Mbox: "hostmaster." + origin,
		Serial: uint32(serial), Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl,
	}
}

func (z *zone) namespaced(name string) bool {
	_, exists, err := z.namespaces.GetByKey(name)
	return err == nil && exists
}

// pod answers 10-244-0-7.default.pod without looking whether there is such a
// Pod, as CoreDNS does with "pods insecure".
func (z *zone) pod(q dns.Question, n name) (f found) {
	if n.object == "" || !z.namespaced(n.namespace) {
		return z.close(f, n.object == "" && z.namespaced(n.namespace))
	}
	a, ok := undashed(n.object)
	if ok {
		f.answer = addresses(q, []host{{address: a}})
	}
	return z.close(f, ok)
}

// service answers for a Service, its ports and its endpoints.
func (z *zone) service(q dns.Question, n name) (f found) {
	if n.object == "" {
		return z.close(f, z.namespaced(n.namespace))
	}
	o, exists, err := z.services.GetByKey(n.namespace + "/" + n.object)
	if err != nil || !exists {
		return z.close(f, false)
	}
	s := o.(*corev1.Service)
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return z.external(q, n, s)
	}
	hosts := z.hosts(s, n)
	if n.kind == protocolName {
		return z.close(f, len(hosts) > 0)
	}
	if q.Qtype == dns.TypeSRV {
		f.answer, f.extra = locations(q, hosts)
	} else {
		f.answer = addresses(q, hosts)
	}
	return z.close(f, len(hosts) > 0)
}

// external answers for a Service that is another name for something elsewhere.
func (z *zone) external(q dns.Question, n name, s *corev1.Service) (f found) {
	target := dns.Fqdn(s.Spec.ExternalName)
	_, address := netip.ParseAddr(s.Spec.ExternalName)
	_, valid := dns.IsDomainName(target)
	if n.endpoint != "" || n.port != "" || n.protocol != "" || address == nil || !valid || target == "." {
		return z.close(f, false)
	}
	switch q.Qtype {
	case dns.TypeA, dns.TypeAAAA, dns.TypeCNAME:
		f.answer = []dns.RR{&dns.CNAME{Hdr: header(q.Name, dns.TypeCNAME), Target: target}}
		f.alias = target
	}
	return z.close(f, true)
}

// hosts are the addresses and ports that a name of a Service stands for: those
// of its endpoints when it is headless or one of them was asked for.
func (z *zone) hosts(s *corev1.Service, n name) (out []host) {
	full := s.Name + "." + s.Namespace + ".svc." + origin
	if n.endpoint == "" && s.Spec.ClusterIP != corev1.ClusterIPNone {
		for _, p := range s.Spec.Ports {
			if !n.matches(p.Name, p.Protocol) {
				continue
			}
			for _, ip := range clusterIPs(s) {
				if a, err := netip.ParseAddr(ip); err == nil {
					out = append(out, host{full, a, uint16(p.Port)})
				}
			}
		}
		return out
	}
	slicesOf, err := z.slices.ByIndex(byService, s.Namespace+"/"+s.Name)
	if err != nil {
		return nil
	}
	for _, o := range slicesOf {
		slice := o.(*discoveryv1.EndpointSlice)
		for i := range slice.Endpoints {
			out = append(out, endpointHosts(slice, &slice.Endpoints[i], n, full)...)
		}
	}
	slices.SortFunc(out, func(a, b host) int {
		return cmp.Or(a.address.Compare(b.address), cmp.Compare(a.port, b.port), strings.Compare(a.name, b.name))
	})
	return slices.Compact(out)
}

// endpointHosts are a ready endpoint's addresses under its own name, which is its
// hostname or its address.
func endpointHosts(slice *discoveryv1.EndpointSlice, e *discoveryv1.Endpoint, n name, service string) (out []host) {
	if slice.AddressType == discoveryv1.AddressTypeFQDN || !ptr.Deref(e.Conditions.Ready, true) {
		return nil
	}
	for _, text := range e.Addresses {
		a, err := netip.ParseAddr(text)
		if err != nil {
			continue
		}
		own := strings.ToLower(ptr.Deref(e.Hostname, ""))
		if own == "" {
			own = dashed(a)
		}
		if n.endpoint != "" && n.endpoint != own {
			continue
		}
		if len(slice.Ports) == 0 && n.port == "" && n.protocol == "" {
			out = append(out, host{name: own + "." + service, address: a})
		}
		for _, p := range slice.Ports {
			if n.matches(ptr.Deref(p.Name, ""), ptr.Deref(p.Protocol, corev1.ProtocolTCP)) {
				out = append(out, host{own + "." + service, a, uint16(ptr.Deref(p.Port, 0))})
			}
		}
	}
	return out
}

// matches says whether the name is about a port.
func (n name) matches(port string, protocol corev1.Protocol) bool {
	return (n.port == "" || n.port == strings.ToLower(port)) && (n.protocol == "" || n.protocol == strings.ToLower(string(protocol)))
}

// namesOf are the names of an address: the Service's whose it is, or those of
// endpoints that have a hostname.
func (z *zone) namesOf(a netip.Addr) (names []string) {
	services, err := z.services.ByIndex(byAddress, a.String())
	if err != nil {
		return nil
	}
	if len(services) > 0 {
		s := services[0].(*corev1.Service)
		return []string{s.Name + "." + s.Namespace + ".svc." + origin}
	}
	endpoints, err := z.slices.ByIndex(byAddress, a.String())
	if err != nil {
		return nil
	}
	for _, o := range endpoints {
		slice := o.(*discoveryv1.EndpointSlice)
		for _, e := range slice.Endpoints {
			if h := ptr.Deref(e.Hostname, ""); h != "" && ptr.Deref(e.Conditions.Ready, true) && slices.Contains(e.Addresses, a.String()) {
				names = append(names, h+"."+slice.Labels[discoveryv1.LabelServiceName]+"."+slice.Namespace+".svc."+origin)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func header(name string, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
}

// address is an A or an AAAA record, as the address is.
func address(name string, a netip.Addr) dns.RR {
	if a.Is4() {
		return &dns.A{Hdr: header(name, dns.TypeA), A: a.AsSlice()}
	}
	return &dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: a.AsSlice()}
}

// addresses are those of hosts in the family asked for, each once.
func addresses(q dns.Question, hosts []host) (out []dns.RR) {
	have := map[netip.Addr]bool{}
	for _, h := range hosts {
		if have[h.address] || q.Qtype != address("", h.address).Header().Rrtype {
			continue
		}
		have[h.address] = true
		out = append(out, address(q.Name, h.address))
	}
	return out
}

// locations are the names and ports of hosts, and their addresses beside them.
func locations(q dns.Question, hosts []host) (out, extra []dns.RR) {
	type location struct {
		name string
		port uint16
	}
	have := map[location]bool{}
	with := map[host]bool{}
	for _, h := range hosts {
		if h.port == 0 {
			continue
		}
		if l := (location{h.name, h.port}); !have[l] {
			have[l] = true
			out = append(out, &dns.SRV{Hdr: header(q.Name, dns.TypeSRV), Port: h.port, Target: h.name})
		}
		h.port = 0
		if !with[h] {
			with[h] = true
			extra = append(extra, address(h.name, h.address))
		}
	}
	for _, r := range out {
		r.(*dns.SRV).Weight = uint16(max(1, 100/len(out)))
	}
	return out, extra
}
