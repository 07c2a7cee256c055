// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/yaml"
)

// answer is the part of a case of api/testdata/golden that is the strategies'.
type answer struct {
	Name       string
	Input, Old map[string]any
	Sub        string
	Want       struct {
		Prepared map[string]any
		Errors   []string
		Refusal  string
		Row      map[string]any
	}
}

var relative = regexp.MustCompile(`"(now|micro)-[0-9a-z]+"`)

// read makes an object of a case; its times do not matter here.
func (r *row) read(t *testing.T, m map[string]any) runtime.Object {
	t.Helper()
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	o := r.newObject()
	if err := json.Unmarshal(relative.ReplaceAll(b, []byte(`"`+time.Unix(0, 0).UTC().Format("2006-01-02T15:04:05.000000Z07:00")+`"`)), o); err != nil {
		t.Fatal(err)
	}
	if r.defaults != nil {
		r.defaults(o)
	}
	return o
}

// part is the strategy of a subresource, as the server has built it.
func (r *row) part(t *testing.T, sub string) rest.RESTUpdateStrategy {
	t.Helper()
	main := strategy{server.scheme, names.SimpleNameGenerator, r}
	switch sub {
	case "":
		return main
	case "status":
		return statusStrategy{main}
	}
	store := server.stores.main[schema.GroupResource{Group: r.gv.Group, Resource: r.plural}]
	if r.kind == "Namespace" {
		return server.finalizeStore(store).(finalizer).updateOnly.(partStore).s.UpdateStrategy
	}
	if r.kind == "CertificateSigningRequest" {
		return server.approvalStore(store).(partStore).s.UpdateStrategy
	}
	part := server.podSubresources(server.stores, store)[sub]
	return part.(fieldsStore).wholePart.(*partStore).s.UpdateStrategy
}

// TestGenerationsAsKubernetes: whatever the corpus holds, the generation counts
// what Kubernetes counts.
func TestGenerationsAsKubernetes(t *testing.T) {
	files, err := filepath.Glob("../api/testdata/golden/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	rows := map[any]*row{}
	for _, r := range server.rows {
		rows[r.kind] = r
	}
	for _, name := range files {
		base := filepath.Base(name)
		if base == "columns.yaml" || base == "traits.yaml" {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var cases []answer
		if err := yaml.Unmarshal(b, &cases); err != nil {
			t.Fatal(err)
		}
		for _, c := range cases {
			if len(c.Want.Errors) > 0 || c.Want.Refusal != "" || c.Want.Row != nil {
				continue
			}
			if got, want := rows[c.Input["kind"]].prepared(t, c), c.generation(); got != want {
				t.Errorf("%s: %s: generation %d, want %d", base, c.Name, got, want)
			}
		}
	}
}

// generation is the one that Kubernetes left.
func (c answer) generation() int64 {
	m := c.Want.Prepared
	if m == nil {
		m = c.Input // nothing was changed
	}
	n, _ := m["metadata"].(map[string]any)["generation"].(float64)
	return int64(n)
}

func (r *row) prepared(t *testing.T, c answer) int64 {
	t.Helper()
	o := r.read(t, c.Input).(object)
	ctx := genericapirequest.WithNamespace(t.Context(), o.GetNamespace())
	if c.Old == nil {
		strategy{server.scheme, names.SimpleNameGenerator, r}.PrepareForCreate(ctx, o)
		return o.GetGeneration()
	}
	old := r.read(t, c.Old).(object)
	o.SetGeneration(old.GetGeneration())
	r.part(t, c.Sub).PrepareForUpdate(ctx, o, old)
	return o.GetGeneration()
}
