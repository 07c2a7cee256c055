// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

// cluster is the zone that the tests ask: what a shared cache could have.
func cluster(t testing.TB) *zone {
	t.Helper()
	named := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "ns", Name: name} }
	web := []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}, {Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}}
	yes, no := ptr.To(true), ptr.To(false)
	slice := func(name, of string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		s := &discoveryv1.EndpointSlice{ObjectMeta: named(name), AddressType: discoveryv1.AddressTypeIPv4, Endpoints: endpoints}
		s.Labels = map[string]string{discoveryv1.LabelServiceName: of}
		if of != "portless" {
			s.Ports = []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)}}
		}
		return s
	}
	endpoint := func(ready *bool, hostname, address string) discoveryv1.Endpoint {
		e := discoveryv1.Endpoint{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: ready}}
		if hostname != "" {
			e.Hostname = &hostname
		}
		return e
	}
	six := slice("headless-6", "headless", endpoint(yes, "a", "fd00::7"))
	six.AddressType = discoveryv1.AddressTypeIPv6
	return zoneOf(t, []*corev1.Service{
		{ObjectMeta: named("web"), Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.80", ClusterIPs: []string{"10.96.0.80"}, Ports: web}},
		{ObjectMeta: named("dual"), Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.81", ClusterIPs: []string{"10.96.0.81", "fd00::81"}, Ports: web[:1]}},
		{ObjectMeta: named("headless"), Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, ClusterIPs: []string{corev1.ClusterIPNone}}},
		{ObjectMeta: named("portless"), Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}},
		{ObjectMeta: named("nobody"), Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}},
		{ObjectMeta: named("out"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"}},
		{ObjectMeta: named("in"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "web.ns.svc.cluster.local"}},
		{ObjectMeta: named("circle"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "circle.ns.svc.cluster.local"}},
		{ObjectMeta: named("literal"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "192.0.2.1"}},
	}, []*discoveryv1.EndpointSlice{
		slice("web-1", "web", endpoint(yes, "", "10.244.0.5")),
		slice("headless-1", "headless", endpoint(yes, "a", "10.244.0.7"), endpoint(nil, "", "10.244.0.8"), endpoint(no, "late", "10.244.0.9")),
		slice("headless-2", "headless", endpoint(yes, "a", "10.244.0.7")), // while it moves from one slice to another
		slice("portless-1", "portless", endpoint(yes, "", "10.244.0.5")),
		slice("nobody-1", "nobody", endpoint(no, "late", "10.244.0.9")),
		six,
	})
}

