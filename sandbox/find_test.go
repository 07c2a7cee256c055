// SPDX-License-Identifier: Apache-2.0

package sandbox_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/peapod/peapod/sandbox"
)

// script makes a fake OCI runtime.
func script(t *testing.T, body string) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), "fakerun")
	if err := os.WriteFile(f, []byte("#!/bin/sh\n"+body), 0o700); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	trial, state := filepath.Join(dir, "trial"), filepath.Join(dir, "state")
	l, err := sandbox.Find(t.Context(), []string{"no-such-runtime", "runc"}, trial, state)
	if err != nil {
		t.Fatal(err)
	}
	if l.Name() != "runc" || l.Version() == "" || !filepath.IsAbs(l.Path()) {
		t.Errorf("found %q %q %q", l.Name(), l.Version(), l.Path())
	}
	if _, err := os.Stat(trial); !os.IsNotExist(err) {
		t.Errorf("trial folder is left: %v", err)
	}
	if ids, err := l.List(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("containers left: %v, %v", ids, err)
	}
}

func TestFindSaysWhy(t *testing.T) {
	dir := t.TempDir()
	version := `case "$*" in --version) echo "fakerun version 9.9"; exit 0;; esac` + "\n"
	candidates := []string{
		"no-such-runtime",
		script(t, "exit 3\n"),
		script(t, version+"echo 'it is not possible to start here' >&2; exit 1\n"),
		script(t, version+"exit 0\n"),
	}
	_, err := sandbox.Find(t.Context(), candidates, filepath.Join(dir, "trial"), filepath.Join(dir, "state"))
	if err == nil {
		t.Fatal("found one")
	}
	for _, want := range []string{
		"no-such-runtime: not installed",
		"cannot ask for its version: exit status 3",
		"trial start failed: it is not possible to start here",
		"trial start failed: the program ended with code 0",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q:\n%v", want, err)
		}
	}
}
