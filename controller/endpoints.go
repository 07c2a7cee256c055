// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/api/pod"
)

// endpoints keeps the Endpoints and the EndpointSlice of each Service that has
// a selector: the addresses of its Pods. A Pod that is ending leaves the
// Endpoints at once, and stays in the slice as not ready and terminating until
// it is gone (KEP-1672).
type endpoints struct{ client client.Client }

func addEndpoints(m manager.Manager, _ Config) error {
	e := endpoints{m.GetClient()}
	return ctrl.NewControllerManagedBy(m).Named("endpoints").For(&corev1.Service{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) (out []reconcile.Request) {
			var list corev1.ServiceList
			if e.client.List(ctx, &list, client.InNamespace(o.GetNamespace())) != nil {
				return nil // the cache is stopping
			}
			for _, s := range list.Items {
				if len(s.Spec.Selector) > 0 && labels.Set(s.Spec.Selector).AsSelectorPreValidated().Matches(labels.Set(o.GetLabels())) {
					out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&s)})
				}
			}
			return out
		})).
		Complete(e)
}

func (e endpoints) Reconcile(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
	var s corev1.Service
	if err := e.client.Get(ctx, q.NamespacedName, &s); err != nil {
		if apierrors.IsNotFound(err) {
			return reconcile.Result{}, e.remove(ctx, q)
		}
		return reconcile.Result{}, err
	}
	if len(s.Spec.Selector) == 0 || s.Spec.Type == corev1.ServiceTypeExternalName {
		return reconcile.Result{}, nil
	}
	var pods corev1.PodList
	if err := e.client.List(ctx, &pods, client.InNamespace(s.Namespace), client.MatchingLabels(s.Spec.Selector)); err != nil {
		return reconcile.Result{}, err
	}
	slices.SortFunc(pods.Items, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	if err := e.writeEndpoints(ctx, &s, pods.Items); err != nil {
		return reconcile.Result{}, ignoreStale(err)
	}
	return reconcile.Result{}, ignoreStale(e.writeSlice(ctx, &s, pods.Items))
}

func (e endpoints) remove(ctx context.Context, q reconcile.Request) error {
	meta := metav1.ObjectMeta{Namespace: q.Namespace, Name: q.Name}
	if err := e.client.Delete(ctx, &corev1.Endpoints{ObjectMeta: meta}); client.IgnoreNotFound(err) != nil {
		return err
	}
	return client.IgnoreNotFound(e.client.Delete(ctx, &discoveryv1.EndpointSlice{ObjectMeta: meta}))
}

// targetPort finds a Service's port in a Pod.
func targetPort(p *corev1.Pod, port corev1.ServicePort) (int32, bool) {
	if port.TargetPort.Type == intstr.Int {
		return port.TargetPort.IntVal, true
	}
	for _, c := range p.Spec.Containers {
		for _, cp := range c.Ports {
			if cp.Name == port.TargetPort.StrVal && cp.Protocol == port.Protocol {
				return cp.ContainerPort, true
			}
		}
	}
	return 0, false
}

func (e endpoints) writeEndpoints(ctx context.Context, s *corev1.Service, pods []corev1.Pod) error {
	bySignature := map[string]*corev1.EndpointSubset{}
	var order []string
	for i := range pods {
		p := &pods[i]
		if p.Status.PodIP == "" || pod.Terminal(p) || p.DeletionTimestamp != nil && !s.Spec.PublishNotReadyAddresses {
			continue
		}
		var ports []corev1.EndpointPort
		for _, sp := range s.Spec.Ports {
			if n, ok := targetPort(p, sp); ok {
				ports = append(ports, corev1.EndpointPort{Name: sp.Name, Port: n, Protocol: sp.Protocol, AppProtocol: sp.AppProtocol})
			}
		}
		key := fmt.Sprint(ports)
		if bySignature[key] == nil {
			bySignature[key] = &corev1.EndpointSubset{Ports: ports}
			order = append(order, key)
		}
		a := corev1.EndpointAddress{IP: p.Status.PodIP, NodeName: &p.Spec.NodeName, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}}
		if p.Spec.Hostname != "" && p.Spec.Subdomain == s.Name {
			a.Hostname = p.Spec.Hostname
		}
		set := bySignature[key]
		if pod.Ready(p) || s.Spec.PublishNotReadyAddresses {
			set.Addresses = append(set.Addresses, a)
		} else {
			set.NotReadyAddresses = append(set.NotReadyAddresses, a)
		}
	}
	want := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name, Labels: withLabel(s.Labels, "endpoints.kubernetes.io/managed-by", "endpoint-controller")}}
	for _, key := range order {
		want.Subsets = append(want.Subsets, *bySignature[key])
	}
	var have corev1.Endpoints
	err := e.client.Get(ctx, client.ObjectKeyFromObject(want), &have)
	if apierrors.IsNotFound(err) {
		return e.client.Create(ctx, want)
	}
	if err != nil || equality.Semantic.DeepEqual(have.Subsets, want.Subsets) && equality.Semantic.DeepEqual(have.Labels, want.Labels) {
		return err
	}
	have.Subsets, have.Labels = want.Subsets, want.Labels
	return e.client.Update(ctx, &have)
}

func withLabel(m map[string]string, k, v string) map[string]string {
	out := map[string]string{k: v}
	for a, b := range m {
		out[a] = b
	}
	return out
}

func (e endpoints) writeSlice(ctx context.Context, s *corev1.Service, pods []corev1.Pod) error {
	want := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace, Name: s.Name,
			Labels:          withLabel(withLabel(s.Labels, discoveryv1.LabelServiceName, s.Name), discoveryv1.LabelManagedBy, "endpointslice-controller.k8s.io"),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(s, corev1.SchemeGroupVersion.WithKind("Service"))},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for _, sp := range s.Spec.Ports {
		port := discoveryv1.EndpointPort{Name: ptr.To(sp.Name), Protocol: ptr.To(sp.Protocol), AppProtocol: sp.AppProtocol}
		for i := range pods {
			if n, ok := targetPort(&pods[i], sp); ok {
				port.Port = &n
				break
			}
		}
		if port.Port == nil && sp.TargetPort.Type == intstr.Int {
			port.Port = ptr.To(sp.TargetPort.IntVal)
		}
		want.Ports = append(want.Ports, port)
	}
	for i := range pods {
		p := &pods[i]
		if p.Status.PodIP == "" || pod.Terminal(p) {
			continue
		}
		serving, ending := pod.Ready(p) || s.Spec.PublishNotReadyAddresses, p.DeletionTimestamp != nil
		want.Endpoints = append(want.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{p.Status.PodIP}, NodeName: &p.Spec.NodeName,
			Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(serving && (!ending || s.Spec.PublishNotReadyAddresses)), Serving: &serving, Terminating: &ending},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		})
	}
	var have discoveryv1.EndpointSlice
	err := e.client.Get(ctx, client.ObjectKeyFromObject(want), &have)
	if apierrors.IsNotFound(err) {
		return e.client.Create(ctx, want)
	}
	if err != nil || equality.Semantic.DeepEqual(have.Endpoints, want.Endpoints) && equality.Semantic.DeepEqual(have.Ports, want.Ports) {
		return err
	}
	have.Endpoints, have.Ports, have.Labels = want.Endpoints, want.Ports, want.Labels
	return e.client.Update(ctx, &have)
}
