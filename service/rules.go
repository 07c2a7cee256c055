// SPDX-License-Identifier: Apache-2.0

package service

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"sigs.k8s.io/knftables"
)

// Names in the instance's nftables table, which the room network/ owns: its
// own begin with "net-", ours with this.
const prefix = "svc-"

const (
	servicesChain   = prefix + "services"
	nearChain       = prefix + "near"
	checkChain      = prefix + "check"
	rejectChain     = prefix + "reject"
	masqueradeChain = prefix + "masquerade"

	// Verdict maps: address . protocol . port, or protocol . port of the node.
	ipsMap         = prefix + "ips"            // -> the chain that chooses a backend
	portsMap       = prefix + "ports"          // the same for node ports
	nearIPsMap     = prefix + "near-ips"       // -> the chain for Pods and the node itself
	nearPortsMap   = prefix + "near-ports"     //
	unservedIPs    = prefix + "unserved-ips"   // -> what happens to the untranslated
	unservedPorts  = prefix + "unserved-ports" //
	sourcesMap     = prefix + "sources"        // -> the chain that knows who may
	clusterIPsSet  = prefix + "cluster-ips"
	hairpinSet     = prefix + "hairpin" // address . same address . protocol . port of backends
	affinityPrefix = prefix + "affinity-"

	// One for each protocol: address . port . number -> address . port, or
	// without the first for node ports.
	backendsMaps     = prefix + "backends-"
	portBackendsMaps = prefix + "port-backends-"
)

// nearOffset is where the numbers of near backends begin, in the same map. It
// is beyond what one port of a Service can have.
const nearOffset = 1 << 20

// mark says of a packet that its source is to be replaced after routing. It is
// the bit that kube-proxy uses, which other software on nodes leaves alone.
const mark = "0x4000"

// objectType orders what a table is made of.
type objectType int

const (
	setObject objectType = iota
	chainObject
	elementOfSet
	elementOfMap
)

type id struct {
	kind objectType
	name string // of the set, chain or map
	key  string // of the element
}

// object is a piece of the table that comes and goes with Services. Shared
// ones belong to all that need them, and their id says all of their content.
type object struct {
	id
	value  string   // of an element of a map
	rules  []string // of a chain
	shared bool
}

func (o object) equal(p object) bool {
	return o.value == p.value && strings.Join(o.rules, "\n") == strings.Join(p.rules, "\n")
}

// rules writes frontends as nftables objects. The way of a packet is the same
// for any number of Services: one look-up of its destination gives a chain, a
// random number and a second look-up give the backend. The chain depends on
// the number of backends only, so that a change of an endpoint is a change of
// a few elements. Session affinity alone needs chains of its own.
type rules struct {
	ip       string // "ip" or "ip6"
	pods     netip.Prefix
	gateway  netip.Addr
	services netip.Prefix
	node     netip.Addr
}

func newRules(c Config) rules {
	r := rules{ip: "ip", pods: c.Pods, gateway: c.Gateway, services: c.Services, node: c.NodeIP}
	if c.Services.Addr().Is6() {
		r.ip = "ip6"
	}
	return r
}

// objects is all that a frontend needs in the table.
func (r rules) objects(f *frontend) (out []object) {
	if f.kind == clusterKind {
		out = append(out, object{id: id{elementOfSet, clusterIPsSet, f.addr.String()}, shared: true})
	}
	if f.addr.IsValid() && len(f.sources) > 0 {
		out = append(out, r.firewall(f)...)
	}
	switch {
	case f.served():
		return append(out, f.element(unservedIPs, unservedIPs, string(accepts)))
	case len(f.backends) > 0:
		out = append(out, r.choice(f, f.kind, f.backends)...)
	default:
		out = append(out, f.element(unservedIPs, unservedPorts, string(f.otherwise)))
	}
	if len(f.near) > 0 {
		out = append(out, r.choice(f, nearKind, f.near)...)
	}
	return out
}

