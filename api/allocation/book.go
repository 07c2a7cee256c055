// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	netutils "k8s.io/utils/net"
)

// Node ports are given out from kube-apiserver's default range.
const FirstNodePort, LastNodePort int32 = 30000, 32767

// Book says what is free for one write of a Service: the ranges, less what the
// stored Services hold. What is taken from it is held in it too.
type Book struct {
	ranges    []netip.Prefix
	dryRun    bool
	addresses map[netip.Addr]bool
	ports     map[int32]bool
	given     []int32 // of a dry run
	elsewhere func(netip.Addr) bool
}

// NewBook reads what the stored Services hold; ranges are the IPv4 ranges that
// addresses are given from, in this order. elsewhere says whether somebody else
// has an address. A dry run is given numbers that show what they are: none that
// a real write would be given.
func NewBook(ranges []netip.Prefix, stored []corev1.Service, dryRun bool, elsewhere func(netip.Addr) bool) *Book {
	b := &Book{dryRun: dryRun, addresses: map[netip.Addr]bool{}, ports: map[int32]bool{}, elsewhere: elsewhere}
	for _, r := range ranges {
		b.ranges = append(b.ranges, r.Masked())
	}
	for i := range stored {
		s := &stored[i]
		for _, a := range Addresses(s) {
			b.addresses[a] = true
		}
		for _, p := range append(portsOf(s), s.Spec.HealthCheckNodePort) {
			b.ports[p] = true
		}
	}
	return b
}

// Addresses are those that a Service holds. An external name holds none, also
// before what it had is taken out of it.
func Addresses(s *corev1.Service) (out []netip.Addr) {
	if named(s) {
		return nil
	}
	for _, ip := range append(slices.Clone(s.Spec.ClusterIPs), s.Spec.ClusterIP) {
		if a, err := netip.ParseAddr(ip); err == nil && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// Family is the cluster's one family of addresses.
func (b *Book) Family() corev1.IPFamily { return corev1.IPv4Protocol }

var (
	errFull    = errors.New("range is full")
	errNetwork = errors.New("the provided network does not match the current range")
	errAddress = errors.New("provided IP is already allocated")
	errPort    = errors.New("provided port is already allocated")
)

func (b *Book) takeAddress(asked string) error {
	ip, _ := netip.AddrFromSlice(netutils.ParseIPSloppy(asked)) // validation has parsed it
	ip = ip.Unmap()
	switch ok := slices.ContainsFunc(b.ranges, func(r netip.Prefix) bool { return Contains(r, ip) }); {
	case !ok && b.dryRun && len(b.ranges) > 0:
		return fmt.Errorf("the provided IP (%v) is not in the valid range. The range of valid IPs is %s", ip, b.ranges[0])
	case !ok:
		return errNetwork
	case b.dryRun:
		return nil
	case b.taken(ip):
		return errAddress
	}
	b.addresses[ip] = true
	return nil
}

func (b *Book) taken(ip netip.Addr) bool { return b.addresses[ip] || b.elsewhere(ip) }

// anyAddress picks at random, so that what was just given back is not the next
// one out, and from the upper part of a range first: the lower one is for
// those who ask for an address (KEP-3070).
func (b *Book) anyAddress() (string, error) {
	if b.dryRun && len(b.ranges) > 0 {
		return b.ranges[0].Addr().String(), nil
	}
	for _, r := range b.ranges {
		// The network and its broadcast are no addresses. The first of all is the
		// API's own, whose Service may not be there yet.
		first := 1
		if r == b.ranges[0] {
			first = 2
		}
		n, ok := anyFree(first, size(r)-1, lower(size(r), 16, 256), func(n int) bool { return b.taken(at(r, n)) })
		if ok {
			ip := at(r, n)
			b.addresses[ip] = true
			return ip.String(), nil
		}
	}
	return "", errFull
}

func size(r netip.Prefix) int { return 1 << (32 - r.Bits()) }

// at is the n-th address of a range.
func at(r netip.Prefix, n int) netip.Addr {
	base := r.Addr().As4()
	var out [4]byte
	binary.BigEndian.PutUint32(out[:], binary.BigEndian.Uint32(base[:])+uint32(n))
	return netip.AddrFrom4(out)
}

func (b *Book) takePort(n int32) error {
	switch {
	case b.ports[n] || slices.Contains(b.given, n):
		return errPort
	case b.dryRun:
		b.given = append(b.given, n)
		return nil
	case n < FirstNodePort || n > LastNodePort:
		return fmt.Errorf("provided port is not in the valid range. The range of valid ports is %d-%d", FirstNodePort, LastNodePort)
	}
	b.ports[n] = true
	return nil
}

// anyPort is anyAddress for node ports (KEP-3668).
func (b *Book) anyPort() (int32, error) {
	if b.dryRun {
		n := LastNodePort + 2
		if len(b.given) > 0 {
			n = slices.Max(b.given) + 1
		}
		b.given = append(b.given, n)
		return n, nil
	}
	size := int(LastNodePort-FirstNodePort) + 1
	n, ok := anyFree(0, size, lower(size, 32, 128), func(n int) bool { return b.ports[FirstNodePort+int32(n)] })
	if !ok {
		return 0, errFull
	}
	b.ports[FirstNodePort+int32(n)] = true
	return FirstNodePort + int32(n), nil
}

// lower is the size of the part of a range that is given out last.
func lower(size, step, most int) int {
	const least = 16
	if size <= least {
		return 0
	}
	return min(max(least, size/step), most)
}

// anyFree finds a number that is not taken in [from, to), above the lower part
// if there is one.
func anyFree(from, to, lower int, taken func(int) bool) (int, bool) {
	lower = max(lower, from)
	for _, part := range [][2]int{{lower, to}, {from, lower}} {
		n := part[1] - part[0]
		if n <= 0 {
			continue
		}
		start := rand.IntN(n)
		for i := range n {
			if at := part[0] + (start+i)%n; !taken(at) {
				return at, true
			}
		}
	}
	return 0, false
}
