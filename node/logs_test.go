// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestParseLogLine(t *testing.T) {
	for in, want := range map[string]string{
		"2016-10-06T00:17:09.669794202Z stdout F log content\n": "00:17:09.669794202 stdout whole \"log content\"",
		"2016-10-06T00:17:09.669794202Z stderr P part\n":        "00:17:09.669794202 stderr part \"part\"",
		"2016-10-06T00:17:09.669794202Z stdout F \n":            "00:17:09.669794202 stdout whole \"\"",
		"2016-10-06T00:17:09Z stdout F  two  spaces \n":         "00:17:09 stdout whole \" two  spaces \"",
		"2016-10-06T02:17:09.5+02:00 stdout F zone\n":           "02:17:09.5 stdout whole \"zone\"",
		"2016-10-06T00:17:09Z stdout P:new:tags x\n":            "00:17:09 stdout part \"x\"",
		"2016-10-06T00:17:09Z stdout F:P x\n":                   "00:17:09 stdout whole \"x\"",
		"2016-10-06T00:17:09Z stdout F carriage\r\n":            "00:17:09 stdout whole \"carriage\\r\"",
		"2016-10-06T00:17:09Z stdout F torn":                    "00:17:09 stdout whole torn \"torn\"",
		"2016-10-06T00:17:09Z stdout F \xff\x00\n":              "00:17:09 stdout whole \"\\xff\\x00\"",
		"":                                   "!",
		"\n":                                 "!",
		"plain text\n":                       "!",
		"2016-10-06T00:17:09Z stdout F\n":    "!",
		"2016-10-06T00:17:09Z stdlog F x\n":  "!",
		"2016-13-06T00:17:09Z stdout F x\n":  "!",
		"2016-10-06 00:17:09 stdout F x\n":   "!",
		"2016-10-06T00:17:09Z  stdout F x\n": "!",
		`{"log":"x\n","stream":"stdout"}`:    "!",
	} {
		l, err := parseLogLine([]byte(in))
		got := "!"
		if err == nil {
			got = fmt.Sprintf("%s %s %s%s%q", l.at.Format("15:04:05.999999999"), l.stream, map[bool]string{true: "part ", false: "whole "}[l.partial], map[bool]string{true: "torn "}[l.torn], l.text)
		}
		if got != want {
			t.Errorf("%q is %s, want %s", in, got, want)
		}
	}
}

func FuzzParseLogLine(f *testing.F) {
	for _, s := range []string{"", "2016-10-06T00:17:09.669794202Z stdout F log content\n", "2016-10-06T00:17:09Z stderr P:x part", "a b c d"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		l, err := parseLogLine(in)
		if err == nil && (!bytes.Contains(in, l.text) || l.stream != "stdout" && l.stream != "stderr" || l.at.IsZero() && !bytes.HasPrefix(in, []byte("0001"))) {
			t.Errorf("%q is %+v", in, l)
		}
	})
}

// minute is a line of the log at a minute after noon.
func minute(n int, stream, tag, text string) string {
	return noon().Add(time.Duration(n)*time.Minute).Format("2006-01-02T15:04:05.999999999Z07:00") + " " + stream + " " + tag + " " + text + "\n"
}

func logFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestLogs asks one log in each way that kubectl can.
func TestLogs(t *testing.T) {
	long := strings.Repeat("y", 16<<10)
	small := minute(1, "stdout", "F", "one") + minute(2, "stderr", "F", "two") + minute(3, "stdout", "F", "three")
	parts := minute(1, "stdout", "F", "one") + minute(2, "stdout", "P", long) + minute(2, "stdout", "P", long) + minute(3, "stdout", "F", "end") + minute(4, "stdout", "F", "four")
	all := logQuery{tail: -1, limit: -1}
	for name, tt := range map[string]struct {
		log  string
		ask  func(q *logQuery)
		want string
	}{
		"all":                       {log: small, want: "one\ntwo\nthree\n"},
		"nothing":                   {},
		"tail 0":                    {log: small, ask: func(q *logQuery) { q.tail = 0 }},
		"tail 2":                    {log: small, ask: func(q *logQuery) { q.tail = 2 }, want: "two\nthree\n"},
		"tail more":                 {log: small, ask: func(q *logQuery) { q.tail = 9 }, want: "one\ntwo\nthree\n"},
		"a line in parts":           {log: parts, want: "one\n" + long + long + "end\nfour\n"},
		"tail counts whole lines":   {log: parts, ask: func(q *logQuery) { q.tail = 2 }, want: long + long + "end\nfour\n"},
		"since":                     {log: small, ask: func(q *logQuery) { q.since = noon().Add(2 * time.Minute) }, want: "two\nthree\n"},
		"since later":               {log: small, ask: func(q *logQuery) { q.since = noon().Add(time.Hour) }},
		"since and tail":            {log: small, ask: func(q *logQuery) { q.since, q.tail = noon().Add(3*time.Minute), 2 }, want: "three\n"},
		"stderr":                    {log: small, ask: func(q *logQuery) { q.stream = "Stderr" }, want: "two\n"},
		"All":                       {log: small, ask: func(q *logQuery) { q.stream = "All" }, want: "one\ntwo\nthree\n"},
		"limit within a line":       {log: small, ask: func(q *logQuery) { q.limit = 6 }, want: "one\ntw"},
		"limit at a line's end":     {log: small, ask: func(q *logQuery) { q.limit = 4 }, want: "one\n"},
		"limit counts what is sent": {log: small, ask: func(q *logQuery) { q.limit, q.stream = 5, "Stderr" }, want: "two\n"},
		"limit and times":           {log: small, ask: func(q *logQuery) { q.limit, q.timestamps = 33, true }, want: "2026-01-02T12:01:00.000000000Z on"},
		"times": {log: minute(1, "stdout", "F", "one") + minute(2, "stdout", "P", "a") + minute(3, "stdout", "F", "b"), ask: func(q *logQuery) { q.timestamps = true },
			want: "2026-01-02T12:01:00.000000000Z one\n2026-01-02T12:02:00.000000000Z ab\n"},
		"what is no line is left out": {log: minute(1, "stdout", "F", "one") + "garbage\n\n" + minute(2, "stdout", "F", "two"), want: "one\ntwo\n"},
		"torn at the end":             {log: small + strings.TrimSuffix(minute(4, "stdout", "F", "fo"), "\n"), want: "one\ntwo\nthree\nfo"},
		"ends in parts":               {log: minute(1, "stdout", "P", "no newline"), want: "no newline"},
	} {
		t.Run(name, func(t *testing.T) {
			q := all
			if tt.ask != nil {
				tt.ask(&q)
			}
			var out bytes.Buffer
			if err := q.copy(context.Background(), &out, logFile(t, tt.log), nil, nil); err != nil {
				t.Fatal(err)
			}
			if got := out.String(); got != tt.want {
				t.Errorf("%d bytes %.80q, want %d bytes %.80q", len(got), got, len(tt.want), tt.want)
			}
		})
	}
	if err := all.copy(context.Background(), io.Discard, "/does/not/exist", nil, nil); err == nil {
		t.Error("a log that is not there was read")
	}
}

// TestLogQuery reads what the API server sends on.
func TestLogQuery(t *testing.T) {
	for in, want := range map[string]logQuery{
		"": {tail: -1, limit: -1},
		"follow=true&previous=true&timestamps=true": {follow: true, previous: true, timestamps: true, tail: -1, limit: -1},
		"tailLines=0&limitBytes=5&stream=Stdout":    {tail: 0, limit: 5, stream: "Stdout"},
		"sinceSeconds=60":                           {tail: -1, limit: -1, since: noon().Add(-time.Minute)},
		"sinceTime=2026-01-02T11:00:00Z":            {tail: -1, limit: -1, since: noon().Add(-time.Hour)},
	} {
		v, err := url.ParseQuery(in)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := logQueryOf(v, noon()); err != nil || got != want {
			t.Errorf("%s is %+v, %v; want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"tailLines=x", "limitBytes=1.5", "sinceSeconds=", "sinceTime=noon"} {
		v, err := url.ParseQuery(in)
		if err != nil {
			t.Fatal(err)
		}
		if q, err := logQueryOf(v, noon()); in != "sinceSeconds=" && err == nil {
			t.Errorf("%s is %+v", in, q)
		}
	}
}

// TestFollow: a follower has every line once, in order, over rotations and
// whatever is written between them, until the container's end.
func TestFollow(t *testing.T) {
	path := logFile(t, minute(0, "stdout", "F", "line 0"))
	watch, err := watchFolder(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	defer watch.close()
	var over atomic.Bool
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := (logQuery{tail: -1, limit: -1, follow: true}).copy(t.Context(), w, path, watch, over.Load)
		w.CloseWithError(err)
		done <- err
	}()
	lines := bufio.NewScanner(r)
	want := func(n int) {
		t.Helper()
		if !lines.Scan() || lines.Text() != fmt.Sprintf("line %d", n) {
			t.Fatalf("got %q, want line %d (%v)", lines.Text(), n, lines.Err())
		}
	}
	appendTo := func(path, text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	want(0)
	n := 1
	for round := range 5 {
		appendTo(path, minute(n, "stdout", "F", fmt.Sprintf("line %d", n)))
		want(n)
		old := fmt.Sprintf("%s.%d", path, round)
		if err := os.Rename(path, old); err != nil {
			t.Fatal(err)
		}
		// The runtime still writes to the old file, and then opens the new one.
		appendTo(old, minute(n, "stdout", "F", fmt.Sprintf("line %d", n+1)))
		appendTo(path, minute(n, "stdout", "F", fmt.Sprintf("line %d", n+2)))
		want(n + 1)
		want(n + 2)
		n += 3
	}
	half := minute(n, "stdout", "F", fmt.Sprintf("line %d", n))
	appendTo(path, half[:20])
	appendTo(path, half[20:])
	want(n)
	appendTo(path, minute(n, "stdout", "F", fmt.Sprintf("line %d", n+1)))
	over.Store(true)
	watch.ring()
	want(n + 1)
	if lines.Scan() {
		t.Errorf("and %q", lines.Text())
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
