// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"
)

// resolver writes a resolv.conf.
func resolver(t testing.TB, servers ...string) string {
	t.Helper()
	var b strings.Builder
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// other is a name server of the machine.
type other struct {
	port    string
	asked   atomic.Int32
	answers func(q *dns.Msg, network string) *dns.Msg
}

// otherServer serves on an address of the loopback link, over UDP and TCP, until
// the test is over. Port "0" is any.
func otherServer(t *testing.T, ip, port string, answers func(q *dns.Msg, network string) *dns.Msg) *other {
	t.Helper()
	o := &other{answers: answers}
	packets, err := net.ListenPacket("udp", net.JoinHostPort(ip, port))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", packets.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, o.port, _ = net.SplitHostPort(l.Addr().String())
	for _, s := range []*dns.Server{{PacketConn: packets}, {Listener: l}} {
		begun, ended := make(chan struct{}), make(chan error, 1)
		s.NotifyStartedFunc = func() { close(begun) }
		s.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			o.asked.Add(1)
			if m := o.answers(q, w.RemoteAddr().Network()); m != nil {
				if err := w.WriteMsg(m); err != nil {
					t.Error(err)
				}
			}
		})
		go func() { ended <- s.ActivateAndServe() }()
		<-begun
		t.Cleanup(func() {
			if err := s.Shutdown(); err != nil {
				t.Error(err)
			}
			<-ended
		})
	}
	return o
}

// says answers every question with records.
func says(rcode int, records ...string) func(*dns.Msg, string) *dns.Msg {
	return func(q *dns.Msg, _ string) *dns.Msg {
		m := new(dns.Msg).SetRcode(q, rcode)
		for _, text := range records {
			r, err := dns.NewRR(strings.ReplaceAll(text, "@", q.Question[0].Name))
			if err != nil {
				panic(err)
			}
			if r.Header().Rrtype == dns.TypeSOA {
				m.Ns = append(m.Ns, r)
			} else {
				m.Answer = append(m.Answer, r)
			}
		}
		return m
	}
}

// serve runs a name server over real informers until the test is over.
func serve(t *testing.T, resolver, port string) (at string) {
	t.Helper()
	meta := metav1.ObjectMeta{Namespace: "ns", Name: "many"}
	many := &discoveryv1.EndpointSlice{ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4}
	many.Labels = map[string]string{discoveryv1.LabelServiceName: "many"}
	for i := range 100 {
		many.Endpoints = append(many.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.244.1.%d", i)}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}})
	}
	f := informers.NewSharedInformerFactory(fake.NewClientset(
		many, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "out"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "circle"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "circle.ns.svc.cluster.local"}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}},
	), 0)
	s, err := New(Config{
		Listen: netip.MustParseAddrPort("127.0.0.1:0"), Services: f.Core().V1().Services().Informer(), Slices: f.Discovery().V1().EndpointSlices().Informer(),
		Namespaces: f.Core().V1().Namespaces().Informer(), Resolver: resolver, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.upstream.port, s.upstream.own = port, netip.MustParseAddr("127.0.0.9")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		f.Shutdown()
	})
	f.Start(ctx.Done())
	return s.packets.LocalAddr().String()
}

func query(name string, t uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, t) }

func exchangeWith(t *testing.T, network, at string, q *dns.Msg) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: 30 * time.Second}
	m, _, err := c.Exchange(q, at)
	if err != nil {
		t.Fatalf("%s over %s: %v", q.Question[0].Name, network, err)
	}
	return m
}

// TestSizes has an answer that no plain datagram holds: cut there, whole where
// the client takes more or asks over TCP.
func TestSizes(t *testing.T) {
	at := serve(t, resolver(t), "0")
	q := query("many.ns.svc.cluster.local.", dns.TypeA)
	if m := exchangeWith(t, "udp", at, q); !m.Truncated || !m.Authoritative || !m.RecursionAvailable || len(m.Answer) == 0 || len(m.Answer) >= 100 {
		t.Errorf("over UDP: %d records, header %+v", len(m.Answer), m.MsgHdr)
	}
	if m := exchangeWith(t, "tcp", at, q); m.Truncated || len(m.Answer) != 100 {
		t.Errorf("over TCP: %d records, truncated %v", len(m.Answer), m.Truncated)
	}
	q.SetEdns0(4096, false)
	if m := exchangeWith(t, "udp", at, q); m.Truncated || len(m.Answer) != 100 || m.IsEdns0() == nil {
		t.Errorf("over UDP with EDNS0: %d records, truncated %v, EDNS0 %v", len(m.Answer), m.Truncated, m.IsEdns0())
	}
	q.IsEdns0().SetVersion(1)
	if m := exchangeWith(t, "udp", at, q); m.Rcode != dns.RcodeBadVers {
		t.Errorf("EDNS of another version gets %s", dns.RcodeToString[m.Rcode])
	}
}

