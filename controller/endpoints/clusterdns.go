// SPDX-License-Identifier: Apache-2.0

package endpoints

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/controller/loop"
)

// clusterDNSName is the Service's that programs look for; its endpoints are
// called the same.
const clusterDNSName = "kube-dns"

// addClusterDNS keeps the Service kube-system/kube-dns as Kubernetes' addon has
// it, but for the metrics. Its endpoint is its own address, on which the name
// server answers: nothing is translated.
func addClusterDNS(m manager.Manager, c loop.Config) error {
	if !c.DNS.IsValid() {
		return nil
	}
	r := clusterDNS{m.GetClient(), c.DNS.String()}
	ours := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: client.ObjectKey{Name: metav1.NamespaceSystem}}}
	})
	named := builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
		return o.GetNamespace() == metav1.NamespaceSystem && o.GetName() == clusterDNSName
	}))
	system := builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool { return o.GetName() == metav1.NamespaceSystem }))
	return ctrl.NewControllerManagedBy(m).Named("cluster-dns").For(&corev1.Namespace{}, system).
		Watches(&corev1.Service{}, ours, named).Watches(&corev1.Endpoints{}, ours, named).Watches(&discoveryv1.EndpointSlice{}, ours, named).
		Complete(r)
}

type clusterDNS struct {
	client  client.Client
	address string
}

// Reconcile makes what is missing and puts right what differs.
func (r clusterDNS) Reconcile(ctx context.Context, q ctrl.Request) (ctrl.Result, error) {
	var ns corev1.Namespace
	if err := r.client.Get(ctx, q.NamespacedName, &ns); err != nil || ns.DeletionTimestamp != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	// Without its slice a Service is refused by the rules of the node.
	err := r.keep(ctx, &discoveryv1.EndpointSlice{}, func(o client.Object) bool {
		e := o.(*discoveryv1.EndpointSlice)
		again := e.AddressType != "" && e.AddressType != discoveryv1.AddressTypeIPv4
		e.AddressType = discoveryv1.AddressTypeIPv4
		e.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{r.address}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false)}}}
		e.Ports = nil
		for _, p := range dnsPorts {
			e.Ports = append(e.Ports, discoveryv1.EndpointPort{Name: &p.name, Port: ptr.To[int32](53), Protocol: &p.protocol})
		}
		setLabels(e, map[string]string{"k8s-app": "kube-dns", discoveryv1.LabelServiceName: clusterDNSName, discoveryv1.LabelManagedBy: "cluster-dns-controller.peapod"})
		return again
	})
	if err != nil {
		return ctrl.Result{}, err
	}
	err = r.keep(ctx, &corev1.Service{}, func(o client.Object) (again bool) {
		s := o.(*corev1.Service)
		s.Spec.Selector, s.Spec.Type = nil, corev1.ServiceTypeClusterIP
		again = s.Spec.ClusterIP != "" && s.Spec.ClusterIP != r.address // another range: it cannot be changed
		if s.Spec.ClusterIP == "" {
			s.Spec.ClusterIP = r.address
		}
		s.Spec.Ports = nil
		for _, p := range dnsPorts {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: p.name, Port: 53, TargetPort: intstr.FromInt32(53), Protocol: p.protocol})
		}
		setLabels(s, map[string]string{
			"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "KubeDNS", "addonmanager.kubernetes.io/mode": "Reconcile",
		})
		return again
	})
	if err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{}, r.keep(ctx, &corev1.Endpoints{}, func(o client.Object) bool {
		e := o.(*corev1.Endpoints)
		subset := corev1.EndpointSubset{Addresses: []corev1.EndpointAddress{{IP: r.address}}}
		for _, p := range dnsPorts {
			subset.Ports = append(subset.Ports, corev1.EndpointPort{Name: p.name, Port: 53, Protocol: p.protocol})
		}
		e.Subsets = []corev1.EndpointSubset{subset}
		setLabels(e, map[string]string{"k8s-app": "kube-dns", discoveryv1.LabelSkipMirror: "true"})
		return false
	})
}

var dnsPorts = []struct {
	name     string
	protocol corev1.Protocol
}{{"dns", corev1.ProtocolUDP}, {"dns-tcp", corev1.ProtocolTCP}}

// keep has one object as mend makes it. again says that it can only be made anew.
func (r clusterDNS) keep(ctx context.Context, have client.Object, mend func(client.Object) (again bool)) error {
	err := r.client.Get(ctx, client.ObjectKey{Namespace: metav1.NamespaceSystem, Name: clusterDNSName}, have)
	if client.IgnoreNotFound(err) != nil {
		return err
	}
	if apierrors.IsNotFound(err) {
		have.SetNamespace(metav1.NamespaceSystem)
		have.SetName(clusterDNSName)
		mend(have)
		return client.IgnoreAlreadyExists(r.client.Create(ctx, have))
	}
	before := have.DeepCopyObject()
	if mend(have) {
		return client.IgnoreNotFound(r.client.Delete(ctx, have, client.Preconditions{UID: ptr.To(have.GetUID())}))
	}
	if equality.Semantic.DeepEqual(before, have) {
		return nil
	}
	return loop.IgnoreStale(r.client.Update(ctx, have))
}

func setLabels(o client.Object, want map[string]string) {
	labels := maps.Clone(o.GetLabels())
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, want)
	o.SetLabels(labels)
}
