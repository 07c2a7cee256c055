// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/api/pod"
	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/controller/owned"
)

// deployments keeps Deployments true: each is a row of ReplicaSets, one for
// every template it has had, whose sizes go from the old ones to the current
// one.
type deployments struct{ owned.Owning }

// addDeployment adds the controller of Deployments.
func addDeployment(m manager.Manager, _ loop.Config) error {
	r := deployments{owned.NewOwning(m, "deployment-controller", appsv1.SchemeGroupVersion.WithKind("Deployment"))}
	return ctrl.NewControllerManagedBy(m).Named("deployment").For(&appsv1.Deployment{}).
		Watches(&appsv1.ReplicaSet{}, owned.OfOwned(r.Owning, &appsv1.DeploymentList{}, func(d *appsv1.Deployment, s client.Object) bool {
			return owned.Selects(d.Spec.Selector, s)
		})).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(r.ofPod), builder.WithPredicates(owned.Deletions())).
		Complete(r)
}

// ofPod is the Deployment of a Pod that is gone, if it waits for that before it
// makes new ones.
func (r deployments) ofPod(ctx context.Context, o client.Object) []reconcile.Request {
	ref := metav1.GetControllerOfNoCopy(o)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return nil
	}
	var s appsv1.ReplicaSet
	if err := r.Client.Get(ctx, types.NamespacedName{Namespace: o.GetNamespace(), Name: ref.Name}, &s); err != nil || s.UID != ref.UID {
		return nil
	}
	owner := metav1.GetControllerOfNoCopy(&s)
	if owner == nil {
		return nil
	}
	var d appsv1.Deployment
	q := r.Named(o.GetNamespace(), owner)
	if len(q) == 0 || r.Client.Get(ctx, q[0].NamespacedName, &d) != nil || d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
		return nil
	}
	return q
}

// rollout is one look at one Deployment. Its objects are copies; what is
// written of the Deployment is written once, at the end.
type rollout struct {
	deployments
	d       *appsv1.Deployment
	was     *appsv1.Deployment
	current *appsv1.ReplicaSet   // has the template of the Deployment; nil while there is none
	old     []*appsv1.ReplicaSet // all others, the oldest first
}

func (r deployments) Reconcile(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
	d := &appsv1.Deployment{}
	if err := r.Client.Get(ctx, q.NamespacedName, d); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	o, err := r.look(ctx, d)
	if err != nil {
		return reconcile.Result{}, err
	}
	if err := o.run(ctx); err != nil {
		return reconcile.Result{}, loop.IgnoreTerminating(err)
	}
	if err := o.write(ctx); err != nil {
		return reconcile.Result{}, loop.IgnoreStale(err)
	}
	return reconcile.Result{RequeueAfter: o.deadline(time.Now())}, nil
}

// look finds the ReplicaSets of a Deployment.
func (r deployments) look(ctx context.Context, d *appsv1.Deployment) (*rollout, error) {
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("cannot read the selector of Deployment %s/%s: %w", d.Namespace, d.Name, err)
	}
	var list appsv1.ReplicaSetList
	if err := r.Client.List(ctx, &list, client.InNamespace(d.Namespace)); err != nil {
		return nil, err
	}
	sets := make([]*appsv1.ReplicaSet, len(list.Items))
	for i := range list.Items {
		sets[i] = &list.Items[i]
	}
	sets, err = owned.Claim(ctx, r.Owning, d, func(s *appsv1.ReplicaSet) bool { return selector.Matches(labels.Set(s.Labels)) }, sets)
	if err != nil {
		return nil, err
	}
	o := &rollout{deployments: r, d: d, was: d.DeepCopy()}
	slices.SortFunc(sets, byAge)
	for _, s := range sets {
		// Of several with the same template the oldest is the current one.
		if o.current == nil && sameTemplate(&d.Spec.Template, &s.Spec.Template) {
			o.current = s
		} else {
			o.old = append(o.old, s)
		}
	}
	return o, nil
}

// all are the old ReplicaSets and the current one.
func (o *rollout) all() []*appsv1.ReplicaSet {
	if o.current == nil {
		return slices.Clone(o.old)
	}
	return append(slices.Clone(o.old), o.current)
}

func (o *rollout) run(ctx context.Context) error {
	if err := o.revise(ctx, false); err != nil {
		return err
	}
	if o.d.DeletionTimestamp != nil {
		o.count()
		return nil
	}
	o.pauseOrResume()
	switch {
	case o.d.Spec.Paused:
		return o.resize(ctx)
	case rollbackTo(o.d) != nil:
		return o.rollBack(ctx)
	case o.rescaled():
		return o.resize(ctx)
	case o.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		return o.recreate(ctx)
	}
	return o.roll(ctx)
}

// write writes the status if it is another, and the revision with it.
func (o *rollout) write(ctx context.Context) error {
	if equality.Semantic.DeepEqual(o.was.Status, o.d.Status) && o.was.Annotations[revisionAnnotation] == o.d.Annotations[revisionAnnotation] {
		return nil
	}
	if err := o.Client.Status().Update(ctx, o.d); err != nil {
		return err
	}
	o.was = o.d.DeepCopy()
	return nil
}