// TestRefused has what is not a question about a name.
func TestRefused(t *testing.T) {
	at := serve(t, resolver(t), "0")
	for _, c := range []struct {
		about  string
		change func(*dns.Msg)
		want   int
	}{
		{"a transfer", func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }, dns.RcodeRefused},
		{"another class", func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		{"a notice", func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented},
		{"an update", func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		{"two questions", func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
		{"no server to ask", func(*dns.Msg) {}, dns.RcodeServerFailure},
	} {
		q := query("example.com.", dns.TypeA)
		c.change(q)
		if m := exchangeWith(t, "tcp", at, q); m.Rcode != c.want {
			t.Errorf("%s gets %s", c.about, dns.RcodeToString[m.Rcode])
		}
	}
}

// TestForward asks the servers of the machine: the second when the first cannot
// say, over TCP what is too long, and once for what is still known.
func TestForward(t *testing.T) {
	const record = "@ 60 IN A 192.0.2.7"
	good := otherServer(t, "127.0.0.1", "0", func(q *dns.Msg, network string) *dns.Msg {
		switch name := q.Question[0].Name; {
		case name == "long.example.com." && network == "udp":
			m := new(dns.Msg).SetReply(q)
			m.Truncated = true
			return m
		case name == "none.example.com.":
			return says(dns.RcodeNameError, "example.com. 60 IN SOA a. b. 1 1 1 1 60")(q, network)
		case q.IsEdns0() == nil:
			return says(dns.RcodeFormatError)(q, network)
		}
		return says(dns.RcodeSuccess, record)(q, network)
	})
	bad := otherServer(t, "127.0.0.2", good.port, says(dns.RcodeServerFailure))
	at := serve(t, resolver(t, "127.0.0.9", "127.0.0.2", "127.0.0.1"), good.port) // the first is itself
	ask := func(name string, qtype uint16, rcode int, want ...string) {
		t.Helper()
		m := exchangeWith(t, "udp", at, query(name, qtype))
		var got []string
		for _, r := range m.Answer {
			r.Header().Ttl = 0
			got = append(got, strings.Join(strings.Fields(r.String()), " "))
		}
		if diff := cmp.Diff(want, got); diff != "" || m.Rcode != rcode || m.Authoritative || m.IsEdns0() != nil {
			t.Errorf("%s: header %+v, EDNS0 %v (-want +got):\n%s", name, m.MsgHdr, m.IsEdns0(), diff)
		}
	}
	ask("a.example.com.", dns.TypeA, dns.RcodeSuccess, "a.example.com. 0 IN A 192.0.2.7")
	if bad.asked.Load() != 1 || good.asked.Load() != 1 {
		t.Errorf("the first server was asked %d times, the second %d", bad.asked.Load(), good.asked.Load())
	}
	ask("A.example.com.", dns.TypeA, dns.RcodeSuccess, "a.example.com. 0 IN A 192.0.2.7")
	if n := good.asked.Load(); n != 1 {
		t.Errorf("what was known was asked for again: %d questions", n)
	}
	ask("none.example.com.", dns.TypeA, dns.RcodeNameError)
	ask("none.example.com.", dns.TypeA, dns.RcodeNameError)
	ask("long.example.com.", dns.TypeA, dns.RcodeSuccess, "long.example.com. 0 IN A 192.0.2.7")
	if n := good.asked.Load(); n != 4 {
		t.Errorf("a name that is not and one that is long took %d questions more", n-1)
	}
	if n := bad.asked.Load(); n != 1 {
		t.Errorf("the server that answers was not asked first: the other had %d questions", n)
	}
	// An alias out of the cluster brings what it leads to.
	m := exchangeWith(t, "udp", at, query("out.ns.svc.cluster.local.", dns.TypeA))
	if got := fmt.Sprint(m.Answer); !m.Authoritative || len(m.Answer) != 2 || !strings.Contains(got, "CNAME\texample.com.") || !strings.Contains(got, "192.0.2.7") {
		t.Errorf("the alias leads to %s", got)
	}
	if m := exchangeWith(t, "udp", at, query("circle.ns.svc.cluster.local.", dns.TypeA)); len(m.Answer) == 0 || len(m.Answer) > 1+maxAliases {
		t.Errorf("an alias of itself has %d records", len(m.Answer))
	}
}

// TestLoop has a server of the machine that asks this one in turn: the question
// waits for itself, and that is all.
func TestLoop(t *testing.T) {
	var at atomic.Pointer[string]
	loop := otherServer(t, "127.0.0.1", "0", func(q *dns.Msg, _ string) *dns.Msg {
		c := dns.Client{Timeout: timeout / 4}
		m, _, err := c.Exchange(q, *at.Load())
		if err != nil {
			return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
		}
		return m
	})
	here := serve(t, resolver(t, "127.0.0.1"), loop.port)
	at.Store(&here)
	if m := exchangeWith(t, "udp", here, query("example.com.", dns.TypeA)); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("got %s", dns.RcodeToString[m.Rcode])
	}
	if n := loop.asked.Load(); n > 1 {
		t.Errorf("one question was asked %d times", n)
	}
}

// TestInUse has a machine whose own name server takes every address.
func TestInUse(t *testing.T) {
	all, err := net.ListenPacket("udp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	port := all.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	f := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	_, err = New(Config{
		Listen: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), Services: f.Core().V1().Services().Informer(),
		Slices: f.Discovery().V1().EndpointSlices().Informer(), Namespaces: f.Core().V1().Namespaces().Informer(), Log: slog.New(slog.DiscardHandler),
	})
	if want := fmt.Sprintf("cannot serve cluster DNS: listen udp 127.0.0.1:%d: bind: address already in use (mend: let the name server of this machine listen on its own addresses only)", port); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestKeepFor says how long answers hold.
