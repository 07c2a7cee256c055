// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

// Node ports are given out from kube-apiserver's default range.
const firstNodePort, lastNodePort = 30000, 32767

func (s *Server) serviceRow() *row {
	return resource[corev1.Service, corev1.ServiceList](corev1.SchemeGroupVersion, "Service", "services", "service", hooks[corev1.Service]{
		Defaults: defaults.Service, Validate: validation.Service, ValidateUpdate: validation.ServiceUpdate, ValidateStatus: validation.ServiceStatusUpdate, Warn: warn(validation.ServiceWarnings), Columns: table.Service(),
		Selectable: func(v *corev1.Service) fields.Set {
			return fields.Set{"spec.clusterIP": v.Spec.ClusterIP, "spec.type": string(v.Spec.Type)}
		},
		Wrap: func(_ *stores, main *registry.Store) {
			s.services = &serviceAllocator{store: main, cidr: s.config.Services}
			main.BeginCreate, main.BeginUpdate = s.services.beginCreate, s.services.beginUpdate
		},
		Extend: func(*stores, *registry.Store) map[string]rest.Storage {
			return map[string]rest.Storage{"proxy": s.serviceProxy()}
		},
	}, shortNames("svc"), inAll, upsertable, withoutGeneration, echoDeleted)
}

// keepAllocations keeps what the API gave out when an update leaves it away.
// It runs before the library's own preparation, as the allocation does.
func keepAllocations(v, old *corev1.Service) {
	if old != nil && v.Spec.Type != corev1.ServiceTypeExternalName && old.Spec.Type != corev1.ServiceTypeExternalName {
		if v.Spec.ClusterIP == "" {
			v.Spec.ClusterIP = old.Spec.ClusterIP
		}
		for i := range v.Spec.Ports {
			for _, was := range old.Spec.Ports {
				p := &v.Spec.Ports[i]
				if p.NodePort == 0 && v.Spec.Type != corev1.ServiceTypeClusterIP && was.Port == p.Port && was.Protocol == p.Protocol {
					p.NodePort = was.NodePort
				}
			}
		}
	}
	if v.Spec.Type == corev1.ServiceTypeExternalName {
		v.Spec.ClusterIP, v.Spec.ClusterIPs, v.Spec.IPFamilies, v.Spec.IPFamilyPolicy = "", nil, nil, nil
		return
	}
	if v.Spec.ClusterIP == "" && len(v.Spec.ClusterIPs) > 0 {
		v.Spec.ClusterIP = v.Spec.ClusterIPs[0]
	}
}

// serviceAllocator gives out cluster addresses and node ports. What is taken
// is what the stored Services say: the lock is held from the look until the
// write is done, so there is no second book to keep.
type serviceAllocator struct {
	mu    sync.Mutex
	store *registry.Store
	cidr  netip.Prefix
}

func (a *serviceAllocator) beginCreate(ctx context.Context, o runtime.Object, _ *metav1.CreateOptions) (registry.FinishFunc, error) {
	v := o.(*corev1.Service)
	keepAllocations(v, nil)
	return a.allocate(ctx, v, "")
}

func (a *serviceAllocator) beginUpdate(ctx context.Context, o, old runtime.Object, _ *metav1.UpdateOptions) (registry.FinishFunc, error) {
	v, was := o.(*corev1.Service), old.(*corev1.Service)
	keepAllocations(v, was)
	return a.allocate(ctx, v, string(was.UID))
}

// allocate fills in what v lacks. self is the Service's own UID on update.
func (a *serviceAllocator) allocate(ctx context.Context, v *corev1.Service, self string) (registry.FinishFunc, error) {
	if v.Spec.Type == corev1.ServiceTypeExternalName {
		return func(context.Context, bool) {}, nil
	}
	a.mu.Lock()
	done := func(context.Context, bool) { a.mu.Unlock() }
	ips, ports, err := a.taken(ctx, self)
	if err == nil {
		err = a.address(v, ips)
	}
	if err == nil {
		err = a.nodePorts(v, ports)
	}
	if err != nil {
		a.mu.Unlock()
		return nil, err
	}
	return done, nil
}