func zoneOf(t testing.TB, services []*corev1.Service, slices []*discoveryv1.EndpointSlice) *zone {
	t.Helper()
	informer := func(example runtime.Object) cache.SharedIndexInformer {
		return cache.NewSharedIndexInformer(nil, example, 0, cache.Indexers{})
	}
	s, e, n := informer(&corev1.Service{}), informer(&discoveryv1.EndpointSlice{}), informer(&corev1.Namespace{})
	z, err := newZone(Config{Listen: netip.MustParseAddrPort("10.96.0.10:53"), Services: s, Slices: e, Namespaces: n, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	put := func(to cache.Indexer, o any) {
		if err := to.Add(o); err != nil {
			t.Fatal(err)
		}
	}
	put(n.GetIndexer(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}})
	for _, o := range services {
		put(s.GetIndexer(), o)
	}
	for _, o := range slices {
		put(e.GetIndexer(), o)
	}
	return z
}

// text is an answer as dig shows it: rcode, records, then those beside them.
func text(f found, ours bool) (out []string) {
	if !ours {
		return []string{"not ours"}
	}
	out = append(out, dns.RcodeToString[f.rcode])
	for _, section := range [][]dns.RR{f.answer, f.extra, f.authority} {
		for _, r := range section {
			out = append(out, strings.Join(strings.Fields(r.String()), " "))
		}
	}
	return out
}

const authority = "cluster.local. 30 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 0 7200 1800 86400 30"

// TestNames asks for each form of name in the specification, and for what is
// beside it. The answers are CoreDNS' (its plugin kubernetes, with the Corefile
// of Kubernetes); a protocol's own name is RFC 8020's.
func TestNames(t *testing.T) {
	z := cluster(t)
	nodata, nxdomain := []string{"NOERROR", authority}, []string{"NXDOMAIN", authority}
	for question, want := range map[string][]string{
		// Services with an address.
		"web.ns.svc.cluster.local. A":              {"NOERROR", "web.ns.svc.cluster.local. 30 IN A 10.96.0.80"},
		"WEB.ns.SVC.Cluster.Local. A":              {"NOERROR", "WEB.ns.SVC.Cluster.Local. 30 IN A 10.96.0.80"},
		"web.ns.svc.cluster.local. AAAA":           nodata,
		"web.ns.svc.cluster.local. MX":             nodata,
		"dual.ns.svc.cluster.local. A":             {"NOERROR", "dual.ns.svc.cluster.local. 30 IN A 10.96.0.81"},
		"dual.ns.svc.cluster.local. AAAA":          {"NOERROR", "dual.ns.svc.cluster.local. 30 IN AAAA fd00::81"},
		"_http._tcp.web.ns.svc.cluster.local. SRV": {"NOERROR", "_http._tcp.web.ns.svc.cluster.local. 30 IN SRV 0 100 80 web.ns.svc.cluster.local.", "web.ns.svc.cluster.local. 30 IN A 10.96.0.80"},
		"_dns._udp.web.ns.svc.cluster.local. SRV":  {"NOERROR", "_dns._udp.web.ns.svc.cluster.local. 30 IN SRV 0 100 53 web.ns.svc.cluster.local.", "web.ns.svc.cluster.local. 30 IN A 10.96.0.80"},
		"web.ns.svc.cluster.local. SRV": {"NOERROR", "web.ns.svc.cluster.local. 30 IN SRV 0 50 80 web.ns.svc.cluster.local.",
			"web.ns.svc.cluster.local. 30 IN SRV 0 50 53 web.ns.svc.cluster.local.", "web.ns.svc.cluster.local. 30 IN A 10.96.0.80"},
		"_http._tcp.dual.ns.svc.cluster.local. SRV": {"NOERROR", "_http._tcp.dual.ns.svc.cluster.local. 30 IN SRV 0 100 80 dual.ns.svc.cluster.local.",
			"dual.ns.svc.cluster.local. 30 IN A 10.96.0.81", "dual.ns.svc.cluster.local. 30 IN AAAA fd00::81"},
		"_dns._tcp.web.ns.svc.cluster.local. SRV":          nxdomain,
		"_none._tcp.web.ns.svc.cluster.local. SRV":         nxdomain,
		"_tcp.web.ns.svc.cluster.local. SRV":               nodata,
		"_sctp.web.ns.svc.cluster.local. SRV":              nxdomain,
		"10-244-0-5.web.ns.svc.cluster.local. A":           {"NOERROR", "10-244-0-5.web.ns.svc.cluster.local. 30 IN A 10.244.0.5"},
		"10-244-0-6.web.ns.svc.cluster.local. A":           nxdomain,
		"none.ns.svc.cluster.local. A":                     nxdomain,
		"web.none.svc.cluster.local. A":                    nxdomain,
		"x._http._tcp.web.ns.svc.cluster.local. A":         nxdomain,
		"x.y.web.ns.svc.cluster.local. A":                  nxdomain,
		"web.ns.svc.cluster.local.ns.svc.cluster.local. A": nxdomain,
		// Headless ones.
		"headless.ns.svc.cluster.local. A":      {"NOERROR", "headless.ns.svc.cluster.local. 30 IN A 10.244.0.7", "headless.ns.svc.cluster.local. 30 IN A 10.244.0.8"},
		"headless.ns.svc.cluster.local. AAAA":   {"NOERROR", "headless.ns.svc.cluster.local. 30 IN AAAA fd00::7"},
		"a.headless.ns.svc.cluster.local. A":    {"NOERROR", "a.headless.ns.svc.cluster.local. 30 IN A 10.244.0.7"},
		"a.headless.ns.svc.cluster.local. AAAA": {"NOERROR", "a.headless.ns.svc.cluster.local. 30 IN AAAA fd00::7"},
		"late.headless.ns.svc.cluster.local. A": nxdomain,
		"_http._tcp.headless.ns.svc.cluster.local. SRV": {"NOERROR",
			"_http._tcp.headless.ns.svc.cluster.local. 30 IN SRV 0 50 8080 a.headless.ns.svc.cluster.local.",
			"_http._tcp.headless.ns.svc.cluster.local. 30 IN SRV 0 50 8080 10-244-0-8.headless.ns.svc.cluster.local.",
			"a.headless.ns.svc.cluster.local. 30 IN A 10.244.0.7", "10-244-0-8.headless.ns.svc.cluster.local. 30 IN A 10.244.0.8",
			"a.headless.ns.svc.cluster.local. 30 IN AAAA fd00::7"},
		"portless.ns.svc.cluster.local. A":   {"NOERROR", "portless.ns.svc.cluster.local. 30 IN A 10.244.0.5"},
		"portless.ns.svc.cluster.local. SRV": nodata,
		"nobody.ns.svc.cluster.local. A":     nxdomain,
		// Other names for what is elsewhere.
		"out.ns.svc.cluster.local. CNAME":          {"NOERROR", "out.ns.svc.cluster.local. 30 IN CNAME example.com."},
		"out.ns.svc.cluster.local. A":              {"NOERROR", "out.ns.svc.cluster.local. 30 IN CNAME example.com."},
		"out.ns.svc.cluster.local. MX":             nodata,
		"_http._tcp.out.ns.svc.cluster.local. SRV": nxdomain,
		"literal.ns.svc.cluster.local. A":          nxdomain,
		// Pods.
		"10-244-0-7.ns.pod.cluster.local. A":    {"NOERROR", "10-244-0-7.ns.pod.cluster.local. 30 IN A 10.244.0.7"},
		"10-244-0-7.ns.pod.cluster.local. AAAA": nodata,
		"fd00--7.ns.pod.cluster.local. AAAA":    {"NOERROR", "fd00--7.ns.pod.cluster.local. 30 IN AAAA fd00::7"},
		"10-244-0-7.none.pod.cluster.local. A":  nxdomain,
		"10-244-0-777.ns.pod.cluster.local. A":  nxdomain,
		"web.ns.pod.cluster.local. A":           nxdomain,
		"x.10-244-0-7.ns.pod.cluster.local. A":  nxdomain,
		// What only has names below it, and the zone itself.
		"ns.svc.cluster.local. A":          nodata,
		"none.svc.cluster.local. A":        nxdomain,
		"ns.pod.cluster.local. A":          nodata,
		"none.pod.cluster.local. A":        nxdomain,
		"svc.cluster.local. A":             nodata,
		"pod.cluster.local. A":             nodata,
		"dns.cluster.local. A":             nodata,
		"cluster.local. A":                 nodata,
		"cluster.local. SOA":               {"NOERROR", authority},
		"cluster.local. NS":                {"NOERROR", "cluster.local. 30 IN NS ns.dns.cluster.local."},
		"ns.dns.cluster.local. A":          {"NOERROR", "ns.dns.cluster.local. 30 IN A 10.96.0.10"},
		"dns-version.cluster.local. TXT":   {"NOERROR", `dns-version.cluster.local. 30 IN TXT "1.1.0"`},
		"dns-version.cluster.local. A":     nodata,
		"web.cluster.local. A":             nxdomain,
		"example.com.cluster.local. A":     nxdomain,
		"example.com.svc.cluster.local. A": nxdomain,
		// From addresses to names.
		"80.0.96.10.in-addr.arpa. PTR":  {"NOERROR", "80.0.96.10.in-addr.arpa. 30 IN PTR web.ns.svc.cluster.local."},
		"7.0.244.10.in-addr.arpa. PTR":  {"NOERROR", "7.0.244.10.in-addr.arpa. 30 IN PTR a.headless.ns.svc.cluster.local."},
		"8.0.244.10.in-addr.arpa. PTR":  {"not ours"}, // it has no hostname
		"9.0.244.10.in-addr.arpa. PTR":  {"not ours"}, // it is not ready
		"0.244.10.in-addr.arpa. PTR":    {"not ours"},
		"80.0.96.10.in-addr.arpa. A":    {"not ours"},
		"080.0.96.10.in-addr.arpa. PTR": {"not ours"},
		"1.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa. PTR": {"NOERROR",
			"1.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa. 30 IN PTR dual.ns.svc.cluster.local."},
		// Others' names.
		"example.com. A":    {"not ours"},
		"xcluster.local. A": {"not ours"},
		"local. SOA":        {"not ours"},
		". NS":              {"not ours"},
		"in-addr.arpa. PTR": {"not ours"},
	} {
		words := strings.Fields(question)
		got := text(z.find(dns.Question{Name: words[0], Qtype: dns.StringToType[words[1]], Qclass: dns.ClassINET}))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", question, diff)
		}
	}
}