func TestKeepFor(t *testing.T) {
	q := query("x.example.com.", dns.TypeA)
	for _, c := range []struct {
		about  string
		answer *dns.Msg
		want   int
	}{
		{"the shortest record", says(dns.RcodeSuccess, "@ 20 IN A 192.0.2.1", "@ 10 IN A 192.0.2.2")(q, ""), 10},
		{"the cache's limit", says(dns.RcodeSuccess, "@ 3600 IN A 192.0.2.1")(q, ""), 30},
		{"nothing to keep", says(dns.RcodeSuccess, "@ 0 IN A 192.0.2.1")(q, ""), 0},
		{"no such name", says(dns.RcodeNameError, "example.com. 25 IN SOA a. b. 1 1 1 1 15")(q, ""), 15},
		{"no such record", says(dns.RcodeSuccess, "example.com. 5 IN SOA a. b. 1 1 1 1 15")(q, ""), 5},
		{"nobody says for how long", says(dns.RcodeNameError)(q, ""), 0},
		{"a failure", says(dns.RcodeServerFailure, "example.com. 25 IN SOA a. b. 1 1 1 1 15")(q, ""), 0},
	} {
		if got := keepFor(c.answer); got != time.Duration(c.want)*time.Second {
			t.Errorf("%s: kept for %s", c.about, got)
		}
	}
}

// What is kept grows old: it is told for how much longer it holds.
func TestAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream("/nowhere", netip.Addr{})
		q := query("x.example.com.", dns.TypeA)
		key := fmt.Sprint(q.Question[0], flags{})
		u.cache.Add(key, kept{says(dns.RcodeSuccess, "@ 60 IN A 192.0.2.1")(q, ""), time.Now()}, maxTTL*time.Second)
		<-time.After(29 * time.Second)
		m, err := u.ask(t.Context(), q.Question[0], flags{})
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Answer[0].Header().Ttl; got != 31 {
			t.Errorf("it holds for %d s more", got)
		}
		<-time.After(time.Second + 1)
		if m, err := u.ask(t.Context(), q.Question[0], flags{}); err == nil {
			t.Errorf("it is still known: %v", m)
		}
	})
}

// FuzzAnswer has any question: each gets one answer that can be sent.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"web.ns.svc.cluster.local.", "_http._tcp.headless.ns.svc.cluster.local.", "10-244-0-7.ns.pod.cluster.local.", "80.0.96.10.in-addr.arpa.", `a\.b.ns.pod.cluster.local.`, "."} {
		b, err := query(name, dns.TypeSRV).Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint16(512))
	}
	s := &Server{zone: cluster(f), upstream: newUpstream("/nowhere", netip.Addr{}), log: slog.New(slog.DiscardHandler)}
	f.Fuzz(func(t *testing.T, b []byte, size uint16) {
		q := new(dns.Msg)
		if q.Unpack(b) != nil {
			return
		}
		m := s.answer(t.Context(), q)
		m.Truncate(max(dns.MinMsgSize, int(size)))
		packed, err := m.Pack()
		if err != nil {
			t.Fatalf("cannot send the answer to %v: %v", q, err)
		}
		if len(packed) > max(dns.MinMsgSize, int(size)) {
			t.Errorf("%d bytes for a client that takes %d", len(packed), size)
		}
		if !m.Response || m.Id != q.Id {
			t.Errorf("no answer to %v: %v", q, m)
		}
		for _, r := range m.Answer {
			if len(q.Question) == 1 && r.Header().Rrtype != q.Question[0].Qtype && r.Header().Rrtype != dns.TypeCNAME {
				t.Errorf("asked for %s, got %v", dns.TypeToString[q.Question[0].Qtype], r)
			}
		}
	})
}
