// SPDX-License-Identifier: Apache-2.0

package endpoints

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/endpointslice"
	"k8s.io/endpointslice/topologycache"
	"k8s.io/endpointslice/util"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/controller/loop"
)

const (
	// sliceController is whose slices are those of Services with a selector.
	sliceController = "endpointslice-controller.k8s.io"
	// maxPerSlice is kube-controller-manager's --max-endpoints-per-slice.
	maxPerSlice = 100
)

// endpointSlices keeps the EndpointSlices of each Service that has a selector:
// the addresses of its Pods, also of those that are ending (KEP-1672). What
// slices there should be is the library's to say.
type endpointSlices struct {
	client  client.Client
	pods    corelisters.PodLister
	events  record.EventRecorder
	plan    *endpointslice.Reconciler
	written *util.EndpointSliceTracker
	times   *util.TriggerTimeTracker
}

func addEndpointSlices(m manager.Manager, c loop.Config) error {
	pods, err := loop.InformerOf(m, &corev1.Pod{})
	if err != nil {
		return err
	}
	nodes, err := loop.InformerOf(m, &corev1.Node{})
	if err != nil {
		return err
	}
	services, err := loop.InformerOf(m, &corev1.Service{})
	if err != nil {
		return err
	}
	e := &endpointSlices{
		client: m.GetClient(), pods: corelisters.NewPodLister(pods.GetIndexer()), events: m.GetEventRecorderFor("endpoint-slice-controller"),
		written: util.NewEndpointSliceTracker(), times: util.NewTriggerTimeTracker(),
	}
	zones, nodeLister := topologycache.NewTopologyCache(), corelisters.NewNodeLister(nodes.GetIndexer())
	e.plan = endpointslice.NewReconciler(c.Client, nodeLister, maxPerSlice, e.written, zones, e.events, sliceController, endpointslice.WithPreferSameTrafficDistributionEnabled(true))
	return ctrl.NewControllerManagedBy(m).Named("endpointslice").For(&corev1.Service{}).
		Watches(&corev1.Pod{}, ofPod(corelisters.NewServiceLister(services.GetIndexer()))).
		Watches(&discoveryv1.EndpointSlice{}, ofSlice(sliceController, e.written)).
		Watches(&corev1.Node{}, ofNode(zones, nodeLister)).
		Complete(e)
}

