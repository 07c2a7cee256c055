// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"
	"sigs.k8s.io/yaml"
)

// answer is a case with what Kubernetes makes of it. Times in the input may be
// written now-5m; they stay so in the answer.
type answer struct {
	Name  string         `json:"name"`
	Input map[string]any `json:"input"`
	Old   map[string]any `json:"old,omitempty"`
	Sub   string         `json:"sub,omitempty"`
	Via   string         `json:"via,omitempty"`
	Want  want           `json:"want"`
}

type want struct {
	Object   map[string]any   `json:"object,omitempty"`   // after defaulting; only of accepted objects
	Prepared map[string]any   `json:"prepared,omitempty"` // after the strategy's preparation, where that changes more
	Refusal  string           `json:"refusal,omitempty"`  // before validation
	Errors   []string         `json:"errors,omitempty"`
	AnyOrder bool             `json:"anyOrder,omitempty"` // Kubernetes itself has no order for these errors
	Warnings []string         `json:"warnings,omitempty"`
	Row      *metav1.TableRow `json:"row,omitempty"`
}

// rounds is how often a check is repeated to see whether its order is fixed.
const rounds = 12

func ask(kinds map[string]kind, q question) (answer, error) {
	a := answer{Name: q.Name, Input: q.Input, Old: q.Old, Sub: q.Sub, Via: q.Via}
	name, _ := q.Input["kind"].(string)
	k, ok := kinds[name]
	if !ok {
		return a, fmt.Errorf("unknown kind %q", name)
	}
	now := moment
	if q.Table {
		now = time.Now().UTC()
	}
	if q.Via != "" {
		var err error
		if k.asked, err = schema.ParseGroupVersion(q.Via); err != nil {
			return a, fmt.Errorf("cannot ask %s: %w", q.Via, err)
		}
	}
	obj, err := decode(q.Input, now)
	if err != nil {
		return a, err
	}
	object, err := k.external(obj)
	if err != nil {
		return a, err
	}
	if q.Table {
		if err := a.print(k, obj); err != nil {
			return a, err
		}
	}
	if q.Old == nil {
		err = a.create(k, obj)
	} else {
		err = a.update(k, obj)
	}
	if err != nil {
		return a, err
	}
	if len(a.Want.Errors) == 0 && a.Want.Refusal == "" && !q.Table {
		if k.begin != nil && q.Sub == "" {
			k.begin.show(obj)
		}
		if q.Old == nil {
			a.Want.Object = object
		}
		prepared, err := k.external(obj)
		if err != nil {
			return a, err
		}
		if !same(prepared, object) {
			a.Want.Prepared = prepared
		}
	}
	return a, nil
}

func same(a, b map[string]any) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

func (a *answer) create(k kind, obj runtime.Object) error {
	ctx := k.context(obj, "")
	if k.begin != nil {
		if err := k.begin.create(obj); err != nil {
			a.Want.Refusal = err.Error()
			return nil
		}
	}
	k.main.PrepareForCreate(ctx, obj)
	a.check(func() field.ErrorList { return rest.ValidateCreate(ctx, obj, k.main) })
	if len(a.Want.Errors) == 0 {
		a.Want.Warnings = k.main.WarningsOnCreate(ctx, obj)
		k.main.Canonicalize(obj)
	}
	return nil
}

