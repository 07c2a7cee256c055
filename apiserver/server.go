// SPDX-License-Identifier: Apache-2.0

// Package apiserver owns the Kubernetes API of a cluster: a table of resources
// (rows.go) on the generic server of k8s.io/apiserver, the etcd behind it, and
// how requests are authenticated, authorized and admitted. Defaults,
// validation and columns are pure functions in api/; who may do what is in
// auth/. It is the only room that touches storage.
package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	noop "go.opentelemetry.io/otel/trace/noop"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/options"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	basecompatibility "k8s.io/component-base/compatibility"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/peapod/peapod/auth"
)

// protobuf is how objects lie in etcd.
const protobuf = "application/vnd.kubernetes.protobuf"

// Config says how the API is served.
type Config struct {
	// DataDir holds the embedded etcd, in its folder etcd/.
	DataDir string
	// Listen are the addresses the API is served on; the first is the one in
	// kubeconfigs.
	Listen []netip.AddrPort
	// Etcd names a cluster of the user's; without endpoints etcd runs here.
	Etcd EtcdConfig
	PKI  *auth.PKI
	// Services is the range of Service addresses. The first is the API's own,
	// as the Service kubernetes in the namespace default.
	Services netip.Prefix
	// Pods is the range of the Pod addresses of all machines; without one none
	// can join.
	Pods netip.Prefix
	// Advertise is where other machines reach the API; without one only this
	// machine does.
	Advertise netip.AddrPort
	// Version is the Kubernetes release that is served, as "v1.37.2": what
	// `kubectl version` shows of this server.
	Version string
	// Options may be nil.
	Options *Options
	Log     *slog.Logger
}

// EtcdConfig is how an external etcd is reached.
type EtcdConfig struct {
	Endpoints                 []string
	CAFile, CertFile, KeyFile string
}

// Server is the API server of one process. There can be only one in a process:
// the library keeps its feature gates and metrics in globals.
type Server struct {
	config      Config
	rows        []*row
	scheme      *runtime.Scheme
	codecs      serializer.CodecFactory
	etcd        *embedded
	generic     *genericapiserver.GenericAPIServer
	stores      *stores
	rbac        *auth.RBAC
	tokens      *auth.Tokens
	informers   informers.SharedInformerFactory
	identities  identities
	listeners   []net.Listener
	custom      *crdserver.CustomResourceDefinitions
	aggregation *aggregation
	listing     sync.Mutex     // one at a time changes the list of groups
	background  sync.WaitGroup // ends with the server
	allocating  sync.Mutex     // held while a Service is given something
	services    atomic.Uint64  // the version of the last write of one
	teller      teller
	toNodes     *http.Transport
	mapper      meta.RESTMapper
	described   *mux.PathRecorderMux // serves what the next two have made
	openAPIV2   func() (*handler.OpenAPIService, *spec.Swagger)
	openAPIV3   func() *handler3.OpenAPIService

	serving atomic.Pointer[http.Handler]
	ready   chan struct{}
	failed  chan error // the first objects could not be made
}

// New opens the store and builds the server; Run serves it.
func New(ctx context.Context, c Config) (_ *Server, err error) {
	if c.Options == nil {
		c.Options = NewOptions()
	}
	s := &Server{config: c, ready: make(chan struct{}), failed: make(chan error, 1)}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := s.listen(); err != nil {
		return nil, err
	}
	if len(c.Etcd.Endpoints) == 0 {
		s.etcd, err = startEtcd(ctx, filepath.Join(c.DataDir, "etcd"), c.Options.Store.Quota)
	} else {
		err = reachEtcd(ctx, c.Etcd)
	}
	if err != nil {
		return nil, err
	}
	s.rows = s.resources()
	if s.scheme, err = newScheme(s.rows); err != nil {
		return nil, err
	}
	s.codecs = serializer.NewCodecFactory(s.scheme)
	if err := s.build(); err != nil {
		return nil, fmt.Errorf("cannot build the API server: %w", err)
	}
	return s, nil
}

// listen takes the ports before anything else, so that a port in use is the
// first thing a user hears of.
func (s *Server) listen() error {
	for _, a := range s.config.Listen {
		l, err := net.Listen("tcp", a.String())
		if err != nil {
			var op *net.OpError
			if errors.As(err, &op) {
				err = op.Err
			}
			return fmt.Errorf("cannot listen on %s: %w", a, err)
		}
		s.listeners = append(s.listeners, l)
	}
	return nil
}

