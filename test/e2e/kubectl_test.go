// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// terminal is a kubectl on a terminal of its own.
type terminal struct {
	cmd    *exec.Cmd
	master *os.File
	mu     sync.Mutex // guards seen
	seen   bytes.Buffer
	done   chan struct{} // closed when the output has ended
}

func onTerminal(t *testing.T, rows, columns uint16, args ...string) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	x := &terminal{cmd: c.command(ctx, args...), master: master, done: make(chan struct{})}
	x.resize(t, rows, columns)
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = slave, slave, slave
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(x.done)
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			x.mu.Lock()
			x.seen.Write(b[:n])
			x.mu.Unlock()
			if err != nil {
				return // the last user of the terminal is gone
			}
		}
	}()
	return x
}

func (x *terminal) resize(t *testing.T, rows, columns uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(x.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		t.Fatal(err)
	}
}

func (x *terminal) text() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.seen.String()
}

func (x *terminal) await(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(patience); !strings.Contains(x.text(), want); {
		if time.Now().After(end) {
			t.Fatalf("%v shows no %q:\n%s", x.cmd.Args[1:], want, x.text())
		}
		select {
		case <-x.done:
			if !strings.Contains(x.text(), want) {
				t.Fatalf("%v ended without %q:\n%s", x.cmd.Args[1:], want, x.text())
			}
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (x *terminal) enter(t *testing.T, line string) {
	t.Helper()
	if _, err := x.master.WriteString(line + "\n"); err != nil {
		t.Fatal(err)
	}
}

// TestTerminals: K24. exec -it with a size that follows, attach, run -it --rm.
func TestTerminals(t *testing.T) {
	t.Parallel()
	apply(t, "terminals", "terminationGracePeriodSeconds: 1\ncontainers:\n- {name: c, image: "+image+", command: [sleep, '1000']}\n- {name: cat, image: "+image+", stdin: true, command: [sh, -c, 'while read l; do echo got $l; done; exec sleep 1000']}\n")
	await(t, "terminals", "runs", ready)
	x := onTerminal(t, 41, 101, "exec", "-it", "terminals", "-c", "c", "--", "sh")
	x.enter(t, "tty; stty size")
	x.await(t, "/dev/pts/0")
	x.await(t, "41 101")
	x.resize(t, 52, 112)
	// The size takes its way to the container beside the keys.
	x.enter(t, "until stty size | grep '52 112'; do usleep 20000; done; echo now-$((1+1))")
	x.await(t, "now-2")
	x.enter(t, "exit 5")
	<-x.done
	if err := x.cmd.Wait(); x.cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("exec -it ended with %v: %s", err, x.text())
	}
	attach := c.command(t.Context(), "attach", "-i", "terminals", "-c", "cat")
	in, err := attach.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	attach.Stdout = &out
	if err := attach.Start(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(in, "hello")
	eventually(t, "the attached input arrives", func() bool { return strings.Contains(must(t, "logs", "terminals", "-c", "cat"), "got hello") })
	_ = attach.Process.Kill()
	_ = attach.Wait()
	if !strings.Contains(out.String(), "got hello") {
		t.Errorf("attach showed %q", out.String())
	}
	removeLater(t, "pod/run-rm")
	r := onTerminal(t, 24, 80, "run", "run-rm", "--image="+image, "-it", "--rm", "--restart=Never", "--", "sh", "-c", "read word; echo word-$word; exit 0")
	r.await(t, "try pressing enter")
	r.enter(t, "typed")
	r.await(t, "word-typed")
	r.await(t, `pod "run-rm" deleted`)
	<-r.done
	if err := r.cmd.Wait(); err != nil {
		t.Errorf("run -it --rm: %v %s", err, r.text())
	}
	if out, err := kubectl(t, "get", "pod", "run-rm"); err == nil {
		t.Errorf("run --rm left %s", out)
	}
}

// TestLogOptions: K24. What kubectl logs can ask for.
func TestLogOptions(t *testing.T) {
	t.Parallel()
	apply(t, "log-options", `
		restartPolicy: Never
		containers:
		- {name: a, image: peapod.dev/examples:1, command: [sh, -c, "echo a1; echo a2; until [ -e /dev/shm/go ]; do usleep 20000; done; echo a3"]}
		- {name: b, image: peapod.dev/examples:1, command: [sh, -c, "echo b1; until [ -e /dev/shm/go ]; do usleep 20000; done"]}
	`)
	await(t, "log-options", "runs", ready)
	stamps := must(t, "logs", "log-options", "-c", "a", "--timestamps")
	if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z a1\n\d{4}-\S+Z a2\n$`).MatchString(stamps) {
		t.Errorf("--timestamps shows %q", stamps)
	}
	first, _, _ := strings.Cut(stamps, " ")
	for _, x := range []struct {
		want string
		args []string
	}{
		{"a1\na", []string{"-c", "a", "--limit-bytes=4"}},
		{"a2\n", []string{"-c", "a", "--tail=1"}},
		{"", []string{"-c", "a", "--tail=0"}},
		{"[pod/log-options/b] b1\n", []string{"-c", "b", "--prefix"}},
		{"a1\na2\n", []string{"-c", "a", "--since-time=" + first}},
		{"", []string{"-c", "a", "--since-time=2100-01-01T00:00:00Z"}},
		{"Defaulted container \"a\" out of: a, b\na1\na2\n", nil},
	} {
		if got := must(t, append([]string{"logs", "log-options"}, x.args...)...); got != x.want {
			t.Errorf("logs %v: %q, want %q", x.args, got, x.want)
		}
	}
	// kubectl goes through the containers in no order of its own.
	if got := must(t, "logs", "log-options", "--all-containers"); got != "a1\na2\nb1\n" && got != "b1\na1\na2\n" {
		t.Errorf("logs --all-containers: %q", got)
	}
	if out, err := kubectl(t, "logs", "log-options", "-c", "a", "-p"); err == nil || !strings.Contains(out, `previous terminated container "a" in pod "log-options" not found`) {
		t.Errorf("logs -p of a first container: %v %s", err, out)
	}
	follow := c.command(t.Context(), "logs", "-f", "log-options", "-c", "a")
	out, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); line != "a1\n" {
		t.Errorf("logs -f begins with %q, %v", line, err)
	}
	in(t, "log-options", "b", "touch", "/dev/shm/go")
	rest, err := io.ReadAll(lines)
	if string(rest) != "a2\na3\n" || err != nil || follow.Wait() != nil {
		t.Errorf("logs -f goes on with %q and ends with %v", rest, err)
	}
}

// TestLogRotation: a log that grows over its limit is rotated; who follows it
// has every line once, and logs reads the current file.
func TestLogRotation(t *testing.T) {
	t.Parallel()
	const lines = 90_000 // of 150 bytes and more each in the log
	apply(t, "wordy", fmt.Sprintf(`
		terminationGracePeriodSeconds: 1
		containers:
		- name: c
		  image: %s
		  command: [sh, -c, "x=%s; until [ -e /dev/shm/go ]; do usleep 20000; done; i=0; while [ $i -lt %d ]; do echo $i $x; i=$((i+1)); done; until [ -e /dev/shm/more ]; do usleep 20000; done; echo last; exec sleep 1000"]
	`, image, strings.Repeat("x", 100), lines))
	p := await(t, "wordy", "runs", ready)
	follow := c.command(t.Context(), "logs", "-f", "wordy")
	out, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	in(t, "wordy", "c", "touch", "/dev/shm/go")
	text := bufio.NewScanner(out)
	for i := range lines {
		if !text.Scan() || !strings.HasPrefix(text.Text(), fmt.Sprint(i, " x")) {
			t.Fatalf("line %d is %q, %v", i, text.Text(), text.Err())
		}
	}
	logs := filepath.Join(c.dir, "log", "pods", "default_wordy_"+string(p.UID), "c")
	eventually(t, "the log is rotated", func() bool {
		found, err := filepath.Glob(filepath.Join(logs, "0.log.*"))
		return err == nil && len(found) == 1
	})
	in(t, "wordy", "c", "touch", "/dev/shm/more")
	if !text.Scan() || text.Text() != "last" {
		t.Errorf("after the rotation comes %q, %v", text.Text(), text.Err())
	}
	if got := must(t, "logs", "wordy"); got != "last\n" {
		t.Errorf("logs has %d bytes: %.100q", len(got), got)
	}
	del(t, "wordy", 1)
	if err := follow.Wait(); err != nil {
		t.Errorf("logs -f ends with %v", err)
	}
}

// TestCopyAndForward: K24. cp both ways, of files and folders; connections
// through port-forward, one after the other.
func TestCopyAndForward(t *testing.T) {
	t.Parallel()
	apply(t, "copies", "terminationGracePeriodSeconds: 1\ncontainers: [{name: c, image: "+image+", command: [sh, -c, 'mkdir /tmp/www; echo forwarded > /tmp/www/index.html; exec /bin/web /tmp/www']}]\n")
	await(t, "copies", "runs", ready)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "tree/deep"), 0o755); err != nil {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	if err := os.WriteFile(filepath.Join(dir, "tree/deep/file"), content, 0o640); err != nil {
		t.Fatal(err)
	}
	must(t, "cp", filepath.Join(dir, "tree"), "copies:/tmp/tree")
	must(t, "cp", "copies:/tmp/tree", filepath.Join(dir, "back"))
	if got, err := os.ReadFile(filepath.Join(dir, "back/deep/file")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("cp brought back %d bytes, %v", len(got), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	forward := c.command(ctx, "port-forward", "pod/copies", ":8080")
	out, err := forward.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := forward.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = forward.Wait() }()
	line, err := bufio.NewReader(out).ReadString('\n')
	m := regexp.MustCompile(`^Forwarding from 127\.0\.0\.1:(\d+) -> 8080\n$`).FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("port-forward says %q, %v", line, err)
	}
	for range 3 {
		r, err := http.Get("http://127.0.0.1:" + m[1])
		if err != nil {
			t.Fatalf("through port-forward: %v", err)
		}
		b, err := io.ReadAll(r.Body)
		r.Body.Close()
		if string(b) != "forwarded\n" {
			t.Errorf("through port-forward: %q, %v", b, err)
		}
	}
}

// TestKubectlVerbs: S1, S31, K24. The other words of kubectl, on one Pod.
func TestKubectlVerbs(t *testing.T) {
	t.Parallel()
	removeLater(t, "pod/verbs")
	must(t, "run", "verbs", "--image="+image, "--labels=app=verbs", "--env=A=b", "--command", "--", "sh", "-c", "trap 'exit 0' TERM; while :; do usleep 100000; done")
	must(t, "wait", "--for=condition=Ready", "pod/verbs", "--timeout=60s")
	must(t, "label", "pod", "verbs", "tier=one")
	must(t, "annotate", "pod", "verbs", "note=two")
	if got := must(t, "get", "pods", "-l", "tier=one,app=verbs", "-o", "name"); got != "pod/verbs\n" {
		t.Errorf("get -l: %q", got)
	}
	if got := must(t, "get", "pods", "--field-selector", "status.phase=Running,metadata.name=verbs", "-o", "jsonpath={.items[*].metadata.annotations.note}"); got != "two" {
		t.Errorf("get --field-selector: %q", got)
	}
	described := must(t, "describe", "pod", "verbs")
	for _, want := range []string{"Name:             verbs\n", "Node:             n1/", "Status:           Running\n", "Reason     Age", "Successfully assigned default/verbs to n1", "Container started"} {
		if !strings.Contains(described, want) {
			t.Errorf("describe has no %q:\n%s", want, described)
		}
	}
	eventually(t, "events are listed", func() bool {
		out := must(t, "events", "--for", "pod/verbs")
		return strings.Contains(out, "Scheduled") && strings.Contains(out, "Started")
	})
	manifest := must(t, "get", "pod", "verbs", "-o", "yaml")
	if out, err := kubectlIn(t, manifest, "diff", "-f", "-"); err != nil {
		t.Errorf("diff of what is there: %v %s", err, out)
	}
	if out, err := kubectlIn(t, strings.Replace(manifest, "note: two", "note: three", 1), "diff", "-f", "-"); err == nil || !strings.Contains(out, "+    note: three") {
		t.Errorf("diff of a change: %v %s", err, out)
	}
	for how, patch := range map[string]string{"strategic": `{"metadata":{"labels":{"strategic":"yes"}}}`, "merge": `{"metadata":{"labels":{"merge":"yes"}}}`, "json": `[{"op":"add","path":"/metadata/labels/json","value":"yes"}]`} {
		must(t, "patch", "pod", "verbs", "--type="+how, "-p", patch)
		if got := must(t, "get", "pod", "verbs", "-o", "jsonpath={.metadata.labels."+how+"}"); got != "yes" {
			t.Errorf("patch --type=%s: %q", how, got)
		}
	}
	if out, err := kubectl(t, "patch", "pod", "verbs", "-p", `{"spec":{"hostNetwork":true}}`); err == nil || !strings.Contains(out, "pod updates may not change fields other than") {
		t.Errorf("a change of what may not change: %v %s", err, out)
	}
	first := getPod(t, "verbs").UID
	if out, err := kubectlIn(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: verbs}\nspec: {containers: [{name: c, image: "+image+", command: [sleep, '1000']}]}\n", "replace", "--force", "--grace-period=1", "-f", "-"); err != nil {
		t.Errorf("replace --force: %v %s", err, out)
	}
	if p := await(t, "verbs", "runs", ready); p.UID == first {
		t.Error("replace --force kept the pod")
	}
	editor := filepath.Join(t.TempDir(), "editor")
	if err := os.WriteFile(editor, []byte("#!/bin/sh\nsed -i 's/^  name: verbs$/&\\n  labels: {edited: \"yes\"}/' \"$1\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	edit := c.command(t.Context(), "edit", "pod", "verbs")
	edit.Env = append(edit.Env, "KUBE_EDITOR="+editor)
	if out, err := edit.CombinedOutput(); err != nil || getPod(t, "verbs").Labels["edited"] != "yes" {
		t.Errorf("edit: %v %s", err, out)
	}
	if out := must(t, "get", "pod", "verbs", "-o", "wide", "--no-headers"); !strings.Contains(out, getPod(t, "verbs").Status.PodIP+"   n1 ") {
		t.Errorf("get -o wide: %s", out)
	}
	must(t, "delete", "pods", "-l", "edited=yes", "--now")
	if _, err := kubectl(t, "get", "pod", "verbs"); err == nil {
		t.Error("delete -l left the pod")
	}
}

// TestDebug: K23. kubectl debug: a container is added to a living Pod and sees
// the processes of the one it looks at.
func TestDebug(t *testing.T) {
	t.Parallel()
	apply(t, "looked-into", "terminationGracePeriodSeconds: 1\ncontainers: [{name: c, image: "+image+", command: [sleep, '4321']}]\n")
	before := await(t, "looked-into", "runs", ready)
	must(t, "debug", "looked-into", "--image="+image, "--target=c", "-c", "probe", "--", "sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline; exit 3")
	p := await(t, "looked-into", "was looked into", func(p *corev1.Pod) bool {
		return len(p.Status.EphemeralContainerStatuses) == 1 && p.Status.EphemeralContainerStatuses[0].State.Terminated != nil
	})
	if end := p.Status.EphemeralContainerStatuses[0].State.Terminated; end.ExitCode != 3 {
		t.Errorf("it ended with %+v", end)
	}
	if out := must(t, "logs", "looked-into", "-c", "probe"); out != "sleep 4321 " {
		t.Errorf("the target's first process is %q", out)
	}
	if s := p.Status.ContainerStatuses[0]; !ready(p) || s.RestartCount != 0 || s.ContainerID != before.Status.ContainerStatuses[0].ContainerID {
		t.Errorf("the Pod was touched: %+v", p.Status)
	}
	if out := must(t, "describe", "pod", "looked-into"); !strings.Contains(out, "Ephemeral Containers:\n  probe:") {
		t.Errorf("describe shows no ephemeral container:\n%s", out)
	}
}
