// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// progress tells of each spec as it begins: in ginkgo's verbose output its name
// follows a line of dashes.
func progress(w io.Writer, out io.Reader) {
	n, dashes := 0, false
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		l := lines.Text()
		if dashes && strings.HasPrefix(l, "[") && !strings.Contains(l, "Suite]") {
			n++
			fmt.Fprintf(w, "cri: %3d %s\n", n, l)
		}
		dashes = strings.HasPrefix(l, "----")
	}
	_, _ = io.Copy(io.Discard, out) // a line too long ends the scanner, not the suite
}

// spec is what ginkgo's report says of one spec.
type spec struct {
	Containers []string `json:"ContainerHierarchyTexts"`
	Text       string   `json:"LeafNodeText"`
	Type       string   `json:"LeafNodeType"`
	State      string
	Failure    struct {
		Message  string
		Location struct {
			FileName   string
			LineNumber int
		}
	}
}

// apart are specs that cannot pass where this runs, whatever the runtime does:
// docs/critest.md has the reasons at length.
var apart = map[string]string{
	"public image with digest should be pulled and removed [Conformance]": "the digest is that of an image on the network",
	"runtime should support MaskedPaths":                                  "the shell of this busybox runs its own ls, not the one that is masked",
}

func (s spec) name() string { return strings.Join(append(slices.Clone(s.Containers), s.Text), " ") }

// report prints what did not pass, with the reasons, and the sums. It fails
// when a spec did, and when none has run.
func report(w io.Writer, file string, ended error) error {
	b, err := os.ReadFile(file)
	var suites []struct{ SpecReports []spec }
	if err == nil {
		err = json.Unmarshal(b, &suites)
	}
	if err != nil {
		return errors.Join(ended, fmt.Errorf("cannot read the suite's report: %w", err))
	}
	passed, ran, skipped, failed := 0, 0, 0, 0
	for _, suite := range suites {
		for _, s := range suite.SpecReports {
			switch {
			case s.State == "passed" && s.Type == "It":
				passed, ran = passed+1, ran+1
			case s.State == "passed":
			case s.State == "skipped":
				if s.Failure.Message != "" { // else it was not asked for
					skipped++
					fmt.Fprintf(w, "skipped: %s\n    %s\n", s.name(), short(s.Failure.Message))
				}
			case apart[s.Text] != "":
				ran++
				fmt.Fprintf(w, "apart: %s\n    %s\n", s.name(), apart[s.Text])
			default:
				ran++
				failed++
				fmt.Fprintf(w, "%s: %s\n    %s (%s:%d)\n", s.State, s.name(), short(s.Failure.Message), s.Failure.Location.FileName, s.Failure.Location.LineNumber)
			}
		}
	}
	fmt.Fprintf(w, "%d of %d specs passed; %d more were skipped\n", passed, ran, skipped)
	switch {
	case failed > 0:
		return fmt.Errorf("%d specs failed", failed)
	case passed == 0:
		return errors.Join(errors.New("no spec has passed"), ended)
	}
	return nil
}

// short is a message on one line, not without end.
func short(m string) string {
	const most = 600
	m = strings.Join(strings.Fields(m), " ")
	return m[:min(most, len(m))]
}
