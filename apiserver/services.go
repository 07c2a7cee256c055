// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/util/dryrun"

	"github.com/peapod/peapod/api/allocation"
	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

func (s *Server) serviceRow() *row {
	return resource[corev1.Service, corev1.ServiceList](corev1.SchemeGroupVersion, "Service", "services", "service", hooks[corev1.Service]{
		Defaults: defaults.Service, Validate: validation.Service, ValidateUpdate: validation.ServiceUpdate, ValidateStatus: validation.ServiceStatusUpdate, Warn: warn(validation.ServiceWarnings), Columns: table.Service(),
		Prepare:    func(_ context.Context, v, old *corev1.Service) { defaults.PrepareService(v, old) },
		WarnStatus: validation.ServiceStatusWarnings,
		Selectable: func(v *corev1.Service) fields.Set {
			return fields.Set{"spec.clusterIP": v.Spec.ClusterIP, "spec.type": string(v.Spec.Type)}
		},
		Wrap: func(_ *stores, main *registry.Store) {
			main.BeginCreate, main.BeginUpdate, main.Decorator = s.allocateService(main), s.reallocateService(main), completeService
			main.AfterDelete = s.releaseService
		},
		Extend: func(*stores, *registry.Store) map[string]rest.Storage {
			return map[string]rest.Storage{"proxy": s.serviceProxy()}
		},
	}, shortNames("svc"), inAll, upsertable, withoutGeneration, echoDeleted, func(r *row) {
		r.replaceMain = func(m *registry.Store) rest.Storage { return serviceStore{mainStore{m, r}, s} }
	})
}

// serviceStore lets Services be written one after another. What is taken is
// what the stored Services say, so there is no second book that could differ
// from them: what a write looked up holds until it is done, one that fails has
// taken nothing, and a deleted Service holds nothing. The IPAddresses of
// Services only tell of it (addresses.go).
type serviceStore struct {
	mainStore
	server *Server
}

// Create gives a Service what it needs and stores it.
func (s serviceStore) Create(ctx context.Context, o runtime.Object, check rest.ValidateObjectFunc, opts *metav1.CreateOptions) (runtime.Object, error) {
	s.server.allocating.Lock()
	defer s.server.allocating.Unlock()
	made, err := s.mainStore.Create(ctx, o, check, opts)
	s.server.wrote(made)
	return made, err
}

// Update gives a Service what it newly needs and stores it.
func (s serviceStore) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, force bool, opts *metav1.UpdateOptions) (runtime.Object, bool, error) {
	s.server.allocating.Lock()
	defer s.server.allocating.Unlock()
	now, made, err := s.mainStore.Update(ctx, name, info, create, update, force, opts)
	s.server.wrote(now)
	return now, made, err
}

func (s *Server) allocateService(main *registry.Store) registry.BeginCreateFunc {
	return func(ctx context.Context, o runtime.Object, opts *metav1.CreateOptions) (registry.FinishFunc, error) {
		book, err := s.serviceBook(ctx, main, opts.DryRun)
		if err != nil {
			return nil, err
		}
		v := o.(*corev1.Service)
		if err := allocation.Create(v, book); err != nil {
			return nil, err
		}
		return s.toldIfStored(v, nil, opts.DryRun), nil
	}
}

func (s *Server) reallocateService(main *registry.Store) registry.BeginUpdateFunc {
	return func(ctx context.Context, o, old runtime.Object, opts *metav1.UpdateOptions) (registry.FinishFunc, error) {
		book, err := s.serviceBook(ctx, main, opts.DryRun)
		if err != nil {
			return nil, err
		}
		v, was := o.(*corev1.Service), old.(*corev1.Service)
		if err := allocation.Update(v, was, book); err != nil {
			return nil, err
		}
		return s.toldIfStored(v, allocation.Addresses(was), opts.DryRun), nil
	}
}

// toldIfStored tells of the addresses that a Service had and has, when it is
// stored.
func (s *Server) toldIfStored(v *corev1.Service, had []netip.Addr, dryRun []string) registry.FinishFunc {
	have := allocation.Addresses(v)
	return func(_ context.Context, stored bool) {
		if stored && !dryrun.IsDryRun(dryRun) {
			s.tell(v, without(have, had), without(had, have))
		}
	}
}

// wrote remembers the version of the last write of a Service.
func (s *Server) wrote(o runtime.Object) {
	v, ok := o.(*corev1.Service)
	if !ok || v == nil {
		return
	}
	// A dry run has none, which is no newer one.
	now, _ := strconv.ParseUint(v.ResourceVersion, 10, 64)
	for last := s.services.Load(); now > last && !s.services.CompareAndSwap(last, now); last = s.services.Load() {
	}
}

// serviceBook reads what the stored Services hold, as the last write of one left
// them: nobody else gives anything out. To ask the watch cache for what is as
// fresh as the store would be to wait for it after any write of another kind.
func (s *Server) serviceBook(ctx context.Context, main *registry.Store, dryRun []string) (*allocation.Book, error) {
	list := &corev1.ServiceList{}
	if err := main.Storage.Storage.GetList(ctx, main.KeyRootFunc(allNamespaces(ctx)), s.sinceLastWrite(), list); err != nil {
		return nil, fmt.Errorf("cannot list services: %w", err)
	}
	ranges, err := s.serviceRanges(ctx)
	if err != nil {
		return nil, err
	}
	return allocation.NewBook(ranges, list.Items, dryrun.IsDryRun(dryRun), func(a netip.Addr) bool { return s.addressTaken(ctx, a) }), nil
}

func (s *Server) sinceLastWrite() storage.ListOptions {
	o := listAll()
	if last := s.services.Load(); last > 0 {
		o.ResourceVersion, o.ResourceVersionMatch = strconv.FormatUint(last, 10), metav1.ResourceVersionMatchNotOlderThan
	}
	return o
}

// completeService is what a reader sees of stored Services.
func completeService(o runtime.Object) {
	switch o := o.(type) {
	case *corev1.Service:
		allocation.Complete(o, corev1.IPv4Protocol)
	case *corev1.ServiceList:
		for i := range o.Items {
			allocation.Complete(&o.Items[i], corev1.IPv4Protocol)
		}
	}
}
