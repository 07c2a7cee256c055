// SPDX-License-Identifier: Apache-2.0

// Package controller owns the loops that keep objects true: one file per
// controller, each a reconcile function on the one shared cache of the
// process. A controller does nothing while nothing changes.
package controller

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/go-logr/logr"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/peapod/peapod/controller/certificates"
	"github.com/peapod/peapod/volume"
)

// Config is what the controllers need beside the manager.
type Config struct {
	// RootCA is published to every namespace.
	RootCA []byte
	// Issue signs approved requests with its key.
	Issue certificates.Issue
	// Client is for what the cache is not made for, such as subresources.
	Client kubernetes.Interface
	// NodeName is the node whose folders can be volumes; nil are none.
	NodeName string
	Folders  *volume.Folders
	// DNS is the address of the cluster's name server, which answers there
	// itself; without one there is none.
	DNS netip.Addr
	all *everything // one for all controllers
}

// workers is how many objects of a kind are reconciled at once.
const workers = 4

// NewManager makes the manager that runs the controllers and holds the cache.
func NewManager(c *rest.Config, log logr.Logger) (manager.Manager, error) {
	m, err := ctrl.NewManager(c, ctrl.Options{
		Scheme: clientscheme.Scheme, Logger: log,
		Metrics: metricsserver.Options{BindAddress: "0"}, HealthProbeBindAddress: "0",
		Controller: config.Controller{MaxConcurrentReconciles: workers, SkipNameValidation: ptr.To(true)},
		Client:     client.Options{Cache: &client.CacheOptions{Unstructured: false}},
	})
	if err != nil {
		return nil, fmt.Errorf("cannot make the controllers' manager: %w", err)
	}
	return m, nil
}

// Add adds all controllers to a manager.
func Add(m manager.Manager, c Config) error {
	if err := indexPods(m); err != nil {
		return fmt.Errorf("cannot index the Pods by their controllers: %w", err)
	}
	c.all = newEverything(m, c)
	for _, add := range []func(manager.Manager, Config) error{
		addReplicaSet, addReplicationController, addDeployment, addStatefulSet, addDaemonSet, addServiceAccount, addRootCA, addAggregation, addNamespace, addEndpoints, addEndpointSlices, addMirroring, addClusterDNS, addGarbage, addCustomResources, addPodGC, addNodeLifecycle, addTaintEviction,
		addPolicyStatus, addResourceQuota, addTrustBundle, addCertificates,
		addJob, addJobOrphans, addJobTTL, addCronJob, addDisruption,
		addVolumeBinder, addVolumeProtection, addEphemeralVolumes,
	} {
		if err := add(m, c); err != nil {
			return fmt.Errorf("cannot add controller: %w", err)
		}
	}
	return nil
}

// informerOf is the cache's store of a kind itself, for what the cache does not
// answer.
func informerOf(m manager.Manager, o client.Object) (toolscache.SharedIndexInformer, error) {
	found, err := m.GetCache().GetInformer(context.Background(), o, cache.BlockUntilSynced(false))
	if err != nil {
		return nil, err
	}
	informer, ok := found.(toolscache.SharedIndexInformer)
	if !ok {
		return nil, fmt.Errorf("cannot look into the cache of %T, a %T", o, found)
	}
	return informer, nil
}