// build wires the library: configuration first, then one storage per row.
func (s *Server) build() error {
	var err error
	s.toNodes = nodeTransport(s.config.PKI)
	c, err := s.genericConfig()
	if err != nil {
		return err
	}
	if err := s.config.Options.Audit.ApplyTo(c); err != nil {
		return err
	}
	if err := s.encryption(c); err != nil {
		return err
	}
	eo := s.etcdOptions()
	if err := s.storageConfig(c, eo); err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(s.ClientConfig("system:apiserver", "system:masters"))
	if err != nil {
		return err
	}
	// Nobody here reads who owns which field.
	s.informers = informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(withoutManagers))
	if err := s.access(c); err != nil {
		return err
	}
	if err := s.admission(c, client); err != nil {
		return err
	}
	s.flowControl(c, client)
	if s.aggregation, err = s.newAggregation(); err != nil {
		return err
	}
	c.BuildHandlerChainFunc = func(h http.Handler, c *genericapiserver.Config) http.Handler {
		return genericapiserver.DefaultBuildHandlerChain(s.aggregation.wrap(h), c)
	}
	if s.custom, err = s.newCustom(c, eo); err != nil {
		return fmt.Errorf("cannot serve custom resources: %w", err)
	}
	if s.generic, err = c.Complete(s.informers).New("kube-apiserver", s.custom.GenericAPIServer); err != nil {
		return err
	}
	s.stores = &stores{server: s, main: map[schema.GroupResource]*registry.Store{}}
	if err := s.install(c.RESTOptionsGetter); err != nil {
		return err
	}
	s.serveDefinitions()
	s.describe()
	s.orderGroups(append(s.groupVersions(), apiextensionsv1.SchemeGroupVersion))
	s.generic.Handler.NonGoRestfulMux.Handle("/.well-known/openid-configuration", s.tokens)
	s.generic.Handler.NonGoRestfulMux.Handle("/openid/v1/jwks", s.tokens)
	s.generic.Handler.NonGoRestfulMux.UnlistedHandle(SnapshotPath, http.HandlerFunc(s.giveSnapshot))
	return s.addHooks(client)
}

func withoutManagers(o any) (any, error) {
	if m, ok := o.(object); ok {
		m.SetManagedFields(nil)
	}
	return o, nil
}

// genericConfig is the part of the library's configuration that is not about
// storage or access.
func (s *Server) genericConfig() (*genericapiserver.Config, error) {
	registryOf := compatibility.DefaultComponentGlobalsRegistry
	registryOf.ComponentGlobalsOrRegister(basecompatibility.DefaultKubeComponent, compatibility.DefaultBuildEffectiveVersion(), utilfeature.DefaultMutableFeatureGate)
	c := genericapiserver.NewConfig(s.codecs)
	c.EffectiveVersion = released{registryOf.EffectiveVersionFor(basecompatibility.DefaultKubeComponent), s.config.Version}
	c.FeatureGate = utilfeature.DefaultFeatureGate
	c.LongRunningFunc = longRunning()
	c.AggregatedDiscoveryGroupManager = aggregated.NewResourceManager("apis")
	c.ShutdownSendRetryAfter = false
	s.openAPI(c)
	serving, err := s.certificate()
	if err != nil {
		return nil, err
	}
	clientCA, err := dynamiccertificates.NewStaticCAContent("client-ca", s.config.PKI.CAPEM)
	if err != nil {
		return nil, err
	}
	c.SecureServing = &genericapiserver.SecureServingInfo{Listener: s.listeners[0], Cert: serving, ClientCA: clientCA, HTTP2MaxStreamsPerConnection: 1000}
	c.ExternalAddress = s.config.Listen[0].String()
	c.PublicAddress = net.IP(s.config.Listen[0].Addr().AsSlice())
	c.LoopbackClientConfig = s.ClientConfig("system:apiserver", "system:masters")
	return c, nil
}

// etcdOptions are how the library reaches etcd, and what is written there.
func (s *Server) etcdOptions() options.EtcdOptions {
	backend := storagebackend.NewDefaultConfig("/registry", nil)
	backend.Transport = storagebackend.TransportConfig{
		ServerList: s.config.Etcd.Endpoints, TrustedCAFile: s.config.Etcd.CAFile,
		CertFile: s.config.Etcd.CertFile, KeyFile: s.config.Etcd.KeyFile,
		TracerProvider: noop.NewTracerProvider(),
	}
	eo := options.NewEtcdOptions(backend)
	eo.DefaultStorageMediaType = protobuf
	eo.SkipHealthEndpoints = s.etcd != nil
	return *eo
}

// storageConfig says how the stores of the table are opened.
func (s *Server) storageConfig(c *genericapiserver.Config, eo options.EtcdOptions) error {
	// Kinds that are new in this release would be stored in a version before it,
	// for the release before it: there is none of ours.
	encoding := serverstorage.NewDefaultResourceEncodingConfig(s.scheme)
	for _, r := range s.rows {
		encoding.SetResourceEncoding(schema.GroupResource{Group: r.gv.Group, Resource: r.plural}, r.gv, internal(r.gv.Group))
	}
	factory := serverstorage.NewDefaultStorageFactory(eo.StorageConfig, protobuf, s.codecs, encoding, serverstorage.NewResourceConfig(), nil)
	factory.StorageConfig.StorageObjectCountTracker = c.StorageObjectCountTracker
	if err := eo.ApplyWithStorageFactoryTo(factory, c); err != nil {
		return err
	}
	if s.etcd != nil {
		c.AddHealthChecks(healthz.NamedCheck("etcd", s.etcd.check))
	}
	c.RESTOptionsGetter = s.direct(c.RESTOptionsGetter, 0) // filled while the server starts
	return nil
}