func (a *serviceAllocator) taken(ctx context.Context, self string) (map[netip.Addr]bool, map[int32]bool, error) {
	list := &corev1.ServiceList{}
	if err := a.store.Storage.Storage.GetList(ctx, a.store.KeyRootFunc(allNamespaces(ctx)), listAll(), list); err != nil {
		return nil, nil, fmt.Errorf("cannot list services: %w", err)
	}
	ips, ports := map[netip.Addr]bool{}, map[int32]bool{}
	for _, v := range list.Items {
		if string(v.UID) == self {
			continue
		}
		if ip, err := netip.ParseAddr(v.Spec.ClusterIP); err == nil {
			ips[ip] = true
		}
		for _, p := range v.Spec.Ports {
			if p.NodePort != 0 {
				ports[p.NodePort] = true
			}
		}
	}
	return ips, ports, nil
}

func (a *serviceAllocator) address(v *corev1.Service, taken map[netip.Addr]bool) error {
	path := field.NewPath("spec", "clusterIPs").Index(0)
	fail := func(text string) error {
		errs := field.ErrorList{field.Invalid(path, []string{v.Spec.ClusterIP}, text)}
		return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), v.Name, errs)
	}
	switch {
	case v.Spec.ClusterIP == corev1.ClusterIPNone:
	case v.Spec.ClusterIP != "":
		ip, err := netip.ParseAddr(v.Spec.ClusterIP)
		if err != nil {
			return fail("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
		}
		if !a.cidr.Contains(ip) {
			return fail(fmt.Sprintf("failed to allocate IP %s: the provided network does not match the current range", ip))
		}
		if taken[ip] {
			return fail(fmt.Sprintf("failed to allocate IP %s: provided IP is already allocated", ip))
		}
	default:
		ip, ok := a.free(taken)
		if !ok {
			return fail("failed to allocate a serviceIP: range is full")
		}
		v.Spec.ClusterIP = ip.String()
	}
	v.Spec.ClusterIPs = []string{v.Spec.ClusterIP}
	single := corev1.IPFamilyPolicySingleStack
	if v.Spec.IPFamilyPolicy == nil {
		v.Spec.IPFamilyPolicy = &single
	}
	if len(v.Spec.IPFamilies) == 0 {
		v.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	return nil
}

// free picks a random free address, so that one that was just given back is
// not the next one out. The first address belongs to the API itself.
func (a *serviceAllocator) free(taken map[netip.Addr]bool) (netip.Addr, bool) {
	size := 1 << (32 - a.cidr.Bits())
	first := a.cidr.Addr().As4()
	base := uint32(first[0])<<24 | uint32(first[1])<<16 | uint32(first[2])<<8 | uint32(first[3])
	start := rand.IntN(size)
	for i := range size {
		n := (start + i) % size
		if n < 2 || n == size-1 {
			continue
		}
		v := base + uint32(n)
		ip := netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
		if !taken[ip] {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

func (a *serviceAllocator) nodePorts(v *corev1.Service, taken map[int32]bool) error {
	if v.Spec.Type == corev1.ServiceTypeClusterIP {
		for i := range v.Spec.Ports {
			v.Spec.Ports[i].NodePort = 0
		}
		return nil
	}
	for i := range v.Spec.Ports {
		p := &v.Spec.Ports[i]
		path := field.NewPath("spec", "ports").Index(i).Child("nodePort")
		var problem string
		switch {
		case p.NodePort == 0:
			p.NodePort = freePort(taken)
		case p.NodePort < firstNodePort || p.NodePort > lastNodePort:
			problem = "provided port is not in the valid range. The range of valid ports is 30000-32767"
		case taken[p.NodePort] && !slices.ContainsFunc(v.Spec.Ports[:i], func(q corev1.ServicePort) bool { return q.NodePort == p.NodePort && q.Protocol != p.Protocol }):
			problem = "provided port is already allocated"
		}
		if problem != "" {
			errs := field.ErrorList{field.Invalid(path, p.NodePort, problem)}
			return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), v.Name, errs)
		}
		taken[p.NodePort] = true
	}
	return nil
}

func freePort(taken map[int32]bool) int32 {
	n := int32(lastNodePort - firstNodePort + 1)
	start := rand.Int32N(n)
	for i := range n {
		if p := firstNodePort + (start+i)%n; !taken[p] {
			return p
		}
	}
	return 0
}
