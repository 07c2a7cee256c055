// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"io"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// example applies a manifest of examples/ and removes it at the end.
func example(t *testing.T, file string) {
	t.Helper()
	path := "../../examples/" + file
	must(t, "apply", "-f", path)
	removeLater(t, "-f", path)
}

func page(ip string) string {
	r, err := http.Get("http://" + ip + ":8080/index.html")
	if err != nil {
		return err.Error()
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b))
}

// TestExamples: S30, S43-S48. Each manifest of examples/ does what it says.
func TestExamples(t *testing.T) {
	t.Parallel()
	t.Run("puller-and-web", func(t *testing.T) {
		t.Parallel()
		example(t, "puller-and-web.yaml")
		ip := await(t, "puller-and-web", "is ready", ready).Status.PodIP
		first := page(ip)
		eventually(t, "the page changes", func() bool { return page(ip) != first })
	})
	t.Run("stack", func(t *testing.T) {
		t.Parallel()
		example(t, "stack.yaml")
		ip := await(t, "stack", "is ready", ready).Status.PodIP
		if got := page(ip); got != "42" {
			t.Errorf("the page is %q", got)
		}
	})
	t.Run("loader", func(t *testing.T) {
		t.Parallel()
		example(t, "loader.yaml")
		ip := await(t, "loader", "is ready", ready).Status.PodIP
		eventually(t, "the page is there", func() bool { return page(ip) == "loaded" })
	})
	t.Run("backup", func(t *testing.T) {
		t.Parallel()
		example(t, "backup.yaml")
		await(t, "backup", "is done although its sidecar is not", phase(corev1.PodSucceeded))
		if got := must(t, "logs", "backup", "-c", "app"); !strings.Contains(got, "line 1") {
			t.Errorf("the archive holds %q", got)
		}
	})
	t.Run("watcher", func(t *testing.T) {
		t.Parallel()
		example(t, "watcher.yaml")
		await(t, "watcher", "is ready", ready)
		eventually(t, "the tailer sees", func() bool {
			log := must(t, "logs", "watcher", "-c", "tailer")
			return strings.Contains(log, `role="watched"`) && strings.Contains(log, "tick 1")
		})
		if got := in(t, "watcher", "tailer", "ps"); !strings.Contains(got, "echo tick") {
			t.Errorf("processes are not shared: %s", got)
		}
	})
	t.Run("proxy", func(t *testing.T) {
		t.Parallel()
		example(t, "proxy.yaml")
		await(t, "proxy", "is done", phase(corev1.PodSucceeded))
		if got := must(t, "logs", "proxy", "-c", "app"); strings.TrimSpace(got) != "proxied" {
			t.Errorf("the app got %q", got)
		}
	})
	t.Run("controller", func(t *testing.T) {
		t.Parallel()
		example(t, "controller.yaml")
		await(t, "controller", "is done", phase(corev1.PodSucceeded))
		if got := must(t, "logs", "controller"); !strings.Contains(got, "pod controller") {
			t.Errorf("it lists %q", got)
		}
	})
}
