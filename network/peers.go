// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Peer is another machine of the cluster.
type Peer struct {
	// Address is the machine's own, by which this one reaches it.
	Address netip.Addr
	// Pods is its range of Pod addresses.
	Pods netip.Prefix
}

const (
	// routeProtocol marks the routes to peers (rtnetlink(7) leaves the numbers
	// from 5 on to users, and /etc/iproute2/rt_protos has no 112).
	routeProtocol netlink.RouteProtocol = 112
	// overlayPort is VXLAN's (RFC 7348).
	overlayPort = 4789
	// overlayHeaders is what VXLAN over IPv4 puts before a packet: Ethernet, IP,
	// UDP and its own.
	overlayHeaders = 14 + 20 + 8 + 8
)

// SetPeers makes these the machines whose Pods are reached from here. A peer
// on the same link is a plain route. To others packets go by VXLAN, without
// learning and without flooding: what the kernel has to know of each peer
// follows from its Peer.
func (n *Network) SetPeers(peers []Peer) error {
	n.peering.Lock()
	defer n.peering.Unlock()
	want, far, err := n.routes(peers)
	problems := []error{err}
	if len(far) > 0 {
		link, err := n.overlay()
		if err != nil {
			return err
		}
		problems = append(problems, n.neighbours(link, far))
		for _, p := range far {
			want = append(want, n.route(p, link.Attrs().Index, gatewayOf(p.Pods)))
		}
	}
	// What no peer has any more goes first: its range may be another's now.
	problems = append(problems, n.dropRoutes(want))
	for _, r := range want {
		if err := netlink.RouteReplace(&r); err != nil {
			problems = append(problems, fmt.Errorf("cannot set route to %s: %w", r.Dst, err))
		}
	}
	return errors.Join(problems...)
}

// routes finds the peers on a link of ours, and those that are not.
func (n *Network) routes(peers []Peer) (near []netlink.Route, far []Peer, err error) {
	var problems []error
	for _, p := range peers {
		if p.Pods.Overlaps(n.cfg.PodCIDR) {
			problems = append(problems, fmt.Errorf("cannot reach the Pods of %s: their range %s overlaps this machine's, %s", p.Address, p.Pods, n.cfg.PodCIDR))
			continue
		}
		found, err := netlink.RouteGet(p.Address.AsSlice())
		switch {
		case err != nil:
			problems = append(problems, fmt.Errorf("cannot reach the Pods of %s: %w", p.Address, err))
		case len(found) == 0 || found[0].Type != unix.RTN_UNICAST:
			problems = append(problems, fmt.Errorf("cannot reach the Pods of %s: that is no address of another machine", p.Address))
		case found[0].Gw == nil:
			near = append(near, n.route(p, found[0].LinkIndex, p.Address))
		default:
			far = append(far, p)
		}
	}
	return near, far, errors.Join(problems...)
}

// route leads to the Pods of p over a neighbour on a link. The next hop of an
// overlay lies in no range of the link.
func (n *Network) route(p Peer, link int, hop netip.Addr) netlink.Route {
	return netlink.Route{
		LinkIndex: link, Dst: &net.IPNet{IP: p.Pods.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Pods.Bits(), 32)},
		Gw: hop.AsSlice(), Src: n.Gateway().AsSlice(), Flags: int(netlink.FLAG_ONLINK), Protocol: routeProtocol,
	}
}

// dropRoutes removes the routes into the cluster's range that are not wanted.
func (n *Network) dropRoutes(want []netlink.Route) error {
	have, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("cannot list routes: %w", err)
	}
	for _, r := range have {
		to, ok := netip.AddrFromSlice(r.Dst.IP.To4())
		if !ok || !n.cfg.Cluster.Contains(to) || slices.ContainsFunc(want, func(w netlink.Route) bool { return w.Dst.String() == r.Dst.String() }) {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("cannot remove route to %s: %w", r.Dst, err)
		}
	}
	return nil
}

