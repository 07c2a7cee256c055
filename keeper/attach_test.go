// SPDX-License-Identifier: Apache-2.0

package keeper_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/keeper"
)

func TestExec(t *testing.T) {
	n := newNode(t)
	n.run(n.spec("main", "sleep 1000"))
	for _, tt := range []struct {
		id, script, stdin string
		out, err          string
		code              int
	}{
		{"true", "true", "", "", "", 0},
		{"both", "echo out; echo err >&2; exit 4", "", "out\n", "err\n", 4},
		{"stdin", "cat; exit 5", "hello\nthere", "hello\nthere", "", 5},
		{"pid", "kill -9 $$", "", "", "", 137},
		{"daemon", "sleep 1000 & echo left", "", "left\n", "", 0},
	} {
		s := n.execSpec(tt.id, "main", false, "sh", "-c", tt.script)
		var in io.Reader
		if tt.stdin != "" {
			s.Stdin, s.StdinOnce = true, true
			in = strings.NewReader(tt.stdin)
		}
		n.run(s)
		var out, stderr bytes.Buffer
		if err := n.client.Attach(t.Context(), tt.id, keeper.Streams{Stdin: in, Stdout: &out, Stderr: &stderr}); err != nil {
			t.Errorf("%s: %v", tt.id, err)
		}
		if e := n.wait(tt.id); e.Code != tt.code || out.String() != tt.out || stderr.String() != tt.err {
			t.Errorf("%s: code %d, stdout %q, stderr %q", tt.id, e.Code, out.String(), stderr.String())
		}
		if err := n.client.Forget(t.Context(), tt.id); err != nil {
			t.Error(err)
		}
	}
	_, err := n.client.Run(t.Context(), n.execSpec("nope", "main", false, "no-such-program"))
	if err == nil || !strings.Contains(err.Error(), "executable file not found in $PATH") {
		t.Errorf("missing program: %v", err)
	}
}

