// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"

	"github.com/peapod/peapod/api/allocation"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

// addressRows are the ranges that Services get addresses from, and the
// addresses that somebody has.
func (s *Server) addressRows() []*row {
	gv := networkingv1.SchemeGroupVersion
	return []*row{
		resource[networkingv1.ServiceCIDR, networkingv1.ServiceCIDRList](gv, "ServiceCIDR", "servicecidrs", "servicecidr", hooks[networkingv1.ServiceCIDR]{
			Validate: validation.ServiceCIDR, ValidateUpdate: validation.ServiceCIDRUpdate, ValidateStatus: validation.ServiceCIDRStatusUpdate, Columns: table.ServiceCIDR(),
		}, clusterScoped, withoutGeneration, metadataKept),
		resource[networkingv1.IPAddress, networkingv1.IPAddressList](gv, "IPAddress", "ipaddresses", "ipaddress", hooks[networkingv1.IPAddress]{
			Validate: validation.IPAddress, ValidateUpdate: validation.IPAddressUpdate, Columns: table.IPAddress(),
		}, shortNames("ip"), clusterScoped, withoutGeneration, func(r *row) {
			r.replaceMain = func(m *registry.Store) rest.Storage { return addressStore{mainStore{m, r}, &s.allocating} }
		}),
	}
}

// addressStore lets nobody take an address while a Service is given one.
type addressStore struct {
	mainStore
	writes *sync.Mutex
}

// Create takes an address that no Service is being given.
func (a addressStore) Create(ctx context.Context, o runtime.Object, check rest.ValidateObjectFunc, opts *metav1.CreateOptions) (runtime.Object, error) {
	a.writes.Lock()
	defer a.writes.Unlock()
	return a.mainStore.Create(ctx, o, check, opts)
}

func (s *Server) addressStore() *registry.Store {
	return s.stores.main[networkingv1.Resource("ipaddresses")]
}

// serviceRanges are those that there are now, as the watch cache has them.
func (s *Server) serviceRanges(ctx context.Context) ([]netip.Prefix, error) {
	found, err := s.stores.main[networkingv1.Resource("servicecidrs")].List(genericapirequest.WithNamespace(ctx, ""), &metainternalversion.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("cannot list the ranges of services: %w", err)
	}
	return allocation.Ranges(s.config.Services, found.(*networkingv1.ServiceCIDRList).Items), nil
}

// addressTaken says whether somebody has an address who is no Service: what
// those have they say themselves. What cannot be told counts as taken.
func (s *Server) addressTaken(ctx context.Context, a netip.Addr) bool {
	found, err := getFresh[networkingv1.IPAddress](ctx, s, networkingv1.Resource("ipaddresses"), "", a.String())
	if err != nil {
		return !apierrors.IsNotFound(err)
	}
	return !allocation.OfService(found.Labels)
}

// teller writes which addresses Services have, in the order in which they were
// given and given up, beside the writes of the Services: those do not wait for
// it. It runs while there is something to write.
type teller struct {
	mu      sync.Mutex // guards the fields below
	running bool
	waiting []news
}

// news is an address that a Service has now, or that nobody has any more.
type news struct {
	address netip.Addr
	of      *networkingv1.IPAddress // nil: of nobody
}

// tell has IPAddresses follow what a stored Service was given and gave up.
func (s *Server) tell(v *corev1.Service, given, back []netip.Addr) {
	t := &s.teller
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range given {
		t.waiting = append(t.waiting, news{a, allocation.IPAddress(a, v)})
	}
	for _, a := range back {
		t.waiting = append(t.waiting, news{a, nil})
	}
	if len(t.waiting) > 0 && !t.running {
		t.running = true
		s.background.Go(s.writeNews)
	}
}

// next takes what waits; nothing ends the writer.
func (t *teller) next() []news {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := t.waiting
	t.waiting, t.running = nil, len(out) > 0
	return out
}

// addressWrites bounds how many addresses are written at once.
const addressWrites = 64

func (s *Server) writeNews() {
	for batch := s.teller.next(); len(batch) > 0; batch = s.teller.next() {
		byAddress := map[netip.Addr][]news{}
		for _, n := range batch {
			byAddress[n.address] = append(byAddress[n.address], n)
		}
		var writes errgroup.Group
		writes.SetLimit(addressWrites)
		for a, list := range byAddress {
			writes.Go(func() error {
				for _, n := range list {
					if err := s.writeAddress(context.Background(), n); err != nil {
						// The next start puts it right.
						s.config.Log.Warn("cannot write whose address it is", "address", a, "err", err)
					}
				}
				return nil
			})
		}
		_ = writes.Wait() // each has told of its own error
	}
}

func (s *Server) writeAddress(ctx context.Context, n news) error {
	ctx = genericapirequest.WithNamespace(ctx, "")
	if n.of == nil {
		_, _, err := s.addressStore().Delete(ctx, n.address.String(), rest.ValidateAllObjectFunc, &metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	_, err := s.addressStore().Create(ctx, n.of, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	return unlessThere(err)
}

// releaseService removes the addresses of a Service that is gone.
func (s *Server) releaseService(o runtime.Object, opts *metav1.DeleteOptions) {
	if !dryrun.IsDryRun(opts.DryRun) {
		s.wrote(o)
		v := o.(*corev1.Service)
		s.tell(v, nil, allocation.Addresses(v))
	}
}

// settleAddresses makes the IPAddresses of Services those that the stored
// Services hold: of Services that are older than IPAddresses, and of writes that
// a crash came between.
func (s *Server) settleAddresses(ctx context.Context) error {
	s.allocating.Lock()
	defer s.allocating.Unlock()
	services := &corev1.ServiceList{}
	main := s.stores.main[corev1.Resource("services")]
	if err := main.Storage.Storage.GetList(ctx, main.KeyRootFunc(allNamespaces(ctx)), listAll(), services); err != nil {
		return fmt.Errorf("cannot list services: %w", err)
	}
	found, err := s.addressStore().List(genericapirequest.WithNamespace(ctx, ""), &metainternalversion.ListOptions{})
	if err != nil {
		return fmt.Errorf("cannot list addresses: %w", err)
	}
	told := map[string]bool{}
	for _, a := range found.(*networkingv1.IPAddressList).Items {
		told[a.Name] = allocation.OfService(a.Labels)
	}
	var missing errgroup.Group // and those that are too many
	missing.SetLimit(addressWrites)
	for i := range services.Items {
		for _, a := range allocation.Addresses(&services.Items[i]) {
			if _, there := told[a.String()]; !there {
				missing.Go(func() error { return s.writeAddress(ctx, news{a, allocation.IPAddress(a, &services.Items[i])}) })
			}
			delete(told, a.String())
		}
	}
	for name, ours := range told {
		if a, err := netip.ParseAddr(name); ours && err == nil {
			missing.Go(func() error { return s.writeAddress(ctx, news{a, nil}) })
		}
	}
	if err := missing.Wait(); err != nil {
		return fmt.Errorf("cannot write the addresses of services: %w", err)
	}
	return nil
}

func without(list, less []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(list), func(a netip.Addr) bool { return slices.Contains(less, a) })
}