// element is one of f's in a map by address, or in its like for node ports.
func (f *frontend) element(byAddr, byPort, value string) object {
	name, k := byPort, fmt.Sprintf("%s . %d", f.proto, f.key.port)
	if f.addr.IsValid() {
		name, k = byAddr, f.addr.String()+" . "+k
	}
	return object{id: id{elementOfMap, name, k}, value: value}
}

// backend is an element that leads f to b when the number is drawn.
func (f *frontend) backend(b netip.AddrPort, number int) object {
	name, k := portBackendsMaps+f.proto, fmt.Sprintf("%d . %d", f.key.port, number)
	if f.addr.IsValid() {
		name, k = backendsMaps+f.proto, f.addr.String()+" . "+k
	}
	return object{id: id{elementOfMap, name, k}, value: fmt.Sprintf("%s . %d", b.Addr(), b.Port())}
}

// choice leads f to one of the backends.
func (r rules) choice(f *frontend, k kind, backends []netip.AddrPort) (out []object) {
	for _, b := range backends {
		// Only what runs here can meet itself; without a range any may.
		if !r.pods.IsValid() || r.pods.Contains(b.Addr()) {
			a := b.Addr().String()
			out = append(out, object{id: id{elementOfSet, hairpinSet, fmt.Sprintf("%s . %s . %s . %d", a, a, f.proto, b.Port())}, shared: true})
		}
	}
	offset := 0
	if k == nearKind {
		offset = nearOffset
	}
	var chain object
	if f.sticky > 0 {
		var more []object
		chain, more = r.stickyChain(f, k, backends)
		out = append(out, more...)
	} else {
		chain = r.randomChain(f, k, len(backends), offset)
		for i, b := range backends {
			out = append(out, f.backend(b, i+offset))
		}
	}
	byAddr, byPort := ipsMap, portsMap
	if k == nearKind {
		byAddr, byPort = nearIPsMap, nearPortsMap
	}
	return append(out, chain, f.element(byAddr, byPort, "goto "+chain.name))
}

// randomChain is shared by all frontends like f with n backends.
func (r rules) randomChain(f *frontend, k kind, n, offset int) object {
	name, in, by := fmt.Sprintf("%sport-%s-%s-%d", prefix, k, f.proto, n), portBackendsMaps, ""
	if f.addr.IsValid() {
		name, in, by = fmt.Sprintf("%s%s-%s-%d", prefix, k, f.proto, n), backendsMaps, r.ip+" daddr . "
	}
	pick := fmt.Sprintf("numgen random mod %d", n)
	if offset > 0 {
		pick += fmt.Sprintf(" offset %d", offset)
	}
	dnat := fmt.Sprintf("dnat %s to %s%s dport . %s map @%s%s", r.ip, by, f.proto, pick, in, f.proto)
	return object{id: id{kind: chainObject, name: name}, rules: append(r.markRules(k), dnat), shared: true}
}

// stickyChain sends a client where it was before, and else to a random
// backend. Each backend of a port has a set of the clients it has had, which
// all addresses of the port share.
func (r rules) stickyChain(f *frontend, k kind, backends []netip.AddrPort) (chain object, more []object) {
	where := "node"
	if f.addr.IsValid() {
		where = chainName(f.addr)
	}
	chain = object{id: id{kind: chainObject, name: fmt.Sprintf("%ssticky-%s-%s-%s-%d", prefix, k, where, f.proto, f.key.port)}, rules: r.markRules(k)}
	var pick []string
	for i, b := range backends {
		of := fmt.Sprintf("%s/%s/%d", f.port, chainName(b.Addr()), b.Port())
		clients := affinityPrefix + of
		to := object{id: id{kind: chainObject, name: fmt.Sprintf("%sbackend-%s/%d", prefix, of, f.sticky)}, shared: true, rules: []string{
			fmt.Sprintf("update @%s { %s saddr timeout %ds }", clients, r.ip, f.sticky),
			fmt.Sprintf("meta l4proto %s dnat to %s", f.proto, b),
		}}
		more = append(more, object{id: id{kind: setObject, name: clients}, shared: true}, to)
		chain.rules = append(chain.rules, fmt.Sprintf("%s saddr @%s goto %s", r.ip, clients, to.name))
		pick = append(pick, fmt.Sprintf("%d : goto %s", i, to.name))
	}
	chain.rules = append(chain.rules, fmt.Sprintf("numgen random mod %d vmap { %s }", len(pick), strings.Join(pick, " , ")))
	return chain, more
}

