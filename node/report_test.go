// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestTerminationMessage: the end of what the container wrote, or of its log if
// it wrote nothing and has failed; no more than Kubernetes keeps.
func TestTerminationMessage(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var lines, few strings.Builder
	for i := range 100 {
		fmt.Fprintf(&lines, "2026-01-02T15:04:05.000000001Z stdout F line %d\n", i)
		fmt.Fprintf(&few, "2026-01-02T15:04:05.000000001Z stderr F %s\n", strings.Repeat("x", 99))
	}
	var last80 strings.Builder
	for i := 20; i < 100; i++ {
		fmt.Fprintf(&last80, "line %d\n", i)
	}
	fallback := string(corev1.TerminationMessageFallbackToLogsOnError)
	for name, tt := range map[string]struct {
		message, policy, log string
		code                 int
		reason               string
		want                 string
	}{
		"its message":               {message: file("m", "out of luck\n"), policy: fallback, log: file("l", lines.String()), code: 1, want: "out of luck\n"},
		"the end of a long one":     {message: file("long", strings.Repeat("a", 5000)+"end"), want: strings.Repeat("a", 4093) + "end"},
		"none":                      {message: file("none", ""), log: file("l1", lines.String()), code: 1, want: ""},
		"not there":                 {message: filepath.Join(dir, "nope"), want: ""},
		"the log, 80 lines of it":   {message: file("e", ""), policy: fallback, log: file("l2", lines.String()), code: 1, want: last80.String()},
		"the log, 2 KiB of it":      {message: file("e2", ""), policy: fallback, log: file("l3", few.String()), code: 1, want: strings.Repeat("x", 47) + "\n" + strings.Repeat(strings.Repeat("x", 99)+"\n", 20)},
		"no log of a success":       {message: file("e3", ""), policy: fallback, log: file("l4", lines.String()), want: ""},
		"no log of what has no log": {message: file("e4", ""), policy: fallback, log: file("l5", lines.String()), code: 128, reason: "ContainerCannotRun", want: ""},
	} {
		i := &instance{exitCode: tt.code, reason: tt.reason, logPath: tt.log, annotations: map[string]string{annotationMessageDir: tt.message, annotationPolicy: tt.policy}}
		if got := terminationMessage(i); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	i := &instance{exitCode: 1, logPath: filepath.Join(dir, "gone.log"), annotations: map[string]string{annotationMessageDir: file("e5", ""), annotationPolicy: fallback}}
	if got := terminationMessage(i); !strings.HasPrefix(got, "Error on reading termination message from logs: ") {
		t.Errorf("without its log: %q", got)
	}
}
