// SPDX-License-Identifier: Apache-2.0

package endpoints

import (
	"context"
	"maps"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
	"k8s.io/endpointslice"
	"k8s.io/endpointslice/util"
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
	"github.com/peapod/peapod/controller/owned"
)

// The label that tells who keeps Endpoints, and this controller's name.
const (
	endpointsManagedBy = "endpoints.kubernetes.io/managed-by"
	endpointController = "endpoint-controller"
)

// endpoints keeps the Endpoints of each Service that has a selector: the
// addresses of its Pods. A Pod that is ending leaves them at once, unless the
// Service publishes those that are not ready.
type endpoints struct {
	client client.Client
	pods   corelisters.PodLister
	events record.EventRecorder
	times  *util.TriggerTimeTracker
	// seen is the resource version up to which the cache knows of Endpoints.
	seen     func() string
	expected owned.Expectations
}

func addEndpoints(m manager.Manager, _ loop.Config) error {
	pods, err := loop.InformerOf(m, &corev1.Pod{})
	if err != nil {
		return err
	}
	services, err := loop.InformerOf(m, &corev1.Service{})
	if err != nil {
		return err
	}
	written, err := loop.InformerOf(m, &corev1.Endpoints{})
	if err != nil {
		return err
	}
	e := &endpoints{
		client: m.GetClient(), pods: corelisters.NewPodLister(pods.GetIndexer()), events: m.GetEventRecorderFor(endpointController),
		times: util.NewTriggerTimeTracker(), seen: func() string { return written.GetStore().LastStoreSyncResourceVersion() },
	}
	return ctrl.NewControllerManagedBy(m).Named("endpoints").For(&corev1.Service{}).
		Watches(&corev1.Pod{}, ofPod(corelisters.NewServiceLister(services.GetIndexer()))).
		Watches(&corev1.Endpoints{}, &handler.EnqueueRequestForObject{}, builder.WithPredicates(predicate.Funcs{
			// Those found at the start may be left over from a Service that is gone;
			// later ones without a Service may be waiting for it.
			CreateFunc: func(c event.CreateEvent) bool { return c.IsInInitialList && !elects(c.Object) || ours(c.Object) },
			UpdateFunc: func(u event.UpdateEvent) bool { return ours(u.ObjectNew) },
		})).
		Complete(e)
}

func ours(o client.Object) bool { return o.GetLabels()[endpointsManagedBy] == endpointController }

// elects says whether Endpoints are only a lock of an election, as there were
// before Leases.
func elects(o client.Object) bool {
	_, yes := o.GetAnnotations()[resourcelock.LeaderElectionRecordAnnotationKey]
	return yes
}

func (e *endpoints) Reconcile(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
	var s corev1.Service
	if err := e.client.Get(ctx, q.NamespacedName, &s); err != nil {
		if apierrors.IsNotFound(err) {
			e.times.DeleteService(q.Namespace, q.Name)
			e.expected.Forget(q.NamespacedName)
			err = e.client.Delete(ctx, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: q.Namespace, Name: q.Name}})
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if s.Spec.Selector == nil || s.Spec.Type == corev1.ServiceTypeExternalName {
		return reconcile.Result{}, nil
	}
	seen := e.seen()
	if !e.expected.Fulfilled(&s, seen, nil) {
		return behind(), nil
	}
	var have corev1.Endpoints
	if err := client.IgnoreNotFound(e.client.Get(ctx, q.NamespacedName, &have)); err != nil {
		return reconcile.Result{}, err
	}
	pods, err := e.pods.Pods(s.Namespace).List(labels.SelectorFromSet(s.Spec.Selector))
	if err != nil {
		return reconcile.Result{}, err
	}
	since := e.times.ComputeEndpointLastChangeTriggerTime(s.Namespace, &s, pods)
	err = e.write(ctx, &s, &have, subsetsOf(&s, pods), since)
	if err != nil && conflicts(err) {
		return behind(), nil
	}
	return reconcile.Result{}, err
}

