// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// logQuery is which part of a log is wanted, and how.
type logQuery struct {
	follow, previous, timestamps bool
	tail, limit                  int64 // -1: all
	since                        time.Time
	stream                       string // Stdout, Stderr, or both for "" and All
}

// logLine is one line of the CRI log format: time, stream, tag, text.
type logLine struct {
	at      time.Time
	stream  string
	partial bool
	torn    bool // its end was never written
	text    []byte
}

// stampFormat is how times are shown: of one width.
const stampFormat = "2006-01-02T15:04:05.000000000Z07:00"

func parseLogLine(line []byte) (l logLine, err error) {
	stamp, rest, ok := bytes.Cut(line, []byte(" "))
	stream, rest, ok2 := bytes.Cut(rest, []byte(" "))
	tag, text, ok3 := bytes.Cut(rest, []byte(" "))
	if !ok || !ok2 || !ok3 || string(stream) != "stdout" && string(stream) != "stderr" {
		return l, fmt.Errorf("cannot read log line %.80q", line)
	}
	if l.at, err = time.Parse(time.RFC3339Nano, string(stamp)); err != nil {
		return l, fmt.Errorf("cannot read log line %.80q: %w", line, err)
	}
	first, _, _ := bytes.Cut(tag, []byte(":")) // more tags may follow
	l.stream, l.partial = string(stream), string(first) == "P"
	l.text, ok = bytes.CutSuffix(text, []byte("\n"))
	l.torn = !ok
	return l, nil
}

// wanted says whether the query's stream and time let a line through.
func (q logQuery) wanted(l logLine) bool {
	if q.stream != "" && q.stream != "All" && !strings.EqualFold(q.stream, l.stream) {
		return false
	}
	return !l.at.Before(q.since)
}

// copy writes the log at path as asked. With a watch it goes on until ended
// says that nothing more will come and all was read.
func (q logQuery) copy(ctx context.Context, w io.Writer, path string, watch *fileWatch, ended func() bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { f.Close() }()
	if q.tail >= 0 {
		if err := seekTail(f, q.tail); err != nil {
			return err
		}
	}
	in := logReader{r: bufio.NewReader(f), out: &logWriter{q: q, w: &limitWriter{w, q.limit}}}
	for {
		// Asked before reading: what was written before the end is read after.
		over := watch == nil || ended()
		if err := in.drain(); err != nil {
			return dropLimit(err)
		}
		if over {
			return dropLimit(in.rest()) // the writer may have been killed in it
		}
		if next, err := reopened(f, path); err == nil && next != nil {
			// Now that there is another file, nothing more comes to this one.
			if err := errors.Join(in.drain(), in.rest()); err != nil {
				next.Close()
				return dropLimit(err)
			}
			f.Close()
			f = next
			in.r.Reset(f)
			continue
		}
		if err := watch.wait(ctx); err != nil {
			return nil // the reader has gone
		}
	}
}

// logReader reads a file that grows, line by line.
type logReader struct {
	r     *bufio.Reader
	out   *logWriter
	begun []byte // a line whose end is not written yet
}

// drain writes all whole lines there are by now.
func (l *logReader) drain() error {
	for {
		part, err := l.r.ReadBytes('\n')
		l.begun = append(l.begun, part...)
		if err != nil {
			return nil
		}
		if err := l.out.line(l.begun); err != nil {
			return err
		}
		l.begun = l.begun[:0]
	}
}

// rest writes a line whose end will not come.
func (l *logReader) rest() error {
	err := l.out.line(l.begun)
	l.begun = l.begun[:0]
	return err
}

// logWriter writes the lines that a query asks for.
type logWriter struct {
	q   logQuery
	w   io.Writer
	mid bool // within a line that came in parts
}