func (e *endpointSlices) Reconcile(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
	var s corev1.Service
	if err := e.client.Get(ctx, q.NamespacedName, &s); err != nil {
		if apierrors.IsNotFound(err) { // the slices go with their owner
			e.times.DeleteService(q.Namespace, q.Name)
			e.plan.DeleteService(q.Namespace, q.Name)
			e.written.DeleteService(q.Namespace, q.Name)
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if s.Spec.Selector == nil || s.Spec.Type == corev1.ServiceTypeExternalName {
		return reconcile.Result{}, nil
	}
	pods, err := e.pods.Pods(s.Namespace).List(labels.SelectorFromSet(s.Spec.Selector))
	if err != nil {
		return reconcile.Result{}, err
	}
	have, err := slicesOf(ctx, e.client, q.NamespacedName, sliceController)
	if err != nil {
		return reconcile.Result{}, err
	}
	if e.written.StaleSlices(&s, have) {
		return behind(), nil
	}
	since := e.times.ComputeEndpointLastChangeTriggerTime(s.Namespace, &s, pods)
	if err := e.plan.Reconcile(log.FromContext(ctx), &s, pods, have, since); err != nil {
		if conflicts(err) {
			return behind(), nil
		}
		e.events.Eventf(&s, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Service %s/%s: %v", s.Namespace, s.Name, err)
		return reconcile.Result{}, err
	}
	return reconcile.Result{}, nil
}

// slicesOf lists the slices that a controller keeps for a Service, without
// those that are going.
func slicesOf(ctx context.Context, c client.Client, service types.NamespacedName, by string) (out []*discoveryv1.EndpointSlice, err error) {
	var list discoveryv1.EndpointSliceList
	err = c.List(ctx, &list, client.InNamespace(service.Namespace), client.MatchingLabels{discoveryv1.LabelServiceName: service.Name, discoveryv1.LabelManagedBy: by})
	for i := range list.Items {
		if list.Items[i].DeletionTimestamp == nil {
			out = append(out, &list.Items[i])
		}
	}
	return out, err
}

// ofPod wakes the Services whose endpoints a Pod's change concerns.
func ofPod(services corelisters.ServiceLister) handler.EventHandler {
	wake := func(q loop.RequestQueue, old, now any) {
		keys, err := util.GetServicesToUpdate(services, util.GetPodUpdateProjectionKey(old, now))
		if err != nil {
			return // a cache's lister has none
		}
		for key := range keys {
			q.Add(request(key))
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q loop.RequestQueue) { wake(q, nil, e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q loop.RequestQueue) { wake(q, e.ObjectOld, e.ObjectNew) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q loop.RequestQueue) { wake(q, e.Object, nil) },
	}
}

func request(key string) reconcile.Request {
	ns, name, _ := strings.Cut(key, "/")
	return reconcile.Request{NamespacedName: types.NamespacedName{Namespace: ns, Name: name}}
}

// ofSlice wakes the Service of a slice that changes: who waits for the cache to
// show what was written is woken by that, too.
func ofSlice(by string, written *util.EndpointSliceTracker) handler.EventHandler {
	wake := func(q loop.RequestQueue, all ...client.Object) {
		for _, o := range all {
			if name := o.GetLabels()[discoveryv1.LabelServiceName]; name != "" && o.GetLabels()[discoveryv1.LabelManagedBy] == by {
				q.Add(reconcile.Request{NamespacedName: types.NamespacedName{Namespace: o.GetNamespace(), Name: name}})
			}
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q loop.RequestQueue) { wake(q, e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q loop.RequestQueue) { wake(q, e.ObjectOld, e.ObjectNew) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q loop.RequestQueue) {
			if s := e.Object.(*discoveryv1.EndpointSlice); written.Has(s) {
				written.HandleDeletion(s)
			}
			wake(q, e.Object)
		},
	}
}

// behind is what to do when the cache does not show yet what was written: its
// event wakes, if the watch is not broken.
func behind() reconcile.Result { return reconcile.Result{RequeueAfter: loop.Unseen} }

// conflicts says whether writes failed only because the cache is behind.
func conflicts(err error) bool {
	all := []error{err}
	if many, ok := err.(utilerrors.Aggregate); ok {
		all = utilerrors.Flatten(many).Errors()
	}
	for _, err := range all {
		if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			return false
		}
	}
	return true
}

// ofNode tells the zones of the nodes to those who spread endpoints over them
// (KEP-2433), and wakes the Services that have to be spread anew.
func ofNode(zones *topologycache.TopologyCache, nodes corelisters.NodeLister) handler.EventHandler {
	wake := func(ctx context.Context, q loop.RequestQueue) {
		all, err := nodes.List(labels.Everything())
		if err != nil {
			return // a cache's lister has none
		}
		zones.SetNodes(log.FromContext(ctx), all)
		for _, key := range zones.GetOverloadedServices() {
			q.Add(request(key))
		}
	}
	ready := func(o client.Object) bool {
		return slices.ContainsFunc(o.(*corev1.Node).Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, _ event.CreateEvent, q loop.RequestQueue) { wake(ctx, q) },
		DeleteFunc: func(ctx context.Context, _ event.DeleteEvent, q loop.RequestQueue) { wake(ctx, q) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q loop.RequestQueue) {
			if ready(e.ObjectOld) != ready(e.ObjectNew) || e.ObjectOld.GetLabels()[corev1.LabelTopologyZone] != e.ObjectNew.GetLabels()[corev1.LabelTopologyZone] {
				wake(ctx, q)
			}
		},
	}
}
