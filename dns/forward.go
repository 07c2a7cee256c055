// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
	utilcache "k8s.io/apimachinery/pkg/util/cache"
)

// Limits of the cache, as CoreDNS has them with "cache 30".
const (
	maxCached = 9984
	maxTTL    = 30 // seconds
)

// timeout is how long one name server of the machine may take.
const timeout = 2 * time.Second

// upstream asks the machine's name servers.
type upstream struct {
	resolver string
	port     string // of the servers it names
	own      netip.Addr
	cache    *utilcache.LRUExpireCache
	// flights lets equal questions wait for one answer. So a question that comes
	// back to this server, because a name server of the machine asks it in turn,
	// waits for itself until it has taken too long, and multiplies nothing.
	flights singleflight.Group
	room    chan struct{}
	last    atomic.Pointer[string] // the server that answered last
}

// flags are those of a query that change its answer.
type flags struct{ do, cd, ad bool }

func flagsOf(q *dns.Msg) flags {
	f := flags{cd: q.CheckingDisabled, ad: q.AuthenticatedData}
	if o := q.IsEdns0(); o != nil {
		f.do = o.Do()
	}
	return f
}

// kept is an answer in the cache.
type kept struct {
	*dns.Msg
	since time.Time
}

func newUpstream(resolver string, own netip.Addr) *upstream {
	return &upstream{resolver: resolver, port: "53", own: own, cache: utilcache.NewLRUExpireCache(maxCached), room: make(chan struct{}, maxForwarded)}
}

var errBusy = errors.New("too many questions are waiting for the machine's name servers")

// ask answers a question from the cache or by asking. The answer is the caller's.
func (u *upstream) ask(ctx context.Context, q dns.Question, f flags) (*dns.Msg, error) {
	q.Name = strings.ToLower(q.Name)
	key := fmt.Sprint(q, f)
	if hit, ok := u.cache.Get(key); ok {
		return hit.(kept).copy(), nil
	}
	got, err, _ := u.flights.Do(key, func() (any, error) {
		select {
		case u.room <- struct{}{}:
			defer func() { <-u.room }()
		default:
			return nil, errBusy
		}
		m, err := u.askAll(ctx, q, f)
		if err != nil {
			return nil, err
		}
		k := kept{m, time.Now()}
		if keep := keepFor(m); keep > 0 {
			u.cache.Add(key, k, keep)
		}
		return k, nil
	})
	if err != nil {
		return nil, err
	}
	return got.(kept).copy(), nil
}

// copy is the answer as old as it is now, without what was between the servers.
func (k kept) copy() *dns.Msg {
	m := k.Msg.Copy()
	m.Extra = slices.DeleteFunc(m.Extra, func(r dns.RR) bool { return r.Header().Rrtype == dns.TypeOPT })
	age := uint32(time.Since(k.since) / time.Second)
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, r := range section {
			r.Header().Ttl -= min(age, r.Header().Ttl)
		}
	}
	return m
}

// keepFor is how long an answer holds: what is, for the shortest of its
// records; what is not, as its authority says (RFC 2308).
func keepFor(m *dns.Msg) time.Duration {
	seconds := uint32(maxTTL)
	switch {
	case m.Truncated || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
		return 0
	case m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0:
		for _, r := range m.Answer {
			seconds = min(seconds, r.Header().Ttl)
		}
	default:
		i := slices.IndexFunc(m.Ns, func(r dns.RR) bool { return r.Header().Rrtype == dns.TypeSOA })
		if i < 0 {
			return 0
		}
		seconds = min(seconds, m.Ns[i].Header().Ttl, m.Ns[i].(*dns.SOA).Minttl)
	}
	return time.Duration(seconds) * time.Second
}

// askAll asks one server after the other. A server that cannot say is like one
// that does not answer, unless it is the last.
func (u *upstream) askAll(ctx context.Context, q dns.Question, f flags) (*dns.Msg, error) {
	servers, err := u.servers()
	if err != nil {
		return nil, err
	}
	m := &dns.Msg{MsgHdr: dns.MsgHdr{RecursionDesired: true, CheckingDisabled: f.cd, AuthenticatedData: f.ad}, Question: []dns.Question{q}}
	m.SetEdns0(payload, f.do)
	var answer *dns.Msg
	for _, server := range servers {
		m.Id = dns.Id()
		var got *dns.Msg
		if got, err = exchange(ctx, m, server); err != nil {
			continue
		}
		answer = got
		if got.Rcode != dns.RcodeServerFailure && got.Rcode != dns.RcodeRefused {
			u.last.Store(&server)
			break
		}
	}
	if answer == nil {
		return nil, fmt.Errorf("cannot ask the name servers of %s: %w", u.resolver, err)
	}
	return answer, nil
}

// exchange asks one server, over TCP when the answer is too long for UDP.
func exchange(ctx context.Context, m *dns.Msg, server string) (*dns.Msg, error) {
	var got *dns.Msg
	for _, network := range []string{"udp", "tcp"} {
		c := dns.Client{Net: network, Timeout: timeout}
		next, _, err := c.ExchangeContext(ctx, m, server)
		if err != nil && got != nil {
			break // a part of the answer is better than none
		}
		if err != nil {
			return nil, err
		}
		if !next.Response || len(next.Question) != 1 || !strings.EqualFold(next.Question[0].Name, m.Question[0].Name) || next.Question[0].Qtype != m.Question[0].Qtype {
			return nil, fmt.Errorf("%s answered another question", server)
		}
		if got = next; !got.Truncated {
			break
		}
	}
	return got, nil
}

// servers are the machine's, as its file says now, but for this one: the last
// that answered before the others.
func (u *upstream) servers() ([]string, error) {
	c, err := dns.ClientConfigFromFile(u.resolver)
	if err != nil {
		return nil, fmt.Errorf("cannot read the machine's name servers: %w", err)
	}
	var out []string
	for _, s := range c.Servers {
		if a, err := netip.ParseAddr(s); err != nil || a.Unmap() != u.own {
			out = append(out, net.JoinHostPort(s, u.port))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("cannot ask anybody: %s names no name server", u.resolver)
	}
	if last := u.last.Load(); last != nil {
		if i := slices.Index(out, *last); i > 0 {
			out = append([]string{*last}, slices.Delete(out, i, i+1)...)
		}
	}
	return out, nil
}
