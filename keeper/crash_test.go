// SPDX-License-Identifier: Apache-2.0

package keeper_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/keeper"
)

// subreaper makes the test take the place of the machine's first process for
// what a killed keeper leaves, and wait for it as that would.
func subreaper(t *testing.T) {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0); err != nil {
			t.Error(err)
		}
	})
}

// reap waits for an orphan that was left to us.
func reap(t *testing.T, pid int) {
	t.Helper()
	for {
		_, err := unix.Wait4(pid, nil, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil && !errors.Is(err, unix.ECHILD) {
			t.Errorf("wait for %d: %v", pid, err)
		}
		return
	}
}

// killKeeper ends the keeper as nothing else may, and waits for its end.
func (n *node) killKeeper() {
	n.t.Helper()
	kill(n.t, n.client.Process().Pid)
	<-n.client.Done()
	gone(n.t, n.client.Process())
	if _, err := n.client.List(n.t.Context()); !errors.Is(err, keeper.ErrGone) {
		n.t.Errorf("list without keeper: %v", err)
	}
}

func TestKeeperKilled(t *testing.T) {
	subreaper(t)
	n := newNode(t)
	s := n.spec("app", `echo -n be; echo one; i=0; while read x; do echo "$x"; [ "$x" = end ] && exit 9; done`)
	s.Stdin = true
	p := n.run(s)
	n.awaitOutput("app", "stdout", "beone\n")
	var first uint64
	{
		n.run(n.spec("old", "exit 2"))
		first = n.wait("old").Seq
	}
	for round := range 3 {
		n.killKeeper()
		n.launch()
		list, err := n.client.List(t.Context())
		if err != nil || len(list) != 2 || list[0].Process != p || !list[0].Running || list[1].Exit == nil || list[1].Exit.Code != 2 {
			t.Fatalf("adopted: %+v, %v", list, err)
		}
		line := fmt.Sprintf("line %d\n", round)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.client.Attach(ctx, "app", keeper.Streams{Stdin: strings.NewReader(line)}) }()
		n.awaitPart("app", line)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("attach: %v", err)
		}
	}
	ended := make(chan struct{})
	go func() { defer close(ended); reap(t, p.Pid) }()
	if err := n.client.Attach(t.Context(), "app", keeper.Streams{Stdin: strings.NewReader("end\n")}); err != nil {
		t.Error(err)
	}
	if e := n.wait("app"); e.Code != 9 || e.Unknown != "" || e.Seq <= first {
		t.Errorf("adopted process: %+v, earlier exit has seq %d", e, first)
	}
	<-ended
	if out := n.output("app", "stdout"); out != "beone\nline 0\nline 1\nline 2\nend\n" {
		t.Errorf("log %q", out)
	}
}

