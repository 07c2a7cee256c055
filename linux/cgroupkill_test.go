// SPDX-License-Identifier: Apache-2.0

package linux_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
)

// TestKillCgroup: children that were left to others, in cgroups below, and a
// shell that forks without end all end, and nothing of the cgroup stays.
func TestKillCgroup(t *testing.T) {
	layout, err := linux.Cgroups()
	if err != nil {
		t.Fatal(err)
	}
	t.Run(layout.Mode(), func(t *testing.T) { killCgroup(t, layout) })
	if layout.Mode() == "hybrid" {
		// Kill, freezer and removal of v2 need none of its controllers.
		t.Run("v2", func(t *testing.T) { killCgroup(t, linux.CgroupLayout{Unified: layout.Unified}) })
	}
}

func killCgroup(t *testing.T, layout linux.CgroupLayout) {
	name := fmt.Sprintf("/peapod-kill-test-%d", os.Getpid())
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := errors.Join(layout.Kill(ctx, name), layout.Remove(ctx, name)); err != nil {
			t.Error(err)
		}
	})
	var procs []string
	for _, root := range layout.Roots() {
		if filepath.Base(root) == "cpuset" {
			continue // takes nobody before it has processors
		}
		dir := filepath.Join(root, name, "below")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		procs = append(procs, filepath.Join(dir, "cgroup.procs"))
	}
	// The inner shell leaves its children behind faster than they can be
	// killed one by one.
	script := `for f in "$@"; do echo $$ >$f; done
		setsid sh -c 'sleep 1000 & sleep 1000 &'
		(while :; do (sleep 0.01 &); done) &
		echo ready; wait`
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", script, "sh"}, procs...)...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if err := layout.Kill(ctx, name); err != nil {
		t.Fatal(err)
	}
	if err := layout.Thaw(name); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the shell has ended by itself")
	}
	if err := layout.Remove(ctx, name); err != nil {
		t.Fatal(err)
	}
	for _, root := range layout.Roots() {
		if _, err := os.Stat(filepath.Join(root, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("left in %s: %v", root, err)
		}
	}
	// All of it may be repeated.
	if err := errors.Join(layout.Kill(ctx, name), layout.Remove(ctx, name)); err != nil {
		t.Error(err)
	}
}

// TestKillThreads: a container may have cgroups of threads, of which the kernel
// does not list processes.
func TestKillThreads(t *testing.T) {
	layout, err := linux.Cgroups()
	if err != nil {
		t.Fatal(err)
	}
	if layout.Unified == "" {
		t.Skip("no cgroup v2 here")
	}
	name := fmt.Sprintf("/peapod-thread-test-%d", os.Getpid())
	threads := filepath.Join(layout.Unified, name, "threads")
	if err := os.MkdirAll(threads, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // unless the test has
		ctx := context.WithoutCancel(t.Context())
		if err := errors.Join(layout.Kill(ctx, name), layout.Remove(ctx, name)); err != nil {
			t.Error(err)
		}
	})
	for _, w := range []struct{ file, value string }{{"cgroup.type", "threaded"}, {"cgroup.procs", fmt.Sprint(cmd.Process.Pid)}} {
		if err := os.WriteFile(filepath.Join(threads, w.file), []byte(w.value), 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.ReadFile(filepath.Join(threads, "cgroup.procs")); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatalf("the kernel lists the processes of a cgroup of threads: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := layout.Kill(ctx, name); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-ctx.Done():
		t.Error("it lives on")
	}
}

// TestThawUnified: Thaw lets a process go on that an OCI runtime has left
// frozen.
func TestThawUnified(t *testing.T) {
	layout, err := linux.Cgroups()
	if err != nil {
		t.Fatal(err)
	}
	if layout.Unified == "" {
		t.Skip("no cgroup v2 here")
	}
	layout = linux.CgroupLayout{Unified: layout.Unified}
	name := fmt.Sprintf("/peapod-thaw-test-%d", os.Getpid())
	dir := filepath.Join(layout.Unified, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := errors.Join(layout.Kill(ctx, name), layout.Remove(ctx, name)); err != nil {
			t.Error(err)
		}
	})
	cmd := exec.Command("/bin/sh", "-c", "read go; exit 7")
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for _, w := range []struct{ file, value string }{{"cgroup.procs", fmt.Sprint(cmd.Process.Pid)}, {"cgroup.freeze", "1"}} {
		if err := os.WriteFile(filepath.Join(dir, w.file), []byte(w.value), 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	if err := layout.Thaw(name); err != nil {
		t.Fatal(err)
	}
	<-ended
	if code := cmd.ProcessState.ExitCode(); code != 7 {
		t.Errorf("it ended with %d", code)
	}
}

func TestRemoveCgroupInUse(t *testing.T) {
	layout, err := linux.Cgroups()
	if err != nil {
		t.Fatal(err)
	}
	dir := layout.Path("pids", fmt.Sprintf("/peapod-busy-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	name := "/" + filepath.Base(dir)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // ended by us
		if err := layout.Remove(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, cmd.Process.Pid), 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := layout.Remove(ctx, name); err == nil {
		t.Error("a cgroup in use was removed")
	}
}
