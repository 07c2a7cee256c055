// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// drains knows which Pods are offered to new connections: those that a slice
// names as not terminating, and those that one has named so until a moment
// ago and the kernel may still have.
type drains struct {
	offered map[types.UID]int // by how many endpoints
	leaving map[types.UID]int // by how many transactions to come
	next    []types.UID       // leave with the next one
	news    chan struct{}     // closed and replaced after each transaction
}

func newDrains() drains {
	return drains{offered: map[types.UID]int{}, leaving: map[types.UID]int{}, news: make(chan struct{})}
}

func offers(s *discoveryv1.EndpointSlice, f func(types.UID)) {
	if s == nil {
		return
	}
	for _, e := range s.Endpoints {
		if e.TargetRef != nil && e.TargetRef.Kind == "Pod" && (e.Conditions.Terminating == nil || !*e.Conditions.Terminating) {
			f(e.TargetRef.UID)
		}
	}
}

func (d *drains) change(was, is *discoveryv1.EndpointSlice) {
	offers(is, func(uid types.UID) { d.offered[uid]++ })
	offers(was, func(uid types.UID) {
		if d.offered[uid]--; d.offered[uid] == 0 {
			delete(d.offered, uid)
			d.leaving[uid]++
			d.next = append(d.next, uid)
		}
	})
}

// take gives what the transaction that is now being made lets go.
func (d *drains) take() []types.UID {
	out := d.next
	d.next = nil
	return out
}

// applied tells how that transaction ended.
func (d *drains) applied(gone []types.UID, ok bool) {
	if !ok {
		d.next = append(gone, d.next...)
		return
	}
	for _, uid := range gone {
		if d.leaving[uid]--; d.leaving[uid] == 0 {
			delete(d.leaving, uid)
		}
	}
	close(d.news)
	d.news = make(chan struct{})
}

// Drained returns when no Service leads new connections to a Pod any more, or
// only those that have no better endpoint (KEP-1669). It waits until the slices
// say that the Pod is ending and the kernel has heard of it.
func (p *Proxy) Drained(ctx context.Context, uid types.UID) error {
	for {
		p.mu.Lock()
		busy, news := p.drains.offered[uid] > 0 || p.drains.leaving[uid] > 0, p.drains.news
		p.mu.Unlock()
		if !busy {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