func (a *answer) update(k kind, obj runtime.Object) error {
	old, err := decode(a.Old, moment)
	if err != nil {
		return err
	}
	var s rest.RESTUpdateStrategy = k.main
	if a.Sub != "" {
		if s = k.parts[a.Sub]; s == nil {
			return fmt.Errorf("no subresource %q", a.Sub)
		}
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	was, err := meta.Accessor(old)
	if err != nil {
		return err
	}
	ctx := k.context(obj, a.Sub)
	if k.begin != nil && a.Sub == "" {
		if err := k.begin.update(obj, old); err != nil {
			a.Want.Refusal = err.Error()
			return nil
		}
	}
	m.SetGeneration(was.GetGeneration())
	s.PrepareForUpdate(ctx, obj, old)
	a.check(func() field.ErrorList { return rest.ValidateUpdate(ctx, obj, old, s) })
	if len(a.Want.Errors) == 0 {
		a.Want.Warnings = s.WarningsOnUpdate(ctx, obj, old)
		s.Canonicalize(obj)
	}
	return nil
}

// check notes the errors, and whether their order is the same each time.
func (a *answer) check(validate func() field.ErrorList) {
	for i := range rounds {
		var errs []string
		for _, e := range validate() {
			errs = append(errs, e.Error())
		}
		if i > 0 && !slices.Equal(errs, a.Want.Errors) {
			a.Want.AnyOrder = true
			slices.Sort(a.Want.Errors)
			return
		}
		a.Want.Errors = errs
	}
}

func (a *answer) print(k kind, obj runtime.Object) error {
	t, err := k.table(obj)
	if err != nil {
		return err
	}
	a.Want.Row = &t.Rows[0]
	a.Want.Row.Object = runtime.RawExtension{}
	return nil
}

// table prints as the API server does; kinds without columns of their own get
// the ones that any object has.
func (k kind) table(obj runtime.Object) (*metav1.Table, error) {
	if k.printed == nil && !slices.Contains(plain, k.gvk.Kind) {
		t, err := printers.NewTableGenerator().With(printersinternal.AddHandlers).GenerateTable(obj, printers.GenerateOptions{Wide: true})
		if err != nil {
			return nil, fmt.Errorf("cannot print a %s: %w", k.gvk.Kind, err)
		}
		return t, nil
	}
	c := k.printed
	if c == nil {
		c = rest.NewDefaultTableConvertor(schema.GroupResource{Group: k.gvk.Group, Resource: k.resource})
	}
	t, err := c.ConvertToTable(context.Background(), obj, &metav1.TableOptions{})
	if err != nil {
		return nil, fmt.Errorf("cannot print a %s: %w", k.gvk.Kind, err)
	}
	return t, nil
}

// plain are the kinds that Kubernetes prints without columns of their own.
var plain = []string{"LimitRange", "Role", "ClusterRole"}

// context is a request for the object, as a client of its version makes it.
func (k kind) context(obj runtime.Object, sub string) context.Context {
	m, _ := meta.Accessor(obj)
	ctx := genericapirequest.WithNamespace(context.Background(), m.GetNamespace())
	return genericapirequest.WithRequestInfo(ctx, &genericapirequest.RequestInfo{
		APIGroup: k.asked.Group, APIVersion: k.asked.Version, Resource: k.resource, Subresource: sub, IsResourceRequest: true,
	})
}

var ago = regexp.MustCompile(`"(now|micro)-([0-9a-z]+)"`)

// moment is the time of cases that are not printed. The printers know none but
// the clock's.
var moment = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// decode reads, defaults and converts, as the API server does with a request.
func decode(m map[string]any, now time.Time) (runtime.Object, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	b = ago.ReplaceAllFunc(b, func(match []byte) []byte {
		m := ago.FindSubmatch(match)
		d, perr := time.ParseDuration(string(m[2]))
		if perr != nil {
			err = perr
		}
		layout := time.RFC3339
		if string(m[1]) == "micro" {
			layout = metav1.RFC3339Micro
		}
		return []byte(`"` + now.Add(-d).Format(layout) + `"`)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read time: %w", err)
	}
	obj, err := runtime.Decode(legacyscheme.Codecs.UniversalDecoder(), b)
	if err != nil {
		return nil, fmt.Errorf("cannot decode: %w", err)
	}
	return obj, nil
}

// external is the object as a client gets to see it.
func (k kind) external(obj runtime.Object) (map[string]any, error) {
	b, err := runtime.Encode(legacyscheme.Codecs.LegacyCodec(k.gvk.GroupVersion()), obj)
	if err != nil {
		return nil, fmt.Errorf("cannot encode: %w", err)
	}
	var out map[string]any
	return out, json.Unmarshal(b, &out)
}

func columnsOf(kinds map[string]kind) (map[string][]metav1.TableColumnDefinition, error) {
	out := map[string][]metav1.TableColumnDefinition{}
	for name, k := range kinds {
		obj, err := decode(map[string]any{"apiVersion": k.gvk.GroupVersion().String(), "kind": name}, moment)
		if err != nil {
			return nil, err
		}
		t, err := k.table(obj)
		if err != nil {
			return nil, err
		}
		out[name] = t.ColumnDefinitions
	}
	return out, nil
}

func write(name string, v any) error {
	b, err := yaml.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("cannot write golden files: %w", err)
	}
	head := "# Written by test/stock/golden from what Kubernetes 1.37.2 answers. Do not edit.\n"
	return os.WriteFile(name, append([]byte(head), b...), 0o644)
}
