// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/auth/rbac/validation"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/allocation"
	"github.com/peapod/peapod/auth"
)

// addHooks starts the informers that admission and RBAC read, and makes the
// objects every cluster has. The server is ready when both are done.
func (s *Server) addHooks(client kubernetes.Interface) error {
	if err := s.generic.AddPostStartHook("peapod/informers", func(h genericapiserver.PostStartHookContext) error {
		s.informers.Start(h.Done())
		return nil
	}); err != nil {
		return err
	}
	if err := s.generic.AddPostStartHook("peapod/custom", s.describeCustom); err != nil {
		return err
	}
	if err := s.generic.AddPostStartHook("peapod/aggregation", func(h genericapiserver.PostStartHookContext) error { return s.aggregation.follow(h, client) }); err != nil {
		return err
	}
	flows := s.newFlowKeeper(client)
	if err := s.generic.AddPostStartHook("peapod/flows", func(h genericapiserver.PostStartHookContext) error { return s.keepFlows(h, flows) }); err != nil {
		return err
	}
	return s.generic.AddPostStartHook("peapod/bootstrap", func(h genericapiserver.PostStartHookContext) error {
		s.informers.WaitForCacheSync(h.Done())
		b := bootstrap{ctx: h, client: client, server: s}
		if err := b.run(); err != nil {
			// The library ends the process when a hook fails; Run's caller is
			// to hear of it instead.
			s.failed <- fmt.Errorf("cannot make the cluster's first objects: %w", err)
			return nil
		}
		close(s.ready)
		return nil
	})
}

// bootstrap makes what is missing and puts right what the server owns.
type bootstrap struct {
	ctx    context.Context
	client kubernetes.Interface
	server *Server
}