// chainName writes an address so that it can be in a name.
func chainName(a netip.Addr) string { return strings.ReplaceAll(a.String(), ":", "_") }

// markRules choose which sources are replaced by the node's address.
func (r rules) markRules(k kind) []string {
	set := "meta mark set meta mark or " + mark
	switch {
	case k == localKind, k == clusterKind && !r.pods.IsValid():
		return nil
	case k == externalKind || !r.pods.IsValid():
		return []string{set}
	}
	return []string{fmt.Sprintf("%s saddr != %s %s", r.ip, r.pods, set)}
}

// firewall drops what may not use f (loadBalancerSourceRanges). Where the node
// itself may, it comes from the very address of f when the node holds that.
func (r rules) firewall(f *frontend) []object {
	may := slices.Clone(f.sources)
	for _, p := range f.sources {
		if p.Contains(r.node) {
			may = append(may, netip.PrefixFrom(f.addr, f.addr.BitLen()))
		}
	}
	var ranges []string
	for _, p := range disjoint(may) {
		ranges = append(ranges, p.String())
	}
	rule := fmt.Sprintf("%s saddr != { %s } drop", r.ip, strings.Join(ranges, ", "))
	chain := object{id: id{kind: chainObject, name: fmt.Sprintf("%ssources-%s-%s-%d", prefix, chainName(f.addr), f.proto, f.key.port)}, rules: []string{rule}}
	return []object{chain, f.element(sourcesMap, "", "goto "+chain.name)}
}

// disjoint leaves out the ranges that lie in others: a set of nft's has each
// address once.
func disjoint(in []netip.Prefix) (out []netip.Prefix) {
	slices.SortFunc(in, func(a, b netip.Prefix) int { return cmp.Or(cmp.Compare(a.Bits(), b.Bits()), a.Compare(b)) })
	for _, p := range in {
		if !slices.ContainsFunc(out, func(o netip.Prefix) bool { return o.Contains(p.Addr()) }) {
			out = append(out, p)
		}
	}
	return out
}

// hook is a place where the kernel enters the table.
type hook struct {
	name string
	typ  knftables.BaseChainType
	at   knftables.BaseChainHook
	prio knftables.BaseChainPriority
	rule []string
}

// hooks lists them. The priorities of prerouting have names; those of output
// are the same numbers, which nft wants spelt out there. What may not come in
// is dropped before the translation, what was not translated is rejected after.
func (r rules) hooks() []hook {
	byAddr := r.ip + " daddr . meta l4proto . th dport vmap @"
	may := []string{"ct state new " + byAddr + sourcesMap}
	check := []string{"ct state new jump " + checkChain}
	services := []string{"jump " + servicesChain}
	return []hook{
		{prefix + "may-prerouting", knftables.FilterType, knftables.PreroutingHook, "-110", may},
		{prefix + "may-output", knftables.FilterType, knftables.OutputHook, "-110", may},
		{prefix + "prerouting", knftables.NATType, knftables.PreroutingHook, "-100", services},
		{prefix + "output", knftables.NATType, knftables.OutputHook, "-100", services},
		{prefix + "check-prerouting", knftables.FilterType, knftables.PreroutingHook, "-90", check},
		{prefix + "check-output", knftables.FilterType, knftables.OutputHook, "-90", check},
		{prefix + "postrouting", knftables.NATType, knftables.PostroutingHook, "100", []string{
			"meta mark and " + mark + " != 0 jump " + masqueradeChain,
			// A Pod that reaches itself through a Service would answer itself
			// directly, and not recognise the answer.
			fmt.Sprintf("ct status dnat %[1]s saddr . %[1]s daddr . meta l4proto . th dport @%[2]s jump %[3]s", r.ip, hairpinSet, masqueradeChain),
		}},
	}
}

