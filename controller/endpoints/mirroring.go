// SPDX-License-Identifier: Apache-2.0

package endpoints

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/client-go/tools/record"
	"k8s.io/endpointslice/util"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/controller/loop"
)

const (
	// mirrorController is whose slices are those made of Endpoints.
	mirrorController = "endpointslicemirroring-controller.k8s.io"
	// maxMirrored is kube-controller-manager's --mirroring-max-endpoints-per-subset.
	maxMirrored = 1000
)

// mirroring makes EndpointSlices of the Endpoints that a user keeps by hand,
// for a Service without a selector: one slice for each family of addresses and
// set of ports.
type mirroring struct {
	client  client.Client
	events  record.EventRecorder
	written *util.EndpointSliceTracker
}

func addMirroring(m manager.Manager, _ loop.Config) error {
	r := &mirroring{m.GetClient(), m.GetEventRecorderFor("endpoint-slice-mirroring-controller"), util.NewEndpointSliceTracker()}
	return ctrl.NewControllerManagedBy(m).Named("endpointslicemirroring").For(&corev1.Endpoints{}).
		Watches(&corev1.Service{}, &handler.EnqueueRequestForObject{}).
		Watches(&discoveryv1.EndpointSlice{}, ofSlice(mirrorController, r.written)).
		Complete(r)
}

func (r *mirroring) Reconcile(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
	have, err := slicesOf(ctx, r.client, q.NamespacedName, mirrorController)
	if err != nil {
		return reconcile.Result{}, err
	}
	var e corev1.Endpoints
	var s corev1.Service
	err = r.client.Get(ctx, q.NamespacedName, &e)
	if err == nil {
		err = r.client.Get(ctx, q.NamespacedName, &s)
	}
	switch {
	case apierrors.IsNotFound(err), err == nil && (elects(&e) || e.Labels[discoveryv1.LabelSkipMirror] == "true" || s.Spec.Selector != nil):
		r.written.DeleteService(q.Namespace, q.Name)
		for _, old := range have {
			if err := client.IgnoreNotFound(r.client.Delete(ctx, old)); err != nil {
				return reconcile.Result{}, err
			}
		}
		return reconcile.Result{}, nil
	case err != nil:
		return reconcile.Result{}, err
	case r.written.StaleSlices(&s, have):
		return behind(), nil
	}
	err = utilerrors.NewAggregate(r.write(ctx, &e, have))
	if err != nil && conflicts(err) {
		return behind(), nil
	}
	return reconcile.Result{}, err
}

// write makes the slices what the Endpoints say. One that is not wanted becomes
// a new one of its family, if one is wanted.
func (r *mirroring) write(ctx context.Context, e *corev1.Endpoints, have []*discoveryv1.EndpointSlice) (errs []error) {
	var missing []*discoveryv1.EndpointSlice
	for _, want := range r.mirror(e) {
		i := slices.IndexFunc(have, func(x *discoveryv1.EndpointSlice) bool {
			return x.AddressType == want.AddressType && util.NewPortMapKey(slices.Clone(x.Ports)) == util.NewPortMapKey(slices.Clone(want.Ports))
		})
		if i < 0 {
			missing = append(missing, want)
			continue
		}
		errs = append(errs, r.update(ctx, have[i], want))
		have = slices.Delete(have, i, i+1)
	}
	for _, want := range missing {
		i := slices.IndexFunc(have, func(x *discoveryv1.EndpointSlice) bool { return x.AddressType == want.AddressType })
		if i >= 0 {
			errs = append(errs, r.update(ctx, have[i], want))
			have = slices.Delete(have, i, i+1)
			continue
		}
		if e.DeletionTimestamp != nil {
			continue
		}
		switch err := r.client.Create(ctx, want); {
		case err == nil:
			r.written.Update(want)
		case !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			errs = append(errs, fmt.Errorf("failed to create EndpointSlice for Endpoints %s/%s: %w", e.Namespace, e.Name, err))
		}
	}
	for _, old := range have {
		err := r.client.Delete(ctx, old)
		if err == nil {
			r.written.ExpectDeletion(old)
		}
		errs = append(errs, client.IgnoreNotFound(err))
	}
	return errs
}