// write brings the Endpoints up to date. since is when what led to it changed.
func (e *endpoints) write(ctx context.Context, s *corev1.Service, have *corev1.Endpoints, subsets []corev1.EndpointSubset, since time.Time) (err error) {
	isNew := have.UID == ""
	want := have.DeepCopy()
	want.Namespace, want.Name, want.Subsets, want.Labels = s.Namespace, s.Name, subsets, endpointsLabels(s)
	if want.Annotations == nil {
		want.Annotations = map[string]string{}
	}
	delete(want.Annotations, corev1.EndpointsOverCapacity)
	if truncate(want.Subsets) {
		want.Annotations[corev1.EndpointsOverCapacity] = "truncated"
	}
	if !isNew && equality.Semantic.DeepEqual(have.Subsets, want.Subsets) && equality.Semantic.DeepEqual(have.Labels, want.Labels) && equality.Semantic.DeepEqual(have.Annotations, want.Annotations) {
		return nil
	}
	delete(want.Annotations, corev1.EndpointsLastChangeTriggerTime)
	if !since.IsZero() {
		want.Annotations[corev1.EndpointsLastChangeTriggerTime] = since.UTC().Format(time.RFC3339Nano)
	}
	reason, text := "FailedToUpdateEndpoint", "Failed to update endpoint %v/%v: %v"
	if isNew {
		reason, text = "FailedToCreateEndpoint", "Failed to create endpoint for service %v/%v: %v"
		err = e.client.Create(ctx, want)
	} else {
		err = e.client.Update(ctx, want)
	}
	switch {
	case err == nil:
		e.expected.Wrote(s, want)
		return nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case conflicts(err):
		return err
	}
	e.events.Eventf(want, corev1.EventTypeWarning, reason, text, s.Namespace, s.Name, err)
	return err
}

// endpointsLabels are those of the Service, and what tells its kind and who
// keeps the Endpoints.
func endpointsLabels(s *corev1.Service) map[string]string {
	all := maps.Clone(s.Labels)
	if all == nil {
		all = map[string]string{}
	}
	delete(all, corev1.IsHeadlessService)
	if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone {
		all[corev1.IsHeadlessService] = ""
	}
	all[endpointsManagedBy] = endpointController
	return all
}

// subsetsOf are the addresses of Pods by the ports that the Service finds at
// them. A headless Service may have none.
func subsetsOf(s *corev1.Service, pods []*corev1.Pod) (all []corev1.EndpointSubset) {
	for _, p := range pods {
		ip := addressFor(s, p)
		if ip == "" || !util.ShouldPodBeInEndpoints(p, s.Spec.PublishNotReadyAddresses) {
			continue
		}
		a := corev1.EndpointAddress{IP: ip, NodeName: &p.Spec.NodeName, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}}
		if util.ShouldSetHostname(p, s) {
			a.Hostname = p.Spec.Hostname
		}
		subset := corev1.EndpointSubset{NotReadyAddresses: []corev1.EndpointAddress{a}}
		if pod.Ready(p) || s.Spec.PublishNotReadyAddresses {
			subset = corev1.EndpointSubset{Addresses: []corev1.EndpointAddress{a}}
		}
		if len(s.Spec.Ports) == 0 && s.Spec.ClusterIP == corev1.ClusterIPNone {
			all = append(all, subset)
		}
		for i := range s.Spec.Ports {
			sp := &s.Spec.Ports[i]
			n, err := endpointslice.FindPort(p, sp)
			if err != nil {
				continue // the Pod does not have it
			}
			subset.Ports = []corev1.EndpointPort{{Name: sp.Name, Port: int32(n), Protocol: sp.Protocol, AppProtocol: sp.AppProtocol}}
			all = append(all, subset)
		}
	}
	return repack(all)
}

// addressFor is a Pod's address of the family that the Service prefers, or
// empty.
func addressFor(s *corev1.Service, p *corev1.Pod) string {
	parse := func(ip string) netip.Addr {
		a, err := netip.ParseAddr(ip)
		if err != nil {
			return netip.Addr{}
		}
		return a.Unmap()
	}
	want6 := parse(p.Status.PodIP).Is6()
	switch {
	case len(s.Spec.IPFamilies) > 0:
		want6 = s.Spec.IPFamilies[0] == corev1.IPv6Protocol
	case s.Spec.ClusterIP != "" && s.Spec.ClusterIP != corev1.ClusterIPNone:
		want6 = parse(s.Spec.ClusterIP).Is6()
	}
	for _, ip := range p.Status.PodIPs {
		if a := parse(ip.IP); a.IsValid() && a.Is6() == want6 {
			return a.String()
		}
	}
	return ""
}