// fixedChains are those that hooks jump to.
func (r rules) fixedChains() []object {
	byAddr := r.ip + " daddr . meta l4proto . th dport vmap @"
	byPort := "fib daddr type local meta l4proto . th dport vmap @"
	chain := func(name string, rules ...string) object {
		return object{id: id{kind: chainObject, name: name}, rules: rules}
	}
	masquerade := []string{"meta mark set meta mark and 0xffffbfff"}
	services := []string{"fib saddr type local jump " + nearChain}
	if r.pods.IsValid() {
		services = append(services, fmt.Sprintf("%s saddr %s jump %s", r.ip, r.pods, nearChain))
	}
	if r.pods.IsValid() && r.gateway.IsValid() {
		// The links of Pods have no address for masquerade to choose.
		masquerade = append(masquerade, fmt.Sprintf("%s daddr %s snat to %s fully-random", r.ip, r.pods, r.gateway))
	}
	check := []string{
		"ct status dnat return",
		byAddr + unservedIPs,
		fmt.Sprintf("%s daddr @%s goto %s", r.ip, clusterIPsSet, rejectChain), // a port that the Service has not
		byPort + unservedPorts,
	}
	if r.services.IsValid() {
		// An address that no Service has. What the node holds itself, as that of
		// the name server, answers also before its Service is there.
		check = append(check, fmt.Sprintf("%s daddr %s fib daddr type != local drop", r.ip, r.services))
	}
	return []object{
		chain(servicesChain, append(services, byAddr+ipsMap, byPort+portsMap)...),
		chain(nearChain, byAddr+nearIPsMap, byPort+nearPortsMap),
		chain(checkChain, check...),
		chain(rejectChain, "meta l4proto tcp reject with tcp reset", "reject"),
		chain(masqueradeChain, append(masquerade, "masquerade fully-random")...),
	}
}

// maps and sets that are always there.
func (r rules) maps() []*knftables.Map {
	addr := "ipv4_addr"
	if r.ip == "ip6" {
		addr = "ipv6_addr"
	}
	byAddr, byPort := addr+" . inet_proto . inet_service : verdict", "inet_proto . inet_service : verdict"
	out := []*knftables.Map{
		{Name: ipsMap, Type: byAddr}, {Name: portsMap, Type: byPort},
		{Name: nearIPsMap, Type: byAddr}, {Name: nearPortsMap, Type: byPort},
		{Name: unservedIPs, Type: byAddr}, {Name: unservedPorts, Type: byPort},
		{Name: sourcesMap, Type: byAddr},
	}
	for _, proto := range []string{"tcp", "udp", "sctp"} {
		// The type of a random number has no name, so that these are told by
		// example; and an example of a port is of one protocol.
		k, v := fmt.Sprintf("%s dport . numgen random mod 2", proto), fmt.Sprintf("%s daddr . %s dport", r.ip, proto)
		out = append(out, &knftables.Map{Name: backendsMaps + proto, TypeOf: r.ip + " daddr . " + k + " : " + v},
			&knftables.Map{Name: portBackendsMaps + proto, TypeOf: k + " : " + v})
	}
	return out
}

func (r rules) sets() []*knftables.Set {
	addr := "ipv4_addr"
	if r.ip == "ip6" {
		addr = "ipv6_addr"
	}
	return []*knftables.Set{{Name: clusterIPsSet, Type: addr}, {Name: hairpinSet, Type: addr + " . " + addr + " . inet_proto . inet_service"}}
}

// affinitySet holds the clients of a backend; the rule that adds them says for
// how long.
func (r rules) affinitySet(name string) *knftables.Set {
	return &knftables.Set{Name: name, TypeOf: r.ip + " saddr", Flags: []knftables.SetFlag{knftables.DynamicFlag, knftables.TimeoutFlag}}
}
