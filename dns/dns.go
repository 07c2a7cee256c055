// SPDX-License-Identifier: Apache-2.0

// Package dns owns the names of the cluster: a name server in this process,
// which answers for Services and Pods as the Kubernetes DNS specification 1.1
// says and as CoreDNS does with Kubernetes' own configuration of it, and asks
// the machine's name servers for all else.
//
//	question ─ zone (zone.go, names.go: what the shared cache has now)
//	         └ upstream (forward.go: a cache, then the servers of resolv.conf)
//
// Nothing is copied from the cache of Services, EndpointSlices and Namespaces:
// each answer is looked up in it, by indexes. So an answer is as new as the
// cache, and names are served also while the API is not.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
	"k8s.io/client-go/tools/cache"
)

// Domain is the cluster's.
const Domain = "cluster.local"

// Address is the name server's in the range of Services: the tenth, as kubeadm
// has it.
func Address(services netip.Prefix) netip.Addr {
	a := services.Masked().Addr()
	for range 10 {
		a = a.Next()
	}
	return a
}

// Limits of what one client may cost the others.
const (
	maxConnections = 1000
	maxForwarded   = 1000 // as CoreDNS' max_concurrent in Kubernetes' Corefile
	payload        = 1232 // bytes of a datagram that no path fragments
)

// Config is what a name server is made from.
type Config struct {
	// Listen is where it answers, over UDP and TCP.
	Listen netip.AddrPort
	// Services, Slices and Namespaces are shared; the caller starts them.
	Services, Slices, Namespaces cache.SharedIndexInformer
	// Resolver is the resolv.conf(5) that names the machine's name servers.
	Resolver string
	Log      *slog.Logger
}

// Server is one name server.
type Server struct {
	zone     *zone
	upstream *upstream
	log      *slog.Logger
	informed []cache.DoneChecker
	packets  net.PacketConn
	listener net.Listener
}

// New takes the address; Run answers there. Questions of the meantime wait in
// the kernel.
func New(cfg Config) (*Server, error) {
	z, err := newZone(cfg)
	if err != nil {
		return nil, fmt.Errorf("cannot serve cluster DNS: %w", err)
	}
	s := &Server{zone: z, upstream: newUpstream(cfg.Resolver, cfg.Listen.Addr()), log: cfg.Log}
	for _, i := range []cache.SharedIndexInformer{cfg.Services, cfg.Slices, cfg.Namespaces} {
		s.informed = append(s.informed, i.HasSyncedChecker())
	}
	if s.packets, err = net.ListenPacket("udp", cfg.Listen.String()); err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			err = fmt.Errorf("%w (mend: let the name server of this machine listen on its own addresses only)", err)
		}
		return nil, fmt.Errorf("cannot serve cluster DNS: %w", err)
	}
	l, err := net.Listen("tcp", s.packets.LocalAddr().String())
	if err != nil {
		s.packets.Close()
		return nil, fmt.Errorf("cannot serve cluster DNS: %w", err)
	}
	s.listener = netutil.LimitListener(l, maxConnections)
	return s, nil
}

// Run answers until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	defer s.packets.Close()
	defer s.listener.Close()
	if !cache.WaitFor(ctx, "", s.informed...) {
		return nil
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { s.serve(ctx, w, q) })
	ended := make(chan error, 2)
	servers := []*dns.Server{
		// The socket has one address: where a question was sent to, which the
		// library would ask the kernel for, is not known of those that waited.
		{PacketConn: struct{ net.PacketConn }{s.packets}, Handler: handler, UDPSize: dns.DefaultMsgSize},
		{Listener: s.listener, Handler: handler},
	}
	for _, one := range servers {
		go func() { ended <- one.ActivateAndServe() }()
	}
	left := len(servers)
	var err error
	select {
	case <-ctx.Done():
	case err = <-ended:
		left--
	}
	// Answers under way are given; what they wait for has ended with ctx. A
	// server that has not begun is refused the end, and finds its socket closed.
	for _, one := range servers {
		_ = one.Shutdown()
	}
	s.packets.Close()
	s.listener.Close()
	for range left {
		<-ended
	}
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("cannot serve cluster DNS: %w", err)
}

