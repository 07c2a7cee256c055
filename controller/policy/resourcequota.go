// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	library "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/peapod/peapod/api/quota"
	"github.com/peapod/peapod/controller/garbage"
	"github.com/peapod/peapod/controller/loop"
)

// quotas counts what the objects of a namespace take when a quota is new or
// changed, and when something has gone or ended. What is made, the API server
// itself adds to the status.
type quotas struct {
	reader   client.Reader // the cache
	live     client.Reader
	client   kubernetes.Interface
	metadata metadata.Interface
	mapper   meta.RESTMapper
}

// recounted is when a count is repeated that has become smaller: what was being
// written at that moment may have been charged and not seen.
const recounted = 5 * time.Second

func addResourceQuota(m manager.Manager, c loop.Config, all *garbage.Everything) error {
	counts, err := metadata.NewForConfig(m.GetConfig())
	if err != nil {
		return err
	}
	q := quotas{m.GetClient(), m.GetAPIReader(), c.Client, counts, m.GetRESTMapper()}
	changed := predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		now, old := e.ObjectNew.(*corev1.ResourceQuota), e.ObjectOld.(*corev1.ResourceQuota)
		// What somebody else wrote to the status is put right at once; upstream
		// comes to it within five minutes.
		return !equality.Semantic.DeepEqual(now.Spec, old.Spec) || !equality.Semantic.DeepEqual(now.Spec.Hard, now.Status.Hard)
	}, DeleteFunc: func(event.DeleteEvent) bool { return false }}
	inNamespace := func(ctx context.Context, o client.Object) []reconcile.Request { return q.of(ctx, o.GetNamespace()) }
	return ctrl.NewControllerManagedBy(m).Named("resourcequota").For(&corev1.ResourceQuota{}, builder.WithPredicates(changed)).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(inNamespace), builder.WithPredicates(cheaper(func(now, old *corev1.Pod) bool {
			return quota.Charged(now) != quota.Charged(old) || !equality.Semantic.DeepEqual(now.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds) ||
				!equality.Semantic.DeepEqual(now.Status.Resize, old.Status.Resize) || !equality.Semantic.DeepEqual(now.Spec.Resources, old.Spec.Resources)
		}))).
		Watches(&corev1.Service{}, handler.EnqueueRequestsFromMapFunc(inNamespace), builder.WithPredicates(cheaper(func(now, old *corev1.Service) bool {
			return now.Spec.Type != old.Spec.Type || len(now.Spec.Ports) != len(old.Spec.Ports)
		}))).
		WatchesRawSource(source.Func(func(ctx context.Context, queue loop.RequestQueue) error {
			all.WhenLess(func(namespace string) {
				for _, r := range q.of(ctx, namespace) {
					queue.Add(r)
				}
			})
			return nil
		})).
		Complete(reconcile.AsReconciler(m.GetClient(), reconcile.ObjectReconciler[*corev1.ResourceQuota](q)))
}

// cheaper lets changes through that may have made an object cost less.
func cheaper[T client.Object](so func(now, old T) bool) predicate.Funcs {
	never := func() bool { return false } // made: charged; gone: heard of otherwise
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return never() },
		DeleteFunc: func(event.DeleteEvent) bool { return never() },
		UpdateFunc: func(e event.UpdateEvent) bool { return so(e.ObjectNew.(T), e.ObjectOld.(T)) },
	}
}

// of are the quotas of a namespace.
func (q quotas) of(ctx context.Context, namespace string) (out []reconcile.Request) {
	var list corev1.ResourceQuotaList
	if q.reader.List(ctx, &list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy) != nil {
		return nil // only when the cache has stopped
	}
	for i := range list.Items {
		out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: list.Items[i].Name}})
	}
	return out
}

func (q quotas) Reconcile(ctx context.Context, cached *corev1.ResourceQuota) (reconcile.Result, error) {
	// As the store has it: a write that came in between makes this one a conflict.
	now, err := q.client.CoreV1().ResourceQuotas(cached.Namespace).Get(ctx, cached.Name, metav1.GetOptions{})
	if err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	counted, err := library.CalculateUsage(now.Namespace, now.Spec.Scopes, now.Spec.Hard, generic.NewRegistry(q.evaluators(ctx, now.Spec.Hard)), now.Spec.ScopeSelector)
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("cannot count what %s/%s is for: %w", now.Namespace, now.Name, err)
	}
	used := library.Add(corev1.ResourceList{}, now.Status.Used)
	for n, v := range counted {
		used[n] = v
	}
	used = library.Mask(used, library.ResourceNames(now.Spec.Hard))
	if now.Status.Hard != nil && now.Status.Used != nil && equality.Semantic.DeepEqual(now.Spec.Hard, now.Status.Hard) && library.Equals(used, now.Status.Used) {
		return reconcile.Result{}, nil
	}
	var result reconcile.Result
	if less, _ := library.LessThanOrEqual(now.Status.Used, used); !less {
		result.RequeueAfter = recounted
	}
	now.Status = corev1.ResourceQuotaStatus{Hard: now.Spec.Hard, Used: used}
	if _, err := q.client.CoreV1().ResourceQuotas(now.Namespace).UpdateStatus(ctx, now, metav1.UpdateOptions{}); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	return result, nil
}

// evaluators are those of what a quota is about. A kind that is not served is
// not counted.
func (q quotas) evaluators(ctx context.Context, hard corev1.ResourceList) []library.Evaluator {
	list := func(kind schema.GroupVersionResource, namespace string) ([]runtime.Object, error) {
		return q.list(ctx, kind, namespace)
	}
	all := quota.Evaluators(list)
	for n := range hard {
		name := strings.TrimPrefix(string(n), "count/")
		kind := schema.ParseGroupResource(name)
		if slices.ContainsFunc(all, func(e library.Evaluator) bool { return e.GroupResource() == kind }) {
			continue
		}
		if e := quota.Counted(kind.WithVersion(""), list); len(e.MatchingResources([]corev1.ResourceName{n})) > 0 {
			if served, err := q.mapper.ResourceFor(kind.WithVersion("")); err == nil && served.GroupResource() == kind {
				all = append(all, quota.Counted(served, list))
			}
		}
	}
	return all
}

// list lists what counts in a namespace, whole where more than its number does.
func (q quotas) list(ctx context.Context, kind schema.GroupVersionResource, namespace string) ([]runtime.Object, error) {
	var list client.ObjectList
	from := q.reader
	switch kind.GroupResource() {
	case corev1.Resource("pods"):
		list = &corev1.PodList{}
	case corev1.Resource("services"):
		list = &corev1.ServiceList{}
	case corev1.Resource("persistentvolumeclaims"):
		list, from = &corev1.PersistentVolumeClaimList{}, q.live
	case resourcev1.Resource("resourceclaims"):
		list, from = &resourcev1.ResourceClaimList{}, q.live
	default:
		found, err := q.metadata.Resource(kind).Namespace(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		return meta.ExtractList(found)
	}
	if err := from.List(ctx, list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	return meta.ExtractList(list)
}
