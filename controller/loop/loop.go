// SPDX-License-Identifier: Apache-2.0

// Package loop is what all controllers share: the manager that runs them, what
// they are given, and the errors that are none.
package loop

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/netip"
	"time"

	"github.com/go-logr/logr"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/volume"
)

// Unseen is how long is waited at most for the cache to show what is known
// to be or to have been: what comes and goes while a watch is broken makes no
// event.
const Unseen = 30 * time.Second

// RequestQueue is where a controller's sources put what is to be reconciled.
type RequestQueue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// Issue signs a request for so long, if it says how long, and gives the
// certificate in PEM.
type Issue func(r *x509.CertificateRequest, usages []certificatesv1.KeyUsage, seconds *int32) ([]byte, error)

// Config is what the controllers need beside the manager.
type Config struct {
	// RootCA is published to every namespace.
	RootCA []byte
	// Issue signs approved requests with its key.
	Issue Issue
	// Client is for what the cache is not made for, such as subresources.
	Client kubernetes.Interface
	// NodeName is the node whose folders can be volumes; nil are none.
	NodeName string
	Folders  *volume.Folders
	// DNS is the address of the cluster's name server, which answers there
	// itself; without one there is none.
	DNS netip.Addr
	// Cluster is the range of all Pods' addresses, of which Nodes are given
	// theirs; without one they are given none. Pods is this machine's part, which
	// its Node says itself; the others' are as large.
	Cluster, Pods netip.Prefix
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

// Add adds controllers to a manager.
func Add(m manager.Manager, c Config, controllers ...func(manager.Manager, Config) error) error {
	for _, add := range controllers {
		if err := add(m, c); err != nil {
			return fmt.Errorf("cannot add a controller: %w", err)
		}
	}
	return nil
}

// InformerOf is the cache's store of a kind itself, for what the cache does not
// answer.
func InformerOf(m manager.Manager, o client.Object) (toolscache.SharedIndexInformer, error) {
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

// IgnoreTerminating: nothing can be made any more in a namespace that is going
// away, and that is no failure.
func IgnoreTerminating(err error) error {
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}

// IgnoreStale: a write that lost to another is repeated by its event.
func IgnoreStale(err error) error {
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// IgnoreGone: what is not there any more, or not as it was, needs no write.
func IgnoreGone(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// FalseFirst puts false before true.
func FalseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
