// SPDX-License-Identifier: Apache-2.0

package endpoints

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/dump"

	"github.com/peapod/peapod/controller/loop"
)

// maxAddresses is how many addresses one Endpoints may have.
const maxAddresses = 1000

// host tells addresses apart: two Pods may have the same IP.
type host struct {
	ip  string
	uid types.UID
}

func hostOf(a *corev1.EndpointAddress) host {
	if a.TargetRef == nil {
		return host{ip: a.IP}
	}
	return host{a.IP, a.TargetRef.UID}
}

// offer is a port and who offers it: ready or not. An offer without a port is
// that of a subset that has none.
type offer struct {
	port  *corev1.EndpointPort
	ready map[host]bool
}

// repack brings subsets into their canonical form: each port once for an
// address, addresses with the same ports together, all in upstream's order. Not
// ready in one place is not ready.
func repack(subsets []corev1.EndpointSubset) (out []corev1.EndpointSubset) {
	offers, addresses := map[string]*offer{}, map[host]corev1.EndpointAddress{}
	for _, s := range subsets {
		ports := []*corev1.EndpointPort{nil}
		if len(s.Ports) > 0 {
			ports = nil
			for i := range s.Ports {
				ports = append(ports, &s.Ports[i])
			}
		}
		for _, p := range ports {
			o := offers[digest(p)]
			if o == nil {
				o = &offer{p, map[host]bool{}}
				offers[digest(p)] = o
			}
			o.add(s.Addresses, true, addresses)
			o.add(s.NotReadyAddresses, false, addresses)
		}
	}
	byHosts := map[string]*corev1.EndpointSubset{}
	for _, o := range offers {
		key := o.hosts()
		s := byHosts[key]
		if s == nil {
			s = o.subset(addresses)
			byHosts[key] = s
		}
		if o.port != nil {
			s.Ports = append(s.Ports, *o.port)
		}
	}
	for _, s := range byHosts {
		slices.SortFunc(s.Ports, func(a, b corev1.EndpointPort) int { return strings.Compare(digest(a), digest(b)) })
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b corev1.EndpointSubset) int { return strings.Compare(digest(a), digest(b)) })
	return out
}

func (o *offer) add(list []corev1.EndpointAddress, ready bool, addresses map[host]corev1.EndpointAddress) {
	for i := range list {
		h := hostOf(&list[i])
		if _, known := addresses[h]; !known {
			addresses[h] = list[i]
		}
		was, known := o.ready[h]
		o.ready[h] = ready && (was || !known)
	}
}

// hosts is the same for two offers by the same, as ready.
func (o *offer) hosts() string {
	var all []string
	for h, ready := range o.ready {
		all = append(all, fmt.Sprintf("%q %q %v", h.ip, h.uid, ready))
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

func (o *offer) subset(addresses map[host]corev1.EndpointAddress) *corev1.EndpointSubset {
	s := &corev1.EndpointSubset{}
	for h, ready := range o.ready {
		if ready {
			s.Addresses = append(s.Addresses, addresses[h])
		} else {
			s.NotReadyAddresses = append(s.NotReadyAddresses, addresses[h])
		}
	}
	for _, list := range [][]corev1.EndpointAddress{s.Addresses, s.NotReadyAddresses} {
		slices.SortFunc(list, func(a, b corev1.EndpointAddress) int {
			x, y := hostOf(&a), hostOf(&b)
			return cmp.Or(strings.Compare(x.ip, y.ip), loop.FalseFirst(a.TargetRef != nil, b.TargetRef != nil), cmp.Compare(x.uid, y.uid))
		})
	}
	return s
}

// digest is what upstream sorts ports and subsets by: it has no meaning, but
// the order can be seen.
func digest(o any) string {
	h := fnv.New128a()
	fmt.Fprint(h, dump.ForHash(o))
	return string(h.Sum(nil))
}

// truncate leaves no more addresses than Endpoints may have, the ready ones
// first, from each subset in proportion. It says whether there were more.
func truncate(subsets []corev1.EndpointSubset) bool {
	ready, not := 0, 0
	for _, s := range subsets {
		ready, not = ready+len(s.Addresses), not+len(s.NotReadyAddresses)
	}
	if ready+not <= maxAddresses {
		return false
	}
	room, of, cut := maxAddresses-ready, not, func(s *corev1.EndpointSubset) *[]corev1.EndpointAddress { return &s.NotReadyAddresses }
	if ready > maxAddresses {
		room, of, cut = maxAddresses, ready, func(s *corev1.EndpointSubset) *[]corev1.EndpointAddress { return &s.Addresses }
		for i := range subsets {
			subsets[i].NotReadyAddresses = nil
		}
	}
	left := room
	for i := range subsets {
		list := cut(&subsets[i])
		share := min(int(math.Ceil(float64(len(*list))/float64(of)*float64(room))), left)
		*list = (*list)[:min(share, len(*list))]
		left -= len(*list)
	}
	return true
}
