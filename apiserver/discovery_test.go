// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// upstreamDir is the published API of the Kubernetes release that test/stock
// pins: what its servers say in discovery and OpenAPI.
var upstreamDir = sync.OnceValues(func() (string, error) {
	c := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes")
	c.Dir = "../test/stock"
	out, err := c.Output()
	return filepath.Join(strings.TrimSpace(string(out)), "api"), err
})

// upstream reads one of those documents.
func upstream(t *testing.T, path string, into any) {
	t.Helper()
	dir, err := upstreamDir()
	if err != nil {
		t.Fatalf("cannot find the pinned Kubernetes sources: %v", err)
	}
	b, err := os.ReadFile(filepath.Join(dir, path))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// raw asks the server for a path and decodes its JSON.
func raw(t *testing.T, path, accept string, into any) {
	t.Helper()
	b, err := admin.Discovery().RESTClient().Get().AbsPath(path).SetHeader("Accept", accept).Do(t.Context()).Raw()
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// served are the paths of all group versions, with upstream's file of each.
func served() map[string]string {
	out := map[string]string{}
	for _, gv := range server.groupVersions() {
		path := "/apis/" + gv.String()
		if gv.Group == "" {
			path = "/api/" + gv.Version
		}
		out[path] = strings.ReplaceAll(strings.TrimPrefix(path, "/"), "/", "__")
	}
	return out
}

// storedNewer are kinds that are new in 1.37: upstream stores them in the
// version before, for the release before, which Peapod does not have.
var storedNewer = []string{"clustertrustbundles", "devicetaintrules"}

func TestDiscoveryIsUpstreams(t *testing.T) {
	for path, file := range served() {
		t.Run(path, func(t *testing.T) {
			var got, want metav1.APIResourceList
			raw(t, path, "application/json", &got)
			upstream(t, "discovery/"+file+".json", &want)
			main := func(name string) string { return strings.SplitN(name, "/", 2)[0] }
			ours := map[string]metav1.APIResource{}
			kinds := map[string]bool{}
			for _, r := range got.APIResources {
				ours[r.Name], kinds[main(r.Name)] = r, true
			}
			for _, r := range want.APIResources {
				if !kinds[main(r.Name)] {
					continue // a kind of a later release of ours
				}
				if slices.Contains(storedNewer, r.Name) {
					r.StorageVersionHash = ours[r.Name].StorageVersionHash
				}
				if have := ours[r.Name]; !reflect.DeepEqual(have, r) {
					t.Errorf("%s\ngot  %+v\nwant %+v", r.Name, have, r)
				}
				delete(ours, r.Name)
			}
			if len(ours) > 0 {
				t.Errorf("upstream has no %v", slices.Collect(maps.Keys(ours)))
			}
		})
	}
}

func TestAggregatedDiscoveryIsUpstreams(t *testing.T) {
	var want apidiscovery.APIGroupDiscoveryList
	upstream(t, "discovery/aggregated_v2.json", &want)
	known := map[string]apidiscovery.APIResourceDiscovery{}
	index := func(l apidiscovery.APIGroupDiscoveryList, into map[string]apidiscovery.APIResourceDiscovery) {
		for _, g := range l.Items {
			for _, v := range g.Versions {
				for _, r := range v.Resources {
					into[g.Name+"/"+v.Version+"/"+r.Resource] = r
				}
			}
		}
	}
	index(want, known)
	ours := map[string]apidiscovery.APIResourceDiscovery{}
	for _, root := range []string{"/api", "/apis"} {
		var got apidiscovery.APIGroupDiscoveryList
		raw(t, root, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", &got)
		for _, g := range got.Items {
			for _, v := range g.Versions {
				if v.Freshness != apidiscovery.DiscoveryFreshnessCurrent {
					t.Errorf("%s/%s is %q", g.Name, v.Version, v.Freshness)
				}
			}
		}
		if root == "/apis" {
			index(got, ours)
		}
	}
	for name, r := range ours {
		if w := known[name]; !reflect.DeepEqual(r, w) {
			t.Errorf("%s\ngot  %+v\nwant %+v", name, r, w)
		}
	}
	if len(ours) < 10 {
		t.Errorf("only %d resources in aggregated discovery", len(ours))
	}
}

// TestOpenAPIIsUpstreams compares what `kubectl explain` reads and what
// clients validate against: every definition of ours is upstream's, word for
// word.
func TestOpenAPIIsUpstreams(t *testing.T) {
	t.Run("v2", func(t *testing.T) {
		var got, want struct{ Definitions map[string]any }
		raw(t, "/openapi/v2", "application/json", &got)
		upstream(t, "openapi-spec/swagger.json", &want)
		for name, d := range got.Definitions {
			w, ok := want.Definitions[name]
			if !ok {
				t.Errorf("upstream has no %s", name)
			} else if at := difference("", asPublished(d), asPublished(w)); at != "" {
				t.Errorf("%s%s", name, at)
			}
		}
		if len(got.Definitions) < 280 || got.Definitions["io.k8s.api.core.v1.PodSpec"] == nil {
			t.Errorf("%d definitions", len(got.Definitions))
		}
	})
	for path, file := range served() {
		t.Run("v3"+path, func(t *testing.T) {
			var got, want struct {
				Components struct{ Schemas map[string]any }
				Paths      map[string]any
			}
			raw(t, "/openapi/v3"+path, "application/json", &got)
			upstream(t, "openapi-spec/v3/"+file+"_openapi.json", &want)
			if len(got.Components.Schemas) == 0 {
				t.Error("no schemas")
			}
			for name, d := range got.Components.Schemas {
				if at := difference("", asPublished(d), asPublished(want.Components.Schemas[name])); at != "" {
					t.Errorf("%s%s", name, at)
				}
			}
			for name, d := range got.Paths {
				if at := difference("", asPublished(d), asPublished(want.Paths[name])); at != "" {
					t.Errorf("%s%s", name, at)
				}
			}
		})
	}
}

// asPublished leaves away how the published files differ from what a server
// with default feature gates says: they are made with alpha features (CBOR) and
// without the lists of enum values (hack/update-openapi-spec.sh), and their
// options belong to groups that are not here yet.
func asPublished(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			_, list := x.([]any)
			switch {
			case k == "enum" && list, strings.HasPrefix(k, "application/cbor"), k == "application/apply-patch+cbor":
			case k == "x-kubernetes-group-version-kind" && list && len(x.([]any)) > 2:
			default:
				out[k] = asPublished(x)
			}
		}
		if d, ok := v["description"].(string); ok {
			text, _, listed := strings.Cut(d, "\n\nPossible enum values:\n")
			if listed {
				text = strings.TrimRight(text, "\n")
			}
			out["description"] = text
		}
		return out
	case []any:
		out := make([]any, 0, len(v))
		for _, x := range v {
			if s, ok := x.(string); !ok || !strings.HasPrefix(s, "application/cbor") {
				out = append(out, asPublished(x))
			}
		}
		return out
	}
	return v
}

// difference is where two JSON values first differ, or "".
func difference(at string, got, want any) string {
	g, ok := got.(map[string]any)
	w, also := want.(map[string]any)
	if !ok || !also {
		if reflect.DeepEqual(got, want) {
			return ""
		}
		b, _ := json.Marshal(got)
		c, _ := json.Marshal(want)
		return at + "\ngot  " + string(b) + "\nwant " + string(c)
	}
	keys := map[string]bool{}
	for k := range g {
		keys[k] = true
	}
	for k := range w {
		keys[k] = true
	}
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		if d := difference(at+"."+k, g[k], w[k]); d != "" {
			return d
		}
	}
	return ""
}
