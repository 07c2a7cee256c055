// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// uplink gives the tests' namespace an Ethernet link with a default route.
func uplink(t *testing.T) {
	t.Helper()
	l := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "up0", MTU: 1400, Flags: net.FlagUp}}
	if err := netlink.LinkAdd(l); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(l) })
	if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 1).To4(), Mask: net.CIDRMask(24, 32)}}); err != nil {
		t.Fatal(err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: l.Index, Gw: net.IPv4(192, 0, 2, 254)}); err != nil {
		t.Fatal(err)
	}
}

// peerState is what the kernel has of peers, in the form of ip(8).
func peerState(t *testing.T) (out []string) {
	t.Helper()
	name := func(index int) string {
		l, err := netlink.LinkByIndex(index)
		if err != nil {
			t.Fatal(err)
		}
		_, kind, _ := strings.Cut("x-"+l.Attrs().Name, "-")
		if i := strings.LastIndexByte(kind, '-'); i >= 0 {
			kind = kind[i+1:]
		}
		return kind
	}
	routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		out = append(out, fmt.Sprintf("route %s via %s dev %s src %s", r.Dst, r.Gw, name(r.LinkIndex), r.Src))
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		v, ok := l.(*netlink.Vxlan)
		if !ok {
			continue
		}
		out = append(out, fmt.Sprintf("vxlan %d port %d mtu %d learning %v", v.VxlanId, v.Port, v.MTU, v.Learning))
		for _, family := range []int{unix.AF_INET, unix.AF_BRIDGE} {
			all, err := netlink.NeighList(v.Index, family)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range all {
				out = append(out, fmt.Sprintf("neighbour %s at %s", n.IP, n.HardwareAddr))
			}
		}
	}
	slices.Sort(out)
	return out
}

func TestPeersAreRoutesOrAnOverlay(t *testing.T) {
	uplink(t)
	cfg := Config{Dir: t.TempDir(), Instance: "peapod-test", PodCIDR: netip.MustParsePrefix("10.250.0.0/24"), Cluster: netip.MustParsePrefix("10.250.0.0/16"), Overlay: 77}
	n := openWith(t, cfg)
	peer := func(address, pods string) Peer {
		return Peer{netip.MustParseAddr(address), netip.MustParsePrefix(pods)}
	}
	near, far := peer("192.0.2.2", "10.250.1.0/24"), peer("198.51.100.2", "10.250.2.0/24")
	farther := peer("198.51.100.3", "10.250.3.9/24") // whoever writes a Node may write so
	const overlay = "vxlan 77 port 4789 mtu 1350 learning false"
	for _, c := range []struct {
		name  string
		peers []Peer
		want  []string
		mtu   int
	}{
		{"none", nil, nil, 1400},
		{"on the link", []Peer{near}, []string{"route 10.250.1.0/24 via 192.0.2.2 dev up0 src 10.250.0.1"}, 1400},
		{"behind a router", []Peer{near, far}, []string{
			"neighbour 10.250.2.1 at 02:70:0a:fa:02:01", "neighbour 198.51.100.2 at 02:70:0a:fa:02:01",
			"route 10.250.1.0/24 via 192.0.2.2 dev up0 src 10.250.0.1", "route 10.250.2.0/24 via 10.250.2.1 dev vxlan src 10.250.0.1", overlay,
		}, 1350},
		{"one for another", []Peer{farther}, []string{
			"neighbour 10.250.3.1 at 02:70:0a:fa:03:01", "neighbour 198.51.100.3 at 02:70:0a:fa:03:01", "route 10.250.3.0/24 via 10.250.3.1 dev vxlan src 10.250.0.1", overlay,
		}, 1350},
		{"a range that moves to a machine on the link", []Peer{peer("192.0.2.3", "10.250.3.0/24")}, []string{
			"neighbour 10.250.3.1 at 02:70:0a:fa:03:01", "neighbour 198.51.100.3 at 02:70:0a:fa:03:01", "route 10.250.3.0/24 via 192.0.2.3 dev up0 src 10.250.0.1", overlay,
		}, 1350},
	} {
		if err := n.SetPeers(c.peers); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := peerState(t); !slices.Equal(got, c.want) {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, strings.Join(got, "\n     "), strings.Join(c.want, "\n     "))
		}
		if n.podMTU != c.mtu {
			t.Errorf("%s: links of Pods get an MTU of %d, want %d", c.name, n.podMTU, c.mtu)
		}
	}
	for _, wrong := range []Peer{peer("192.0.2.1", "10.250.9.0/24"), peer("192.0.2.9", "10.250.0.0/25")} {
		if err := n.SetPeers([]Peer{near, wrong}); err == nil {
			t.Errorf("%v: no error", wrong)
		}
		if got := peerState(t); !slices.Contains(got, "route 10.250.1.0/24 via 192.0.2.2 dev up0 src 10.250.0.1") {
			t.Errorf("with %v the other peer has no route: %v", wrong, got)
		}
	}
}
