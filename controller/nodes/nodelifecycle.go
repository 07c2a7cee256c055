// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"context"
	"errors"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/node/topology"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/api/pod"
	"github.com/peapod/peapod/controller/loop"
)

// excludeDisruption is the label of nodes that do not count for their zone.
const excludeDisruption = "node.kubernetes.io/exclude-disruption"

// nodeLifecycle keeps the word of nodes that do not speak for themselves any
// more: without a sign of life in time, a renewed Lease or a posted status, a
// node's conditions become unknown and its Pods not ready, and taints keep
// other Pods away from it and make its own leave (nodelifecycle of
// kube-controller-manager). When all nodes are silent, it is more likely that
// nobody can be heard, and nobody has to leave.
//
// It has one worker, so that its fields need no lock.
type nodeLifecycle struct {
	client client.Client
	live   client.Reader
	events record.EventRecorder

	nodes map[string]*health
	// expelled is when a node's Pods were last made to leave, by zone.
	expelled map[string]time.Time
	// disrupted is that no zone had a node that is ready.
	disrupted bool
}

func newNodeLifecycle(c client.Client, live client.Reader, events record.EventRecorder) *nodeLifecycle {
	return &nodeLifecycle{client: c, live: live, events: events, nodes: map[string]*health{}, expelled: map[string]time.Time{}}
}

func addNodeLifecycle(m manager.Manager, _ loop.Config) error {
	c := newNodeLifecycle(m.GetClient(), m.GetAPIReader(), m.GetEventRecorderFor("node-controller"))
	lease := func(_ context.Context, o client.Object) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: o.GetName()}}}
	}
	return ctrl.NewControllerManagedBy(m).Named("nodelifecycle").For(&corev1.Node{}).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(c.everyNode), builder.WithPredicates(zoneChanges())).
		Watches(&coordinationv1.Lease{}, handler.EnqueueRequestsFromMapFunc(lease), builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
			return o.GetNamespace() == corev1.NamespaceNodeLease
		}))).
		WithOptions(controller.Options{MaxConcurrentReconciles: 1}).Complete(c)
}

// zoneChanges are the changes of a node that may decide about others.
func zoneChanges() predicate.Predicate {
	counted := func(n *corev1.Node) [3]string {
		_, excluded := n.Labels[excludeDisruption]
		return [3]string{string(nodeReady(n)), topology.GetZoneKey(n), fmt.Sprint(excluded)}
	}
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return counted(e.ObjectOld.(*corev1.Node)) != counted(e.ObjectNew.(*corev1.Node))
	}}
}

func (c *nodeLifecycle) everyNode(ctx context.Context, _ client.Object) (out []reconcile.Request) {
	var all corev1.NodeList
	if c.client.List(ctx, &all, client.UnsafeDisableDeepCopy) != nil {
		return nil // the cache is stopping
	}
	for i := range all.Items {
		out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Name: all.Items[i].Name}})
	}
	return out
}

// Reconcile looks at one node, and asks to look again when its time is up.
func (c *nodeLifecycle) Reconcile(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
	n := &corev1.Node{}
	err := c.client.Get(ctx, q.NamespacedName, n)
	if apierrors.IsNotFound(err) {
		n = nil
	} else if err != nil {
		return reconcile.Result{}, err
	}
	c.meet(q.Name, n)
	if n == nil {
		return reconcile.Result{}, nil
	}
	silent, err := c.listen(ctx, n)
	if err != nil {
		return reconcile.Result{}, loop.IgnoreStale(err)
	}
	turn, err := c.taint(ctx, n)
	if err != nil {
		return reconcile.Result{}, loop.IgnoreStale(err)
	}
	if nodeReady(n) == corev1.ConditionUnknown {
		err = c.podsNotReady(ctx, n)
	}
	after := max(silent, turn)
	if silent > 0 && turn > 0 {
		after = min(silent, turn)
	}
	return reconcile.Result{RequeueAfter: after}, err
}

// meet tells of a node that comes or goes; of one name there may be another by
// now.
func (c *nodeLifecycle) meet(name string, n *corev1.Node) {
	tell := func(uid types.UID, reason, message string) {
		c.events.Eventf(nodeReference(name, uid), corev1.EventTypeNormal, reason, "Node %s event: %s", name, message)
	}
	was := c.nodes[name]
	if was != nil && (n == nil || was.uid != n.UID) {
		tell(was.uid, "RemovingNode", fmt.Sprintf("Removing Node %v from Controller", name))
		delete(c.nodes, name)
		was = nil
	}
	if was == nil && n != nil {
		tell(n.UID, "RegisteredNode", fmt.Sprintf("Registered Node %v in Controller", name))
	}
}

func nodeReference(name string, uid types.UID) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: name, UID: uid}
}

