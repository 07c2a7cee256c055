// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"

	"sigs.k8s.io/knftables"
)

// Names inside the instance's nftables table. The table is shared with the
// Service rules, which keep to chains and maps of their own.
const (
	chainPrerouting  = "net-prerouting"
	chainOutput      = "net-output"
	chainPostrouting = "net-postrouting"
	chainHostPorts   = "net-host-ports"
	mapAnyPort       = "net-host-ports-any" // protocol . port -> address . port
	mapIPPort        = "net-host-ports-ip"  // host address . protocol . port -> address . port
	setHairpin       = "net-hairpin"        // address . same address, of Pods with host ports
)

// installRules writes the part of the table that does not change with Pods,
// then fills the host port maps from the records. One transaction: there is no
// moment with half of it.
func (n *Network) installRules(ctx context.Context) error {
	tx := n.nft.NewTransaction()
	tx.Add(&knftables.Table{Comment: knftables.PtrTo("Peapod " + n.cfg.Instance)})
	base := func(name string, hook knftables.BaseChainHook, prio knftables.BaseChainPriority) {
		chain := &knftables.Chain{Name: name, Type: knftables.PtrTo(knftables.NATType), Hook: knftables.PtrTo(hook), Priority: knftables.PtrTo(prio)}
		tx.Add(chain)
		tx.Flush(chain)
	}
	base(chainPrerouting, knftables.PreroutingHook, knftables.DNATPriority)
	base(chainOutput, knftables.OutputHook, "-100")
	base(chainPostrouting, knftables.PostroutingHook, knftables.SNATPriority)
	tx.Add(&knftables.Chain{Name: chainHostPorts})
	tx.Flush(&knftables.Chain{Name: chainHostPorts})
	for _, m := range []*knftables.Map{
		{Name: mapAnyPort, Type: "inet_proto . inet_service : ipv4_addr . inet_service"},
		{Name: mapIPPort, Type: "ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service"},
	} {
		tx.Add(m)
		tx.Flush(m)
	}
	hairpin := &knftables.Set{Name: setHairpin, Type: "ipv4_addr . ipv4_addr"}
	tx.Add(hairpin)
	tx.Flush(hairpin)
	rule := func(chain string, parts ...any) {
		tx.Add(&knftables.Rule{Chain: chain, Rule: knftables.Concat(parts...)})
	}
	for _, chain := range []string{chainPrerouting, chainOutput} {
		rule(chain, "fib daddr type local", "jump", chainHostPorts)
	}
	rule(chainHostPorts, "dnat to ip daddr . meta l4proto . th dport map", "@"+mapIPPort)
	rule(chainHostPorts, "dnat to meta l4proto . th dport map", "@"+mapAnyPort)
	cidr := n.cfg.PodCIDR.String()
	// Pod to Pod and Pod to node keep the Pod's address; only what leaves the
	// flat network takes the node's.
	rule(chainPostrouting, "ip saddr", cidr, "ip daddr !=", n.cfg.Cluster.String(), "masquerade")
	// A host port reached through 127.0.0.1, or by the very Pod behind it, must
	// come back the way it went.
	rule(chainPostrouting, "ip saddr 127.0.0.0/8 ip daddr", cidr, "snat to", n.Gateway().String())
	rule(chainPostrouting, "ip saddr . ip daddr", "@"+setHairpin, "snat to", n.Gateway().String())
	for _, r := range n.records {
		portElements(r, tx.Add)
	}
	if err := n.nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("cannot install nftables rules: %w", err)
	}
	return nil
}

func (n *Network) openPorts(ctx context.Context, r record) error {
	tx := n.nft.NewTransaction()
	portElements(r, tx.Add)
	if err := n.nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("cannot open host ports: %w", err)
	}
	return nil
}

func (n *Network) closePorts(ctx context.Context, r record) error {
	if len(r.Ports) == 0 {
		return nil
	}
	tx := n.nft.NewTransaction()
	// Add before delete: deleting what is not there is an error, and a crash
	// may have come between the record and the rule.
	portElements(r, tx.Add)
	portElements(r, tx.Delete)
	if err := n.nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("cannot close host ports: %w", err)
	}
	return nil
}

// portElements gives op the map element of each host port of r.
func portElements(r record, op func(knftables.Object)) {
	for _, p := range r.Ports {
		e := &knftables.Element{Map: mapAnyPort, Value: []string{r.IP.String(), strconv.Itoa(int(p.ContainerPort))}}
		e.Key = []string{p.Protocol, strconv.Itoa(int(p.HostPort))}
		if p.HostIP.IsValid() && p.HostIP != netip.IPv4Unspecified() {
			e.Map = mapIPPort
			e.Key = append([]string{p.HostIP.String()}, e.Key...)
		}
		op(e)
	}
	if len(r.Ports) > 0 {
		op(&knftables.Element{Set: setHairpin, Key: []string{r.IP.String(), r.IP.String()}})
	}
}
