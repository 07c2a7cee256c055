// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// forget makes the kernel forget the UDP flows to addresses that lead
// elsewhere now. A client that goes on sending keeps its flow alive, and would
// be led to a backend that is gone for ever. For TCP the ends see to that, and
// a connection may outlive its endpoint.
func (t *table) forget(touched iter.Seq[key]) error {
	s := staleFlows{table: t, to: map[key]bool{}}
	for k := range touched {
		if k.proto == "udp" {
			s.to[k] = true
		}
	}
	if len(s.to) == 0 {
		return nil
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("cannot list this machine's addresses: %w", err)
	}
	for _, a := range own {
		if n, ok := a.(*net.IPNet); ok {
			s.own = append(s.own, address(n.IP))
		}
	}
	family := netlink.InetFamily(unix.AF_INET)
	if t.rules.ip == "ip6" {
		family = unix.AF_INET6
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, s); err != nil {
		return fmt.Errorf("cannot forget UDP flows of former endpoints: %w", err)
	}
	return nil
}

// staleFlows picks the flows that do not go where the table would lead them.
type staleFlows struct {
	table *table
	to    map[key]bool // flows to these
	own   []netip.Addr // of this machine
}

func address(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s staleFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	to := netip.AddrPortFrom(address(flow.Forward.DstIP), flow.Forward.DstPort)
	at := netip.AddrPortFrom(address(flow.Reverse.SrcIP), flow.Reverse.SrcPort)
	k := key{to.Addr(), "udp", to.Port()}
	if !s.to[k] {
		k.addr = netip.Addr{} // a node port, then
		if !s.to[k] || !slices.Contains(s.own, to.Addr()) {
			return false
		}
	}
	f := s.table.active[k]
	if f == nil {
		return to != at // was translated for a Service that is gone
	}
	if f.served() || len(f.backends) == 0 && len(f.near) == 0 && to == at {
		return false
	}
	return !slices.Contains(f.backends, at) && !slices.Contains(f.near, at)
}