// What changes in the cache is in the next answer.
func TestNamesFollowTheCache(t *testing.T) {
	z := cluster(t)
	q := dns.Question{Name: "nobody.ns.svc.cluster.local.", Qtype: dns.TypeA, Qclass: dns.ClassINET}
	o, _, err := z.slices.GetByKey("ns/nobody-1")
	if err != nil {
		t.Fatal(err)
	}
	s := o.(*discoveryv1.EndpointSlice).DeepCopy()
	s.Endpoints[0].Conditions.Ready = ptr.To(true) // as the controller says with publishNotReadyAddresses
	if err := z.slices.Update(s); err != nil {
		t.Fatal(err)
	}
	if got := text(z.find(q)); !slices.Contains(got, "nobody.ns.svc.cluster.local. 30 IN A 10.244.0.9") {
		t.Errorf("after its endpoint became ready it has %q", got)
	}
	if err := z.services.Delete(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "nobody"}}); err != nil {
		t.Fatal(err)
	}
	if got := text(z.find(q)); got[0] != "NXDOMAIN" {
		t.Errorf("after the Service is gone it has %q", got)
	}
}

func TestAddress(t *testing.T) {
	for services, want := range map[string]string{"10.96.0.0/16": "10.96.0.10", "10.243.128.0/28": "10.243.128.10", "10.96.3.7/12": "10.96.0.10"} {
		if got := Address(netip.MustParsePrefix(services)); got.String() != want {
			t.Errorf("in %s it is %s, not %s", services, got, want)
		}
	}
}
