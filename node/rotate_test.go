// SPDX-License-Identifier: Apache-2.0

package node

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// fastRotator rotates logs of 100 bytes, keeps three, and does not wait long.
func fastRotator(t *testing.T, reopen func(id string) error) *rotator {
	r := newRotator(func(_ context.Context, id string) error { return reopen(id) }, time.Now, slog.New(slog.NewTextHandler(io.Discard, nil)))
	r.maxSize, r.maxFiles, r.period = 100, 3, 10*time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

func write(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func filesOf(t *testing.T, dir string) []string {
	t.Helper()
	names, err := entries(dir)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func unzipped(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestRotation: what is too large is renamed and written anew, the ones before
// are compressed, the oldest go; each log is told of by the kernel.
func TestRotation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	reopened := make(chan string, 100)
	r := fastRotator(t, func(id string) error {
		write(t, path, "")
		reopened <- id
		return nil
	})
	write(t, path, strings.Repeat("a", 99)) // not yet
	r.follow("u", map[string]string{"c1": path})
	for _, letter := range []string{"a", "b", "c", "d"} {
		write(t, path, strings.Repeat(letter, 100))
		if id := <-reopened; id != "c1" {
			t.Errorf("%s was reopened", id)
		}
	}
	names := filesOf(t, dir)
	if len(names) != 3 || names[0] != "0.log" || !strings.HasSuffix(names[1], ".gz") || strings.HasSuffix(names[2], ".gz") {
		t.Fatalf("there are %v", names)
	}
	if stamp := strings.TrimSuffix(strings.TrimPrefix(names[1], "0.log."), ".gz"); len(stamp) != len("20060102-150405") {
		t.Errorf("a rotated log is called %s", names[1])
	}
	if got := unzipped(t, filepath.Join(dir, names[1])); got != strings.Repeat("c", 100) {
		t.Errorf("the compressed one is %q", got)
	}
	if st, err := os.Stat(filepath.Join(dir, names[1])); err != nil || st.Mode() != 0o640 {
		t.Errorf("%v %v", st, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, names[2])); err != nil || string(b) != strings.Repeat("d", 100) {
		t.Errorf("the last one is %q, %v", b, err)
	}
	if err := removeLogs(path); err != nil {
		t.Fatal(err)
	}
	if names := filesOf(t, dir); len(names) > 0 {
		t.Errorf("%v are left", names)
	}
}

// TestRotationOfALargeLog: one that grew while nobody watched is rotated at
// once, one that was removed is written anew, and another takes its turn.
func TestRotationOfALargeLog(t *testing.T) {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "0.log"), filepath.Join(dir, "1.log")
	reopened := make(chan string, 100)
	r := fastRotator(t, func(id string) error {
		write(t, map[string]string{"c1": path, "c2": other}[id], "")
		reopened <- id
		return nil
	})
	write(t, path, strings.Repeat("a", 500))
	write(t, other, "short")
	r.follow("u", map[string]string{"c1": path})
	<-reopened
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if id := <-reopened; id != "c1" {
		t.Errorf("%s was reopened", id)
	}
	r.follow("u", map[string]string{"c2": other})
	write(t, other, strings.Repeat("y", 500))
	if id := <-reopened; id != "c2" {
		t.Errorf("%s was reopened", id)
	}
	r.follow("u", nil)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.wanted) > 0 {
		t.Errorf("%v is wanted", r.wanted)
	}
}

// TestRotationFails: a runtime that cannot reopen keeps its log in place.
func TestRotationFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	write(t, path, "text")
	r := newRotator(func(context.Context, string) error { return errors.New("not now") }, time.Now, nil)
	if err := r.rotate(context.Background(), "c1", path); err == nil || err.Error() != "not now" {
		t.Errorf("got %v", err)
	}
	if names := filesOf(t, dir); !slices.Equal(names, []string{"0.log"}) {
		t.Errorf("there are %v", names)
	}
}

// TestRotatedLogs: what a crash left of a compression goes, and other
// containers' logs are not touched.
func TestRotatedLogs(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"1.log", "1.log.20260102-120000.gz", "1.log.20260102-120010", "1.log.20260102-120010.gz.tmp", "1.log.20260102-110000", "1.log.20260102-110000.gz", "11.log.20260102-110000", "0.log"} {
		write(t, filepath.Join(dir, n), "x")
	}
	got, err := rotatedLogs(filepath.Join(dir, "1.log"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"1.log.20260102-110000.gz", "1.log.20260102-120000.gz", "1.log.20260102-120010"}
	for i := range got {
		got[i] = filepath.Base(got[i])
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if names := filesOf(t, dir); !slices.Equal(names, []string{"0.log", "1.log", "1.log.20260102-110000.gz", "1.log.20260102-120000.gz", "1.log.20260102-120010", "11.log.20260102-110000"}) {
		t.Errorf("there are %v", names)
	}
}

// TestFollowedLogs: an actor names the logs of what runs, until it ends.
func TestFollowedLogs(t *testing.T) {
	inWorld(t, func(w *world) {
		p := podOf("p", 1, corev1.Container{Name: "a"})
		w.create(p)
		w.pass(time.Second)
		wanted := func() map[string]string {
			w.agent.rotator.mu.Lock()
			defer w.agent.rotator.mu.Unlock()
			return w.agent.rotator.wanted[types.UID("uid-p")]
		}
		if got := wanted(); len(got) != 1 {
			t.Errorf("%v is followed", got)
		}
		w.deletePod("uid-p", 1)
		w.pass(10 * time.Second)
		if got := wanted(); len(got) != 0 {
			t.Errorf("%v is followed after its end", got)
		}
		w.empty()
	})
}
