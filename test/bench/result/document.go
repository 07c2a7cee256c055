// SPDX-License-Identifier: Apache-2.0

package result

import (
	"bytes"
	"cmp"
	_ "embed"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

//go:embed notes.yaml
var notes []byte

// note is what people know about a goal, beside its figures.
type note struct {
	How string `json:"how"` // it is measured
	Why string `json:"why"` // it is missed, or what the rest of the time is made of
}

// Write makes the document at path of all parts in folder.
func Write(folder, path string) error {
	parts, err := Load(folder)
	if err != nil {
		return err
	}
	known := map[string]note{}
	if err := yaml.UnmarshalStrict(notes, &known); err != nil {
		return fmt.Errorf("cannot read the notes: %w", err)
	}
	drawn, err := filepath.Glob(filepath.Join(filepath.Dir(path), pictures, "*.svg"))
	if err != nil {
		return err
	}
	return os.WriteFile(path, document(parts, known, drawn), 0o644)
}

// pictures is the folder beside the document that test/bench/plot draws into.
const pictures = "benchmarks"

func document(parts []Part, known map[string]note, drawn []string) []byte {
	var w bytes.Buffer
	all := join(parts)
	fmt.Fprint(&w, "# Peapod beside stock Kubernetes\n\n",
		"`make bench` runs both on one machine, in turn, with the same client program, and writes this page. Absolute figures are of\n",
		"this machine and that hour: what counts are the ratios. How many times as good Peapod is is given as the ratio of the\n",
		"figures of all rounds, with the least and the largest of single rounds behind it.\n\n")
	provenance(&w, parts)
	goals(&w, all)
	for k, path := range drawn {
		if k == 0 {
			fmt.Fprint(&w, "\n## Pictures\n\n")
		}
		fmt.Fprintf(&w, "![%s](%s/%s)\n", strings.TrimSuffix(filepath.Base(path), ".svg"), pictures, filepath.Base(path))
	}
	measures(&w, all)
	told(&w, known)
	return w.Bytes()
}

// provenance says where and when the figures are from.
func provenance(w *bytes.Buffer, parts []Part) {
	fmt.Fprint(w, "| part | taken (UTC) | machine | versions |\n| --- | --- | --- | --- |\n")
	for _, p := range parts {
		var versions []string
		for _, program := range slices.Sorted(maps.Keys(p.Versions)) {
			versions = append(versions, program+" "+p.Versions[program])
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s |\n", p.Name, p.Taken.UTC().Format("2006-01-02 15:04"), p.Machine, strings.Join(versions, ", "))
	}
}

func goals(w *bytes.Buffer, all set) {
	fmt.Fprint(w, "\n## Goals\n\n| goal | measure | wanted | Peapod | stock | ratio | reached |\n| --- | --- | --- | --: | --: | --: | --- |\n")
	for _, c := range criteria {
		v := c.judge(all)
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s |\n", v.Goal, v.measure(), v.wanted(), v.value(v.ours), v.value(v.theirs), v.ratio(), v.answer())
	}
}

func (v verdict) measure() string {
	out := v.Measure
	if v.Quantile != median {
		out += fmt.Sprintf(", p%g", 100*v.Quantile)
	}
	if v.at != 0 {
		out += fmt.Sprintf(" (%d)", v.at)
	}
	return out
}

func (v verdict) value(x float64) string {
	if math.IsNaN(x) {
		return "not measured"
	}
	return Figure(x) + " " + v.unit
}

func (v verdict) ratio() string {
	switch {
	case math.IsNaN(v.figure):
		return ""
	case v.kind == growth:
		return Figure(v.figure) + " times the fewest's"
	}
	ratio := times(v.unit, v.ours, v.theirs)
	if math.IsNaN(ratio) || math.IsInf(ratio, 0) {
		return ""
	}
	if v.low == v.high {
		return Figure(ratio)
	}
	return fmt.Sprintf("%s (%s–%s)", Figure(ratio), Figure(v.low), Figure(v.high))
}

func (v verdict) answer() string {
	switch {
	case math.IsNaN(v.figure):
		return "not measured"
	case v.reached:
		return "yes"
	}
	return "**no**"
}

// measures is everything that was measured, also what no goal is about.
func measures(w *bytes.Buffer, all set) {
	fmt.Fprint(w, "\n## All measures\n\n| goal | measure | unit | | n | p50 | p90 | p99 |\n| --- | --- | --- | --- | --: | --: | --: | --: |\n")
	for _, row := range all.order() {
		samples := all.of(row.same).samples()
		fmt.Fprintf(w, "| %s | %s | %s | %s | %d | %s | %s | %s |\n", row.Goal, row.title(), row.Unit, row.Subject, len(samples),
			Figure(Quantile(samples, median)), Figure(Quantile(samples, 0.9)), Figure(Quantile(samples, 0.99)))
	}
}

// order lists one measurement of each row: by goal, and within one as they came.
func (s set) order() set {
	var rows set
	for _, m := range s {
		if !slices.ContainsFunc(rows, m.same) {
			rows = append(rows, m)
		}
	}
	first := func(m Measurement) int {
		return slices.IndexFunc(rows, func(o Measurement) bool { return o.Goal == m.Goal && o.Name == m.Name })
	}
	sorted := slices.Clone(rows)
	slices.SortStableFunc(sorted, func(a, b Measurement) int {
		return cmp.Or(cmp.Compare(ordinal(a.Goal), ordinal(b.Goal)), cmp.Compare(first(a), first(b)))
	})
	return sorted
}

// same says whether two measurements are of one row, whatever their rounds.
func (m Measurement) same(o Measurement) bool {
	return m.Goal == o.Goal && m.Name == o.Name && m.Subject == o.Subject && m.At == o.At && m.Unit == o.Unit
}

func (m Measurement) title() string {
	if m.At == 0 {
		return m.Name
	}
	return fmt.Sprintf("%s (%d)", m.Name, m.At)
}

// ordinal is the number of a goal; 0 of what is none.
func ordinal(goal string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(goal, "P"))
	if err != nil {
		return 0
	}
	return n
}

func told(w *bytes.Buffer, known map[string]note) {
	fmt.Fprint(w, "\n## How it is measured, and what dominates\n")
	goals := slices.SortedFunc(maps.Keys(known), func(a, b string) int { return ordinal(a) - ordinal(b) })
	for _, goal := range goals {
		n := known[goal]
		title := goal
		if ordinal(goal) == 0 {
			title = strings.ToUpper(goal[:1]) + goal[1:]
		}
		fmt.Fprintf(w, "\n**%s.** %s\n", title, strings.TrimSpace(n.How))
		if n.Why != "" {
			fmt.Fprintf(w, "\n%s\n", strings.TrimSpace(n.Why))
		}
	}
}
