// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
	api "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	"k8s.io/kubernetes/pkg/registry/core/service/portallocator"
	servicestorage "k8s.io/kubernetes/pkg/registry/core/service/storage"
	netutils "k8s.io/utils/net"
)

// Services are given addresses and node ports before they are prepared. All is
// a dry run: what Kubernetes gives out otherwise is random.
const (
	services  = "10.96.0.0/16"
	nodePorts = "30000-32767"
)

// heldPort is in use by another Service.
const heldPort = 32000

// allocating is what the store of a kind does around its strategy.
type allocating struct {
	create func(obj runtime.Object) error
	update func(obj, old runtime.Object) error
	show   func(obj runtime.Object)
}

func allocateServices() (*allocating, error) {
	_, cidr, err := netutils.ParseCIDRSloppy(services)
	if err != nil {
		return nil, fmt.Errorf("cannot parse %s: %w", services, err)
	}
	addresses, err := ipallocator.NewInMemory(cidr)
	if err != nil {
		return nil, fmt.Errorf("cannot make addresses: %w", err)
	}
	ports, err := portallocator.NewInMemory(*utilnet.ParsePortRangeOrDie(nodePorts))
	if err != nil {
		return nil, fmt.Errorf("cannot make node ports: %w", err)
	}
	if err := ports.Allocate(heldPort); err != nil {
		return nil, fmt.Errorf("cannot hold a node port: %w", err)
	}
	rest, _, _, err := servicestorage.NewREST(nowhere{}, api.IPv4Protocol, map[api.IPFamily]ipallocator.Interface{api.IPv4Protocol: addresses}, ports, nil, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot make the store of services: %w", err)
	}
	dry := []string{metav1.DryRunAll}
	return &allocating{
		create: func(obj runtime.Object) error {
			_, err := rest.BeginCreate(context.Background(), obj, &metav1.CreateOptions{DryRun: dry})
			return err
		},
		update: func(obj, old runtime.Object) error {
			_, err := rest.BeginUpdate(context.Background(), obj, old, &metav1.UpdateOptions{DryRun: dry})
			return err
		},
		show: rest.Decorator,
	}, nil
}

// nowhere is a store that is never written.
type nowhere struct{}

func (nowhere) GetRESTOptions(r schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	return generic.RESTOptions{
		StorageConfig:  storagebackend.NewDefaultConfig("/registry", nil).ForResource(r),
		ResourcePrefix: r.Resource,
		Decorator: func(*storagebackend.ConfigForResource, string, func(runtime.Object) (string, error), func() runtime.Object, func() runtime.Object, storage.AttrFunc, storage.IndexerFuncs, *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
			return nil, func() {}, nil
		},
	}, nil
}