// overlay is the link to machines elsewhere; it is made when the first is
// known. The links of Pods that are made from then on have room for its headers;
// those of before hear of it from this machine (ICMP, fragmentation needed).
func (n *Network) overlay() (netlink.Link, error) {
	want := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: n.linkPrefix() + "vxlan", HardwareAddr: hardwareAddr(n.Gateway(), 0), MTU: n.mtu - overlayHeaders, Flags: net.FlagUp},
		VxlanId:   int(n.cfg.Overlay), Port: overlayPort, Learning: false,
	}
	have, err := netlink.LinkByName(want.Name)
	if v, ok := have.(*netlink.Vxlan); err == nil && (!ok || v.VxlanId != want.VxlanId || v.HardwareAddr.String() != want.HardwareAddr.String()) {
		if err := deleteLink(have); err != nil {
			return nil, err
		}
		have = nil
	}
	if err != nil || have == nil {
		if err := netlink.LinkAdd(want); err != nil {
			return nil, fmt.Errorf("cannot make link %s: %w", want.Name, err)
		}
		if have, err = netlink.LinkByName(want.Name); err != nil {
			return nil, fmt.Errorf("cannot find link %s: %w", want.Name, err)
		}
	}
	// The source of what this machine itself sends, and of what it masquerades.
	if err := netlink.AddrAdd(have, &netlink.Addr{IPNet: hostNet(n.Gateway())}); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("cannot set the address of link %s: %w", want.Name, err)
	}
	if err := netlink.LinkSetUp(have); err != nil {
		return nil, fmt.Errorf("cannot set link %s up: %w", want.Name, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.podMTU = n.mtu - overlayHeaders
	return have, nil
}

// neighbours says of each far peer by which hardware address its gateway is
// known, and behind which machine that lies.
func (n *Network) neighbours(link netlink.Link, far []Peer) error {
	index := link.Attrs().Index
	var want []*netlink.Neigh
	for _, p := range far {
		mac := hardwareAddr(gatewayOf(p.Pods), 0)
		want = append(want, permanent(index, gatewayOf(p.Pods).AsSlice(), mac), &netlink.Neigh{
			LinkIndex: index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT, HardwareAddr: mac, IP: p.Address.AsSlice(),
		})
	}
	for _, family := range []int{unix.AF_INET, unix.AF_BRIDGE} {
		have, err := netlink.NeighList(index, family)
		if err != nil {
			return fmt.Errorf("cannot list the neighbours on link %s: %w", link.Attrs().Name, err)
		}
		for _, h := range have {
			if slices.ContainsFunc(want, func(w *netlink.Neigh) bool {
				return w.Family == family && w.IP.Equal(h.IP) && w.HardwareAddr.String() == h.HardwareAddr.String()
			}) {
				continue
			}
			if err := netlink.NeighDel(&h); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("cannot remove neighbour %s of link %s: %w", h.IP, link.Attrs().Name, err)
			}
		}
	}
	for _, w := range want {
		if err := netlink.NeighSet(w); err != nil {
			return fmt.Errorf("cannot set neighbour %s of link %s: %w", w.IP, link.Attrs().Name, err)
		}
	}
	return nil
}

// Changes tells when links and addresses of the machine have changed, until
// ctx ends: with a link that goes down the kernel drops routes, and peers
// may be near that were far. What this network makes itself does not count.
func (n *Network) Changes(ctx context.Context, changed func()) error {
	links, addresses := make(chan netlink.LinkUpdate), make(chan netlink.AddrUpdate)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := func(what string) func(error) {
		return func(err error) {
			if ctx.Err() == nil {
				n.cfg.Log.Warn("changes of the machine may be missed", "of", what, "err", err)
			}
		}
	}
	if err := netlink.LinkSubscribeWithOptions(links, ctx.Done(), netlink.LinkSubscribeOptions{ErrorCallback: failed("links")}); err != nil {
		return fmt.Errorf("cannot follow the machine's links: %w", err)
	}
	if err := netlink.AddrSubscribeWithOptions(addresses, ctx.Done(), netlink.AddrSubscribeOptions{ErrorCallback: failed("addresses")}); err != nil {
		return fmt.Errorf("cannot follow the machine's addresses: %w", err)
	}
	for links != nil || addresses != nil {
		select {
		case u, ok := <-links:
			if !ok {
				links = nil
			} else if !strings.HasPrefix(u.Attrs().Name, n.linkPrefix()) {
				changed()
			}
		case u, ok := <-addresses:
			if !ok {
				addresses = nil
			} else if u.LinkAddress.IP.To4() != nil && !u.LinkAddress.IP.Equal(n.Gateway().AsSlice()) {
				changed()
			}
		}
	}
	return nil
}