// TestEndWithoutKeeper: how a process ended while no keeper was alive is told
// by the kernel.
func TestEndWithoutKeeper(t *testing.T) {
	subreaper(t)
	n := newNode(t)
	s := n.spec("app", `echo -n unfinished; read x; exit 17`)
	s.Stdin = true
	p := n.run(s)
	s = n.spec("killed", `sleep 1000`)
	q := n.run(s)
	n.awaitHeld("app", "unfinished")
	n.killKeeper()
	f, err := os.OpenFile(filepath.Join(n.keeperDir(), "run", "app", "stdin"), os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("\n"); err != nil {
		t.Fatal(err)
	}
	reap(t, p.Pid)
	f.Close()
	kill(t, q.Pid)
	reap(t, q.Pid)
	n.launch()
	if e := n.wait("app"); e.Code != 17 || e.Unknown != "" {
		t.Errorf("ended by itself: %+v", e)
	}
	if out := n.output("app", "stdout"); out != "unfinished" {
		t.Errorf("log %q", out)
	}
	if e := n.wait("killed"); e.Code != 137 || e.Signal != 9 || e.Unknown != "" {
		t.Errorf("killed: %+v", e)
	}
}

// TestEndUnknown: where the kernel cannot tell, we say so.
func TestEndUnknown(t *testing.T) {
	subreaper(t)
	n := newNode(t)
	p := n.run(n.spec("app", `sleep 1000`))
	n.killKeeper()
	pin := filepath.Join(n.keeperDir(), "run", "app", "pidfd")
	if err := unix.Unmount(pin, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	kill(t, p.Pid)
	reap(t, p.Pid)
	n.launch()
	e := n.wait("app")
	if e.Code != 255 || !strings.Contains(e.Unknown, "no keeper was alive") {
		t.Errorf("%+v", e)
	}
	if b, err := os.ReadFile(filepath.Join(n.bundle("app"), "exit.json")); err != nil || !bytes.Contains(b, []byte(`"code": 255`)) {
		t.Errorf("exit file %s, %v", b, err)
	}
}

// TestAnotherBoot: what an earlier boot left has ended, how is not known.
func TestAnotherBoot(t *testing.T) {
	n := newNode(t)
	if err := n.client.Stop(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	for id, state := range map[string]string{
		"app":  `{"version":1,"boot":"another","spec":{"id":"app","args":["/x"],"pidFile":"/x"},"process":{"pid":1,"startTicks":1}}`,
		"torn": `{"version":1,"boo`,
		"over": `{"version":1,"boot":"another","spec":{"id":"over"},"process":{"pid":9,"startTicks":1},"exit":{"seq":77,"id":"over","code":3,"at":"2026-01-01T00:00:00Z"}}`,
	} {
		dir := filepath.Join(n.keeperDir(), "run", id)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "state.json"), []byte(state), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n.launch()
	for _, id := range []string{"app", "torn"} {
		if e := n.wait(id); e.Code != 255 || !strings.Contains(e.Unknown, "restarted") || e.ID != id {
			t.Errorf("%s: %+v", id, e)
		}
	}
	if e := n.wait("over"); e.Code != 3 || e.Unknown != "" || e.Seq != 77 {
		t.Errorf("over: %+v", e)
	}
}

// TestClientKilled: the keeper and all it keeps go on when the program that
// launched it is killed, and another one finds everything.
func TestClientKilled(t *testing.T) {
	if dir := os.Getenv("KEEPER_TEST_DIR"); dir != "" {
		c, err := keeper.Launch(t.Context(), keeper.Config{Binary: os.Getenv("KEEPER_TEST_BINARY"), Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("pid %d\n", c.Process().Pid)
		kill(t, os.Getpid())
	}
	n := newNode(t)
	if err := n.client.Stop(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestClientKilled$")
	cmd.Env = append(os.Environ(), "KEEPER_TEST_DIR="+n.keeperDir(), "KEEPER_TEST_BINARY="+binary)
	out, err := cmd.Output()
	var pid int
	if _, scanErr := fmt.Sscanf(string(out), "pid %d", &pid); scanErr != nil || err == nil {
		t.Fatalf("client: %v, %q", err, out)
	}
	n.launch()
	if n.client.Process().Pid != pid {
		t.Errorf("keeper %d, want %d", n.client.Process().Pid, pid)
	}
	s := n.spec("app", "echo here; sleep 1000")
	p := n.run(s)
	if err := n.client.Close(); err != nil {
		t.Error(err)
	}
	n.launch()
	list, err := n.client.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Process != p || !list[0].Running {
		t.Errorf("list %+v, %v", list, err)
	}
}

// TestLaunchTogether: many clients get one keeper.
func TestLaunchTogether(t *testing.T) {
	n := newNode(t)
	if err := n.client.Stop(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	pids := make(chan int)
	for range 8 {
		go func() {
			c, err := keeper.Launch(t.Context(), keeper.Config{Binary: binary, Dir: n.keeperDir()})
			if err != nil {
				t.Error(err)
				pids <- 0
				return
			}
			pids <- c.Process().Pid
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}()
	}
	seen := map[int]bool{}
	for range 8 {
		seen[<-pids] = true
	}
	if len(seen) != 1 {
		t.Errorf("keepers %v", seen)
	}
}

// TestLaunchWhileItDies: a keeper's connections may end before its socket
// does, so who sees the one and launches still finds the other.
func TestLaunchWhileItDies(t *testing.T) {
	n := newNode(t)
	for range 100 {
		kill(t, n.client.Process().Pid)
		<-n.client.Done()
		n.launch()
	}
}

// TestAnotherKeeper: who spoke to a keeper that is gone reaches no other: it
// would start what nobody knows, and wait for what nobody tells.
func TestAnotherKeeper(t *testing.T) {
	n := newNode(t)
	old := n.client
	kill(t, old.Process().Pid)
	<-old.Done()
	n.launch()
	if _, err := old.Run(t.Context(), n.spec("stray", "exit 0")); !errors.Is(err, keeper.ErrGone) {
		t.Errorf("run by the client of another keeper: %v", err)
	}
	if _, err := old.Events(t.Context(), 0); !errors.Is(err, keeper.ErrGone) {
		t.Errorf("events for the client of another keeper: %v", err)
	}
	if list, err := n.client.List(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("list %+v, %v", list, err)
	}
}

// TestLaunchFails: why a keeper does not start is said.
func TestLaunchFails(t *testing.T) {
	dir := t.TempDir()
	if _, err := keeper.Launch(t.Context(), keeper.Config{Binary: "/nonexistent/keeper", Dir: dir}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing binary: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "keeper.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := keeper.Launch(t.Context(), keeper.Config{Binary: binary, Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "cannot read "+filepath.Join(dir, "keeper.json")) {
		t.Errorf("bad folder: %v", err)
	}
}
