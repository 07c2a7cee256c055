// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
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

// taintEviction deletes Pods that do not tolerate a NoExecute taint of their
// node, or not any longer (taint-eviction-controller of
// kube-controller-manager). A time that is running is known here alone: another
// start of the program begins it anew.
type taintEviction struct {
	client client.Client
	live   client.Reader
	events record.EventRecorder

	mu      sync.Mutex // guards pending
	pending map[types.NamespacedName]eviction
}

// eviction is the deletion of a Pod that is to come.
type eviction struct {
	uid types.UID
	due time.Time
}

func newTaintEviction(c client.Client, live client.Reader, events record.EventRecorder) *taintEviction {
	return &taintEviction{client: c, live: live, events: events, pending: map[types.NamespacedName]eviction{}}
}

func addTaintEviction(m manager.Manager, _ loop.Config) error {
	e := newTaintEviction(m.GetClient(), m.GetAPIReader(), m.GetEventRecorderFor("taint-eviction-controller"))
	return ctrl.NewControllerManagedBy(m).Named("tainteviction").For(&corev1.Pod{}, builder.WithPredicates(tolerationChanges())).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(e.podsOf), builder.WithPredicates(taintChanges())).
		Complete(e)
}

// tolerationChanges are the changes of a Pod that may decide whether it stays.
func tolerationChanges() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		old, p := e.ObjectOld.(*corev1.Pod), e.ObjectNew.(*corev1.Pod)
		return old.UID != p.UID || old.Spec.NodeName != p.Spec.NodeName || !equality.Semantic.DeepEqual(old.Spec.Tolerations, p.Spec.Tolerations)
	}}
}

// taintChanges are the changes of a node that may decide whether its Pods stay.
func taintChanges() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return !equality.Semantic.DeepEqual(noExecute(e.ObjectOld.(*corev1.Node)), noExecute(e.ObjectNew.(*corev1.Node)))
	}}
}

func (e *taintEviction) podsOf(ctx context.Context, n client.Object) (out []reconcile.Request) {
	var pods corev1.PodList
	if e.client.List(ctx, &pods, client.MatchingFields{byNode: n.GetName()}, client.UnsafeDisableDeepCopy) != nil {
		return nil // the cache is stopping
	}
	for i := range pods.Items {
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&pods.Items[i])})
	}
	return out
}

// noExecute are the taints of a node that make Pods leave.
func noExecute(n *corev1.Node) (out []corev1.Taint) {
	for _, t := range n.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			out = append(out, t)
		}
	}
	return out
}

func tainted(n *corev1.Node, by func(corev1.Taint) bool) bool {
	return slices.ContainsFunc(n.Spec.Taints, by)
}

// Reconcile decides about one Pod, and asks to come back when its time is up.
func (e *taintEviction) Reconcile(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
	p := &corev1.Pod{}
	switch err := e.client.Get(ctx, q.NamespacedName, p); {
	case apierrors.IsNotFound(err):
		e.cancel(q.NamespacedName)
		return reconcile.Result{}, nil
	case err != nil || p.Spec.NodeName == "":
		return reconcile.Result{}, err
	}
	n := &corev1.Node{}
	if err := e.client.Get(ctx, client.ObjectKey{Name: p.Spec.NodeName}, n); client.IgnoreNotFound(err) != nil {
		return reconcile.Result{}, err
	}
	stay, forever := endurance(noExecute(n), p.Spec.Tolerations)
	if forever {
		e.cancel(q.NamespacedName)
		return reconcile.Result{}, nil
	}
	if stay == 0 {
		e.cancel(q.NamespacedName)
	} else if wait := e.schedule(p, stay); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	return reconcile.Result{}, e.evict(ctx, p)
}

// endurance is how long a Pod stays in spite of taints: the shortest time of
// what tolerates them, none if one is not tolerated.
func endurance(taints []corev1.Taint, tolerations []corev1.Toleration) (stay time.Duration, forever bool) {
	forever = true
	for i := range taints {
		used := slices.IndexFunc(tolerations, func(t corev1.Toleration) bool {
			// Numbers are not compared in Kubernetes 1.37 (TaintTolerationComparisonOperators).
			return t.ToleratesTaint(klog.Logger{}, &taints[i], false)
		})
		if used < 0 {
			return 0, false
		}
		if s := tolerations[used].TolerationSeconds; s != nil {
			d := time.Duration(max(*s, 0)) * time.Second
			if forever || d < stay {
				stay, forever = d, false
			}
		}
	}
	return stay, forever
}

// schedule notes when a Pod is deleted and says how long that is from now. A
// time that runs already stays as it is, whatever is tolerated by now.
func (e *taintEviction) schedule(p *corev1.Pod, stay time.Duration) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	key := client.ObjectKeyFromObject(p)
	x, ok := e.pending[key]
	if !ok || x.uid != p.UID {
		x = eviction{p.UID, time.Now().Add(stay)}
		e.pending[key] = x
	}
	return time.Until(x.due)
}

// cancel takes back a deletion that was to come.
func (e *taintEviction) cancel(key types.NamespacedName) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.pending[key]; ok {
		delete(e.pending, key)
		e.tell(key, "Cancelling deletion of Pod %s")
	}
}

func (e *taintEviction) tell(p types.NamespacedName, format string) {
	ref := &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name}
	e.events.Eventf(ref, corev1.EventTypeNormal, "TaintManagerEviction", format, p.String())
}

// evict says in the Pod's status why it ends, and deletes it.
func (e *taintEviction) evict(ctx context.Context, cached *corev1.Pod) error {
	key, p := client.ObjectKeyFromObject(cached), &corev1.Pod{}
	if err := e.live.Get(ctx, key, p); err != nil || p.UID != cached.UID {
		return client.IgnoreNotFound(err) // its removal comes as an event
	}
	const reason = "DeletionByTaintManager"
	if c := pod.Condition(&p.Status, corev1.DisruptionTarget); p.DeletionTimestamp != nil && c != nil && c.Reason == reason {
		e.forget(key)
		return nil // it is ending for this very reason
	}
	was := p.DeepCopy()
	if pod.SetCondition(&p.Status, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, ObservedGeneration: p.Generation,
		Reason: reason, Message: "Taint manager: deleting due to NoExecute taint",
	}) {
		if err := e.client.Status().Patch(ctx, p, client.StrategicMergeFrom(was, client.MergeFromWithOptimisticLock{})); err != nil {
			return client.IgnoreNotFound(err)
		}
	}
	if err := e.client.Delete(ctx, p, client.Preconditions{UID: &p.UID}); err != nil {
		return client.IgnoreNotFound(err)
	}
	e.forget(key)
	e.tell(key, "Marking for deletion Pod %s")
	return nil
}

func (e *taintEviction) forget(key types.NamespacedName) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.pending, key)
}
