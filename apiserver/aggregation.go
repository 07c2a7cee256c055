// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	clienttransport "k8s.io/client-go/transport"
	"k8s.io/client-go/util/workqueue"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	"k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"
	aggregatorinformers "k8s.io/kube-aggregator/pkg/client/informers/externalversions"
	apiserviceinformers "k8s.io/kube-aggregator/pkg/client/informers/externalversions/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/controllers/autoregister"
	availabilitymetrics "k8s.io/kube-aggregator/pkg/controllers/status/metrics"
	"k8s.io/kube-aggregator/pkg/controllers/status/remote"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
	"github.com/peapod/peapod/auth"
)

// apiServiceRow: who serves a version of a group.
func apiServiceRow() *row {
	return resource[apiregistrationv1.APIService, apiregistrationv1.APIServiceList](apiregistrationv1.SchemeGroupVersion, "APIService", "apiservices", "apiservice", hooks[apiregistrationv1.APIService]{
		Defaults: defaults.APIService, Validate: validation.APIService, ValidateUpdate: validation.APIServiceUpdate, ValidateStatus: validation.APIServiceStatusUpdate,
		Prepare: func(_ context.Context, a, old *apiregistrationv1.APIService) { defaults.PrepareAPIService(a, old) },
		Columns: table.APIService(),
	}, clusterScoped, inExtensions, withoutGeneration, strictUpdate, metadataKept)
}

// aggregation has one API of this server and of the extension servers that
// APIServices name. What it needs for those is made with the first of them.
type aggregation struct {
	server     *Server
	client     clientset.Interface
	informers  aggregatorinformers.SharedInformerFactory
	register   localRegister
	proxy      func() (*auth.FrontProxy, error)
	first      sync.Once
	looks      workqueue.TypedRateLimitingInterface[schema.GroupVersion] // whose discovery is to be read
	extensions atomic.Pointer[extensions]
	described  describedExtensions
}

type extensions map[schema.GroupVersion]*extension

// localRegister keeps APIServices of what is served here; it is the library's.
type localRegister interface {
	AddAPIServiceToSyncOnStart(*apiregistrationv1.APIService)
	AddAPIServiceToSync(*apiregistrationv1.APIService)
	RemoveAPIServiceToSync(name string)
	Run(workers int, stop <-chan struct{})
}

func (s *Server) newAggregation() (*aggregation, error) {
	client, err := clientset.NewForConfig(s.ClientConfig("system:kube-aggregator", "system:masters"))
	if err != nil {
		return nil, err
	}
	a := &aggregation{
		server: s, client: client, informers: aggregatorinformers.NewSharedInformerFactory(client, 0),
		proxy: sync.OnceValues(s.config.PKI.FrontProxy),
		looks: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[schema.GroupVersion]()),
	}
	a.extensions.Store(&extensions{})
	a.register = autoregister.NewAutoRegisterController(a.services(), client.ApiregistrationV1())
	return a, nil
}

func (a *aggregation) services() apiserviceinformers.APIServiceInformer {
	return a.informers.Apiregistration().V1().APIServices()
}

// localService is the APIService of a version that is served here. Upstream has
// none for the group of APIServices itself.
func localService(gv schema.GroupVersion, group, version int) *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group},
		Spec:       apiregistrationv1.APIServiceSpec{Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: int32(group), VersionPriority: int32(version)},
	}
}

// Upstream's numbers of custom resources, which come after all others.
const customGroupPriority, customVersionPriority = 1000, 100

// define has an APIService for each served version of a definition, and none
// for what no definition serves any longer.
func (a *aggregation) define(d *apiextensionsv1.CustomResourceDefinition) {
	all, err := a.server.definitions().Lister().List(labels.Everything())
	if err != nil {
		return // a cache does not fail
	}
	served := map[string]bool{}
	for _, other := range all {
		for _, v := range other.Spec.Versions {
			served[v.Name+"."+other.Spec.Group] = served[v.Name+"."+other.Spec.Group] || v.Served
		}
	}
	for _, v := range d.Spec.Versions {
		s := localService(schema.GroupVersion{Group: d.Spec.Group, Version: v.Name}, customGroupPriority, customVersionPriority)
		if served[s.Name] {
			a.register.AddAPIServiceToSync(s)
		} else {
			a.register.RemoveAPIServiceToSync(s.Name)
		}
	}
}

