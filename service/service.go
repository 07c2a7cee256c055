// SPDX-License-Identifier: Apache-2.0

// Package service owns the addresses of Services on a node: cluster IPs, node
// ports, external and load balancer IPs lead to the endpoints that the
// EndpointSlices name. It does what kube-proxy does, in the instance's own
// nftables table.
//
//	Service, EndpointSlices ─ frontends (pure) ─ table (the difference) ─ nft, one transaction
//
//	packet to 10.96.7.7:80 ─ svc-ips: a chain ─ svc-cluster-tcp-3: a number from 0 to 2
//	                       ─ svc-backends-tcp: 10.244.0.9:8080
//
// Load balancers are told at health check node ports whether the node has
// endpoints of a Service (health.go).
//
// Everything waits for events. Changes that come while a transaction is under
// way go together into the next. Rules outlive the process: after a crash they
// serve on until the next start has replaced them, in one transaction.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/knftables"
)

// Config is what the service addresses of a node are made from.
type Config struct {
	// Instance names the nftables table.
	Instance string
	// NodeName tells endpoints of this node from others; NodeIP is its address.
	NodeName string
	NodeIP   netip.Addr
	// Services is the range of cluster IPs; its family is the one served.
	Services netip.Prefix
	// Pods is this node's range of Pod addresses, and Gateway the node's own
	// address in it. Both are unset where another runtime has the Pods' network.
	Pods    netip.Prefix
	Gateway netip.Addr
	// ServiceInformer and SliceInformer are shared; the caller starts them.
	ServiceInformer, SliceInformer Informer
	// NodeInformer tells the node's zone; without it the node is in none.
	NodeInformer Informer
	// Events tells of what cannot be served; may be nil.
	Events record.EventRecorder
	Log    *slog.Logger
}

// Informer is what is needed of a shared informer.
type Informer interface {
	AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error)
	RemoveEventHandler(r cache.ResourceEventHandlerRegistration) error
}

// firstRetry and lastRetry bound how long a refused transaction waits to be
// tried again.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// Proxy keeps the rules of one node.
type Proxy struct {
	cfg Config
	nft knftables.Interface

	mu       sync.Mutex // guards the fields below
	site     site
	services map[string]*corev1.Service
	slices   map[string]map[string]*discoveryv1.EndpointSlice // by Service, then by name
	dirty    map[string]bool                                  // Services to look at
	drains   drains
	bell     chan struct{}
	checks   checks

	// The goroutine of Run alone uses these.
	table *table
	stale bool // the kernel may have something else than table says
}

// New makes a proxy; Run lets it work.
func New(cfg Config) (*Proxy, error) {
	family := knftables.IPv4Family
	if cfg.Services.Addr().Is6() {
		family = knftables.IPv6Family
	}
	nft, err := knftables.New(family, cfg.Instance)
	if err != nil {
		return nil, fmt.Errorf("cannot serve addresses of Services: nftables: %w", err)
	}
	return newProxy(cfg, nft), nil
}

func newProxy(cfg Config, nft knftables.Interface) *Proxy {
	return &Proxy{
		cfg: cfg, site: site{node: cfg.NodeName, ip6: cfg.Services.Addr().Is6()}, nft: nft,
		services: map[string]*corev1.Service{}, slices: map[string]map[string]*discoveryv1.EndpointSlice{},
		dirty: map[string]bool{}, drains: newDrains(), bell: make(chan struct{}, 1), checks: checks{served: map[string]*check{}}, table: newTable(newRules(cfg)), stale: true,
	}
}

// Run keeps the rules true until ctx ends, and leaves them.
func (p *Proxy) Run(ctx context.Context) error {
	defer p.checks.close()
	synced, stop, err := p.follow()
	defer stop()
	if err != nil {
		return fmt.Errorf("cannot follow Services: %w", err)
	}
	// Rules of before stay until all Services are known.
	if !cache.WaitFor(ctx, "", synced...) {
		return nil
	}
	p.ring()
	var retry <-chan time.Time
	wait := firstRetry
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.bell:
		case <-retry:
		}
		retry = nil
		err := p.sync(ctx)
		if err == nil {
			wait = firstRetry
		} else if ctx.Err() == nil {
			p.cfg.Log.Warn("the addresses of Services are not up to date", "op", "service", "err", err, "retry", wait)
			retry = time.After(wait)
			wait = min(2*wait, lastRetry)
		}
	}
}

