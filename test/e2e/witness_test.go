// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// slack is what a busy machine may add to a moment; a wrong grace would add
// more. What may not come early is held to grain.
const (
	slack = 2 * time.Second
	grain = 60 * time.Millisecond // between two beats, and a little
)

// witness is a Pod whose containers note on the machine what happens to them.
type witness struct {
	name, dir string
}

// container is one container of a witness.
type container struct {
	name, hook, program string
}

// testify starts a Pod whose containers ignore every signal, or as their
// program says. "/w" is a folder of the machine, "$0" the container's file in
// it.
func testify(t *testing.T, name string, grace int, containers ...container) *witness {
	t.Helper()
	w := &witness{name, t.TempDir()}
	if len(containers) == 0 {
		containers = []container{{name: "c"}}
	}
	spec := fmt.Sprintf("terminationGracePeriodSeconds: %d\nvolumes: [{name: w, hostPath: {path: %s}}]\ncontainers:\n", grace, w.dir)
	for _, x := range containers {
		if x.program == "" {
			x.program = "exec witness live $0"
		}
		spec += fmt.Sprintf("- name: %s\n  image: %s\n  command: [sh, -c, %q, /w/%s]\n  volumeMounts: [{name: w, mountPath: /w}]\n", x.name, witnessImage, x.program, x.name)
		if x.hook != "" {
			spec += "  lifecycle: {preStop: " + x.hook + "}\n"
		}
	}
	apply(t, name, spec)
	await(t, name, "runs", ready)
	for _, x := range containers {
		eventually(t, "the witness lives", func() bool { return w.has(x.name, "start") })
	}
	return w
}

func (w *witness) text(container string) string {
	b, _ := os.ReadFile(filepath.Join(w.dir, container))
	return string(b)
}

func (w *witness) has(container, what string) bool {
	return strings.Contains(w.text(container), what+" ")
}

// at are the moments of what was noted.
func (w *witness) at(t *testing.T, container, what string) (all []int64) {
	t.Helper()
	for _, l := range strings.Split(w.text(container), "\n") {
		if s, ok := strings.CutPrefix(l, what+" "); ok {
			ms, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
			if err != nil {
				continue // killed while it wrote
			}
			all = append(all, ms)
		}
	}
	return all
}

// once is the only moment of what was noted.
func (w *witness) once(t *testing.T, container, what string) int64 {
	t.Helper()
	all := w.at(t, container, what)
	if len(all) != 1 {
		t.Fatalf("%s of %s: %s was noted at %v, want once", container, w.name, what, all)
	}
	return all[0]
}

// last is when a container was seen alive for the last time.
func (w *witness) last(t *testing.T, container string) int64 {
	t.Helper()
	all := w.at(t, container, "beat")
	if len(all) == 0 {
		t.Fatalf("%s of %s never lived", container, w.name)
	}
	return all[len(all)-1]
}

// between says that b came want after a: never earlier, and not much later.
func between(t *testing.T, what string, a, b int64, want time.Duration) {
	t.Helper()
	got := time.Duration(b-a) * time.Millisecond
	t.Logf("%s: %v", what, got)
	if got < want-grain || got > want+slack {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func del(t *testing.T, name string, grace int64) {
	t.Helper()
	if err := c.client.CoreV1().Pods("default").Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To(grace)}); err != nil {
		t.Fatal(err)
	}
}

// moment is the machine's monotonic clock in milliseconds, as witness has it.
func moment(t *testing.T) int64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return now.Nano() / 1e6
}