// run makes all at once but for what lies in a namespace: every object is a
// write to the disk, and such writes share one.
func (b bootstrap) run() error {
	for _, steps := range [][]func() error{
		slices.Concat(b.namespaces(), []func() error{b.priorities, b.serviceRange}, b.roles(), b.bindings()),
		slices.Concat(b.contents(), b.forMembers(), []func() error{b.serviceRangeReady, b.service, b.endpoints, b.endpointSlice}),
		{func() error { return b.server.settleAddresses(b.ctx) }},
	} {
		var all errgroup.Group
		for _, step := range steps {
			all.Go(step)
		}
		if err := all.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// systemNamespaces are those of every cluster.
var systemNamespaces = []string{metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease, metav1.NamespaceDefault}

func (b bootstrap) namespaces() (steps []func() error) {
	for _, name := range systemNamespaces {
		steps = append(steps, func() error {
			_, err := b.client.CoreV1().Namespaces().Create(b.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
			return unlessThere(err)
		})
	}
	return steps
}

// contents are what controllers give to any other namespace: a Pod of the
// first moment is not to wait for them.
func (b bootstrap) contents() (steps []func() error) {
	for _, ns := range systemNamespaces {
		steps = append(steps, func() error {
			_, err := b.client.CoreV1().ServiceAccounts(ns).Create(b.ctx, auth.DefaultAccount(ns), metav1.CreateOptions{})
			return unlessThere(err)
		}, func() error {
			_, err := b.client.CoreV1().ConfigMaps(ns).Create(b.ctx, auth.RootCA(ns, b.server.config.PKI.CAPEM), metav1.CreateOptions{})
			return unlessThere(err)
		})
	}
	return steps
}

func unlessThere(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// keeper is a client of one kind.
type keeper[T object] interface {
	Get(context.Context, string, metav1.GetOptions) (T, error)
	Create(context.Context, T, metav1.CreateOptions) (T, error)
	Update(context.Context, T, metav1.UpdateOptions) (T, error)
}

// keep makes an object, or writes the one that is there when mend has changed it.
func keep[T object](ctx context.Context, all keeper[T], want T, mend func(have T) bool) error {
	have, err := all.Get(ctx, want.GetName(), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = all.Create(ctx, want, metav1.CreateOptions{})
		return unlessThere(err)
	case err != nil || !mend(have):
		return err
	}
	_, err = all.Update(ctx, have, metav1.UpdateOptions{})
	return err
}

// keepConfig keeps what a ConfigMap says.
func keepConfig(ctx context.Context, client kubernetes.Interface, want *corev1.ConfigMap) error {
	return keep(ctx, client.CoreV1().ConfigMaps(want.Namespace), want, func(have *corev1.ConfigMap) bool {
		same := maps.Equal(have.Data, want.Data)
		have.Data = want.Data
		return !same
	})
}

func (b bootstrap) priorities() error {
	for _, c := range []schedulingv1.PriorityClass{
		{ObjectMeta: metav1.ObjectMeta{Name: "system-node-critical"}, Value: 2000001000, Description: "Used for system critical pods that must not be moved from their current node."},
		{ObjectMeta: metav1.ObjectMeta{Name: "system-cluster-critical"}, Value: 2000000000, Description: "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."},
	} {
		_, err := b.client.SchedulingV1().PriorityClasses().Create(b.ctx, &c, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

// roles creates the default roles, and adds what is missing to those that say
// they may be updated. What a user added stays.
func (b bootstrap) roles() (steps []func() error) {
	for _, want := range append(auth.ClusterRoles(), auth.MemberRole()) {
		steps = append(steps, func() error {
			have, err := b.server.rbac.ClusterRoles.Get(want.Name)
			switch {
			case apierrors.IsNotFound(err):
				_, err = b.client.RbacV1().ClusterRoles().Create(b.ctx, &want, metav1.CreateOptions{})
			case err == nil && auth.AutoUpdated(have):
				if covered, missing := validation.Covers(have.Rules, want.Rules); !covered {
					have = have.DeepCopy()
					have.Rules = append(have.Rules, missing...)
					_, err = b.client.RbacV1().ClusterRoles().Update(b.ctx, have, metav1.UpdateOptions{})
				}
			}
			return unlessThere(err)
		})
	}
	return steps
}

// bindings does the same for the default bindings and their subjects.
func (b bootstrap) bindings() (steps []func() error) {
	for _, want := range append(auth.ClusterRoleBindings(), auth.MemberBinding()) {
		steps = append(steps, func() error {
			have, err := b.server.rbac.ClusterRoleBindings.Get(want.Name)
			switch {
			case apierrors.IsNotFound(err):
				_, err = b.client.RbacV1().ClusterRoleBindings().Create(b.ctx, &want, metav1.CreateOptions{})
			case err == nil && auth.AutoUpdated(have):
				have = have.DeepCopy()
				for _, s := range want.Subjects {
					if !slices.Contains(have.Subjects, s) {
						have.Subjects = append(have.Subjects, s)
					}
				}
				_, err = b.client.RbacV1().ClusterRoleBindings().Update(b.ctx, have, metav1.UpdateOptions{})
			}
			return unlessThere(err)
		})
	}
	return steps
}

// ServiceAddress is the cluster address of the API itself: the first of the
// Service range.
func ServiceAddress(services netip.Prefix) netip.Addr { return services.Masked().Addr().Next() }

// serviceRange is the range of Service addresses as an object.
func (b bootstrap) serviceRange() error {
	_, err := b.client.NetworkingV1().ServiceCIDRs().Create(b.ctx, &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: allocation.DefaultRange}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{b.server.config.Services.Masked().String()}},
	}, metav1.CreateOptions{})
	return unlessThere(err)
}

// serviceRangeReady says once that addresses are given from it; what is said
// otherwise later stays.
func (b bootstrap) serviceRangeReady() error {
	c, err := b.client.NetworkingV1().ServiceCIDRs().Get(b.ctx, allocation.DefaultRange, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if own := b.server.config.Services.Masked(); !slices.Contains(allocation.Prefixes(c), own) {
		b.server.config.Log.Warn("the default ServiceCIDR is another than the range of Services", "ServiceCIDR", c.Spec.CIDRs, "range", own)
		return nil
	}
	if c.DeletionTimestamp != nil || meta.FindStatusCondition(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady) != nil {
		return nil
	}
	meta.SetStatusCondition(&c.Status.Conditions, metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: "Kubernetes default Service CIDR is ready",
	})
	_, err = b.client.NetworkingV1().ServiceCIDRs().UpdateStatus(b.ctx, c, metav1.UpdateOptions{})
	return err
}

// service is default/kubernetes, through which Pods find the API.
func (b bootstrap) service() error {
	ip := ServiceAddress(b.server.config.Services).String()
	_, err := b.client.CoreV1().Services(metav1.NamespaceDefault).Get(b.ctx, "kubernetes", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		return err
	}
	_, err = b.client.CoreV1().Services(metav1.NamespaceDefault).Create(b.ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Labels: map[string]string{"provider": "kubernetes", "component": "apiserver"}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, SessionAffinity: corev1.ServiceAffinityNone,
			Ports: []corev1.ServicePort{{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(443)}},
		},
	}, metav1.CreateOptions{})
	return unlessThere(err)
}

// answers is where the API is reached: by all machines where it is advertised,
// or else on its Service address, which this node holds itself.
func (b bootstrap) answers() netip.AddrPort {
	if a := b.server.config.Advertise; a.IsValid() {
		return a
	}
	return netip.AddrPortFrom(ServiceAddress(b.server.config.Services), 443)
}

// endpoints says where the API answers.
func (b bootstrap) endpoints() error {
	at := b.answers()
	want := []corev1.EndpointSubset{{
		Addresses: []corev1.EndpointAddress{{IP: at.Addr().String()}},
		Ports:     []corev1.EndpointPort{{Name: "https", Port: int32(at.Port()), Protocol: corev1.ProtocolTCP}},
	}}
	return keep(b.ctx, b.client.CoreV1().Endpoints(metav1.NamespaceDefault), &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"}}, Subsets: want,
	}, func(have *corev1.Endpoints) bool {
		same := equality.Semantic.DeepEqual(have.Subsets, want)
		have.Subsets = want
		return !same
	})
}

// endpointSlice says the same in the newer form.
func (b bootstrap) endpointSlice() error {
	at := b.answers()
	want := []discoveryv1.Endpoint{{Addresses: []string{at.Addr().String()}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}}}
	ports := []discoveryv1.EndpointPort{{Name: ptr.To("https"), Port: ptr.To(int32(at.Port())), Protocol: ptr.To(corev1.ProtocolTCP)}}
	return keep(b.ctx, b.client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: want, Ports: ports,
	}, func(have *discoveryv1.EndpointSlice) bool {
		same := equality.Semantic.DeepEqual(have.Endpoints, want) && equality.Semantic.DeepEqual(have.Ports, ports)
		have.Endpoints, have.Ports = want, ports
		return !same
	})
}
