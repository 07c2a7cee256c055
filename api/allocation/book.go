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
	services  netip.Prefix
	dryRun    bool
	addresses map[netip.Addr]bool
	ports     map[int32]bool
	given     []int32 // of a dry run
}

// NewBook reads what the stored Services hold; services is the cluster's IPv4
// range. A dry run is given numbers that show what they are: none that a real
// write would be given.
func NewBook(services netip.Prefix, stored []corev1.Service, dryRun bool) *Book {
	b := &Book{services: services.Masked(), dryRun: dryRun, addresses: map[netip.Addr]bool{}, ports: map[int32]bool{}}
	for i := range stored {
		s := &stored[i]
		for _, ip := range append(slices.Clone(s.Spec.ClusterIPs), s.Spec.ClusterIP) {
			if a, err := netip.ParseAddr(ip); err == nil {
				b.addresses[a] = true
			}
		}
		for _, p := range append(portsOf(s), s.Spec.HealthCheckNodePort) {
			b.ports[p] = true
		}
	}
	return b
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
	n, ok := b.index(ip)
	switch ok = ok && n > 0 && n < b.size()-1; {
	case !ok && b.dryRun:
		return fmt.Errorf("the provided IP (%v) is not in the valid range. The range of valid IPs is %s", ip, b.services)
	case !ok:
		return errNetwork
	case b.dryRun:
		return nil
	case b.addresses[ip]:
		return errAddress
	}
	b.addresses[ip] = true
	return nil
}

// anyAddress picks at random, so that what was just given back is not the next
// one out, and from the upper part of the range first: the lower one is for
// those who ask for an address (KEP-3070).
func (b *Book) anyAddress() (string, error) {
	if b.dryRun {
		return b.services.Addr().String(), nil
	}
	// The network and its broadcast are no addresses; the first is the API's own.
	n, ok := anyFree(2, b.size()-1, lower(b.size(), 16, 256), func(n int) bool { return b.addresses[b.at(n)] })
	if !ok {
		return "", errFull
	}
	ip := b.at(n)
	b.addresses[ip] = true
	return ip.String(), nil
}

func (b *Book) size() int { return 1 << (32 - b.services.Bits()) }

func (b *Book) at(n int) netip.Addr {
	base := b.services.Addr().As4()
	var out [4]byte
	binary.BigEndian.PutUint32(out[:], binary.BigEndian.Uint32(base[:])+uint32(n))
	return netip.AddrFrom4(out)
}

func (b *Book) index(ip netip.Addr) (int, bool) {
	if !b.services.Contains(ip) {
		return 0, false
	}
	base, at := b.services.Addr().As4(), ip.As4()
	return int(binary.BigEndian.Uint32(at[:]) - binary.BigEndian.Uint32(base[:])), true
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
