// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// renewLease is the node's heartbeat, its one periodic write. Beside it, the
// status is told anew when a pull has changed the images, or others have changed
// the conditions.
func (a *Agent) renewLease(ctx context.Context) error {
	leases := a.cfg.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	clock := time.NewTimer(0)
	defer clock.Stop()
	for {
		select {
		case <-clock.C:
			if err := a.beat(ctx, leases); err != nil && ctx.Err() == nil {
				a.cfg.Log.Warn("cannot renew the node's lease", "op", "lease", "err", err)
			}
			clock.Reset(leaseRenewal)
		case <-a.node.outdated:
			if err := a.register(ctx); err != nil && ctx.Err() == nil {
				a.cfg.Log.Warn("cannot tell the node's status", "op", "status", "err", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

type leaseClient interface {
	Get(context.Context, string, metav1.GetOptions) (*coordinationv1.Lease, error)
	Create(context.Context, *coordinationv1.Lease, metav1.CreateOptions) (*coordinationv1.Lease, error)
	Update(context.Context, *coordinationv1.Lease, metav1.UpdateOptions) (*coordinationv1.Lease, error)
}

func (a *Agent) beat(ctx context.Context, leases leaseClient) error {
	ctx, cancel := context.WithTimeout(ctx, leaseRenewal) // then the next is due
	defer cancel()
	now, seconds := metav1.NewMicroTime(a.cfg.Now()), int32(leaseDuration.Seconds())
	l, err := leases.Get(ctx, a.cfg.NodeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		l = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: a.cfg.NodeName, Namespace: corev1.NamespaceNodeLease}}
		a.own(l)
		l.Spec = coordinationv1.LeaseSpec{HolderIdentity: &a.cfg.NodeName, LeaseDurationSeconds: &seconds, RenewTime: &now}
		_, err = leases.Create(ctx, l, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	a.own(l)
	l.Spec.HolderIdentity, l.Spec.LeaseDurationSeconds, l.Spec.RenewTime = &a.cfg.NodeName, &seconds, &now
	_, err = leases.Update(ctx, l, metav1.UpdateOptions{})
	return err
}

// own makes the lease one that goes with the Node.
func (a *Agent) own(l *coordinationv1.Lease) {
	if n := a.node.object(); n != nil {
		l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.UID}}
	}
}
