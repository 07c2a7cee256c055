// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilproxy "k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/util/flowcontrol"
	"k8s.io/apiserver/pkg/util/proxy"
	clienttransport "k8s.io/client-go/transport"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/streaming/pkg/httpstream"
)

// extension is a server that serves a version of a group.
type extension struct {
	service   *apiregistrationv1.APIService
	available bool
	transport http.RoundTripper
	fault     error // there is no transport
}

// wrap hands what extension servers serve to them, and adds what they say of
// themselves to what is said here.
func (a *aggregation) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all := *a.extensions.Load()
		if len(all) == 0 {
			next.ServeHTTP(w, r)
			return
		}
		parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
		switch {
		case r.URL.Path == "/openapi/v2":
			a.openAPIV2(w, r, next)
		case r.URL.Path == "/openapi/v3":
			a.openAPIV3(w, r, next)
		case len(parts) == 5 && parts[0] == "openapi" && all[schema.GroupVersion{Group: parts[3], Version: parts[4]}] != nil:
			all[schema.GroupVersion{Group: parts[3], Version: parts[4]}].describe(a.server, w, r)
		case len(parts) > 2 && parts[0] == "apis" && all[schema.GroupVersion{Group: parts[1], Version: parts[2]}] != nil:
			all[schema.GroupVersion{Group: parts[1], Version: parts[2]}].serve(a.server, w, r)
		case len(parts) == 2 && parts[0] == "apis" && all.has(parts[1]):
			a.serveGroup(w, r, parts[1])
		case len(parts) > 1 && parts[0] == "api" && all[schema.GroupVersion{Version: parts[1]}] != nil:
			all[schema.GroupVersion{Version: parts[1]}].serve(a.server, w, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func (e extensions) has(group string) bool {
	for gv := range e {
		if gv.Group == group {
			return true
		}
	}
	return false
}

// serveGroup lists the versions of a group, wherever they are served.
func (a *aggregation) serveGroup(w http.ResponseWriter, r *http.Request, group string) {
	groups, err := a.server.generic.DiscoveryGroupManager.Groups(r.Context(), r)
	if err != nil {
		responsewriters.InternalError(w, r, err)
		return
	}
	for _, g := range groups {
		if g.Name == group {
			discovery.NewAPIGroupHandler(a.server.codecs, g).ServeHTTP(w, r)
			return
		}
	}
	http.NotFound(w, r)
}

// address is where the server is asked.
func (e *extension) address(s *Server) (string, error) {
	ref := e.service.Spec.Service
	u, err := webhookServices{s}.ResolveEndpoint(ref.Namespace, ref.Name, *ref.Port)
	if err != nil {
		return "", err
	}
	return u.Host, nil
}

// serve hands a request over, with who makes it in headers. The texts are
// upstream's.
func (e *extension) serve(s *Server, w http.ResponseWriter, r *http.Request) {
	if !e.available {
		http.Error(w, "service unavailable", http.StatusServiceUnavailable)
		return
	}
	if e.fault != nil {
		http.Error(w, e.fault.Error(), http.StatusInternalServerError)
		return
	}
	u, ok := genericapirequest.UserFrom(r.Context())
	if !ok {
		http.Error(w, "missing user", http.StatusInternalServerError)
		return
	}
	host, err := e.address(s)
	if err != nil {
		http.Error(w, "service unavailable", http.StatusServiceUnavailable)
		return
	}
	location := &url.URL{Scheme: "https", Host: host, Path: r.URL.Path, RawQuery: r.URL.Query().Encode()}
	q, cancel := proxy.NewRequestForProxy(location, r)
	defer cancel()
	upgrade := httpstream.IsUpgradeRequest(r)
	if upgrade {
		// An upgrade dials by itself.
		clienttransport.SetAuthProxyHeaders(q, u.GetName(), u.GetUID(), u.GetGroups(), u.GetExtra())
	}
	through := clienttransport.NewAuthProxyRoundTripper(u.GetName(), u.GetUID(), u.GetGroups(), u.GetExtra(), e.transport)
	flowcontrol.RequestDelegated(r.Context())
	utilproxy.NewUpgradeAwareHandler(location, through, true, upgrade, plainErrors{w}).ServeHTTP(w, q)
}

// plainErrors says in words why a server could not be asked.
type plainErrors struct{ w http.ResponseWriter }

func (p plainErrors) Object(code int, o runtime.Object) { responsewriters.WriteRawJSON(code, o, p.w) }
func (p plainErrors) Error(_ http.ResponseWriter, _ *http.Request, err error) {
	http.Error(p.w, err.Error(), http.StatusServiceUnavailable)
}

// aggregatorPatience is how long an extension server may take to say what it
// serves.
const aggregatorPatience = 5 * time.Second

// get asks for a document as the aggregator itself.
func (e *extension) get(ctx context.Context, s *Server, target, accept string) (*http.Response, []byte, error) {
	if e.fault != nil {
		return nil, nil, e.fault
	}
	host, err := e.address(s)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, aggregatorPatience)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+target, nil)
	if err != nil {
		return nil, nil, err
	}
	q.Header.Set("Accept", accept)
	clienttransport.SetAuthProxyHeaders(q, "system:kube-aggregator", "", []string{"system:masters"}, nil)
	r, err := e.transport.RoundTrip(q)
	if err != nil {
		return nil, nil, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return r, b, err
}

// look reads, for as long as ctx lasts, what extension servers say they serve.
func (a *aggregation) look(ctx context.Context) {
	defer context.AfterFunc(ctx, a.looks.ShutDown)()
	said := map[schema.GroupVersion]apidiscovery.APIVersionDiscovery{}
	for {
		gv, shutdown := a.looks.Get()
		if shutdown {
			return
		}
		if err := a.lookAt(ctx, gv, said); err != nil {
			a.looks.AddRateLimited(gv)
		} else {
			a.looks.Forget(gv)
		}
		a.looks.Done(gv)
	}
}

// lookAt brings one version up to date in aggregated discovery. What cannot be
// asked now is shown as it last was said, and as stale.
func (a *aggregation) lookAt(ctx context.Context, gv schema.GroupVersion, said map[schema.GroupVersion]apidiscovery.APIVersionDiscovery) (err error) {
	merged := a.server.generic.AggregatedDiscoveryGroupManager
	e := (*a.extensions.Load())[gv]
	if e == nil {
		delete(said, gv)
		merged.RemoveGroupVersion(metav1.GroupVersion(gv))
		return nil
	}
	shown, known := said[gv]
	if !known {
		shown.Version = gv.Version
	}
	shown.Freshness = apidiscovery.DiscoveryFreshnessStale
	if e.available {
		var found *apidiscovery.APIVersionDiscovery
		if found, err = e.resources(ctx, a.server, gv); err == nil {
			said[gv], shown = *found, *found
			shown.Freshness = apidiscovery.DiscoveryFreshnessCurrent
		}
	}
	merged.AddGroupVersion(gv.Group, shown)
	merged.SetGroupVersionPriority(metav1.GroupVersion(gv), int(e.service.Spec.GroupPriorityMinimum), int(e.service.Spec.VersionPriority))
	return err
}

const aggregatedDiscovery = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

// resources asks for all that the server has, or, of an older one, for this
// version.
func (e *extension) resources(ctx context.Context, s *Server, gv schema.GroupVersion) (*apidiscovery.APIVersionDiscovery, error) {
	r, b, err := e.get(ctx, s, "/apis", aggregatedDiscovery)
	if err != nil {
		return nil, err
	}
	if r.StatusCode == http.StatusOK && strings.Contains(r.Header.Get("Content-Type"), "as=APIGroupDiscoveryList") {
		var list apidiscovery.APIGroupDiscoveryList
		if err := json.Unmarshal(b, &list); err != nil {
			return nil, fmt.Errorf("cannot read the discovery of %s: %w", gv, err)
		}
		return versionOf(&list, gv), nil
	}
	r, b, err = e.get(ctx, s, "/apis/"+gv.String(), runtime.ContentTypeJSON)
	if err != nil {
		return nil, err
	}
	if r.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("cannot read the discovery of %s: %s", gv, r.Status)
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("cannot read the discovery of %s: %w", gv, err)
	}
	resources, err := endpoints.ConvertGroupVersionIntoToDiscovery(list.APIResources)
	return &apidiscovery.APIVersionDiscovery{Version: gv.Version, Resources: resources}, err
}

// versionOf finds a version in all that a server has. Clients expect each
// resource to have a kind, if an empty one.
func versionOf(list *apidiscovery.APIGroupDiscoveryList, gv schema.GroupVersion) *apidiscovery.APIVersionDiscovery {
	out := &apidiscovery.APIVersionDiscovery{Version: gv.Version}
	for _, g := range list.Items {
		for i := range g.Versions {
			if g.Name == gv.Group && g.Versions[i].Version == gv.Version {
				out = &g.Versions[i]
			}
		}
	}
	for i := range out.Resources {
		r := &out.Resources[i]
		if r.ResponseKind == nil {
			r.ResponseKind = &metav1.GroupVersionKind{}
		}
		for k := range r.Subresources {
			if r.Subresources[k].ResponseKind == nil {
				r.Subresources[k].ResponseKind = &metav1.GroupVersionKind{}
			}
		}
	}
	return out
}