// rescaled: the Deployment wants another number than when it last set the
// sizes of its ReplicaSets.
func (o *rollout) rescaled() bool {
	return slices.ContainsFunc(active(o.all()), func(s *appsv1.ReplicaSet) bool {
		desired, ok := count(s, desiredAnnotation)
		return ok && desired != *o.d.Spec.Replicas
	})
}

// resize gives the ReplicaSets their part of another number, without going on
// with a rollout.
func (o *rollout) resize(ctx context.Context) error {
	if err := o.share(ctx); err != nil {
		return err
	}
	if o.d.Spec.Paused && rollbackTo(o.d) == nil {
		if err := o.forgetOld(ctx); err != nil {
			return err
		}
	}
	o.count()
	return nil
}

func (o *rollout) share(ctx context.Context) error {
	if s := soleOrLatest(o.current, o.old, o.all()); s != nil {
		_, err := o.scale(ctx, size{s, *o.d.Spec.Replicas}, false)
		return err
	}
	switch {
	case o.current == nil && len(o.old) == 0:
		return nil
	case saturated(o.d, o.current):
		for _, s := range active(o.old) {
			if _, err := o.scale(ctx, size{s, 0}, false); err != nil {
				return err
			}
		}
	case rolls(o.d):
		for _, s := range proportional(o.d, o.all()) {
			if _, err := o.scale(ctx, s, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// roll makes as many new replicas as there is room for, or else takes old ones
// away; whoever changes one of the two waits to see it before the other.
func (o *rollout) roll(ctx context.Context) error {
	if err := o.revise(ctx, true); err != nil {
		return err
	}
	n := min(*o.current.Spec.Replicas, *o.d.Spec.Replicas)
	if n < *o.d.Spec.Replicas {
		n = grown(o.d, o.all(), *o.current.Spec.Replicas)
	}
	done, err := o.scale(ctx, size{o.current, n}, false)
	if err == nil && !done {
		done, err = o.shrink(ctx)
	}
	if err != nil {
		return err
	}
	return o.conclude(ctx, done)
}

func (o *rollout) shrink(ctx context.Context) (done bool, err error) {
	old := active(o.old)
	most := removable(o.d, o.all(), o.current)
	if len(old) == 0 || most <= 0 {
		return false, nil
	}
	sizes, over := withoutUnhealthy(old, most)
	if done, err = o.scaleAll(ctx, sizes); err != nil || !over {
		return done, err
	}
	more, err := o.scaleAll(ctx, withoutSurplus(o.d, append(slices.Clone(old), o.current), old))
	return done || more, err
}

// recreate lets all old Pods end before it makes new ones.
func (o *rollout) recreate(ctx context.Context) error {
	var sizes []size
	for _, s := range active(o.old) {
		sizes = append(sizes, size{s, 0})
	}
	done, err := o.scaleAll(ctx, sizes)
	if err != nil {
		return err
	}
	if !done {
		if done, err = o.oldRuns(ctx); err != nil {
			return err
		}
	}
	if done {
		return o.conclude(ctx, true)
	}
	if err := o.revise(ctx, true); err != nil {
		return err
	}
	if _, err := o.scale(ctx, size{o.current, *o.d.Spec.Replicas}, false); err != nil {
		return err
	}
	return o.conclude(ctx, false)
}

// oldRuns says whether a Pod of an old template may still run.
func (o *rollout) oldRuns(ctx context.Context) (bool, error) {
	for _, s := range o.old {
		if s.Status.Replicas > 0 {
			return true, nil
		}
		pods, err := owned.PodsOf(ctx, o.Client, s.Namespace, s.UID)
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return !pod.Terminal(p) }) {
			return true, nil
		}
	}
	return false, nil
}

// conclude ends a look at a rollout: when it is complete and nothing was
// changed, old ReplicaSets that are too many go.
func (o *rollout) conclude(ctx context.Context, changed bool) error {
	if !changed && complete(o.d, &o.d.Status) {
		if err := o.forgetOld(ctx); err != nil {
			return err
		}
	}
	o.count()
	o.progress(time.Now())
	return nil
}

func (o *rollout) scaleAll(ctx context.Context, sizes []size) (done bool, err error) {
	for _, s := range sizes {
		scaled, err := o.scale(ctx, s, false)
		if err != nil {
			return done, err
		}
		done = done || scaled
	}
	return done, nil
}

// scale gives a ReplicaSet its size, and writes on it what the Deployment
// wants in all; with always also where the size stays.
func (o *rollout) scale(ctx context.Context, to size, always bool) (bool, error) {
	from := *to.set.Spec.Replicas
	if from == to.n && (!always || !mark(o.d, to.set)) {
		return false, nil
	}
	mark(o.d, to.set)
	to.set.Spec.Replicas = &to.n
	if err := o.Client.Update(ctx, to.set); err != nil {
		return false, err
	}
	if from == to.n {
		return false, nil
	}
	way := "up"
	if to.n < from {
		way = "down"
	}
	o.Events.Eventf(o.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", way, to.set.Name, from, to.n)
	return true, nil
}
