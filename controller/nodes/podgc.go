// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/api/pod"
	"github.com/peapod/peapod/controller/loop"
)

const (
	// quarantine is how long a node may be missing before its Pods are taken for
	// orphans, as upstream: one that joins may have Pods before it is seen.
	quarantine = 40 * time.Second
	// maxTerminated is how many Pods that are over are kept, as
	// kube-controller-manager's --terminated-pod-gc-threshold.
	maxTerminated = 12500
	// byNode and terminated are indexes of Pods: by the node, and those over.
	byNode     = "spec.nodeName"
	terminated = "terminated"
)

// podGC removes Pods that nobody will ever finish or look after:
//
//	orphaned     its node does not exist
//	terminating  its node is out of service, or it never had one
//	terminated   the first of more than are kept of those that are over
type podGC struct {
	client client.Client
	live   client.Reader

	mu      sync.Mutex // guards missing
	missing map[string]time.Time
}

func addPodGC(m manager.Manager, _ loop.Config) error {
	g := &podGC{client: m.GetClient(), live: m.GetAPIReader(), missing: map[string]time.Time{}}
	if err := m.GetFieldIndexer().IndexField(context.Background(), &corev1.Pod{}, byNode, nodeOf); err != nil {
		return err
	}
	pods, err := loop.InformerOf(m, &corev1.Pod{})
	if err != nil {
		return err
	}
	if err := pods.AddIndexers(toolscache.Indexers{terminated: terminatedIndex}); err != nil {
		return err
	}
	changed := func(differs func(old, p *corev1.Pod) bool) builder.WatchesOption {
		return builder.WithPredicates(predicate.Funcs{
			UpdateFunc: func(e event.UpdateEvent) bool {
				return differs(e.ObjectOld.(*corev1.Pod), e.ObjectNew.(*corev1.Pod))
			},
			DeleteFunc: func(event.DeleteEvent) bool { return false },
		})
	}
	ends := func(old, p *corev1.Pod) bool { return old.DeletionTimestamp == nil && p.DeletionTimestamp != nil }
	err = ctrl.NewControllerManagedBy(m).Named("podgc-nodes").For(&corev1.Node{}).
		Watches(&corev1.Pod{}, requests(func(p *corev1.Pod) client.ObjectKey { return client.ObjectKey{Name: p.Spec.NodeName} }),
			changed(func(old, p *corev1.Pod) bool { return old.Spec.NodeName != p.Spec.NodeName || ends(old, p) })).
		Complete(reconcile.Func(g.node))
	if err != nil {
		return err
	}
	err = ctrl.NewControllerManagedBy(m).Named("podgc-unscheduled").
		Watches(&corev1.Pod{}, requests(func(p *corev1.Pod) client.ObjectKey { return client.ObjectKeyFromObject(p) }), changed(ends)).
		Complete(reconcile.AsReconciler(m.GetClient(), reconcile.ObjectReconciler[*corev1.Pod](unscheduled{g})))
	if err != nil {
		return err
	}
	// One key for all: it is their number that counts.
	return ctrl.NewControllerManagedBy(m).Named("podgc-terminated").
		Watches(&corev1.Pod{}, requests(func(p *corev1.Pod) client.ObjectKey {
			if !pod.Terminal(p) {
				return client.ObjectKey{}
			}
			return client.ObjectKey{Name: terminated}
		}), changed(func(old, p *corev1.Pod) bool { return !pod.Terminal(old) && pod.Terminal(p) })).
		Complete(reconcile.Func(func(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
			over, err := pods.GetIndexer().ByIndex(terminated, terminated)
			if err != nil {
				return reconcile.Result{}, err
			}
			return reconcile.Result{}, g.terminated(ctx, over, maxTerminated)
		}))
}

// requests maps a Pod to one key; an empty name is none.
func requests(key func(*corev1.Pod) client.ObjectKey) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		if k := key(o.(*corev1.Pod)); k.Name != "" {
			return []reconcile.Request{{NamespacedName: k}}
		}
		return nil
	})
}

func nodeOf(o client.Object) []string { return []string{o.(*corev1.Pod).Spec.NodeName} }

func terminatedIndex(o any) ([]string, error) {
	if pod.Terminal(o.(*corev1.Pod)) {
		return []string{terminated}, nil
	}
	return nil, nil
}

