// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
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