// TestHeldOutput: what a process wrote before anyone came is not lost, not
// even when it has long ended, and nothing more than the pipe holds is read.
func TestHeldOutput(t *testing.T) {
	n := newNode(t)
	n.run(n.spec("main", "sleep 1000"))
	n.run(n.execSpec("quick", "main", false, "sh", "-c", "seq 1 1000"))
	n.wait("quick")
	var out bytes.Buffer
	if err := n.client.Attach(t.Context(), "quick", keeper.Streams{Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(out.String(), "\n"); lines != 1000 {
		t.Errorf("%d lines", lines)
	}
}

func TestAttachMany(t *testing.T) {
	n := newNode(t)
	s := n.spec("echo", `while read x; do echo "<$x>"; [ "$x" = end ] && exit 0; done`)
	s.Stdin = true
	n.run(s)
	type view struct{ lines chan string }
	watch := func() view {
		v := view{make(chan string, 16)}
		r, w := io.Pipe()
		go func() {
			defer w.Close()
			if err := n.client.Attach(t.Context(), "echo", keeper.Streams{Stdout: w}); err != nil {
				t.Error(err)
			}
		}()
		go func() {
			defer close(v.lines)
			b, err := io.ReadAll(r)
			if err != nil {
				t.Error(err)
			}
			v.lines <- string(b)
		}()
		return v
	}
	one, two := watch(), watch()
	// Both are connected once a line has come to each; since that cannot be
	// seen here, the third client sends lines until it ends the process.
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	in, feed := io.Pipe()
	done := make(chan error)
	go func() { done <- n.client.Attach(ctx, "echo", keeper.Streams{Stdin: in, Stdout: &out}) }()
	fmt.Fprint(feed, "a\nend\n")
	if err := <-done; err != nil {
		t.Error(err)
	}
	cancel()
	feed.Close()
	if out.String() != "<a>\n<end>\n" || n.output("echo", "stdout") != "<a>\n<end>\n" {
		t.Errorf("attached %q, log %q", out.String(), n.output("echo", "stdout"))
	}
	for _, v := range []view{one, two} {
		if got := <-v.lines; got != "" && !strings.HasSuffix("<a>\n<end>\n", got) {
			t.Errorf("watcher saw %q", got)
		}
	}
}

func TestStdinOnce(t *testing.T) {
	n := newNode(t)
	s := n.spec("once", `cat; echo end`)
	s.Stdin, s.StdinOnce = true, true
	n.run(s)
	var out bytes.Buffer
	if err := n.client.Attach(t.Context(), "once", keeper.Streams{Stdin: strings.NewReader("x\n"), Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if out.String() != "x\nend\n" {
		t.Errorf("got %q", out.String())
	}
	s = n.spec("closed", `cat; echo end`)
	s.Stdin, s.StdinOnce = true, true
	n.run(s)
	if err := n.client.CloseStdin(t.Context(), "closed"); err != nil {
		t.Fatal(err)
	}
	if e := n.wait("closed"); e.Code != 0 || n.output("closed", "stdout") != "end\n" {
		t.Errorf("%+v, %q", e, n.output("closed", "stdout"))
	}
}

func TestTerminal(t *testing.T) {
	n := newNode(t)
	s := n.specOf("tty", true, "sh", "-c", `stty size; trap 'stty size; exit 6' WINCH; echo ready; while :; do read x; done`)
	s.Stdin = true
	n.run(s)
	sizes := make(chan keeper.Size, 1)
	r, w := io.Pipe()
	done := make(chan error)
	in, feed := io.Pipe()
	go func() {
		err := n.client.Attach(t.Context(), "tty", keeper.Streams{Stdin: in, Stdout: w, Resize: sizes})
		w.Close()
		done <- err
	}()
	// The prompt may have come before we did; what is typed is echoed.
	fmt.Fprint(feed, "hello\n")
	buf := make([]byte, 1024)
	var seen string
	for !strings.Contains(seen, "hello\r\n") {
		k, err := r.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		seen += string(buf[:k])
	}
	n.awaitPart("tty", "ready\r\n")
	sizes <- keeper.Size{Width: 123, Height: 45}
	rest, err := io.ReadAll(r)
	if err != nil || !strings.Contains(string(rest), "45 123\r\n") {
		t.Errorf("after resize: %q, %v", rest, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	feed.Close()
	if e := n.wait("tty"); e.Code != 6 {
		t.Errorf("%+v", e)
	}
	if out := n.output("tty", "stdout"); !strings.HasSuffix(out, "45 123\r\n") {
		t.Errorf("log %q", out)
	}
}

func TestExecTerminal(t *testing.T) {
	n := newNode(t)
	n.run(n.spec("main", "sleep 1000"))
	s := n.execSpec("sh", "main", true, "sh", "-c", "test -t 0 && test -t 1 && test -t 2 && seq 1 5000; exit 9")
	s.Stdin = true
	n.run(s)
	var out bytes.Buffer
	if err := n.client.Attach(t.Context(), "sh", keeper.Streams{Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if e := n.wait("sh"); e.Code != 9 || strings.Count(out.String(), "\r\n") != 5000 {
		t.Errorf("%+v, %d lines", e, strings.Count(out.String(), "\r\n"))
	}
	if err := n.client.Resize(t.Context(), "main", keeper.Size{}); err == nil {
		t.Error("a process without a terminal was resized")
	}
}

// TestNothingLost sends 100 MB through the log of one container and through
// the stream of an exec, at the same time.
func TestNothingLost(t *testing.T) {
	if testing.Short() {
		t.Skip("100 MB")
	}
	n := newNode(t)
	const size = 100_000_000
	n.run(n.spec("flood", fmt.Sprintf("yes 'a line of the flood that is some sixty characters long, no more' | head -c %d", size)))
	n.run(n.spec("main", "sleep 1000"))
	n.run(n.execSpec("copy", "main", false, "head", "-c", fmt.Sprint(size), "/dev/zero"))
	sum := sha256.New()
	if err := n.client.Attach(t.Context(), "copy", keeper.Streams{Stdout: sum}); err != nil {
		t.Fatal(err)
	}
	want := sha256.New()
	if _, err := io.CopyN(want, zero{}, size); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sum.Sum(nil), want.Sum(nil)) {
		t.Error("exec: bytes differ")
	}
	n.wait("flood")
	line := "a line of the flood that is some sixty characters long, no more\n"
	expected := strings.Repeat(line, size/len(line)+1)[:size]
	if got := n.output("flood", "stdout"); got != expected {
		t.Errorf("log: %d bytes, want %d", len(got), size)
	}
}

type zero struct{}

func (zero) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// TestLeftBehind: an output that others have inherited neither holds up the
// exit nor is lost.
func TestLeftBehind(t *testing.T) {
	n := newNode(t)
	// No OCI runtime is needed for this: two processes, one of which is kept.
	s := n.spec("parent", "")
	for _, f := range []string{"fifo", "start"} {
		if err := unix.Mkfifo(n.bundle("parent")+"/"+f, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.Args = []string{"/bin/sh", "-c", `
		sh -c 'exec 5<>fifo; read x <&5; echo late' &
		sh -c 'exec 4<>start; read x <&4; echo early; exit 8' & echo $! >pid`}
	n.run(s)
	put := func(name string) {
		f, err := os.OpenFile(n.bundle("parent")+"/"+name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		if _, err := f.WriteString("\n"); err != nil {
			t.Fatal(err)
		}
	}
	put("start")
	if e := n.wait("parent"); e.Code != 8 || n.output("parent", "stdout") != "early\n" {
		t.Errorf("%+v, %q", e, n.output("parent", "stdout"))
	}
	put("fifo")
	n.awaitOutput("parent", "stdout", "early\nlate\n")
}
