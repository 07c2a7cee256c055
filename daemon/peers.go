// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/network"
	"github.com/peapod/peapod/service"
)

// firstTry and lastTry bound how long a way that could not be laid waits to be
// tried again.
const (
	firstTry = 200 * time.Millisecond
	lastTry  = 30 * time.Second
)

// peers keeps the ways to the Pods of other machines: what Nodes say of them is
// what the network is told.
type peers struct {
	self    string
	network *network.Network
	nodes   service.Informer
	log     *slog.Logger

	mu    sync.Mutex // guards known
	known map[string]network.Peer
	bell  chan struct{}
}

func newPeers(self string, n *network.Network, nodes service.Informer, log *slog.Logger) *peers {
	return &peers{self: self, network: n, nodes: nodes, log: log, known: map[string]network.Peer{}, bell: make(chan struct{}, 1)}
}

// run works until ctx ends and leaves the ways.
func (p *peers) run(ctx context.Context) error {
	look := func(o any) { p.learn(o.(*corev1.Node)) }
	reg, err := p.nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: look, UpdateFunc: func(_, o any) { look(o) },
		DeleteFunc: func(o any) {
			if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = d.Obj
			}
			p.forget(o.(*corev1.Node).Name)
		},
	})
	if err != nil {
		return fmt.Errorf("cannot follow the machines of the cluster: %w", err)
	}
	// An informer that has ended has no handlers to take away.
	defer func() { _ = p.nodes.RemoveEventHandler(reg) }()
	// Until all are known, ways of before stay.
	if !cache.WaitFor(ctx, "", reg.HasSyncedChecker()) {
		return nil
	}
	var following sync.WaitGroup
	defer following.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.ring()
	var retry <-chan time.Time
	wait, followed := firstTry, false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.bell:
		case <-retry:
		}
		retry = nil
		all := p.all()
		// Alone, a machine has no use for what becomes of its links.
		if len(all) > 0 && !followed {
			followed = true
			following.Go(func() {
				if err := p.network.Changes(ctx, p.ring); err != nil {
					p.log.Warn("changes of this machine's links are not seen", "op", "peers", "err", err)
				}
			})
		}
		err := p.network.SetPeers(all)
		if err == nil {
			wait = firstTry
			continue
		}
		p.log.Warn("not all machines of the cluster can be reached", "op", "peers", "err", err, "retry", wait)
		retry = time.After(wait)
		wait = min(2*wait, lastTry)
	}
}

func (p *peers) ring() {
	select {
	case p.bell <- struct{}{}:
	default:
	}
}

func (p *peers) learn(n *corev1.Node) {
	peer, ok := peerOf(n)
	if !ok {
		p.forget(n.Name)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if n.Name != p.self && p.known[n.Name] != peer {
		p.known[n.Name] = peer
		p.ring()
	}
}

func (p *peers) forget(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.known[name]; ok {
		delete(p.known, name)
		p.ring()
	}
}

func (p *peers) all() (out []network.Peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.known {
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b network.Peer) int { return a.Pods.Compare(b.Pods) })
	return out
}

// peerOf is a Node as the network sees it, once its range and its address are
// known.
func peerOf(n *corev1.Node) (network.Peer, bool) {
	pods, err := netip.ParsePrefix(n.Spec.PodCIDR)
	if err != nil || !pods.Addr().Is4() {
		return network.Peer{}, false
	}
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP && ip.Is4() {
			return network.Peer{Address: ip, Pods: pods}, true
		}
	}
	return network.Peer{}, false
}
