// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
	"github.com/peapod/peapod/test/imagefile"
)

// patience is how long a test waits before it says what it saw.
const patience = 60 * time.Second

const busybox = "peapod.dev/busybox:1"

// live is one data folder and what a user does with it.
type live struct {
	t     *testing.T
	dir   string
	flags []string
}

// newLive makes a data folder with an image in it. The ranges are those of one
// test alone; whatever the test leaves is taken down at its end.
func newLive(t *testing.T, dir string, third int) *live {
	t.Helper()
	n := &live{t: t, dir: dir, flags: []string{
		"--listen", "127.0.0.1:" + freePort(t), "--node-listen", ":0", "--node-name", "cli",
		"--pod-cidr", fmt.Sprintf("10.217.%d.0/24", third), "--service-cidr", fmt.Sprintf("10.227.%d.0/24", third),
	}}
	t.Cleanup(func() {
		if out, code := n.peapod("down", "--purge", "--grace=1s"); code != 0 && !errors.Is(unix.Access(n.dir, unix.F_OK), fs.ErrNotExist) {
			t.Errorf("down at the end: code %d\n%s", code, out)
		}
		n.nothingLeft()
	})
	if out, code := n.peapodIn(busyboxArchive(t), "image", "import", "-"); code != 0 {
		t.Fatalf("import: code %d\n%s", code, out)
	}
	return n
}

func busyboxArchive(t *testing.T) io.Reader {
	t.Helper()
	entries, err := imagefile.Busybox("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := imagefile.Write(&b, imagefile.Image{Ref: busybox, Entries: entries}); err != nil {
		t.Fatal(err)
	}
	return &b
}

// shortDir is a folder whose sockets' paths are short enough.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "peacli")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "d")
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// peapod runs a command to its end and returns what it said on both streams.
func (n *live) peapod(args ...string) (out string, code int) {
	n.t.Helper()
	return n.peapodIn(nil, args...)
}

func (n *live) peapodIn(in io.Reader, args ...string) (out string, code int) {
	n.t.Helper()
	// A test's context is over when its clean-up begins.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(n.t.Context()), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "peapod", args...)
	cmd.Env = append(os.Environ(), "PEAPOD_DATA_DIR="+n.dir, "KUBECONFIG=", "HOME=/nonexistent")
	cmd.Stdin = in
	b, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		n.t.Fatalf("peapod %v: %v", args, err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

// do is peapod that has to succeed.
func (n *live) do(args ...string) string {
	n.t.Helper()
	out, code := n.peapod(args...)
	if code != 0 {
		n.t.Fatalf("peapod %v: code %d\n%s", args, code, out)
	}
	return out
}

// upping is one `peapod up`.
type upping struct {
	t        *testing.T
	cmd      *exec.Cmd
	line     string // what it printed when it was ready
	out, err bytes.Buffer
	read     chan error // the end of its standard output
}

// up starts the node and waits until it is Ready.
func (n *live) up(more ...string) *upping {
	n.t.Helper()
	u := &upping{t: n.t, cmd: exec.Command("peapod", append(append([]string{"up", "--data-dir", n.dir}, n.flags...), more...)...), read: make(chan error, 1)}
	u.cmd.Stderr = &u.err
	r, w, err := os.Pipe()
	if err != nil {
		n.t.Fatal(err)
	}
	u.cmd.Stdout = w
	if err := u.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	w.Close()
	n.t.Cleanup(func() { u.cmd.Process.Kill(); u.cmd.Wait(); r.Close() })
	if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		n.t.Fatal(err)
	}
	in := bufio.NewReader(r)
	u.line, err = in.ReadString('\n')
	if err != nil {
		u.cmd.Process.Kill()
		u.cmd.Wait()
		n.t.Fatalf("up: %q, %v\n%s", u.line, err, u.err.String())
	}
	if err := r.SetReadDeadline(time.Time{}); err != nil {
		n.t.Fatal(err)
	}
	go func() {
		_, err := io.Copy(&u.out, in)
		u.read <- err
	}()
	return u
}

// end sends a signal and returns the exit code, -1 after death by a signal.
func (u *upping) end(sig os.Signal) int {
	u.t.Helper()
	if err := u.cmd.Process.Signal(sig); err != nil {
		u.t.Fatal(err)
	}
	_ = u.cmd.Wait() // its error is the code
	if err := <-u.read; err != nil {
		u.t.Error(err)
	}
	return u.cmd.ProcessState.ExitCode()
}

// instance is the name by which the folder's things are known on the machine.
func (n *live) instance() string {
	h := fnv.New32a()
	h.Write([]byte(n.dir))
	return fmt.Sprintf("peapod-%08x", h.Sum32())
}

// nothingLeft: no process, mount, link, rule or cgroup of this data folder.
func (n *live) nothingLeft() {
	n.t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		n.t.Fatal(err)
	}
	for _, path := range all {
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), n.dir+"/") {
			n.t.Errorf("process left: %s %q", path, b)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		n.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, n.dir+"/") {
			n.t.Errorf("mount left: %s", line)
		}
	}
	if out, err := exec.Command("nft", "list", "tables").CombinedOutput(); err != nil || strings.Contains(string(out), n.instance()) {
		n.t.Errorf("rules left: %v\n%s", err, out)
	}
	layout, err := linux.Cgroups()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, root := range layout.Roots() {
		if _, err := os.Stat(filepath.Join(root, n.instance())); err == nil {
			n.t.Errorf("cgroup left: %s/%s", root, n.instance())
		}
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, a := range addresses {
		_, pods, _ := net.ParseCIDR(n.flags[7])
		_, services, _ := net.ParseCIDR(n.flags[9])
		if ip, _, err := net.ParseCIDR(a.String()); err == nil && (pods.Contains(ip) || services.Contains(ip)) {
			n.t.Errorf("address left: %s", a)
		}
	}
}

// fifo is a place where a container tells the test something.
type fifo struct {
	t    *testing.T
	path string
}

func newFIFO(t *testing.T) fifo {
	t.Helper()
	f := fifo{t, filepath.Join(t.TempDir(), "told")}
	if err := syscall.Mkfifo(f.path, 0o666); err != nil {
		t.Fatal(err)
	}
	return f
}

// hear waits for the next line.
func (f fifo) hear() string {
	f.t.Helper()
	// For reading and writing, so that opening waits for nobody and reading has
	// a deadline.
	r, err := os.OpenFile(f.path, os.O_RDWR, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	defer r.Close()
	if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		f.t.Fatal(err)
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		f.t.Fatalf("nothing heard: %v", err)
	}
	return strings.TrimSpace(line)
}
