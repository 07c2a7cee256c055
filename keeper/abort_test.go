// SPDX-License-Identifier: Apache-2.0

package keeper_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/keeper"
	"github.com/peapod/peapod/linux"
)

// hanging is an OCI runtime that says its pid through a FIFO and then hangs.
// It returns that pid once it is there.
func (n *node) hanging(id string) (pid func() int) {
	n.t.Helper()
	fifo := filepath.Join(n.dir, id+".fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		n.t.Fatal(err)
	}
	go func() {
		_, err := n.client.Run(context.WithoutCancel(n.t.Context()), keeper.Spec{
			ID: id, Args: []string{"/bin/sh", "-c", "echo $$ >" + fifo + "; exec sleep 1000"}, PidFile: filepath.Join(n.dir, "none"),
		})
		if err == nil {
			n.t.Error("an OCI runtime that was killed has started something")
		}
	}()
	return func() int {
		b, err := os.ReadFile(fifo)
		if err != nil {
			n.t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			n.t.Fatal(err)
		}
		return pid
	}
}

// TestAbort: a start that hangs can be given up, and its ID is free when Abort
// returns.
func TestAbort(t *testing.T) {
	n := newNode(t)
	n.hanging("stuck")()
	if err := n.client.Abort(t.Context(), "stuck"); err != nil {
		t.Fatal(err)
	}
	if list, err := n.client.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("list: %+v, %v", list, err)
	}
	n.hanging("forgotten")()
	if err := n.client.Forget(t.Context(), "forgotten"); err != nil {
		t.Errorf("forget while starting: %v", err)
	}
	n.run(n.spec("stuck", "sleep 1000"))
	if err := n.client.Abort(t.Context(), "stuck"); err != nil {
		t.Fatal(err)
	}
	if list, err := n.client.List(t.Context()); err != nil || len(list) != 1 || !list[0].Running {
		t.Errorf("a process that runs was aborted: %+v, %v", list, err)
	}
	if err := n.client.Abort(t.Context(), "unknown"); err != nil {
		t.Error(err)
	}
}

func TestWait(t *testing.T) {
	n := newNode(t)
	n.run(n.spec("one", "exit 3"))
	if e, err := n.client.Wait(t.Context(), "one"); err != nil || e.Code != 3 {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := n.client.Wait(t.Context(), "two"); !errors.Is(err, keeper.ErrNotFound) {
		t.Errorf("unknown: %v", err)
	}
}

// TestOCIRuntimeDiesWithKeeper: one that went on alone would leave a container
// that nobody knows.
func TestOCIRuntimeDiesWithKeeper(t *testing.T) {
	subreaper(t)
	n := newNode(t)
	pid := n.hanging("stuck")()
	fd, err := linux.OpenPidfd(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	n.killKeeper()
	if err := fd.Wait(); err != nil {
		t.Fatal(err)
	}
	reap(t, pid)
	n.launch()
	if list, err := n.client.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("list: %+v, %v", list, err)
	}
}

// TestPauseNeedsItsPidWritten: a pause whose starter is killed before it wrote
// the pid down ends too.
func TestPauseNeedsItsPidWritten(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	p, err := os.StartProcess(binary, []string{"pause", "pause", "3"}, &os.ProcAttr{
		Dir: "/", Files: []*os.File{nil, nil, nil, theirs}, Sys: &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID},
	})
	if err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	if _, err := ours.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	ours.Close()
	if state, err := p.Wait(); err != nil || state.ExitCode() != 1 {
		t.Errorf("pause ended with %v, %v", state, err)
	}
}
