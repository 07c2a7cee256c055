// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// parse reads entries back: what the program wrote.
func parse(t *testing.T, entries []byte) []byte {
	t.Helper()
	var out []byte
	for line := range bytes.Lines(entries) {
		if line[len(line)-1] != '\n' {
			t.Fatalf("entry without end: %q", line)
		}
		f := bytes.SplitN(line[:len(line)-1], []byte(" "), 4)
		if len(f) != 4 || string(f[1]) != "stdout" || len(f[3]) > maxLine {
			t.Fatalf("bad entry %.60q", line)
		}
		if _, err := time.Parse(time.RFC3339Nano, string(f[0])); err != nil {
			t.Fatal(err)
		}
		out = append(out, f[3]...)
		switch string(f[2]) {
		case "F":
			out = append(out, '\n')
		case "P":
			if len(f[3]) != maxLine {
				t.Fatalf("partial entry of %d bytes", len(f[3]))
			}
		default:
			t.Fatalf("bad tag in %.60q", line)
		}
	}
	return out
}

// FuzzEntries: the bytes of a program come back from its log, however they
// were cut into pieces.
func FuzzEntries(f *testing.F) {
	f.Add([]byte("one\ntwo\n\nthree"), 3)
	f.Add([]byte(strings.Repeat("x", 3*maxLine+7)+"\n"), 1000)
	f.Add([]byte(strings.Repeat("x", maxLine)+"\n"), maxLine)
	f.Fuzz(func(t *testing.T, in []byte, piece int) {
		if piece <= 0 {
			piece = 1
		}
		var entries, rest []byte
		for left := in; len(left) > 0; {
			n := min(piece, len(left))
			entries, rest = appendEntries(entries, time.Now(), "stdout", rest, left[:n])
			left = left[n:]
			if len(rest) > maxLine {
				t.Fatalf("%d bytes are held back", len(rest))
			}
		}
		if got := append(parse(t, entries), rest...); !bytes.Equal(got, in) {
			t.Fatalf("wrote %q, log has %q", in, got)
		}
	})
}

// TestReopen: after a rotation nothing goes to the old file, and no entry is
// torn between the two.
func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	l, err := openLog(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	rest := l.add("stdout", nil, []byte("old\nbegun"))
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := l.reopen(); err != nil {
		t.Fatal(err)
	}
	l.add("stdout", rest, []byte(" before\n"))
	for file, want := range map[string]string{path + ".1": "old\n", path: "begun before\n"} {
		b, err := os.ReadFile(file)
		if err != nil || string(parse(t, b)) != want {
			t.Errorf("%s: %q, %v", file, b, err)
		}
	}
}

// TestFullDisk: entries that do not fit are lost whole; what was there stays
// readable, and later ones are written again.
func TestFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	l, err := openLog(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	l.add("stdout", nil, []byte("kept\n"))
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	good := l.file
	l.file = full
	l.add("stdout", nil, []byte("lost\n"))
	if !l.failing {
		t.Error("a write to a full disk was taken for good")
	}
	l.file = good
	full.Close()
	l.add("stdout", nil, []byte("again\n"))
	if b, err := os.ReadFile(path); err != nil || string(parse(t, b)) != "kept\nagain\n" || l.failing {
		t.Errorf("log %q, %v", b, err)
	}
}