func (l *logWriter) line(text []byte) error {
	line, err := parseLogLine(text)
	if err != nil || !l.q.wanted(line) {
		return nil // a torn line is not worth the rest of the log
	}
	var b bytes.Buffer
	if l.q.timestamps && !l.mid {
		b.WriteString(line.at.Format(stampFormat) + " ")
	}
	b.Write(line.text)
	if l.mid = line.partial; !l.mid && !line.torn {
		b.WriteByte('\n')
	}
	_, err = l.w.Write(b.Bytes())
	return err
}

// reopened is the new file at path after a rotation, or nil.
func reopened(f *os.File, path string) (*os.File, error) {
	a, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b, err := os.Stat(path)
	if err != nil || os.SameFile(a, b) {
		return nil, err
	}
	return os.Open(path)
}

var errLimit = errors.New("limit reached")

func dropLimit(err error) error {
	if errors.Is(err, errLimit) {
		return nil
	}
	return err
}

// limitWriter stops after a number of bytes; -1 is no limit.
type limitWriter struct {
	w    io.Writer
	left int64
}

func (l *limitWriter) Write(b []byte) (int, error) {
	if l.left < 0 {
		return l.w.Write(b)
	}
	if int64(len(b)) >= l.left {
		n, err := l.w.Write(b[:l.left])
		l.left = 0
		if err == nil {
			err = errLimit
		}
		return n, err
	}
	l.left -= int64(len(b))
	return l.w.Write(b)
}

// seekTail moves to the beginning of the last n whole lines.
func seekTail(f *os.File, n int64) error {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return err
	}
	buf := make([]byte, 64<<10)
	for pos := end; pos > 0; {
		size := min(pos, int64(len(buf)))
		pos -= size
		if _, err := f.ReadAt(buf[:size], pos); err != nil {
			return err
		}
		for i := size - 1; i >= 0; i-- {
			// The newline that ends a line begins the next; the very last ends
			// the file, and a partial line's is none.
			if buf[i] != '\n' || pos+i == end-1 || partialBefore(f, pos+i) {
				continue
			}
			if n--; n == 0 {
				_, err := f.Seek(pos+i+1, io.SeekStart)
				return err
			}
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}

// partialBefore says whether the line that ends at off is one part of a longer
// one.
func partialBefore(f *os.File, off int64) bool {
	const most = 17 << 10 // a part, its time and tags
	start := max(off-most, 0)
	b := make([]byte, off-start)
	if _, err := f.ReadAt(b, start); err != nil {
		return false
	}
	l, err := parseLogLine(b[bytes.LastIndexByte(b, '\n')+1:])
	return err == nil && l.partial
}

// tailLog is the end of a log as plain text.
func tailLog(path string, lines, most int64) (string, error) {
	var b bytes.Buffer
	if err := (logQuery{tail: lines, limit: -1}).copy(context.Background(), &b, path, nil, nil); err != nil {
		return "", err
	}
	text := b.Bytes()
	return string(text[max(0, int64(len(text))-most):]), nil
}

// fileWatch wakes when something in a folder changes, or when it is told to.
type fileWatch struct {
	f    *os.File
	bell chan struct{}
	done chan struct{}
}

func watchFolder(dir string) (*fileWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("cannot watch %s: %w", dir, err)
	}
	w := &fileWatch{f: os.NewFile(uintptr(fd), "inotify"), bell: make(chan struct{}, 1), done: make(chan struct{})}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE_SELF); err != nil {
		w.f.Close()
		return nil, fmt.Errorf("cannot watch %s: %w", dir, err)
	}
	go func() {
		defer close(w.done)
		buf := make([]byte, 4096)
		for {
			if _, err := w.f.Read(buf); err != nil {
				return // closed
			}
			w.ring()
		}
	}()
	return w, nil
}

func (w *fileWatch) ring() {
	select {
	case w.bell <- struct{}{}:
	default:
	}
}

// wait returns at the next change, and an error when the context has ended.
func (w *fileWatch) wait(ctx context.Context) error {
	select {
	case <-w.bell:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *fileWatch) close() {
	w.f.Close()
	<-w.done
}