// node looks after the Pods of a node that is gone or out of service.
func (g *podGC) node(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
	var n corev1.Node
	err := g.client.Get(ctx, q.NamespacedName, &n)
	if err == nil {
		g.since(q.Name, false)
		return reconcile.Result{}, g.outOfService(ctx, &n)
	}
	if !apierrors.IsNotFound(err) {
		return reconcile.Result{}, err
	}
	pods, err := g.on(ctx, q.Name)
	if err != nil || len(pods) == 0 {
		g.since(q.Name, false)
		return reconcile.Result{}, err
	}
	if left := quarantine - time.Since(g.since(q.Name, true)); left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	if err := g.live.Get(ctx, q.NamespacedName, &n); !apierrors.IsNotFound(err) {
		return reconcile.Result{}, err // its event comes
	}
	var errs []error
	for i := range pods {
		errs = append(errs, g.remove(ctx, &pods[i], &corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, ObservedGeneration: pods[i].Generation,
			Reason: "DeletionByPodGC", Message: "PodGC: node no longer exists",
		}))
	}
	return reconcile.Result{}, errors.Join(errs...)
}

// since remembers when a node was missed first, or forgets it.
func (g *podGC) since(node string, missed bool) time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !missed {
		delete(g.missing, node)
		return time.Time{}
	}
	if _, known := g.missing[node]; !known {
		g.missing[node] = time.Now()
	}
	return g.missing[node]
}

func (g *podGC) on(ctx context.Context, node string) ([]corev1.Pod, error) {
	var list corev1.PodList
	err := g.client.List(ctx, &list, client.MatchingFields{byNode: node})
	return list.Items, err
}

// outOfService removes the Pods that are to end on a node that an administrator
// has given up (KEP-2268).
func (g *podGC) outOfService(ctx context.Context, n *corev1.Node) error {
	ready := slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
	if ready || !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService }) {
		return nil
	}
	pods, err := g.on(ctx, n.Name)
	if err != nil {
		return err
	}
	var errs []error
	for i := range pods {
		if pods[i].DeletionTimestamp != nil {
			errs = append(errs, g.remove(ctx, &pods[i], nil))
		}
	}
	return errors.Join(errs...)
}

// unscheduled removes a Pod that is to end and has no node that would end it.
type unscheduled struct{ *podGC }

func (u unscheduled) Reconcile(ctx context.Context, p *corev1.Pod) (reconcile.Result, error) {
	if p.DeletionTimestamp == nil || p.Spec.NodeName != "" {
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, u.remove(ctx, p, nil)
}

// terminated removes the oldest of the Pods that are over, evicted ones first,
// until no more than keep are left.
func (g *podGC) terminated(ctx context.Context, over []any, keep int) error {
	surplus := len(over) - keep
	if surplus <= 0 {
		return nil
	}
	evicted := func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed && p.Status.Reason == "Evicted" }
	slices.SortFunc(over, func(x, y any) int {
		a, b := x.(*corev1.Pod), y.(*corev1.Pod)
		return cmp.Or(loop.FalseFirst(!evicted(a), !evicted(b)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	var errs []error
	for _, o := range over[:surplus] {
		errs = append(errs, g.remove(ctx, o.(*corev1.Pod).DeepCopy(), nil))
	}
	return errors.Join(errs...)
}

// remove deletes a Pod at once. One that is not over has failed: nobody else
// will say so.
func (g *podGC) remove(ctx context.Context, p *corev1.Pod, why *corev1.PodCondition) error {
	if !pod.Terminal(p) {
		failed := p.DeepCopy()
		failed.Status.Phase, failed.Status.ObservedGeneration = corev1.PodFailed, p.Generation
		if why != nil {
			pod.SetCondition(&failed.Status, *why)
		}
		if err := g.client.Status().Patch(ctx, failed, client.StrategicMergeFrom(p, client.MergeFromWithOptimisticLock{})); err != nil {
			return client.IgnoreNotFound(err)
		}
	}
	err := g.client.Delete(ctx, p, client.GracePeriodSeconds(0), client.Preconditions{UID: &p.UID})
	if apierrors.IsConflict(err) {
		return nil // it is gone, and another has its name
	}
	return client.IgnoreNotFound(err)
}
