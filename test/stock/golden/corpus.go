// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// file is one corpus file: some whole objects, and cases that differ from one
// of them in a few places.
type file struct {
	Bases map[string]any `json:"bases"`
	Cases []entry        `json:"cases"`
	Table bool           `json:"table"` // print every case
}

// entry is a case as it is written. Pointers are paths of names and indexes,
// "spec/containers/0/image"; null removes, "-" appends.
type entry struct {
	Name   string         `json:"name"`
	From   string         `json:"from"`   // the base; "base" when silent
	Set    map[string]any `json:"set"`    // differences to the base, or to the old object
	Update bool           `json:"update"` // an update of the base
	Old    map[string]any `json:"old"`    // differences of the old object to the base
	Sub    string         `json:"sub"`    // an update of a subresource
	Via    string         `json:"via"`    // the version asked, when it is another than the object's
	Table  bool           `json:"table"`
}

// question is a case spelt out.
type question struct {
	Name  string
	Input map[string]any
	Old   map[string]any
	Sub   string
	Via   string
	Table bool
}

func load(name string) ([]question, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read corpus: %w", err)
	}
	var f file
	if err := yaml.UnmarshalStrict(b, &f); err != nil {
		return nil, fmt.Errorf("cannot parse corpus %s: %w", name, err)
	}
	var out []question
	seen := map[string]bool{}
	for _, e := range f.Cases {
		if seen[e.Name] {
			return nil, fmt.Errorf("cannot use corpus %s: two cases are named %q", name, e.Name)
		}
		seen[e.Name] = true
		q, err := f.spell(e)
		if err != nil {
			return nil, fmt.Errorf("cannot use corpus %s, case %q: %w", name, e.Name, err)
		}
		out = append(out, q)
	}
	return out, nil
}

func (f file) spell(e entry) (question, error) {
	from := e.From
	if from == "" {
		from = "base"
	}
	base, ok := f.Bases[from]
	if !ok {
		return question{}, fmt.Errorf("there is no base %q", from)
	}
	q := question{Name: e.Name, Sub: e.Sub, Via: e.Via, Table: f.Table || e.Table}
	if e.Update || e.Sub != "" || e.Old != nil {
		stored := map[string]any{"metadata/resourceVersion": "1", "metadata/uid": "00000000-0000-0000-0000-000000000001"}
		maps.Copy(stored, e.Old)
		old, err := edit(base, stored)
		if err != nil {
			return q, err
		}
		q.Old, base = old, old
	}
	input, err := edit(base, e.Set)
	q.Input = input
	return q, err
}

// edit makes a changed copy.
func edit(object any, changes map[string]any) (map[string]any, error) {
	b, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	var root any
	if err := json.Unmarshal(b, &root); err != nil {
		return nil, err
	}
	for path, v := range changes {
		if root, err = put(root, strings.Split(path, "/"), v); err != nil {
			return nil, fmt.Errorf("cannot set %s: %w", path, err)
		}
	}
	m, ok := root.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("not an object: %T", root)
	}
	return m, nil
}

func put(node any, path []string, v any) (any, error) {
	if len(path) == 0 {
		return v, nil
	}
	key := path[0]
	if list, ok := node.([]any); ok {
		return putItem(list, key, path[1:], v)
	}
	if node == nil {
		if key == "-" {
			return []any{v}, nil
		}
		node = map[string]any{}
	}
	m, ok := node.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%q is below a %T", key, node)
	}
	if len(path) == 1 && v == nil {
		delete(m, key)
		return m, nil
	}
	child, err := put(m[key], path[1:], v)
	m[key] = child
	return m, err
}

func putItem(list []any, key string, rest []string, v any) (any, error) {
	if key == "-" {
		return append(list, v), nil
	}
	i, err := strconv.Atoi(key)
	if err != nil || i < 0 || i >= len(list) {
		return nil, fmt.Errorf("no item %q in a list of %d", key, len(list))
	}
	if len(rest) == 0 && v == nil {
		return append(list[:i:i], list[i+1:]...), nil
	}
	child, err := put(list[i], rest, v)
	list[i] = child
	return list, err
}