// follow begins with what is stored, before the server is ready; what is served
// here is registered afterwards: nobody's first Pod waits for that.
func (a *aggregation) follow(h genericapiserver.PostStartHookContext, client kubernetes.Interface) error {
	handler, err := a.services().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { a.heard(h, o.(*apiregistrationv1.APIService)) }, UpdateFunc: func(_, o any) { a.heard(h, o.(*apiregistrationv1.APIService)) },
		DeleteFunc: func(o any) {
			if name, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil {
				a.forget(helper.APIServiceNameToGroupVersion(name))
			}
		},
	})
	if err != nil {
		return err
	}
	a.informers.Start(h.Done())
	select {
	case <-handler.HasSyncedChecker().Done():
	case <-h.Done():
		return nil
	}
	select {
	case <-a.server.ready:
	case <-h.Done():
		return nil
	}
	a.server.background.Go(func() { a.look(h) })
	for _, gv := range append(a.server.groupVersions(), apiextensionsv1.SchemeGroupVersion) {
		if gv != apiregistrationv1.SchemeGroupVersion {
			a.register.AddAPIServiceToSyncOnStart(localService(gv, groupPriority(gv.Group), versionPriority(gv)))
		}
	}
	const workers = 2
	a.server.background.Go(func() { a.register.Run(workers, h.Done()) })
	a.server.background.Go(func() {
		if err := a.introduce(h, client); err != nil && h.Err() == nil {
			a.server.config.Log.Error("extension servers are not told how to know this one", "op", "aggregate", "err", err)
		}
	})
	return nil
}

// introduce tells extension servers how they know this one.
func (a *aggregation) introduce(ctx context.Context, client kubernetes.Interface) error {
	proxy, err := a.proxy()
	if err != nil {
		return err
	}
	if err := keepConfig(ctx, client, auth.ExtensionAuthentication(a.server.config.PKI.CAPEM, proxy)); err != nil {
		return err
	}
	role, binding := auth.ExtensionReader()
	if _, err := client.RbacV1().Roles(role.Namespace).Create(ctx, role, metav1.CreateOptions{}); unlessThere(err) != nil {
		return err
	}
	_, err = client.RbacV1().RoleBindings(binding.Namespace).Create(ctx, binding, metav1.CreateOptions{})
	return unlessThere(err)
}

// heard takes an APIService as it is now.
func (a *aggregation) heard(ctx context.Context, s *apiregistrationv1.APIService) {
	gv := schema.GroupVersion{Group: s.Spec.Group, Version: s.Spec.Version}
	if s.Spec.Service == nil {
		a.forget(gv)
		return
	}
	a.first.Do(func() { a.watchOver(ctx) })
	e := &extension{service: s, available: helper.IsAPIServiceConditionTrue(s, apiregistrationv1.Available)}
	if proxy, err := a.proxy(); err != nil {
		e.fault = err
	} else {
		e.transport, e.fault = clienttransport.New(remote.BuildTransportConfig(nil, proxy.Cert, proxy.Key, s))
	}
	a.change(func(all extensions) { all[gv] = e })
	a.server.listGroup(gv.Group)
	a.looks.Add(gv)
}

// forget stops to ask an extension server.
func (a *aggregation) forget(gv schema.GroupVersion) {
	if (*a.extensions.Load())[gv] == nil {
		return
	}
	a.change(func(all extensions) { delete(all, gv) })
	a.server.listGroup(gv.Group)
	a.looks.Add(gv)
}

// change replaces the map, which readers have without a lock. One goroutine
// does: that of the informer.
func (a *aggregation) change(f func(extensions)) {
	all := maps.Clone(*a.extensions.Load())
	f(all)
	a.extensions.Store(&all)
}

// watchOver begins to say whether extension servers can be asked: again when
// their APIService, Service or endpoints change, and, as long as one does not
// answer, now and then.
func (a *aggregation) watchOver(ctx context.Context) {
	known := a.server.informers
	controller, err := remote.New(a.services(), known.Core().V1().Services(), known.Discovery().V1().EndpointSlices(), a.client.ApiregistrationV1(), nil,
		a.certificate, webhookServices{a.server}, availabilitymetrics.New())
	if err != nil {
		a.server.config.Log.Error("extension servers cannot be watched over", "op", "aggregate", "err", err)
		return
	}
	known.Start(ctx.Done())
	const workers = 2
	a.server.background.Go(func() { controller.Run(workers, ctx.Done()) })
}

func (a *aggregation) certificate() (cert, key []byte) {
	proxy, err := a.proxy()
	if err != nil {
		return nil, nil // and who is asked refuses
	}
	return proxy.Cert, proxy.Key
}
