// SPDX-License-Identifier: Apache-2.0

// Package network owns the addresses of Pods on one node and how packets reach
// them: allocation, the link of each Pod, its routes, host ports and the
// masquerade of traffic that leaves the cluster. It does not know Pods, only
// sandbox IDs and network namespaces; Services are the room service/.
//
// The network is flat and routed. Each sandbox has a veth pair whose inner end
// is born inside the sandbox's namespace as eth0. There is no bridge and no
// ARP: both ends know each other's hardware address, the Pod's default route
// points at a link-local next hop, and the node holds a /32 route per Pod.
//
//	Pod  eth0 10.244.0.7/32 ── default via 169.254.1.1 (permanent neighbour)
//	 │ veth
//	Node pea…  10.244.0.7 dev pea… src 10.244.0.1 (permanent neighbour)
//
// The Pods of other machines are reached by one route per machine: plain where
// it is on the same link, else through a VXLAN link with entries that are set,
// never learned (peers.go).
//
// What is allocated is what the records in Dir say, one JSON file per sandbox,
// so a killed process forgets nothing and a removed sandbox leaks nothing.
package network

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"sigs.k8s.io/knftables"
)

// Config says where the network of one node lives.
type Config struct {
	// Dir holds the records; it is created 0700.
	Dir string
	// Instance is the short name of this Peapod on the machine. It names the
	// nftables table and, hashed, the links, so that several can share a host.
	Instance string
	// PodCIDR is the node's range of Pod addresses. Its first host address
	// belongs to the node.
	PodCIDR netip.Prefix
	// Cluster is the range of all nodes' Pod addresses; without one it is
	// PodCIDR.
	Cluster netip.Prefix
	// Overlay is the number of the cluster's network among those that share
	// machines (VXLAN network identifier, 24 bits).
	Overlay uint32
	// Root is where /proc/sys is found; empty means "/".
	Root string
	Log  *slog.Logger
}

// HostPort asks that a port of the node leads to a port of the sandbox
// (core/v1 ContainerPort.hostPort and hostIP).
type HostPort struct {
	Protocol      string     `json:"protocol"` // tcp, udp or sctp
	HostIP        netip.Addr `json:"hostIP,omitzero"`
	HostPort      uint16     `json:"hostPort"`
	ContainerPort uint16     `json:"containerPort"`
}

// Network is the network of one node. Its methods are safe for concurrent use.
type Network struct {
	cfg Config
	nft knftables.Interface

	// links bounds how many callers talk to rtnetlink at once: the kernel
	// serialises them on one lock, and queueing here costs less than there.
	links chan struct{}
	mtu   int

	peering sync.Mutex // one change of peers after another

	mu      sync.Mutex // guards the fields below and the record files
	records map[string]record
	used    map[netip.Addr]string // address -> sandbox ID
	linked  map[string]bool       // sandboxes whose link this process made
	next    netip.Addr            // where the search for a free address starts
	podMTU  int                   // of links that are made now
}

