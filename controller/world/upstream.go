// SPDX-License-Identifier: Apache-2.0

package world

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// questions is where scripts/golden wants the questions for
// kube-controller-manager, of the one test that it runs.
var questions = flag.String("questions", "", "write the questions of the test to this file instead of comparing the answers")

// Upstream compares answers to questions with those of Kubernetes, which
// scripts/golden has written to a file of testdata: it must again when the
// questions become others.
func Upstream[Q, A any](t *testing.T, golden string, list []Q, answer func(Q) A, opts ...cmp.Option) {
	t.Helper()
	if *questions != "" {
		b, err := json.Marshal(list)
		if err == nil {
			err = os.WriteFile(*questions, b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	b, err := os.ReadFile(filepath.Join("testdata", golden))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(lines) != len(list) {
		t.Fatalf("%d answers to %d questions: run scripts/golden", len(lines), len(list))
	}
	for i, l := range lines {
		var want A
		if err := json.Unmarshal([]byte(l), &want); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, answer(list[i]), append(opts, cmpopts.EquateEmpty())...); d != "" {
			t.Errorf("question %d differs from Kubernetes (-want +got):\n%s", i, d)
		}
	}
}
