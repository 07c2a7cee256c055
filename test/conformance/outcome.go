// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/onsi/ginkgo/v2/types"
)

// passed is the one State that counts.
const passed = "passed"

// outcome is what came of one test, as it is kept in a file.
type outcome struct {
	Name    string
	State   string // of ginkgo: passed, failed, skipped, timedout, panicked; or "not run"
	Message string // why it did not pass
	Seconds float64
	Of      string // the version under test
}

func readOutcomes(dir string) (map[string]outcome, error) {
	out := map[string]outcome{}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("cannot read outcomes: %w", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("cannot read outcomes: %w", err)
		}
		var o outcome
		if err := json.Unmarshal(b, &o); err != nil {
			return nil, fmt.Errorf("cannot read outcome %s: %w", file, err)
		}
		out[o.Name] = o
	}
	return out, nil
}

func (o outcome) write(file string) error {
	b, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot keep outcome: %w", err)
	}
	if err := os.WriteFile(file+".new", b, 0o644); err != nil {
		return fmt.Errorf("cannot keep outcome: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("cannot keep outcome: %w", err)
	}
	return nil
}

// outcomeOf reads ginkgo's report of one test's process. A test that it does
// not have was not run.
func outcomeOf(s spec, report, version string) (outcome, error) {
	o := outcome{Name: s.Name, State: "not run", Message: "upstream's tests have it in their list and not in their binary", Of: version}
	data, err := os.ReadFile(report)
	if err != nil {
		return o, fmt.Errorf("cannot read report: %w", err)
	}
	var suites []types.Report
	if err := json.Unmarshal(data, &suites); err != nil {
		return o, fmt.Errorf("cannot read report: %w", err)
	}
	for _, suite := range suites {
		for _, r := range suite.SpecReports {
			if r.LeafNodeType == types.NodeTypeIt && fold(r.FullText()) == fold(s.Name) {
				o.State, o.Message, o.Seconds = r.State.String(), r.Failure.Message, r.RunTime.Seconds()
			}
		}
	}
	return o, nil
}

// fold makes every run of spaces one, as upstream's list does.
func fold(name string) string { return strings.Join(strings.Fields(name), " ") }