// direct opens stores on the etcd of this process, if it has one. patience is
// for stores that are made while their kind is asked for.
func (s *Server) direct(g genericStores, patience time.Duration) genericStores {
	if s.etcd == nil {
		return g
	}
	return directOptions{g, s.etcd, patience}
}

// install makes the storages of all rows and serves them by group.
func (s *Server) install(getter genericStores) error {
	groups := map[schema.GroupVersion]map[string]rest.Storage{}
	for _, gv := range s.groupVersions() {
		groups[gv] = map[string]rest.Storage{}
	}
	for _, r := range s.rows {
		storages, err := r.build(s.stores, s.scheme, getter)
		if err != nil {
			return err
		}
		maps.Copy(groups[r.gv], storages)
	}
	for gv, virtual := range s.reviews() {
		maps.Copy(groups[gv], virtual)
	}
	core := groups[corev1.SchemeGroupVersion]
	core["bindings"] = bindings{podBinding{s.stores}}
	groups[eventsV1]["events"] = core["events"]
	var named []*genericapiserver.APIGroupInfo
	for _, gv := range s.groupVersions() {
		info := genericapiserver.NewDefaultAPIGroupInfo(gv.Group, s.scheme, runtime.NewParameterCodec(s.scheme), s.codecs)
		info.PrioritizedVersions = []schema.GroupVersion{gv}
		info.VersionedResourcesStorageMap[gv.Version] = groups[gv]
		if gv.Group != "" {
			named = append(named, &info)
		} else if err := s.generic.InstallLegacyAPIGroup("/api", &info); err != nil {
			return fmt.Errorf("cannot serve %s: %w", gv, err)
		}
	}
	// All at once: they share their types, of which server-side apply has a model.
	if err := s.generic.InstallAPIGroups(named...); err != nil {
		return fmt.Errorf("cannot serve the named groups: %w", err)
	}
	return nil
}

// groupVersions are those of the table and of the reviews, in the order in
// which discovery lists them.
func (s *Server) groupVersions() []schema.GroupVersion {
	out := []schema.GroupVersion{corev1.SchemeGroupVersion, authenticationv1.SchemeGroupVersion, authorizationv1.SchemeGroupVersion, eventsV1}
	for _, r := range s.rows {
		if !slices.Contains(out, r.gv) {
			out = append(out, r.gv)
		}
	}
	return out
}

// Run serves until ctx ends, then lets requests under way finish.
func (s *Server) Run(ctx context.Context) error {
	defer s.close()
	defer s.background.Wait()
	prepared := s.generic.PrepareRun()
	var handler http.Handler = s.generic.Handler
	s.serving.Store(&handler)
	stop := s.serveMore()
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !s.seeDefinitions(ctx) {
		return nil
	}
	served := make(chan error, 1)
	go func() { served <- prepared.RunWithContext(ctx) }()
	select {
	case err := <-s.failed:
		cancel()
		return errors.Join(err, <-served)
	case err := <-served:
		if err != nil {
			return fmt.Errorf("cannot serve the API: %w", err)
		}
		return nil
	}
}

// serveMore serves the same handler on the listeners after the first. stop ends
// it and waits until it has ended.
func (s *Server) serveMore() (stop func()) {
	var servers []*http.Server
	var running sync.WaitGroup
	for _, l := range s.listeners[1:] {
		server := &http.Server{Handler: s.generic.Handler, ReadHeaderTimeout: 32 * time.Second, IdleTimeout: 90 * time.Second, TLSConfig: s.tlsConfig()}
		servers = append(servers, server)
		running.Go(func() {
			// Only Close ends it, and that is how a stop looks.
			if err := server.ServeTLS(l, "", ""); err != nil && !errors.Is(err, http.ErrServerClosed) {
				s.config.Log.Error("an address of the API is no longer served", "op", "serve", "err", err)
			}
		})
	}
	return func() {
		for _, server := range servers {
			server.Close()
		}
		running.Wait()
	}
}

func (s *Server) handler() http.Handler {
	h := s.serving.Load()
	if h == nil {
		return nil
	}
	return *h
}

// Ready is closed when the API serves and its first objects are there.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Tokens signs service account tokens.
func (s *Server) Tokens() *auth.Tokens { return s.tokens }

func (s *Server) close() {
	for _, l := range s.listeners {
		l.Close()
	}
	if s.toNodes != nil {
		s.toNodes.CloseIdleConnections()
	}
	if s.etcd != nil {
		if err := s.etcd.close(); err != nil {
			s.config.Log.Error("etcd did not close cleanly", "op", "close", "err", err)
		}
	}
}
