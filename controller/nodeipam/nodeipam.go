// SPDX-License-Identifier: Apache-2.0

// Package nodeipam gives each Node its range of Pod addresses out of the
// cluster's, as the range allocator of Kubernetes' node IPAM controller does.
// A Node keeps its range as long as its object lives.
package nodeipam

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlcontroller "sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/controller/loop"
)

// Add adds the controller to a manager. What is given to one Node depends on
// all others: there is one request, for all of them.
func Add(m manager.Manager, c loop.Config) error {
	if !c.Cluster.IsValid() {
		return nil
	}
	r := &allocator{
		client: m.GetClient(), events: m.GetEventRecorderFor("cidrAllocator"), cluster: c.Cluster, own: c.Pods,
		given: map[types.UID]netip.Prefix{}, last: c.Pods,
	}
	all := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request { return []reconcile.Request{{}} })
	changed := predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return e.ObjectNew.(*corev1.Node).Spec.PodCIDR != e.ObjectOld.(*corev1.Node).Spec.PodCIDR
	}}
	return ctrl.NewControllerManagedBy(m).Named("node-ipam").Watches(&corev1.Node{}, all, builder.WithPredicates(changed)).
		WithOptions(ctrlcontroller.Options{MaxConcurrentReconciles: 1}).Complete(r)
}

// allocator is used by one worker.
type allocator struct {
	client       client.Client
	events       record.EventRecorder
	cluster, own netip.Prefix
	// given is what the cache may not show yet.
	given map[types.UID]netip.Prefix
	// last is the range that was given last: one that was freed rests as long
	// as there are others.
	last netip.Prefix
}

// Reconcile gives ranges to the Nodes that have none.
func (a *allocator) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	var nodes corev1.NodeList
	if err := a.client.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return ctrl.Result{}, err
	}
	taken, without := a.taken(nodes.Items)
	for _, n := range without {
		r, ok := next(a.cluster, a.last, taken)
		if !ok {
			// The end of another Node is what can help, and is an event.
			a.events.Eventf(&corev1.ObjectReference{Kind: "Node", Name: n.Name, UID: n.UID}, corev1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: %s", n.Name, "CIDRNotAvailable")
			continue
		}
		if err := a.give(ctx, n, r); err != nil {
			return ctrl.Result{}, fmt.Errorf("cannot give node %s its range of Pod addresses: %w", n.Name, err)
		}
		taken = append(taken, r)
	}
	return ctrl.Result{}, nil
}

// taken are all ranges in use, and the Nodes that have none.
func (a *allocator) taken(nodes []corev1.Node) (taken []netip.Prefix, without []*corev1.Node) {
	taken = []netip.Prefix{a.own}
	live := map[types.UID]bool{}
	for i := range nodes {
		n := &nodes[i]
		live[n.UID] = true
		switch r, err := netip.ParsePrefix(n.Spec.PodCIDR); {
		case err == nil:
			delete(a.given, n.UID)
			taken = append(taken, r)
		case a.given[n.UID].IsValid():
			taken = append(taken, a.given[n.UID])
		default:
			without = append(without, n)
		}
	}
	for uid := range a.given {
		if !live[uid] {
			delete(a.given, uid)
		}
	}
	return taken, without
}

func (a *allocator) give(ctx context.Context, n *corev1.Node, r netip.Prefix) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": n.UID}, "spec": map[string]any{"podCIDR": r.String(), "podCIDRs": []string{r.String()}},
	})
	if err != nil {
		return err
	}
	of := &corev1.Node{}
	of.Name = n.Name
	if err := a.client.Patch(ctx, of, client.RawPatch(types.MergePatchType, patch)); err != nil {
		return client.IgnoreNotFound(err)
	}
	a.given[n.UID], a.last = r, r
	return nil
}

// next is the first range after last that overlaps none in use, as large as
// last and inside cluster; at the end it goes on at the beginning.
func next(cluster, last netip.Prefix, taken []netip.Prefix) (netip.Prefix, bool) {
	for r := after(cluster, last); r != last; r = after(cluster, r) {
		free := true
		for _, t := range taken {
			free = free && !t.Overlaps(r)
		}
		if free {
			return r, true
		}
	}
	return netip.Prefix{}, false
}

// after is the range that follows r in cluster.
func after(cluster, r netip.Prefix) netip.Prefix {
	a := r.Masked().Addr().As4()
	for carry, i := 1<<((32-r.Bits())%8), (r.Bits()-1)/8; i >= 0 && carry > 0; i-- {
		sum := int(a[i]) + carry
		a[i], carry = byte(sum), sum>>8
	}
	if next := netip.PrefixFrom(netip.AddrFrom4(a), r.Bits()); cluster.Contains(next.Addr()) {
		return next
	}
	return netip.PrefixFrom(cluster.Masked().Addr(), r.Bits())
}
