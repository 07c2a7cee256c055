// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os/exec"
	"path"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v2"
)

// spec is one conformance test.
type spec struct {
	Name string `yaml:"codename"` // as the tests report it
	File string `yaml:"file"`     // the source that defines it
}

// isSerial says that nothing may run beside it.
func (s spec) isSerial() bool { return strings.Contains(s.Name, "[Serial]") }

// sig is the interest group that owns it.
func (s spec) sig() string {
	group, _, _ := strings.Cut(strings.TrimPrefix(s.Name, "["), "]")
	return group
}

// group is what it is about: its source's name.
func (s spec) group() string { return strings.TrimSuffix(path.Base(s.File), ".go") }

// list asks the tests' binary which conformance tests there are.
func list(ctx context.Context, binary string) ([]spec, error) {
	out, err := exec.CommandContext(ctx, binary, "-list-conformance-tests").Output()
	if err != nil {
		return nil, fmt.Errorf("cannot list the conformance tests: %w", err)
	}
	var specs []spec
	if err := yaml.Unmarshal(out, &specs); err != nil {
		return nil, fmt.Errorf("cannot list the conformance tests: %w", err)
	}
	return specs, nil
}

// focus is the regular expression that chooses the test and no other, as ginkgo
// matches it. Upstream's list folds spaces that names themselves have twice.
func (s spec) focus() string {
	return " " + strings.ReplaceAll(regexp.QuoteMeta(s.Name), " ", " +") + "$"
}

var notOfNames = regexp.MustCompile(`[^A-Za-z0-9]+`)

// file is the name of the test's files, without an ending: what it is about, what
// it says, and what keeps it apart from names that begin alike.
func (s spec) file() string {
	name := strings.Trim(notOfNames.ReplaceAllString(strings.TrimPrefix(s.Name, "["+s.sig()+"]"), "-"), "-")
	return fmt.Sprintf("%s-%.80s-%.4x", s.group(), name, sha256.Sum256([]byte(s.Name)))
}
