// SPDX-License-Identifier: Apache-2.0

package keeper_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/keeper"
	"github.com/peapod/peapod/linux"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// testCgroup is the parent of all cgroups that the tests make.
const testCgroup = "peapod-keeper-test"

// binary is the keeper, built once per run of the tests.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "keeper-test-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "peapod-keeper")
	build := exec.Command("go", "build", "-o", binary, "./peapod-keeper")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(string(out))
	}
	code := m.Run()
	layout, err := linux.Cgroups()
	if err != nil {
		panic(err)
	}
	for _, root := range layout.Roots() {
		if err := os.Remove(filepath.Join(root, testCgroup)); err != nil && !errors.Is(err, os.ErrNotExist) {
			panic(err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		panic(err)
	}
	os.Exit(code)
}

// node is a keeper with containers for a test.
type node struct {
	t      *testing.T
	dir    string
	client *keeper.Client
	runc   string
}

func newNode(t *testing.T) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests must run as root")
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, dir: t.TempDir(), runc: runc}
	for _, d := range []string{"rootfs/bin", "rootfs/proc", "rootfs/dev", "bundles"} {
		if err := os.MkdirAll(filepath.Join(n.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(n.dir, "rootfs/bin/busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{"sh", "cat", "sleep", "stty", "yes", "head", "dd", "true", "sha256sum", "seq", "tr"} {
		if err := os.Symlink("busybox", filepath.Join(n.dir, "rootfs/bin", link)); err != nil {
			t.Fatal(err)
		}
	}
	n.launch()
	t.Cleanup(n.clean)
	return n
}

func (n *node) keeperDir() string { return filepath.Join(n.dir, "keeper") }

// launch connects to the keeper, or starts one.
func (n *node) launch() {
	n.t.Helper()
	c, err := keeper.Launch(n.t.Context(), keeper.Config{Binary: binary, Dir: n.keeperDir()})
	if err != nil {
		n.t.Fatal(err)
	}
	n.client = c
}

// clean ends everything and checks that nothing is left.
func (n *node) clean() {
	// The test's own context has ended by now.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := keeper.Launch(ctx, keeper.Config{Binary: binary, Dir: n.keeperDir()})
	if err != nil {
		n.t.Error(err)
		return
	}
	if err := c.Stop(ctx, true); err != nil {
		n.t.Error(err)
	}
	ids, err := os.ReadDir(filepath.Join(n.dir, "runc"))
	if err == nil {
		for _, id := range ids {
			if out, err := exec.Command(n.runc, "--root", filepath.Join(n.dir, "runc"), "delete", "--force", id.Name()).CombinedOutput(); err != nil {
				n.t.Errorf("delete %s: %v: %s", id.Name(), err, out)
			}
		}
	}
	if mounts, err := linux.MountsBelow(n.dir); err != nil || len(mounts) != 0 {
		n.t.Errorf("mounts left: %v, %v", mounts, err)
	}
	if n.t.Failed() {
		log, _ := os.ReadFile(filepath.Join(n.keeperDir(), keeper.LogName))
		n.t.Logf("keeper's log:\n%s", log)
	}
}

func (n *node) bundle(id string) string { return filepath.Join(n.dir, "bundles", id) }

func (n *node) logFile(id string) string { return filepath.Join(n.bundle(id), "log") }

// spec prepares a container that runs a shell script.
func (n *node) spec(id, script string) keeper.Spec {
	n.t.Helper()
	return n.specOf(id, false, "sh", "-c", script)
}

func (n *node) specOf(id string, tty bool, args ...string) keeper.Spec {
	n.t.Helper()
	dir := n.bundle(id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		n.t.Fatal(err)
	}
	type object = map[string]any
	var namespaces []object
	for _, ns := range []string{"pid", "mount", "ipc", "uts", "network"} {
		namespaces = append(namespaces, object{"type": ns})
	}
	mounts := []object{
		{"destination": "/proc", "type": "proc", "source": "proc"},
		{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"mode=755"}},
		{"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": []string{"newinstance", "ptmxmode=0666", "mode=0620"}},
	}
	caps := []string{"CAP_KILL", "CAP_DAC_OVERRIDE"}
	config := object{
		"ociVersion": "1.0.2",
		"root":       object{"path": filepath.Join(n.dir, "rootfs"), "readonly": true},
		"mounts":     mounts,
		"process": object{"args": args, "cwd": "/", "env": []string{"PATH=/bin"}, "terminal": tty,
			"capabilities": object{"bounding": caps, "effective": caps, "permitted": caps}},
		"linux": object{"namespaces": namespaces, "cgroupsPath": "/" + testCgroup + "/" + filepath.Base(n.dir) + id},
	}
	b, err := json.Marshal(config)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	s := keeper.Spec{ID: id, Dir: dir, PidFile: "pid", LogPath: n.logFile(id), ExitFile: "exit.json", Terminal: tty,
		Args: []string{n.runc, "--root", filepath.Join(n.dir, "runc"), "--log", filepath.Join(dir, "runc.log"),
			"run", "--detach", "--bundle", dir, "--pid-file", "pid", id}}
	if tty {
		s.ConsoleSocket = "console"
		s.Args = append(s.Args[:len(s.Args)-1], "--console-socket", "console", id)
	}
	return s
}

// execSpec prepares a further process in a container.
func (n *node) execSpec(id, container string, tty bool, args ...string) keeper.Spec {
	dir := n.bundle(container)
	s := keeper.Spec{ID: id, Dir: dir, PidFile: id + ".pid", HoldOutput: true, Terminal: tty,
		Args: []string{n.runc, "--root", filepath.Join(n.dir, "runc"), "--log", filepath.Join(dir, "runc.log"),
			"exec", "--detach", "--pid-file", id + ".pid"}}
	if tty {
		s.ConsoleSocket = id + ".console"
		s.Args = append(s.Args, "--tty", "--console-socket", s.ConsoleSocket)
	}
	s.Args = append(append(s.Args, container), args...)
	return s
}

func (n *node) run(s keeper.Spec) keeper.Process {
	n.t.Helper()
	p, err := n.client.Run(n.t.Context(), s)
	if err != nil {
		n.t.Fatal(err)
	}
	return p
}

// wait returns the exit of a process.
func (n *node) wait(id string) keeper.Exit {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	events, err := n.client.Events(ctx, 0)
	if err != nil {
		n.t.Fatal(err)
	}
	for e := range events {
		if e.ID == id {
			return e
		}
	}
	n.t.Fatalf("no exit of %s: %v", id, ctx.Err())
	return keeper.Exit{}
}

// output joins the entries of a stream in the container's log.
func (n *node) output(id, stream string) string {
	n.t.Helper()
	b, err := os.ReadFile(n.logFile(id))
	if err != nil {
		n.t.Fatal(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(f) != 4 || f[2] != "P" && f[2] != "F" {
			n.t.Fatalf("bad entry %q", line)
		}
		if f[1] != stream {
			continue
		}
		out.WriteString(f[3])
		if f[2] == "F" {
			out.WriteByte('\n')
		}
	}
	return out.String()
}

// gone returns when a process has ended.
func gone(t *testing.T, p keeper.Process) {
	t.Helper()
	fd, err := linux.OpenPidfd(p.Pid, p.StartTicks)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	if err := fd.Wait(); err != nil {
		t.Fatal(err)
	}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// awaitOutput returns when a stream in the log is want.
func (n *node) awaitOutput(id, stream, want string) {
	n.t.Helper()
	n.await(id, stream, func(got string) bool { return got == want })
}

// awaitPart returns when stdout in the log has part.
func (n *node) awaitPart(id, part string) {
	n.t.Helper()
	n.await(id, "stdout", func(got string) bool { return strings.Contains(got, part) })
}

func (n *node) await(id, stream string, good func(string) bool) {
	n.t.Helper()
	n.awaitFile(n.logFile(id), func() bool { return good(n.output(id, stream)) })
}

// awaitHeld returns when the unfinished line of stdout is want.
func (n *node) awaitHeld(id, want string) {
	n.t.Helper()
	file := filepath.Join(n.keeperDir(), "run", id, "held.stdout")
	n.awaitFile(file, func() bool {
		b, err := os.ReadFile(file)
		return err == nil && len(b) >= 4 && string(b[4:]) == want
	})
}

// awaitFile returns when good is true, which may change when the file does.
func (n *node) awaitFile(file string, good func() bool) {
	n.t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		n.t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	defer f.Close()
	if _, err := unix.InotifyAddWatch(fd, file, unix.IN_MODIFY); err != nil {
		n.t.Fatal(err)
	}
	if err := f.SetReadDeadline(time.Now().Add(patience)); err != nil {
		n.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for !good() {
		if _, err := f.Read(buf); err != nil {
			b, _ := os.ReadFile(file)
			n.t.Fatalf("%s is %q: %v", file, b, err)
		}
	}
}