// Open takes up the network described by the records in cfg.Dir and makes the
// node ready to forward: sysctls, the gateway address and the nftables table.
func Open(ctx context.Context, cfg Config) (*Network, error) {
	if !cfg.PodCIDR.IsValid() || !cfg.PodCIDR.Addr().Is4() || cfg.PodCIDR.Bits() > 29 {
		return nil, fmt.Errorf("cannot open network: pod CIDR %q is not an IPv4 range of /29 or larger", cfg.PodCIDR)
	}
	cfg.PodCIDR = cfg.PodCIDR.Masked()
	if !cfg.Cluster.IsValid() {
		cfg.Cluster = cfg.PodCIDR
	}
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if err := os.MkdirAll(filepath.Join(cfg.Dir, "sandboxes"), 0o700); err != nil {
		return nil, fmt.Errorf("cannot open network: %w", err)
	}
	nft, err := knftables.New(knftables.IPv4Family, cfg.Instance)
	if err != nil {
		return nil, fmt.Errorf("cannot open network: nftables: %w", err)
	}
	n := &Network{cfg: cfg, nft: nft, links: make(chan struct{}, 2), used: map[netip.Addr]string{}, linked: map[string]bool{}}
	if err = n.readRecords(); err != nil {
		return nil, err
	}
	for id, r := range n.records {
		n.used[r.IP] = id
	}
	n.next = readCursor(cfg.Dir, cfg.PodCIDR)
	if n.mtu, err = defaultMTU(); err != nil {
		return nil, err
	}
	n.podMTU = n.mtu
	if err := n.prepare(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

// prepare makes the node forward packets for its Pods. Every step may be
// repeated.
func (n *Network) prepare(ctx context.Context) error {
	if err := n.forward(); err != nil {
		return err
	}
	if err := n.Claim(n.Gateway()); err != nil {
		return err
	}
	return n.installRules(ctx)
}

// Gateway is the node's own address in the Pod range: the source of packets
// from the node to its Pods.
func (n *Network) Gateway() netip.Addr { return gatewayOf(n.cfg.PodCIDR) }

// gatewayOf is the address that belongs to the node of a range.
func gatewayOf(r netip.Prefix) netip.Addr { return r.Masked().Addr().Next() }

// Setup gives the network namespace at path netns a link and an address and
// opens its host ports. Repeating it for the same sandbox returns the same
// address; a record from before a crash gets its link made anew.
func (n *Network) Setup(ctx context.Context, id, netns string, ports []HostPort) ([]netip.Addr, error) {
	r, linked, err := n.reserve(id, ports)
	if err != nil {
		return nil, fmt.Errorf("cannot set up network of sandbox %s: %w", id, err)
	}
	if !linked {
		err = n.connect(ctx, r, netns)
	}
	if err == nil && len(ports) > 0 {
		err = n.openPorts(ctx, r)
	}
	if err != nil {
		if undo := n.Teardown(context.WithoutCancel(ctx), id); undo != nil {
			n.cfg.Log.Warn("network left half made", "sandbox", id, "err", undo)
		}
		return nil, fmt.Errorf("cannot set up network of sandbox %s: %w", id, err)
	}
	return []netip.Addr{r.IP}, nil
}

// Teardown closes the host ports of a sandbox, drops its route at once and
// frees its address. The link itself goes with the namespace: asking the
// kernel to delete it costs 16 ms, letting go of the namespace nothing. An
// unknown sandbox is no error.
func (n *Network) Teardown(ctx context.Context, id string) error {
	n.mu.Lock()
	r, ok := n.records[id]
	n.mu.Unlock()
	if !ok {
		return nil
	}
	if err := n.closePorts(ctx, r); err != nil {
		return fmt.Errorf("cannot tear down network of sandbox %s: %w", id, err)
	}
	if err := n.disconnect(ctx, r); err != nil {
		return fmt.Errorf("cannot tear down network of sandbox %s: %w", id, err)
	}
	if err := n.release(id); err != nil {
		return fmt.Errorf("cannot tear down network of sandbox %s: %w", id, err)
	}
	return nil
}

// Keep tears down every sandbox that live does not name: what a crash left
// between a record and its sandbox.
func (n *Network) Keep(ctx context.Context, live map[string]bool) error {
	n.mu.Lock()
	var stale []string
	for id := range n.records {
		if !live[id] {
			stale = append(stale, id)
		}
	}
	n.mu.Unlock()
	for _, id := range stale {
		n.cfg.Log.Info("network of a lost sandbox removed", "sandbox", id)
		if err := n.Teardown(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// linkPrefix starts the name of every link of this instance.
func (n *Network) linkPrefix() string {
	h := fnv.New32a()
	h.Write([]byte(n.cfg.Instance))
	return fmt.Sprintf("pea%04x-", h.Sum32()&0xffff)
}

// linkName is the host end's name: 15 bytes, the kernel's limit.
func (n *Network) linkName(id string) string {
	h := fnv.New32a()
	h.Write([]byte(id))
	return fmt.Sprintf("%s%07x", n.linkPrefix(), h.Sum32()&0xfffffff)
}
