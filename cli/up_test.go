// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// sleeper is a Pod that tells a FIFO of its start and of TERM, which it then
// heeds or not.
func (n *live) sleeper(f fifo, grace int, heeds bool) {
	n.t.Helper()
	trap := "echo term >/told"
	if heeds {
		trap += "; exit 0"
	}
	manifest := fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"sleeper"},"spec":{"terminationGracePeriodSeconds":%d,
"containers":[{"name":"c","image":%q,"command":["sh","-c","trap '%s' TERM; echo started >/told; while :; do sleep 1000 & wait; done"],
"volumeMounts":[{"name":"told","mountPath":"/told"}]}],"volumes":[{"name":"told","hostPath":{"path":%q}}]}}`, grace, busybox, trap, f.path)
	if out, code := n.peapodIn(strings.NewReader(manifest), "kubectl", "create", "-f", "-"); code != 0 {
		n.t.Fatalf("create: code %d\n%s", code, out)
	}
	if said := f.hear(); said != "started" {
		n.t.Fatalf("the container said %q", said)
	}
}

func (n *live) containerID() string {
	n.t.Helper()
	n.do("kubectl", "wait", "--for=condition=Ready", "--timeout=30s", "pod/sleeper")
	return n.do("kubectl", "get", "pod", "sleeper", "-o", "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}")
}

// TestUpAndDown: one line when Ready; Ctrl-C, and a kill, leave Pods running,
// the next up finds them; down ends them and leaves nothing but the state.
func TestUpAndDown(t *testing.T) {
	n := newLive(t, shortDir(t), 1)
	told := newFIFO(t)
	u := n.up()
	line := regexp.MustCompile(`^peapod: node cli is Ready after \d+\.\ds; kubeconfig: (\S+)\n$`).FindStringSubmatch(u.line)
	if line == nil {
		t.Fatalf("up said %q", u.line)
	}
	if info, err := os.Stat(line[1]); err != nil || info.Mode().Perm() != 0o600 || line[1] != filepath.Join(n.dir, "admin.kubeconfig") {
		t.Errorf("kubeconfig %s: %v, %v", line[1], info, err)
	}
	n.sleeper(told, 30, true)
	id := n.containerID()

	// A second node on this folder is refused, and the first one goes on.
	out, code := n.peapod(append([]string{"up"}, n.flags...)...)
	want := fmt.Sprintf("peapod: cannot use data folder %s: another peapod (pid %d) runs on it; stop it with Ctrl-C or `peapod down`, or choose another with --data-dir\n", n.dir, u.cmd.Process.Pid)
	if code != 1 || out != want {
		t.Errorf("a second up: code %d, %q, want %q", code, out, want)
	}

	if code := u.end(syscall.SIGINT); code != 0 || u.out.Len() > 0 {
		t.Errorf("up after Ctrl-C: code %d, said %q", code, u.out.String())
	}
	u = n.up()
	if again := n.containerID(); again != id {
		t.Errorf("after Ctrl-C and up the container is %s, was %s", again, id)
	}
	u.end(syscall.SIGKILL)
	u = n.up()
	if again := n.containerID(); again != id {
		t.Errorf("after kill -9 and up the container is %s, was %s", again, id)
	}

	// Down with the node running: it ends, the Pod is told.
	heard := make(chan string, 1)
	go func() { heard <- told.hear() }()
	if out := n.do("down"); !strings.Contains(out, "all Pods have ended; the state is kept in "+n.dir) {
		t.Errorf("down said %q", out)
	}
	if said := <-heard; said != "term" {
		t.Errorf("the container said %q at the end", said)
	}
	if u.cmd.Wait(); u.cmd.ProcessState.ExitCode() != 0 {
		t.Errorf("up that was ended by down: %v\n%s", u.cmd.ProcessState, u.err.String())
	}
	n.nothingLeft()

	// The state is there: the Pod comes back. Without a node, down ends it too.
	u = n.up()
	if said := told.hear(); said != "started" {
		t.Errorf("the container said %q", said)
	}
	u.end(syscall.SIGKILL)
	if out := n.do("down", "--purge", "--grace=1s"); !strings.HasSuffix(out, n.dir+" is removed\n") {
		t.Errorf("down --purge said %q", out)
	}
	if _, err := os.Stat(n.dir); err == nil {
		t.Error("the data folder is still there")
	}
}

// TestPortTaken: the message names the address, and the start that came to
// nothing leaves nothing.
func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp4", ":0") // all addresses
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := strings.TrimPrefix(l.Addr().String(), "0.0.0.0")
	for i, flag := range []string{"--listen", "--node-listen"} {
		t.Run(flag, func(t *testing.T) {
			n := newLive(t, shortDir(t), 2+i)
			out, code := n.peapod(append(append([]string{"up"}, n.flags...), flag, port)...)
			if code != 1 || !regexp.MustCompile(`cannot listen on \S+`+port).MatchString(out) || !strings.HasSuffix(out, "address already in use\n") {
				t.Errorf("code %d\n%s", code, out)
			}
			n.nothingLeft()
		})
	}
}

// TestDownIsInterrupted: it says so, and the next one ends what is left.
func TestDownIsInterrupted(t *testing.T) {
	n := newLive(t, shortDir(t), 4)
	told := newFIFO(t)
	u := n.up()
	n.sleeper(told, 600, false)
	n.containerID() // its start is over: one that is interrupted is taken back
	u.end(syscall.SIGTERM)
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGKILL} {
		var said strings.Builder
		down := exec.Command("peapod", "down", "--data-dir", n.dir)
		down.Stdout, down.Stderr = &said, &said
		if err := down.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("down before %v said %q", sig, said.String())
			}
		})
		if got := told.hear(); got != "term" {
			t.Errorf("the container said %q", got)
		}
		if err := down.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		_ = down.Wait() // the code tells
		if code := down.ProcessState.ExitCode(); sig == syscall.SIGINT && (code != 130 || !strings.HasPrefix(said.String(), "peapod: interrupted: cannot end all pods")) {
			t.Errorf("down after Ctrl-C: code %d, %q", code, said.String())
		}
	}
	n.do("down", "--grace=1s")
	n.nothingLeft()
}

// TestDataFolderOnTmpfs: a folder that is a mount point, in memory.
func TestDataFolderOnTmpfs(t *testing.T) {
	dir := shortDir(t)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("something still uses the tmpfs: %v", err)
			unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	n := newLive(t, dir, 5)
	told := newFIFO(t)
	n.up()
	n.sleeper(told, 1, true)
	n.do("down", "--purge", "--grace=1s")
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left on the tmpfs: %v, %v", left, err)
	}
}

// TestKubectlInUp: the passthrough finds the node that runs.
func TestKubectlInUp(t *testing.T) {
	n := newLive(t, shortDir(t), 6)
	n.up()
	if out := n.do("kubectl", "get", "nodes", "-o", "name"); out != "node/cli\n" {
		t.Errorf("get nodes: %q", out)
	}
	if out, code := n.peapod("kubectl", "get", "pod", "nobody"); code != 1 || out != "Error from server (NotFound): pods \"nobody\" not found\n" {
		t.Errorf("get of nothing: code %d, %q", code, out)
	}
	if out, code := n.peapod("kubectl", "run", "x", "--image="+busybox, "--restart=Never", "--rm", "-i", "--", "sh", "-c", "exit 5"); code != 5 {
		t.Errorf("a container's code through kubectl run: code %d\n%s", code, out)
	}
	// Images come and go while the node runs; one in use stays for its users.
	told := newFIFO(t)
	n.sleeper(told, 1, true)
	n.do("image", "remove", busybox)
	if out := n.do("kubectl", "exec", "sleeper", "--", "cat", "/etc/group"); !strings.Contains(out, "root:x:0:") {
		t.Errorf("a file of an image that was removed: %q", out)
	}
	if out := n.do("image", "list"); strings.Contains(out, busybox) {
		t.Errorf("list after remove: %q", out)
	}
}
