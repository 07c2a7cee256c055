// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// nextHop is the link-local address every Pod routes through. Nobody owns it:
// a permanent neighbour entry carries packets to the node's end of the pair.
var nextHop = net.IPv4(169, 254, 1, 1).To4()

// connect makes the link of r with its peer born inside the namespace: moving
// it there afterwards would cost a grace period of the kernel (18 ms).
func (n *Network) connect(ctx context.Context, r record, path string) error {
	select {
	case n.links <- struct{}{}:
		defer func() { <-n.links }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("cannot open network namespace %s: %w", path, err)
	}
	defer ns.Close()
	host, inner := hardwareAddr(r.IP, 0), hardwareAddr(r.IP, 1)
	n.mu.Lock()
	mtu := n.podMTU
	n.mu.Unlock()
	pair := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: r.Link, HardwareAddr: host, MTU: mtu, Flags: net.FlagUp, TxQLen: 1000},
		PeerName:  "eth0", PeerHardwareAddr: inner, PeerNamespace: netlink.NsFd(ns), PeerMTU: uint32(mtu), PeerTxQLen: 1000,
	}
	err = netlink.LinkAdd(pair)
	if errors.Is(err, unix.EEXIST) {
		// A sandbox that lost its namespace in a crash may leave the name behind.
		if err = deleteLinks(r.Link); err == nil {
			err = netlink.LinkAdd(pair)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot make link %s: %w", r.Link, err)
	}
	if err := n.connectHost(pair.Index, r, inner); err != nil {
		return err
	}
	if err := connectPod(ns, r, host); err != nil {
		return err
	}
	n.mu.Lock()
	n.linked[r.ID] = true
	n.mu.Unlock()
	return nil
}

func (n *Network) connectHost(index int, r record, inner net.HardwareAddr) error {
	dst := hostNet(r.IP)
	if err := netlink.NeighSet(permanent(index, r.IP.AsSlice(), inner)); err != nil {
		return fmt.Errorf("cannot set neighbour %s: %w", r.IP, err)
	}
	route := &netlink.Route{LinkIndex: index, Dst: dst, Src: n.Gateway().AsSlice(), Scope: netlink.SCOPE_LINK}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("cannot set route to %s: %w", r.IP, err)
	}
	return nil
}

// connectPod configures the namespace's side: lo, eth0, address, neighbour and
// default route, over a netlink socket opened inside it.
func connectPod(ns netns.NsHandle, r record, host net.HardwareAddr) error {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("cannot open netlink in the namespace: %w", err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("cannot find lo: %w", err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("cannot set lo up: %w", err)
	}
	eth, err := h.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("cannot find eth0: %w", err)
	}
	if err := h.AddrReplace(eth, &netlink.Addr{IPNet: hostNet(r.IP)}); err != nil {
		return fmt.Errorf("cannot set address %s: %w", r.IP, err)
	}
	if err := h.LinkSetUp(eth); err != nil {
		return fmt.Errorf("cannot set eth0 up: %w", err)
	}
	index := eth.Attrs().Index
	if err := h.NeighSet(permanent(index, nextHop, host)); err != nil {
		return fmt.Errorf("cannot set neighbour of the default route: %w", err)
	}
	route := &netlink.Route{LinkIndex: index, Gw: nextHop, Flags: int(netlink.FLAG_ONLINK), Dst: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}}
	if err := h.RouteReplace(route); err != nil {
		return fmt.Errorf("cannot set default route: %w", err)
	}
	return nil
}

// disconnect drops the node's route to the address, so that nothing more is
// sent there while the namespace dies in its own time.
func (n *Network) disconnect(ctx context.Context, r record) error {
	select {
	case n.links <- struct{}{}:
		defer func() { <-n.links }()
	case <-ctx.Done():
		return ctx.Err()
	}
	err := netlink.RouteDel(&netlink.Route{Dst: hostNet(r.IP), Scope: netlink.SCOPE_LINK})
	if err != nil && !errors.Is(err, syscall.ESRCH) && !errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("cannot remove route to %s: %w", r.IP, err)
	}
	return nil
}

// addressOf finds the Pod's address in the route over its link; the zero Addr
// when there is no such link.
func addressOf(link string) (netip.Addr, error) {
	l, err := netlink.LinkByName(link)
	var none netlink.LinkNotFoundError
	if errors.As(err, &none) {
		return netip.Addr{}, nil
	}
	if err != nil {
		return netip.Addr{}, fmt.Errorf("cannot find link %s: %w", link, err)
	}
	routes, err := netlink.RouteList(l, unix.AF_INET)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("cannot read routes of link %s: %w", link, err)
	}
	for _, r := range routes {
		if ones, _ := dstMask(r); ones == 32 {
			ip, _ := netip.AddrFromSlice(r.Dst.IP.To4()) // a route of this family has four bytes
			return ip, nil
		}
	}
	return netip.Addr{}, nil
}

// Claim puts addr on the loopback link, for the node's own address in the Pod
// range and the API server's Service address. Repeating it is no error.
func (n *Network) Claim(addr netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("cannot claim address %s: %w", addr, err)
	}
	if err := netlink.AddrReplace(lo, &netlink.Addr{IPNet: hostNet(addr), Label: "lo"}); err != nil {
		return fmt.Errorf("cannot claim address %s: %w", addr, err)
	}
	return n.remember(addr)
}

func disclaim(addr netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("cannot give up address %s: %w", addr, err)
	}
	err = netlink.AddrDel(lo, &netlink.Addr{IPNet: hostNet(addr)})
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("cannot give up address %s: %w", addr, err)
	}
	return nil
}

// deleteLinks removes every link whose name starts with prefix.
func deleteLinks(prefix string) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("cannot list links: %w", err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, prefix) {
			if err := deleteLink(l); err != nil {
				return err
			}
		}
	}
	return nil
}

// deleteLink removes a link that may be going away by itself at this moment.
func deleteLink(l netlink.Link) error {
	err := netlink.LinkDel(l)
	if err == nil || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return fmt.Errorf("cannot delete link %s: %w", l.Attrs().Name, err)
}

// defaultMTU is that of the link behind the default route, or Ethernet's.
func defaultMTU() (int, error) {
	routes, err := netlink.RouteList(nil, unix.AF_INET)
	if err != nil {
		return 0, fmt.Errorf("cannot read the default route: %w", err)
	}
	for _, r := range routes {
		if ones, _ := dstMask(r); ones != 0 || r.LinkIndex == 0 {
			continue
		}
		if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			return l.Attrs().MTU, nil
		}
	}
	return 1500, nil
}

func dstMask(r netlink.Route) (ones, bits int) {
	if r.Dst == nil {
		return 0, 32
	}
	return r.Dst.Mask.Size()
}

func permanent(index int, ip net.IP, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: index, IP: ip, HardwareAddr: mac, State: netlink.NUD_PERMANENT, Family: unix.AF_INET}
}

// hardwareAddr derives a locally administered MAC from the Pod's address: no
// two live links of a node can share one.
func hardwareAddr(ip netip.Addr, end byte) net.HardwareAddr {
	a := ip.As4()
	return net.HardwareAddr{0x02 | end<<2, 0x70, a[0], a[1], a[2], a[3]}
}

func hostNet(ip netip.Addr) *net.IPNet {
	return &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(32, 32)}
}
