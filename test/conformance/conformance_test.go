// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
)

func TestDocument(t *testing.T) {
	specs := []spec{
		{"[sig-node] Pods should | end", "test/e2e/common/node/pods.go"},
		{"[sig-node] Pods should begin", "test/e2e/common/node/pods.go"},
		{"[sig-apps] Job should adopt", "test/e2e/apps/job.go"},
		{"[sig-apps] Job should complete", "test/e2e/apps/job.go"},
		{"[sig-apps] Job should adopt [Serial]", "test/e2e/apps/job.go"},
	}
	outcomes := map[string]outcome{
		specs[0].Name: {Name: specs[0].Name, Of: "v2", State: "failed", Message: "timed out\n  waiting"},
		specs[1].Name: {Name: specs[1].Name, Of: "v1", State: passed},
		specs[2].Name: {Name: specs[2].Name, Of: "v2", State: "failed", Message: "the server could not find"},
	}
	reasons := []reason{{Why: "There are no Jobs yet.", tests: regexp.MustCompile("Job should adopt")}}
	got := string(document(specs, outcomes, reasons))
	golden := filepath.Join("testdata", "document.md")
	if os.Getenv("GOLDEN") != "" {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the document is\n%s\nand not\n%s", got, want)
	}
}

// A test's focus chooses it as ginkgo matches it, behind the suite's name, and
// not those whose names contain its own.
func TestFocus(t *testing.T) {
	focus := regexp.MustCompile(spec{Name: "[sig-a] x (y) should z"}.focus())
	for text, want := range map[string]bool{
		"Kubernetes e2e suite [sig-a] x (y) should z":          true,
		"Kubernetes e2e suite [sig-a] x (y) should  z":         true,
		"Kubernetes e2e suite [sig-a] x (y) should z and more": false,
		"Kubernetes e2e suite [sig-b] x (y) should z":          false,
	} {
		if got := focus.MatchString(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestOutcome(t *testing.T) {
	dir := t.TempDir()
	report := `[{"SpecReports": [
		{"ContainerHierarchyTexts": ["[sig-a] x"], "LeafNodeText": "should  y", "LeafNodeType": "It", "State": "failed", "Failure": {"Message": "no"}, "RunTime": 1500000000},
		{"ContainerHierarchyTexts": ["[sig-a] x"], "LeafNodeText": "of others", "LeafNodeType": "It", "State": "skipped"}]}]`
	file := filepath.Join(dir, "report")
	if err := os.WriteFile(file, []byte(report), 0o600); err != nil {
		t.Fatal(err)
	}
	want := outcome{"[sig-a] x should y", "failed", "no", 1.5, "v1"}
	got, err := outcomeOf(spec{Name: want.Name}, file, "v1")
	if err != nil || got != want {
		t.Fatalf("the outcome is %v (%v), and not %v", got, err, want)
	}
	if o, err := outcomeOf(spec{Name: "[sig-a] x should z"}, file, "v1"); err != nil || o.State != "not run" {
		t.Errorf("what the report does not have is %v (%v)", o, err)
	}
	if err := want.write(filepath.Join(dir, "y.json")); err != nil {
		t.Fatal(err)
	}
	read, err := readOutcomes(dir)
	if err != nil || len(read) != 1 || read[want.Name] != want {
		t.Errorf("read again they are %v (%v)", read, err)
	}
}

// TestOnly: of the names in a file all exist, and none but these runs.
func TestOnly(t *testing.T) {
	specs := []spec{{Name: "[sig-node] a"}, {Name: "[sig-node] b"}}
	o := options{only: []string{"[sig-node] b"}, again: "all"}
	if err := o.knows(specs); err != nil {
		t.Error(err)
	}
	if o.isDue(specs[0], nil) || !o.isDue(specs[1], nil) {
		t.Error("another test is due")
	}
	o.only = append(o.only, "[sig-node] renamed")
	if err := o.knows(specs); err == nil {
		t.Error("a test that does not exist is left out in silence")
	}
}

// TestSecondTry: a test that passes the second time is enough, one that fails
// twice is an error.
func TestSecondTry(t *testing.T) {
	for tries, fails := range map[int]bool{1: false, 2: false, 3: true} {
		dir := t.TempDir()
		binary := filepath.Join(dir, "e2e")
		script := `#!/bin/sh
for a; do case $a in -ginkgo.json-report=*) report=${a#*=};; esac; done
echo x >>` + dir + `/tries
state=failed
[ "$(wc -l <` + dir + `/tries)" -lt ` + strconv.Itoa(tries) + ` ] || state=passed
echo '[{"SpecReports":[{"ContainerHierarchyTexts":["[sig-node]"],"LeafNodeType":"It","LeafNodeText":"a","State":"'$state'"}]}]' >"$report"
`
		if err := os.WriteFile(binary, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		specs := []spec{{Name: "[sig-node] a"}}
		r := newRunner(options{binary: binary, results: filepath.Join(dir, "results"), workers: 1}, map[string]outcome{}, 1)
		if err := r.runAll(t.Context(), specs); err != nil {
			t.Fatal(err)
		}
		if err := r.insist(t.Context(), specs); (err != nil) != fails {
			t.Errorf("it passes at try %d: %v", tries, err)
		}
	}
}