// follow hears of Services, slices and this node's zone. synced end when all of
// now are known; stop ends the hearing.
func (p *Proxy) follow() (synced []cache.DoneChecker, stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, s := range stops {
			s()
		}
	}
	type source struct {
		from Informer
		h    cache.ResourceEventHandler
	}
	sources := []source{{p.cfg.ServiceInformer, handler(p.takeService)}, {p.cfg.SliceInformer, handler(p.takeSlice)}}
	if p.cfg.NodeInformer != nil {
		sources = append(sources, source{p.cfg.NodeInformer, handler(p.takeNode)})
	}
	for _, x := range sources {
		reg, err := x.from.AddEventHandler(x.h)
		if err != nil {
			return nil, stop, err
		}
		synced = append(synced, reg.HasSyncedChecker())
		// An informer that has ended has no handlers to take away.
		stops = append(stops, func() { _ = x.from.RemoveEventHandler(reg) })
	}
	return synced, stop, nil
}

// handler hands objects of one type on: old is nil for a new one, and new for
// one that is gone.
func handler[T any](take func(old, new *T)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { take(nil, o.(*T)) },
		UpdateFunc: func(old, o any) { take(old.(*T), o.(*T)) },
		DeleteFunc: func(o any) {
			if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = d.Obj
			}
			take(o.(*T), nil)
		},
	}
}

func (p *Proxy) ring() {
	select {
	case p.bell <- struct{}{}:
	default:
	}
}

func (p *Proxy) takeService(old, new *corev1.Service) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old != nil {
		delete(p.services, old.Namespace+"/"+old.Name)
		p.dirty[old.Namespace+"/"+old.Name] = true
	}
	if new != nil {
		p.services[new.Namespace+"/"+new.Name] = new
		p.dirty[new.Namespace+"/"+new.Name] = true
	}
	p.ring()
}

func (p *Proxy) takeSlice(old, new *discoveryv1.EndpointSlice) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old != nil {
		of := owner(old)
		delete(p.slices[of], old.Name)
		if len(p.slices[of]) == 0 {
			delete(p.slices, of)
		}
		p.dirty[of] = true
	}
	if new != nil {
		of := owner(new)
		if p.slices[of] == nil {
			p.slices[of] = map[string]*discoveryv1.EndpointSlice{}
		}
		p.slices[of][new.Name] = new
		p.dirty[of] = true
	}
	p.drains.change(old, new)
	p.ring()
}

// owner is the namespace/name of a slice's Service.
func owner(s *discoveryv1.EndpointSlice) string {
	return s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]
}

// change is what there is to do: Services and what they should have now.
func (p *Proxy) change() (want map[string][]frontend, asked map[string]*health, leaving []types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	want, asked = make(map[string][]frontend, len(p.dirty)), make(map[string]*health, len(p.dirty))
	for name := range p.dirty {
		want[name], asked[name] = nil, nil
		if s := p.services[name]; s != nil {
			of := make([]*discoveryv1.EndpointSlice, 0, len(p.slices[name]))
			for _, slice := range p.slices[name] {
				of = append(of, slice)
			}
			want[name], asked[name] = p.site.frontends(s, of), p.site.health(s, of)
		}
	}
	clear(p.dirty)
	return want, asked, p.drains.take()
}

// sync makes the kernel's table what Services and slices say now.
func (p *Proxy) sync(ctx context.Context) error {
	want, asked, leaving := p.change()
	unchecked := p.check(asked)
	touched := map[key]bool{}
	for name, frontends := range want {
		p.table.replace(name, frontends, touched)
	}
	d := p.table.settle(touched)
	tx := p.nft.NewTransaction()
	var err error
	if p.stale {
		var have found
		if have, err = p.find(ctx); err == nil {
			p.table.rebuild(tx, have)
		}
	} else {
		d.write(tx, p.table.rules)
	}
	if err == nil && tx.NumOperations() > 0 {
		err = p.nft.Run(ctx, tx)
	}
	p.mu.Lock()
	p.drains.applied(leaving, err == nil)
	p.mu.Unlock()
	p.checks.setHealthy(err == nil)
	if err != nil {
		p.stale = true
		return errors.Join(fmt.Errorf("cannot write nftables rules: %w", err), unchecked)
	}
	changed := maps.Keys(touched)
	if p.stale {
		changed = maps.Keys(p.table.active)
	}
	p.stale = false
	if err := p.table.forget(changed); err != nil {
		p.cfg.Log.Warn("some UDP clients may still send to former endpoints", "op", "service", "err", err)
	}
	return unchecked
}

// find lists what of ours is in the table.
func (p *Proxy) find(ctx context.Context) (have found, err error) {
	all, err := p.nft.ListAll(ctx)
	if knftables.IsNotFound(err) {
		return have, nil
	}
	if err != nil {
		return have, fmt.Errorf("cannot list nftables objects: %w", err)
	}
	for kind, names := range all {
		ours := slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, prefix) })
		slices.Sort(ours)
		switch kind {
		case "chain":
			have.chains = ours
		case "map":
			have.maps = ours
		case "set":
			have.sets = ours
		}
	}
	return have, nil
}