func (r *mirroring) update(ctx context.Context, have, want *discoveryv1.EndpointSlice) error {
	now := have.DeepCopy()
	now.Labels, now.Annotations, now.OwnerReferences, now.Endpoints, now.Ports = want.Labels, want.Annotations, want.OwnerReferences, want.Endpoints, want.Ports
	if equality.Semantic.DeepEqual(now, have) {
		if !r.written.Has(have) {
			r.written.Update(have)
		}
		return nil
	}
	if err := r.client.Update(ctx, now); err != nil {
		return fmt.Errorf("failed to update %s EndpointSlice: %w", have.Name, err)
	}
	r.written.Update(now)
	return nil
}

// mirror is what the slices should be. What is not mirrored is told in events.
func (r *mirroring) mirror(e *corev1.Endpoints) (all []*discoveryv1.EndpointSlice) {
	invalid, skipped := 0, 0
	for _, s := range repack(e.Subsets) {
		families := map[discoveryv1.AddressType]*discoveryv1.EndpointSlice{}
		mirrored := 0
		add := func(list []corev1.EndpointAddress, ready bool) {
			for i := range list {
				if mirrored == maxMirrored {
					skipped++
					continue
				}
				family, endpoint := endpointOf(&list[i], ready)
				if family == "" {
					invalid++
					continue
				}
				if families[family] == nil {
					families[family] = mirrorSlice(e, family, s.Ports)
				}
				families[family].Endpoints = append(families[family].Endpoints, endpoint)
				mirrored++
			}
		}
		add(s.Addresses, true)
		add(s.NotReadyAddresses, false)
		all = slices.AppendSeq(all, maps.Values(families))
	}
	if invalid > 0 {
		r.events.Eventf(e, corev1.EventTypeWarning, "InvalidIPAddress", "Skipped %d invalid IP addresses when mirroring to EndpointSlices", invalid)
	}
	if skipped > 0 { // as upstream, the invalid ones are counted once more
		r.events.Eventf(e, corev1.EventTypeWarning, "TooManyAddressesToMirror", "A max of %d addresses can be mirrored to EndpointSlices per Endpoints subset. %d addresses were skipped", maxMirrored, skipped+invalid)
	}
	slices.SortStableFunc(all, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.AddressType, b.AddressType) })
	return all
}

func endpointOf(a *corev1.EndpointAddress, ready bool) (family discoveryv1.AddressType, e discoveryv1.Endpoint) {
	ip, err := netip.ParseAddr(a.IP)
	if err != nil {
		return "", e
	}
	ip, family = ip.Unmap(), discoveryv1.AddressTypeIPv4
	if ip.Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	e = discoveryv1.Endpoint{Addresses: []string{ip.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}, TargetRef: a.TargetRef, NodeName: a.NodeName}
	if a.Hostname != "" {
		e.Hostname = ptr.To(a.Hostname)
	}
	return family, e
}

// mirrorSlice is a slice without endpoints yet, with the labels and annotations
// of the Endpoints.
func mirrorSlice(e *corev1.Endpoints, family discoveryv1.AddressType, ports []corev1.EndpointPort) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{AddressType: family, Ports: []discoveryv1.EndpointPort{}}
	s.Namespace, s.GenerateName = e.Namespace, e.Name+"-"
	if len(validation.NameIsDNSSubdomain(s.GenerateName, true)) > 0 {
		s.GenerateName = e.Name
	}
	s.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(e, corev1.SchemeGroupVersion.WithKind("Endpoints"))}
	s.Labels = map[string]string{}
	maps.Copy(s.Labels, e.Labels)
	s.Labels[discoveryv1.LabelServiceName], s.Labels[discoveryv1.LabelManagedBy] = e.Name, mirrorController
	s.Annotations = map[string]string{}
	maps.Copy(s.Annotations, e.Annotations)
	delete(s.Annotations, corev1.EndpointsLastChangeTriggerTime)
	delete(s.Annotations, corev1.LastAppliedConfigAnnotation)
	for _, p := range ports {
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: ptr.To(p.Name), Port: ptr.To(p.Port), Protocol: ptr.To(p.Protocol), AppProtocol: p.AppProtocol})
	}
	return s
}
