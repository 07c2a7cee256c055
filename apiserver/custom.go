// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	crdinformers "k8s.io/apiextensions-apiserver/pkg/client/informers/externalversions/apiextensions/v1"
	crdoptions "k8s.io/apiextensions-apiserver/pkg/cmd/server/options"
	"k8s.io/apiextensions-apiserver/pkg/controller/openapi"
	"k8s.io/apiextensions-apiserver/pkg/controller/openapiv3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/client-go/tools/cache"
)

// customPatience: the first request for a kind makes its store, and is to be
// answered, as the one that empties it for the end of its definition: the
// library's finalizer, told to come again, may do so only after minutes. It is
// short, since what converts objects may have to ask this server meanwhile.
const customPatience = time.Second

// newCustom makes the server of CustomResourceDefinitions and of what they
// define, which requests reach that the table of resources does not know. c is
// the configuration of the whole, before it is complete.
func (s *Server) newCustom(c *genericapiserver.Config, eo options.EtcdOptions) (*crdserver.CustomResourceDefinitions, error) {
	own := *c
	own.PostStartHooks = map[string]genericapiserver.PostStartHookConfigEntry{}
	own.MergedResourceConfig = crdserver.DefaultAPIResourceConfigSource()
	eo.StorageConfig.Codec = crdserver.Codecs.LegacyCodec(apiextensionsv1.SchemeGroupVersion)
	eo.StorageConfig.EncodeVersioner = runtime.NewMultiGroupVersioner(apiextensionsv1.SchemeGroupVersion, schema.GroupKind{Group: apiextensionsv1.GroupName})
	eo.StorageConfig.StorageObjectCountTracker = c.StorageObjectCountTracker
	own.RESTOptionsGetter = s.direct(eo.CreateRESTOptionsGetter(&options.SimpleStorageFactory{StorageConfig: eo.StorageConfig}, c.ResourceTransformers), 0)
	config := crdserver.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: own, SharedInformerFactory: s.informers},
		ExtraConfig: crdserver.ExtraConfig{
			CRDRESTOptionsGetter: s.direct(crdoptions.NewCRDRESTOptionsGetter(eo, c.ResourceTransformers, c.StorageObjectCountTracker), customPatience),
			MasterCount:          1, // nobody else has to learn of a definition before it is established
			ServiceResolver:      webhookServices{s},
			AuthResolverWrapper:  s.webhookAccess(),
		},
	}
	return config.Complete().New(genericapiserver.NewEmptyDelegate())
}

// serveDefinitions has the main server answer for the group of definitions
// itself, so that one description and one list have all that is fixed.
func (s *Server) serveDefinitions() {
	gv := apiextensionsv1.SchemeGroupVersion
	for _, w := range s.custom.GenericAPIServer.Handler.GoRestfulContainer.RegisteredWebServices() {
		if strings.HasPrefix(w.RootPath(), "/apis/"+gv.Group) {
			s.generic.Handler.GoRestfulContainer.Add(w)
		}
	}
	s.generic.DiscoveryGroupManager.AddGroup(apiGroup(gv.Group, gv.Version))
}

// apiGroup is a group whose first version is the preferred one.
func apiGroup(name string, versions ...string) metav1.APIGroup {
	g := metav1.APIGroup{Name: name}
	for _, v := range versions {
		g.Versions = append(g.Versions, metav1.GroupVersionForDiscovery{GroupVersion: name + "/" + v, Version: v})
	}
	g.PreferredVersion = g.Versions[0]
	return g
}

// definitions are the CustomResourceDefinitions as they are known here.
func (s *Server) definitions() crdinformers.CustomResourceDefinitionInformer {
	return s.custom.Informers.Apiextensions().V1().CustomResourceDefinitions()
}

// describeCustom lists and describes the groups of custom resources beside all
// others. What describes them is made with the first definition: without any,
// it would be a copy of the description of all that is fixed.
func (s *Server) describeCustom(h genericapiserver.PostStartHookContext) error {
	var first sync.Once
	heard := func(o any) {
		first.Do(func() {
			v2, v3 := openapi.NewController(s.definitions()), openapiv3.NewController(s.definitions())
			s.background.Go(func() {
				service, fixed := s.openAPIV2()
				v2.Run(fixed, service, h.Done())
			})
			s.background.Go(func() { v3.Run(s.openAPIV3(), h.Done()) })
		})
		if last, unknown := o.(cache.DeletedFinalStateUnknown); unknown {
			o = last.Obj
		}
		d := o.(*apiextensionsv1.CustomResourceDefinition)
		s.listGroup(d.Spec.Group)
		s.aggregation.define(d)
	}
	handler, err := s.definitions().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: heard, DeleteFunc: heard, UpdateFunc: func(old, o any) {
			heard(o)
			s.aggregation.define(old.(*apiextensionsv1.CustomResourceDefinition)) // versions that it has no longer
		},
	})
	if err != nil {
		return fmt.Errorf("cannot follow definitions: %w", err)
	}
	select {
	case <-handler.HasSyncedChecker().Done():
	case <-h.Done():
	}
	return nil
}

// seeDefinitions waits until the stored definitions are known: the library
// looks for that ten times a second, and would end the process when it is
// stopped before. It says whether ctx has not ended meanwhile.
func (s *Server) seeDefinitions(ctx context.Context) bool {
	informer := s.definitions().Informer()
	s.custom.Informers.Start(ctx.Done())
	select {
	case <-informer.HasSyncedChecker().Done():
		return true
	case <-ctx.Done():
		return false
	}
}

// listGroup brings a group of custom resources or of extension servers up to
// date in the list of groups. The newer form of that list is the library's.
func (s *Server) listGroup(group string) {
	s.listing.Lock()
	defer s.listing.Unlock()
	extended := *s.aggregation.extensions.Load()
	fixed := slices.ContainsFunc(s.groupVersions(), func(gv schema.GroupVersion) bool { return gv.Group == group })
	if fixed && !extended.has(group) {
		return
	}
	priorities := map[string]int32{} // by version
	for _, gv := range s.groupVersions() {
		if gv.Group == group {
			priorities[gv.Version] = int32(versionPriority(gv))
		}
	}
	for _, d := range s.definedIn(group) {
		for _, v := range d.Spec.Versions {
			if v.Served {
				priorities[v.Name] = customVersionPriority
			}
		}
	}
	for gv, e := range extended {
		if gv.Group == group {
			priorities[gv.Version] = e.service.Spec.VersionPriority
		}
	}
	if len(priorities) == 0 {
		s.generic.DiscoveryGroupManager.RemoveGroup(group)
		return
	}
	versions := slices.SortedFunc(maps.Keys(priorities), func(a, b string) int {
		if c := cmp.Compare(priorities[b], priorities[a]); c != 0 {
			return c
		}
		return version.CompareKubeAwareVersionStrings(b, a)
	})
	s.generic.DiscoveryGroupManager.AddGroup(apiGroup(group, versions...))
}

// definedIn are the established definitions of a group.
func (s *Server) definedIn(group string) (out []*apiextensionsv1.CustomResourceDefinition) {
	all, err := s.definitions().Lister().List(labels.Everything())
	if err != nil {
		return nil // a cache does not fail
	}
	for _, d := range all {
		if d.Spec.Group == group && apihelpers.IsCRDConditionTrue(d, apiextensionsv1.Established) {
			out = append(out, d)
		}
	}
	return out
}