// serve answers one question in the size that the client takes.
func (s *Server) serve(ctx context.Context, w dns.ResponseWriter, q *dns.Msg) {
	m := s.answer(ctx, q)
	size := dns.MaxMsgSize
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		size = dns.MinMsgSize
		if o := q.IsEdns0(); o != nil {
			size = max(size, int(o.UDPSize()))
		}
	}
	m.Truncate(size)
	if err := w.WriteMsg(m); err != nil {
		s.log.Debug("a client did not get its answer", "op", "dns", "client", w.RemoteAddr(), "err", err)
	}
}

// answer is what a question gets.
func (s *Server) answer(ctx context.Context, q *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	if o := q.IsEdns0(); o != nil {
		m.SetEdns0(payload, o.Do())
		if o.Version() != 0 {
			m.Rcode = dns.RcodeBadVers
			return m
		}
	}
	if len(q.Question) != 1 {
		m.Rcode = dns.RcodeFormatError
		return m
	}
	if q.Opcode != dns.OpcodeQuery {
		m.Rcode = dns.RcodeNotImplemented
		return m
	}
	asked := q.Question[0]
	if asked.Qclass != dns.ClassINET || asked.Qtype == dns.TypeAXFR || asked.Qtype == dns.TypeIXFR {
		m.Rcode = dns.RcodeRefused
		return m
	}
	found, ours := s.zone.find(asked)
	if !ours {
		s.ask(ctx, m, q, asked)
		return m
	}
	m.Authoritative, m.Rcode = true, found.rcode
	m.Answer, m.Ns = found.answer, found.authority
	m.Extra = append(m.Extra, found.extra...)
	if found.alias != "" {
		s.follow(ctx, m, q, found.alias)
	}
	rand.Shuffle(len(m.Answer), func(i, j int) {
		if sameSet(m.Answer[i], m.Answer[j]) { // the alias stays before what it leads to
			m.Answer[i], m.Answer[j] = m.Answer[j], m.Answer[i]
		}
	})
	return m
}

func sameSet(a, b dns.RR) bool {
	return a.Header().Rrtype == b.Header().Rrtype && a.Header().Name == b.Header().Name
}

// ask gives the client what the machine's name servers say.
func (s *Server) ask(ctx context.Context, m, q *dns.Msg, asked dns.Question) {
	up, err := s.upstream.ask(ctx, asked, flagsOf(q))
	if err == nil && up.Rcode > 0xf {
		err = fmt.Errorf("the answer is %s", dns.RcodeToString[up.Rcode]) // about what was asked beside the question
	}
	if err != nil {
		s.log.Debug("a name was not found out", "op", "dns", "name", asked.Name, "err", err)
		m.Rcode = dns.RcodeServerFailure
		return
	}
	m.Rcode, m.Truncated, m.AuthenticatedData = up.Rcode, up.Truncated, up.AuthenticatedData
	m.Answer, m.Ns = append(m.Answer, up.Answer...), up.Ns
	m.Extra = append(m.Extra, up.Extra...)
}

// maxAliases is how many aliases lead to an address; more are taken for a loop.
const maxAliases = 8

// follow adds what an alias leads to, as resolvers of programs do not ask again.
// When that cannot be found out, the alias is the answer.
func (s *Server) follow(ctx context.Context, m, q *dns.Msg, alias string) {
	if t := q.Question[0].Qtype; t != dns.TypeA && t != dns.TypeAAAA {
		return
	}
	for range maxAliases {
		asked := dns.Question{Name: alias, Qtype: q.Question[0].Qtype, Qclass: dns.ClassINET}
		found, ours := s.zone.find(asked)
		if !ours {
			if up, err := s.upstream.ask(ctx, asked, flagsOf(q)); err == nil {
				m.Answer = append(m.Answer, up.Answer...)
			}
			return
		}
		m.Answer = append(m.Answer, found.answer...)
		if alias = found.alias; alias == "" {
			return
		}
	}
}
