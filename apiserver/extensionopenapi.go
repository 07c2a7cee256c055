// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/http"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/util/responsewriter"
	"k8s.io/kube-openapi/pkg/aggregator"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// describedExtensions is the older description of this server and of all
// extension servers, for as long as none of them says something else.
type describedExtensions struct {
	mu   sync.Mutex // guards the fields below
	of   string     // what it is made of
	made http.Handler
}

// own is what this server would answer by itself, as JSON.
func own(next http.Handler, r *http.Request) (http.Header, []byte) {
	q := r.Clone(r.Context())
	q.Header = http.Header{"Accept": {runtime.ContentTypeJSON}}
	w := responsewriter.NewInMemoryResponseWriter()
	next.ServeHTTP(w, q)
	return w.Header(), w.Data()
}

// asked are the extension servers that answer, in a fixed order.
func (a *aggregation) asked() (gvs []schema.GroupVersion, all extensions) {
	all = *a.extensions.Load()
	for gv, e := range all {
		if e.available {
			gvs = append(gvs, gv)
		}
	}
	slices.SortFunc(gvs, func(a, b schema.GroupVersion) int { return strings.Compare(a.String(), b.String()) })
	return gvs, all
}

// openAPIV3 lists what is described here and by extension servers. One that
// does not answer is left out.
func (a *aggregation) openAPIV3(w http.ResponseWriter, r *http.Request, next http.Handler) {
	var index handler3.OpenAPIV3Discovery
	_, b := own(next, r)
	if err := json.Unmarshal(b, &index); err != nil {
		responsewriters.InternalError(w, r, fmt.Errorf("cannot read the list of descriptions: %w", err))
		return
	}
	gvs, all := a.asked()
	for _, gv := range gvs {
		_, b, err := all[gv].get(r.Context(), a.server, "/openapi/v3", runtime.ContentTypeJSON)
		var theirs handler3.OpenAPIV3Discovery
		if err != nil || json.Unmarshal(b, &theirs) != nil {
			continue
		}
		if item, ok := theirs.Paths["apis/"+gv.String()]; ok {
			index.Paths["apis/"+gv.String()] = item
		}
	}
	responsewriters.WriteRawJSON(http.StatusOK, &index, w)
}

// describe hands over what an extension server says of a version.
func (e *extension) describe(s *Server, w http.ResponseWriter, r *http.Request) {
	if !e.available {
		http.Error(w, "service unavailable", http.StatusServiceUnavailable)
		return
	}
	answer, b, err := e.get(r.Context(), s, r.URL.RequestURI(), r.Header.Get("Accept"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	for _, name := range []string{"Content-Type", "Etag", "Cache-Control", "Expires", "Location", "Vary"} {
		if v := answer.Header.Get(name); v != "" {
			w.Header().Set(name, v)
		}
	}
	w.WriteHeader(answer.StatusCode)
	_, _ = w.Write(b) // a client that has gone
}

// openAPIV2 answers with one description of all.
func (a *aggregation) openAPIV2(w http.ResponseWriter, r *http.Request, next http.Handler) {
	_, ours := own(next, r)
	sum := fnv.New64a()
	_, _ = sum.Write(ours) // a hash does not fail
	gvs, all := a.asked()
	theirs := map[schema.GroupVersion][]byte{}
	for _, gv := range gvs {
		if answer, b, err := all[gv].get(r.Context(), a.server, "/openapi/v2", runtime.ContentTypeJSON); err == nil && answer.StatusCode == http.StatusOK {
			theirs[gv] = b
			_, _ = fmt.Fprint(sum, gv, " ")
			_, _ = sum.Write(b)
		}
	}
	d := &a.described
	d.mu.Lock()
	if of := fmt.Sprint(sum.Sum64()); d.of != of {
		made, err := describedTogether(ours, gvs, theirs)
		if err != nil {
			d.mu.Unlock()
			responsewriters.InternalError(w, r, err)
			return
		}
		d.of, d.made = of, made
	}
	made := d.made
	d.mu.Unlock()
	made.ServeHTTP(w, r)
}

// describedTogether adds the paths of each version, and what they are about, to
// what is described here.
func describedTogether(ours []byte, gvs []schema.GroupVersion, theirs map[schema.GroupVersion][]byte) (http.Handler, error) {
	var all spec.Swagger
	if err := all.UnmarshalJSON(ours); err != nil {
		return nil, fmt.Errorf("cannot read the description of the API: %w", err)
	}
	for _, gv := range gvs {
		var one spec.Swagger
		if one.UnmarshalJSON(theirs[gv]) != nil {
			continue // it has none
		}
		part := aggregator.FilterSpecByPathsWithoutSideEffects(&one, []string{"/apis/" + gv.String() + "/"})
		if err := aggregator.MergeSpecsIgnorePathConflictRenamingDefinitionsAndParameters(&all, part); err != nil {
			return nil, fmt.Errorf("cannot add the description of %s: %w", gv, err)
		}
	}
	paths := mux.NewPathRecorderMux("aggregated-openapi")
	handler.NewOpenAPIService(&all).RegisterOpenAPIVersionedService("/openapi/v2", paths)
	return paths, nil
}
