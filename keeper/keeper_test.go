// SPDX-License-Identifier: Apache-2.0

package keeper_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/keeper"
)

func TestExitCodes(t *testing.T) {
	n := newNode(t)
	for _, tt := range []struct {
		id, script   string
		code, signal int
	}{
		{"zero", "exit 0", 0, 0},
		{"seven", "exit 7", 7, 0},
		{"max", "exit 255", 255, 0},
	} {
		n.run(n.spec(tt.id, tt.script))
		e := n.wait(tt.id)
		if e.Code != tt.code || e.Signal != tt.signal || e.Unknown != "" || e.At.IsZero() {
			t.Errorf("%s: %+v", tt.id, e)
		}
		var saved keeper.Exit
		b, err := os.ReadFile(filepath.Join(n.bundle(tt.id), "exit.json"))
		if err == nil {
			err = json.Unmarshal(b, &saved)
		}
		if err != nil || saved != e {
			t.Errorf("%s: exit file has %+v (%v), event %+v", tt.id, saved, err, e)
		}
	}
}

func TestSignal(t *testing.T) {
	n := newNode(t)
	n.run(n.spec("trap", `trap "echo bye; exit 3" TERM; echo ready; while :; do sleep 1000 & wait; done`))
	n.awaitOutput("trap", "stdout", "ready\n")
	if err := n.client.Signal(t.Context(), "trap", int(unix.SIGTERM)); err != nil {
		t.Fatal(err)
	}
	if e := n.wait("trap"); e.Code != 3 || e.Signal != 0 {
		t.Errorf("TERM: %+v", e)
	}
	if out := n.output("trap", "stdout"); out != "ready\nbye\n" {
		t.Errorf("output %q", out)
	}
	if err := n.client.Signal(t.Context(), "trap", 15); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal after the end: %v", err)
	}
	n.run(n.spec("kill", "sleep 1000"))
	if err := n.client.Signal(t.Context(), "kill", int(unix.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	if e := n.wait("kill"); e.Code != 137 || e.Signal != 9 {
		t.Errorf("KILL: %+v", e)
	}
}

func TestRunFails(t *testing.T) {
	n := newNode(t)
	for _, tt := range []struct {
		id   string
		spec keeper.Spec
		want string
	}{
		{"missing", n.specOf("missing", false, "no-such-program"), `exec: "no-such-program": executable file not found in $PATH`},
		{"missing-tty", n.specOf("missing-tty", true, "no-such-program"), `executable file not found in $PATH`},
		{"relative", keeper.Spec{ID: "relative", Args: []string{"runc"}, PidFile: "/x"}, "must be an absolute path"},
		{"../x", keeper.Spec{ID: "../x", Args: []string{"/bin/true"}, PidFile: "/x"}, "is not a good id"},
		{"nopid", keeper.Spec{ID: "nopid", Args: []string{"/bin/true"}, PidFile: filepath.Join(n.dir, "none")}, "cannot read pid file"},
		{"noexec", keeper.Spec{ID: "noexec", Args: []string{"/nonexistent/runc"}, PidFile: filepath.Join(n.dir, "none")}, "cannot start /nonexistent/runc"},
		{"dies", keeper.Spec{ID: "dies", Args: []string{"/bin/sh", "-c", "kill -9 $$"}, PidFile: filepath.Join(n.dir, "none")}, "ended by signal 9"},
	} {
		if _, err := n.client.Run(t.Context(), tt.spec); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %q", tt.id, err, tt.want)
		}
		if left, err := os.ReadDir(filepath.Join(n.keeperDir(), "run")); err != nil || len(left) != 0 {
			t.Errorf("%s: left: %v, %v", tt.id, left, err)
		}
	}
	if list, err := n.client.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("list: %v, %v", list, err)
	}
}

func TestLifeOfAnID(t *testing.T) {
	n := newNode(t)
	s := n.spec("one", "sleep 1000")
	p := n.run(s)
	list, err := n.client.List(t.Context())
	if err != nil || len(list) != 1 || list[0] != (keeper.State{ID: "one", Process: p, Running: true}) {
		t.Fatalf("list: %+v, %v", list, err)
	}
	if _, err := n.client.Run(t.Context(), s); !errors.Is(err, keeper.ErrExists) {
		t.Errorf("second run: %v", err)
	}
	if err := n.client.Forget(t.Context(), "one"); !errors.Is(err, keeper.ErrBusy) {
		t.Errorf("forget while running: %v", err)
	}
	if err := n.client.Stop(t.Context(), false); !errors.Is(err, keeper.ErrBusy) {
		t.Errorf("stop while running: %v", err)
	}
	if err := n.client.Signal(t.Context(), "one", 9); err != nil {
		t.Fatal(err)
	}
	n.wait("one")
	list, err = n.client.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Running || list[0].Exit == nil || list[0].Exit.Code != 137 {
		t.Errorf("list: %+v, %v", list, err)
	}
	for range 2 {
		if err := n.client.Forget(t.Context(), "one"); err != nil {
			t.Error(err)
		}
	}
	if err := n.client.Signal(t.Context(), "one", 9); !errors.Is(err, keeper.ErrNotFound) {
		t.Errorf("signal after forget: %v", err)
	}
	// Stop without force works now, and the folder is empty but for the logs.
	if err := n.client.Stop(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if _, err := n.client.List(t.Context()); !errors.Is(err, keeper.ErrGone) {
		t.Errorf("list after stop: %v", err)
	}
}

func TestLogEntries(t *testing.T) {
	n := newNode(t)
	n.run(n.spec("log", `echo out; echo err >&2; head -c 20000 /dev/zero | tr '\0' x; echo; echo -n tail`))
	n.wait("log")
	want := "out\n" + strings.Repeat("x", 20000) + "\ntail"
	if out := n.output("log", "stdout"); out != want {
		t.Errorf("stdout: %d bytes, want %d", len(out), len(want))
	}
	if out := n.output("log", "stderr"); out != "err\n" {
		t.Errorf("stderr: %q", out)
	}
	b, err := os.ReadFile(n.logFile("log"))
	if err != nil {
		t.Fatal(err)
	}
	var tags []string
	for line := range strings.Lines(string(b)) {
		if f := strings.SplitN(line, " ", 4); f[1] == "stdout" {
			tags = append(tags, f[2])
		}
	}
	if got := strings.Join(tags, ""); got != "FPFP" {
		t.Errorf("tags of stdout %q, want FPFP", got)
	}
}

func TestReopenLog(t *testing.T) {
	n := newNode(t)
	s := n.spec("rotate", `echo before; read x; echo after`)
	s.Stdin = true
	n.run(s)
	n.awaitOutput("rotate", "stdout", "before\n")
	if err := os.Rename(n.logFile("rotate"), n.logFile("rotate")+".1"); err != nil {
		t.Fatal(err)
	}
	if err := n.client.ReopenLog(t.Context(), "rotate"); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := n.client.Attach(t.Context(), "rotate", keeper.Streams{Stdin: strings.NewReader("\n"), Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if got := n.output("rotate", "stdout"); got != "after\n" || out.String() != "after\n" {
		t.Errorf("new log %q, attached %q", got, out.String())
	}
}