// listen takes in the node's signs of life, and without any in time makes its
// conditions unknown. more is the time that is left.
func (c *nodeLifecycle) listen(ctx context.Context, n *corev1.Node) (more time.Duration, err error) {
	lease, err := readLease(ctx, c.client, n.Name)
	if err != nil {
		return 0, err
	}
	was, now := c.nodes[n.Name], time.Now()
	h := observe(was, n, lease, now)
	c.nodes[n.Name] = h
	if more = h.deadline().Sub(now); more > 0 {
		return more, nil
	}
	lost := n.DeepCopy()
	if !lose(lost, metav1.NewTime(now)) {
		return 0, nil
	}
	if was != nil && -more > oversleep {
		h.seen = now
		return h.deadline().Sub(now), nil
	}
	// The cache may be behind (NodeControllerLeaseCircuitBreaker).
	if lease, err = readLease(ctx, c.live, n.Name); err != nil {
		return 0, err
	}
	h = observe(h, n, lease, now)
	c.nodes[n.Name] = h
	if more = h.deadline().Sub(now); more > 0 {
		return more, nil
	}
	if err := c.client.Status().Update(ctx, lost); err != nil {
		return 0, err
	}
	if nodeReady(n) == corev1.ConditionTrue {
		c.events.Eventf(nodeReference(n.Name, n.UID), corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: %s", n.Name, "NodeNotReady")
	}
	*n = *lost
	return 0, nil
}

// readLease reads a node's lease; one without has nil.
func readLease(ctx context.Context, from client.Reader, node string) (*coordinationv1.Lease, error) {
	l := &coordinationv1.Lease{}
	err := from.Get(ctx, client.ObjectKey{Namespace: corev1.NamespaceNodeLease, Name: node}, l)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return l, err
}

// taint gives a node the taints and the labels that it should have. turn is how
// long its Pods are still spared because those of others had to leave.
func (c *nodeLifecycle) taint(ctx context.Context, n *corev1.Node) (turn time.Duration, err error) {
	zones, err := c.zones(ctx, n)
	if err != nil {
		return 0, err
	}
	was, now, key := n.DeepCopy(), metav1.Now(), topology.GetZoneKey(n)
	changed, first := retaint(n, warning, warnings(n), now), false
	var leave []corev1.Taint
	if t := expulsion(nodeReady(n)); t != nil && !c.disrupted {
		if turn, first = c.turn(n, key, zones[key], now.Time); first || tainted(n, expelling) {
			leave = []corev1.Taint{*t}
		}
	}
	if nodeReady(n) != "" {
		changed = retaint(n, expelling, leave, now) || changed
	}
	if changed = relabel(n) || changed; !changed {
		return turn, nil
	}
	if err := c.client.Patch(ctx, n, client.MergeFromWithOptions(was, client.MergeFromWithOptimisticLock{})); err != nil {
		return 0, err
	}
	if first {
		c.expelled[key] = now.Time
	}
	return turn, nil
}

// turn says whether it is a node's turn to have its Pods leave, or when it is
// (0: not while its zone is as it is).
func (c *nodeLifecycle) turn(n *corev1.Node, key string, z zone, now time.Time) (wait time.Duration, first bool) {
	if tainted(n, expelling) {
		return 0, false
	}
	pause, ok := z.pause()
	if !ok {
		return 0, false
	}
	wait = c.expelled[key].Add(pause).Sub(now)
	return max(wait, 0), wait <= 0
}

// zones counts the nodes of each zone, n as it is and the others as the cache
// has them, and notices whether anybody answers. When somebody does again, the
// others have their time anew: it may have been us.
func (c *nodeLifecycle) zones(ctx context.Context, n *corev1.Node) (map[string]zone, error) {
	var all corev1.NodeList
	if err := c.client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	zones := map[string]zone{}
	for i := range all.Items {
		x := &all.Items[i]
		if x.Name == n.Name {
			x = n
		}
		if _, excluded := x.Labels[excludeDisruption]; excluded {
			continue
		}
		key := topology.GetZoneKey(x)
		z := zones[key]
		if nodeReady(x) == corev1.ConditionTrue {
			z.ready++
		} else {
			z.notReady++
		}
		zones[key] = z
	}
	was := c.disrupted
	c.disrupted = true
	for _, z := range zones {
		c.disrupted = c.disrupted && z.state() == zoneFull
	}
	if was && !c.disrupted {
		for _, h := range c.nodes {
			h.seen = time.Now()
		}
	}
	return zones, nil
}

// relabel keeps the labels of old names, which are those of the new ones.
func relabel(n *corev1.Node) (changed bool) {
	for stable, beta := range map[string]string{corev1.LabelOSStable: "beta.kubernetes.io/os", corev1.LabelArchStable: "beta.kubernetes.io/arch"} {
		if v, ok := n.Labels[stable]; ok && n.Labels[beta] != v {
			n.Labels[beta], changed = v, true
		}
	}
	return changed
}

// podsNotReady says of the Pods of a node what it cannot say itself: nobody
// should send them anything.
func (c *nodeLifecycle) podsNotReady(ctx context.Context, n *corev1.Node) error {
	var pods corev1.PodList
	if err := c.client.List(ctx, &pods, client.MatchingFields{byNode: n.Name}); err != nil {
		return err
	}
	var errs []error
	for i := range pods.Items {
		p := &pods.Items[i]
		ready := pod.Condition(&p.Status, corev1.PodReady)
		if ready == nil || ready.Status == corev1.ConditionFalse {
			continue
		}
		ready.Status, ready.LastTransitionTime = corev1.ConditionFalse, metav1.Now()
		switch err := c.client.Status().Update(ctx, p); {
		case apierrors.IsNotFound(err):
		case err != nil:
			errs = append(errs, err)
		default:
			c.events.Event(p, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
		}
	}
	return errors.Join(errs...)
}
