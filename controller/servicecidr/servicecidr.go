// SPDX-License-Identifier: Apache-2.0

// Package servicecidr owns the ranges of addresses of Services: that they are
// used when they are new, and stay while somebody has an address of theirs; and
// that the IPAddresses of Services stay while the Services do. It is
// service-cidr-controller of kube-controller-manager 1.37, and the part of
// kube-apiserver that repairs IPAddresses.
package servicecidr

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/api/allocation"
	"github.com/peapod/peapod/controller/loop"
)

// grace is how long a range that is deleted waits until every API server knows
// that nothing is to be given from it; upstream's figure.
const grace = 10 * time.Second

// Add adds both loops to a manager.
func Add(m manager.Manager, _ loop.Config) error {
	r := ranges{m.GetClient()}
	err := ctrl.NewControllerManagedBy(m).Named("service-cidr-controller").For(&networkingv1.ServiceCIDR{}).
		Watches(&networkingv1.ServiceCIDR{}, handler.EnqueueRequestsFromMapFunc(r.going)).
		Watches(&networkingv1.IPAddress{}, handler.EnqueueRequestsFromMapFunc(r.going)).
		Complete(reconcile.AsReconciler(m.GetClient(), r))
	if err != nil {
		return fmt.Errorf("cannot add service-cidr-controller: %w", err)
	}
	repair := repair{m.GetClient(), m.GetAPIReader()}
	err = ctrl.NewControllerManagedBy(m).Named("ipaddress-repair").
		Watches(&networkingv1.IPAddress{}, handler.Funcs{DeleteFunc: func(_ context.Context, e event.DeleteEvent, q loop.RequestQueue) {
			if a := e.Object.(*networkingv1.IPAddress); allocation.OfService(a.Labels) && a.Spec.ParentRef != nil {
				q.Add(reconcile.Request{NamespacedName: client.ObjectKey{Namespace: a.Spec.ParentRef.Namespace, Name: a.Spec.ParentRef.Name}})
			}
		}}).
		Complete(reconcile.Func(repair.service))
	if err != nil {
		return fmt.Errorf("cannot add ipaddress-repair: %w", err)
	}
	return nil
}

// ranges says of each range whether it is used, and lets go of those that are
// deleted when nobody needs them.
type ranges struct{ client client.Client }

// going are the ranges that are deleted and wait: another range or the end of
// an address can be what they wait for.
func (r ranges) going(ctx context.Context, _ client.Object) (out []reconcile.Request) {
	var all networkingv1.ServiceCIDRList
	if r.client.List(ctx, &all, client.UnsafeDisableDeepCopy) != nil {
		return nil // only when the cache has stopped
	}
	for i := range all.Items {
		if all.Items[i].DeletionTimestamp != nil {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKey{Name: all.Items[i].Name}})
		}
	}
	return out
}

// Reconcile gives a range its finalizer and its condition, or takes them.
func (r ranges) Reconcile(ctx context.Context, c *networkingv1.ServiceCIDR) (reconcile.Result, error) {
	if c.DeletionTimestamp == nil {
		if controllerutil.AddFinalizer(c, allocation.RangeFinalizer) {
			if err := r.client.Update(ctx, c); err != nil {
				return reconcile.Result{}, client.IgnoreNotFound(err)
			}
		}
		return reconcile.Result{}, r.tell(ctx, c, metav1.Condition{Status: metav1.ConditionTrue, Message: "Kubernetes Service CIDR is ready"})
	}
	needed, err := r.needed(ctx, c)
	if err != nil {
		return reconcile.Result{}, err
	}
	if needed {
		return reconcile.Result{}, r.tell(ctx, c, metav1.Condition{
			Status: metav1.ConditionFalse, Reason: networkingv1.ServiceCIDRReasonTerminating,
			Message: "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
		})
	}
	if left := grace - time.Since(c.DeletionTimestamp.Time); left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	if controllerutil.RemoveFinalizer(c, allocation.RangeFinalizer) {
		return reconcile.Result{}, client.IgnoreNotFound(r.client.Update(ctx, c))
	}
	return reconcile.Result{}, nil
}

// tell writes the condition Ready if it says something new.
func (r ranges) tell(ctx context.Context, c *networkingv1.ServiceCIDR, now metav1.Condition) error {
	now.Type = networkingv1.ServiceCIDRConditionReady
	if !meta.SetStatusCondition(&c.Status.Conditions, now) {
		return nil
	}
	return client.IgnoreNotFound(r.client.Status().Update(ctx, c))
}

// needed: Services have addresses that no other range has.
func (r ranges) needed(ctx context.Context, c *networkingv1.ServiceCIDR) (bool, error) {
	var all networkingv1.ServiceCIDRList
	var addresses networkingv1.IPAddressList
	if err := r.client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return false, fmt.Errorf("cannot list ranges: %w", err)
	}
	if err := r.client.List(ctx, &addresses, client.UnsafeDisableDeepCopy); err != nil {
		return false, fmt.Errorf("cannot list addresses: %w", err)
	}
	var others []netip.Prefix
	for i := range all.Items {
		if all.Items[i].Name != c.Name {
			others = append(others, allocation.Prefixes(&all.Items[i])...)
		}
	}
	in := func(list []netip.Prefix, a netip.Addr) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return allocation.Contains(p, a) })
	}
	own := allocation.Prefixes(c)
	return slices.ContainsFunc(addresses.Items, func(i networkingv1.IPAddress) bool {
		a, err := netip.ParseAddr(i.Name)
		return err == nil && allocation.OfService(i.Labels) && in(own, a) && !in(others, a)
	}), nil
}

// repair makes the IPAddresses of a Service again that somebody deleted. Both
// are read from the store: an address that goes with its Service goes after it.
type repair struct {
	client client.Client
	live   client.Reader
}

func (r repair) service(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
	var v corev1.Service
	if err := r.live.Get(ctx, q.NamespacedName, &v); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	for _, a := range allocation.Addresses(&v) {
		if err := r.client.Create(ctx, allocation.IPAddress(a, &v)); err != nil && !apierrors.IsAlreadyExists(err) {
			return reconcile.Result{}, fmt.Errorf("cannot write that %s has %s: %w", q, a, err)
		}
	}
	return reconcile.Result{}, nil
}
