// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/yaml"
)

// traits are what Kubernetes says of a kind, as test/stock/golden wrote it.
type traits struct {
	Cluster, CreateOnUpdate, WithoutVersion bool
	Collection                              string
	Resets                                  map[string][]string
	Selectors                               []string
	UnknownSelectors                        string
}

// ownWays are parts of Pods, whose stores say what may be owned instead of
// what may not; TestManagersOwnPartsOnly proves that.
var ownWays = []string{"resize", "ephemeralcontainers"}

func TestTraitsAsKubernetes(t *testing.T) {
	b, err := os.ReadFile("../api/testdata/golden/traits.yaml")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]traits{}
	if err := yaml.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	var candidates []string
	for _, want := range all {
		candidates = append(candidates, want.Selectors...)
	}
	slices.Sort(candidates)
	candidates = slices.Compact(candidates)
	for _, r := range server.rows {
		t.Run(r.kind, func(t *testing.T) {
			want, ok := all[r.kind]
			if !ok {
				t.Fatal("Kubernetes was not asked about it")
			}
			slices.Sort(want.Selectors)
			for _, part := range ownWays {
				delete(want.Resets, part)
			}
			if d := cmp.Diff(want, r.traits(candidates)); d != "" {
				t.Errorf("traits differ from Kubernetes (-want +got):\n%s", d)
			}
		})
	}
}

func (r *row) traits(candidates []string) traits {
	s := strategy{server.scheme, names.SimpleNameGenerator, r}
	ctx := context.Background()
	out := traits{
		Cluster: !s.NamespaceScoped(), CreateOnUpdate: s.AllowCreateOnUpdate(ctx), WithoutVersion: s.AllowUnconditionalUpdate(ctx),
		Collection: string(s.DefaultGarbageCollectionPolicy(ctx)),
	}
	note := func(part string, s rest.ResetFieldsStrategy) {
		set, ok := s.GetResetFields()[fieldpath.APIVersion(r.gv.String())]
		if !ok {
			return
		}
		if out.Resets == nil {
			out.Resets = map[string][]string{}
		}
		set.Iterate(func(p fieldpath.Path) { out.Resets[part] = append(out.Resets[part], p.String()) })
		slices.Sort(out.Resets[part])
	}
	note("", s)
	if hasField(r.newObject(), "Status") {
		note("status", statusStrategy{s})
	}
	if r.kind == "CertificateSigningRequest" {
		note("approval", server.approvalStore(server.stores.main[certificatesv1.Resource("certificatesigningrequests")]).(rest.ResetFieldsStrategy))
	}
	if r.kind == "Namespace" {
		note("finalize", server.finalizeStore(server.stores.main[schema.GroupResource{Resource: "namespaces"}]).(rest.ResetFieldsStrategy))
	}
	gvk := schema.GroupVersionKind{Group: r.gv.Group, Version: r.gv.Version, Kind: r.kind}
	for _, name := range candidates {
		if _, _, err := server.scheme.ConvertFieldLabel(gvk, name, "x"); err == nil {
			out.Selectors = append(out.Selectors, name)
		}
	}
	if _, _, err := server.scheme.ConvertFieldLabel(gvk, "spec.color", "x"); err != nil {
		out.UnknownSelectors = err.Error()
	}
	return out
}
