// SPDX-License-Identifier: Apache-2.0

// Package api_test compares defaults, validation and columns with what
// Kubernetes itself answers: testdata/golden, written by test/stock/golden
// from testdata/corpus.
package api_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// answer is a case as test/stock/golden writes it.
type answer struct {
	Name  string         `json:"name"`
	Input map[string]any `json:"input"`
	Old   map[string]any `json:"old"`
	Sub   string         `json:"sub"`
	Via   string         `json:"via"`
	Want  struct {
		Object   map[string]any   `json:"object"`
		Prepared map[string]any   `json:"prepared"`
		Refusal  string           `json:"refusal"`
		Errors   []string         `json:"errors"`
		AnyOrder bool             `json:"anyOrder"`
		Warnings []string         `json:"warnings"`
		Row      *metav1.TableRow `json:"row"`
	} `json:"want"`
}

// now is the moment of all cases; their times are written relative to it.
var (
	now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	ago = regexp.MustCompile(`"(now|micro)-([0-9a-z]+)"`)
)

func read(t *testing.T, name string, into any) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
}

func TestAsKubernetes(t *testing.T) {
	files, err := filepath.Glob("testdata/corpus/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no corpus: %v", err)
	}
	for _, name := range files {
		base := filepath.Base(name)
		var corpus struct {
			Cases []struct {
				Name string `json:"name"`
			} `json:"cases"`
		}
		read(t, name, &corpus)
		var cases []answer
		read(t, filepath.Join("testdata/golden", base), &cases)
		var asked, answered []string
		for _, c := range corpus.Cases {
			asked = append(asked, c.Name)
		}
		for _, c := range cases {
			answered = append(answered, c.Name)
		}
		if !slices.Equal(asked, answered) {
			t.Errorf("%s: the golden file is older than the corpus: run scripts/golden", base)
		}
		for _, c := range cases {
			t.Run(strings.TrimSuffix(base, ".yaml")+"/"+c.Name, func(t *testing.T) { judge(t, compare(t, c)) })
		}
	}
}

func judge(t *testing.T, differences []string) {
	t.Helper()
	if len(differences) > 0 {
		t.Error(strings.Join(differences, "\n"))
	}
}

// compare returns what differs from Kubernetes.
func compare(t *testing.T, c answer) (out []string) {
	differ := func(what string, want, got any) {
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			out = append(out, what+" differ from Kubernetes (-want +got):\n"+d)
		}
	}
	k, ok := kinds()[c.Input["kind"].(string)+c.Via]
	if !ok {
		t.Fatalf("unknown kind %v", c.Input["kind"])
	}
	obj := k.decode(t, c.Input)
	if c.Want.Row != nil {
		got := k.row(obj)
		differ("row", plainJSON(t, c.Want.Row), plainJSON(t, &got))
		return out
	}
	if c.Want.Object != nil {
		differ("defaults", shown(t, c.Want.Object), plainJSON(t, obj))
	}
	var old any
	if c.Old != nil {
		old = k.decode(t, c.Old)
	}
	refusal := k.given(c.Sub, obj, old)
	differ("refusals", c.Want.Refusal, refusal)
	if refusal != "" {
		return out
	}
	var errs, warnings []string
	if old == nil {
		errs, warnings = k.create(obj)
	} else {
		errs, warnings = k.update(t, c.Sub, obj, old)
	}
	if len(errs) == 0 && c.Sub == "" && k.show != nil {
		k.show(obj)
	}
	if c.Want.Prepared != nil {
		differ("preparation", apart(shown(t, c.Want.Prepared)), apart(plainJSON(t, obj)))
	}
	if c.Want.AnyOrder {
		slices.Sort(errs)
	}
	differ("errors", some(c.Want.Errors), some(errs))
	if len(errs) == 0 {
		differ("warnings", some(c.Want.Warnings), some(warnings))
	}
	return out
}

// apart leaves away what the API server's strategies set and its own tests
// prove: the generation, and the status of a new Pod or volume.
func apart(v any) any {
	m := v.(map[string]any)
	if meta, ok := m["metadata"].(map[string]any); ok {
		delete(meta, "generation")
	}
	if meta, ok := m["metadata"].(map[string]any); ok && (m["kind"] == "Pod" || m["kind"] == "PersistentVolume") && meta["resourceVersion"] == nil {
		delete(m, "status")
	}
	return m
}

// some makes no list of an empty one.
func some(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	return list
}

// shown replaces relative times, as decode does.
func shown(t *testing.T, m map[string]any) any {
	var out any
	if err := json.Unmarshal(absolute(t, m), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func absolute(t *testing.T, m map[string]any) []byte {
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return ago.ReplaceAllFunc(b, func(match []byte) []byte {
		m := ago.FindSubmatch(match)
		d, err := time.ParseDuration(string(m[2]))
		if err != nil {
			t.Fatal(err)
		}
		layout := time.RFC3339
		if string(m[1]) == "micro" {
			layout = metav1.RFC3339Micro
		}
		return []byte(`"` + now.Add(-d).Format(layout) + `"`)
	})
}

func plainJSON(t *testing.T, v any) any {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestColumnsAsKubernetes(t *testing.T) {
	want := map[string][]metav1.TableColumnDefinition{}
	read(t, "testdata/golden/columns.yaml", &want)
	for name, k := range kinds() {
		if strings.Contains(name, "/") {
			continue // another face of a kind
		}
		t.Run(name, func(t *testing.T) {
			var differences []string
			if d := cmp.Diff(want[name], k.columns); d != "" {
				differences = append(differences, "columns differ from Kubernetes (-want +got):\n"+d)
			}
			judge(t, differences)
		})
	}
}
