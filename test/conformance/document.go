// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v2"
)

// reason is why tests with such a name do not pass, where the test's own words do not say it.
type reason struct {
	Tests string `yaml:"tests"` // a regular expression over names
	Why   string `yaml:"why"`

	tests *regexp.Regexp
}

func readReasons(file string) ([]reason, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read reasons: %w", err)
	}
	var out []reason
	if err := yaml.UnmarshalStrict(b, &out); err != nil {
		return nil, fmt.Errorf("cannot read reasons: %w", err)
	}
	for i := range out {
		if out[i].tests, err = regexp.Compile(out[i].Tests); err != nil {
			return nil, fmt.Errorf("cannot read reasons: %w", err)
		}
	}
	return out, nil
}

func writeDocument(o options, specs []spec, outcomes map[string]outcome) error {
	reasons, err := readReasons(o.reasons)
	if err != nil {
		return err
	}
	if err := os.WriteFile(o.document, document(specs, outcomes, reasons), 0o644); err != nil {
		return fmt.Errorf("cannot write the document: %w", err)
	}
	return nil
}

// count is how many of a group pass.
type count struct{ passed, of int }

func (c count) String() string { return fmt.Sprintf("%d | %d", c.passed, c.of) }

// document tells every test's outcome; what has none counts as not passed.
func document(specs []spec, outcomes map[string]outcome, reasons []reason) []byte {
	specs = slices.Clone(specs)
	slices.SortFunc(specs, func(a, b spec) int {
		return cmp.Or(cmp.Compare(a.sig(), b.sig()), cmp.Compare(a.group(), b.group()), cmp.Compare(a.Name, b.Name))
	})
	var all count
	builds := map[string]int{}
	groups, order := map[string]count{}, []string{}
	for _, s := range specs {
		key := s.sig() + " | " + s.group()
		c, has := groups[key]
		if !has {
			order = append(order, key)
		}
		c.of, all.of = c.of+1, all.of+1
		if of := outcomes[s.Name].Of; of != "" {
			builds[of]++
		}
		if outcomes[s.Name].State == passed {
			c.passed, all.passed = c.passed+1, all.passed+1
		}
		groups[key] = c
	}
	var w bytes.Buffer
	fmt.Fprintf(&w, `# Conformance

Of the %d conformance tests of Kubernetes 1.37 Peapod passes **%d**. `+"`make conformance`"+` runs them, unchanged, against a
fresh cluster of two nodes and writes this page. Every test is counted; what cannot pass yet, or was not run, has not passed.
Outcomes are kept until a test runs again; these are of the builds %s.

| Group | About | Passed | Of |
| --- | --- | --: | --: |
`, all.of, all.passed, told(builds))
	for _, key := range order {
		fmt.Fprintf(&w, "| %s | %s |\n", key, groups[key])
	}
	fmt.Fprint(&w, "\n## What does not pass, and why\n\n| Test | Why |\n| --- | --- |\n")
	for _, s := range specs {
		if o := outcomes[s.Name]; o.State != passed {
			fmt.Fprintf(&w, "| %s | %s |\n", cell(s.Name), cell(why(s, o, reasons)))
		}
	}
	return w.Bytes()
}

// told are the builds with the number of outcomes of each, by name.
func told(builds map[string]int) string {
	var out []string
	for _, of := range slices.Sorted(maps.Keys(builds)) {
		out = append(out, fmt.Sprintf("%s (%d)", of, builds[of]))
	}
	return cmp.Or(strings.Join(out, ", "), "none")
}

// why is the reason in one line: the known one, or what the test said. That a
// test was not run is told also where a reason is known: it was not seen to fail.
func why(s spec, o outcome, reasons []reason) string {
	unseen := o.State == ""
	for _, r := range reasons {
		switch {
		case r.tests.MatchString(s.Name) && unseen:
			return "not run: " + r.Why
		case r.tests.MatchString(s.Name):
			return r.Why
		}
	}
	if unseen {
		return "not run"
	}
	return o.State + ": " + firstLine(o.Message)
}

// longest is how much of a test's own words is shown.
const longest = 200

func firstLine(message string) string {
	line := fold(message)
	if len(line) > longest {
		line = strings.ToValidUTF8(line[:longest], "") + "…"
	}
	return line
}

// cell escapes what would end a table's cell or be read as markup.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "*", `\*`, "_", `\_`).Replace(s)
}
