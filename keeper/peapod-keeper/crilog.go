// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

// maxLine is the longest content of one log entry in bytes; longer lines are
// split into partial entries. It is what CRI runtimes use.
const maxLine = 16 << 10

// appendEntries appends to dst the log entries of what a stream has produced:
// rest, the unfinished line from before, followed by chunk. It returns them
// with the new unfinished line, at most maxLine bytes, in the space of rest.
//
// An entry is "TIME STREAM TAG CONTENT\n" with TIME in RFC 3339 with
// nanoseconds, STREAM stdout or stderr, and TAG F where a line of the program
// ended, P where it goes on in the next entry of the stream. (KEP: kubelet CRI
// logging.)
func appendEntries(dst []byte, now time.Time, stream string, rest, chunk []byte) (entries, left []byte) {
	for len(chunk) > 0 {
		line, after, whole := bytes.Cut(chunk, []byte{'\n'})
		for len(rest)+len(line) > maxLine {
			n := maxLine - len(rest)
			dst = appendEntry(dst, now, stream, 'P', rest, line[:n])
			rest, line = rest[:0], line[n:]
		}
		if !whole {
			return dst, append(rest, line...)
		}
		dst = appendEntry(dst, now, stream, 'F', rest, line)
		rest, chunk = rest[:0], after
	}
	return dst, rest
}

func appendEntry(dst []byte, now time.Time, stream string, tag byte, a, b []byte) []byte {
	dst = now.AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, ' ')
	dst = append(dst, stream...)
	dst = append(dst, ' ', tag, ' ')
	dst = append(dst, a...)
	dst = append(dst, b...)
	return append(dst, '\n')
}

// criLog is a log file in CRI format, written by up to two streams.
type criLog struct {
	path string
	log  *slog.Logger
	// mu guards the fields below: one entry is written as a whole.
	mu      sync.Mutex
	file    *os.File
	failing bool
	buf     []byte
}

func openLog(path string, log *slog.Logger) (*criLog, error) {
	l := &criLog{path: path, log: log}
	return l, l.reopen()
}

// reopen writes to a new file at the path from now on.
func (l *criLog) reopen() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("cannot open log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.file
	l.file = f
	if old == nil {
		return nil
	}
	return old.Close()
}

// add writes what a stream has produced and returns its new unfinished line.
func (l *criLog) add(stream string, rest, chunk []byte) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now().UTC()
	l.buf, rest = appendEntries(l.buf[:0], now, stream, rest, chunk)
	l.write(l.buf)
	l.trim()
	return rest
}

// finish writes the unfinished line of a stream that has ended.
func (l *criLog) finish(stream string, rest []byte) {
	if len(rest) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = appendEntry(l.buf[:0], time.Now().UTC(), stream, 'P', rest, nil)
	l.write(l.buf)
	l.trim()
}

// trim gives back a buffer that a burst has made large.
func (l *criLog) trim() {
	if cap(l.buf) > 4*maxLine {
		l.buf = nil
	}
}

// write never makes the program wait for a disk that is full: entries that
// cannot be written are lost, whole, which is said once in the keeper's log.
func (l *criLog) write(b []byte) {
	if len(b) == 0 || l.file == nil {
		return
	}
	n, err := l.file.Write(b)
	if err != nil && n > 0 {
		err = errors.Join(err, l.unwrite(b[:n]))
	}
	switch {
	case err != nil && !l.failing:
		l.log.Error("log cannot be written, output is lost", "path", l.path, "err", err)
	case err == nil && l.failing:
		l.log.Info("log can be written again", "path", l.path)
	}
	l.failing = err != nil
}

// unwrite cuts the beginning of an entry off the end of the file: b is what
// was written of several.
func (l *criLog) unwrite(b []byte) error {
	info, err := l.file.Stat()
	if err != nil {
		return err
	}
	torn := len(b) - (bytes.LastIndexByte(b, '\n') + 1)
	return l.file.Truncate(info.Size() - int64(torn))
}

func (l *criLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return
	}
	if err := l.file.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
		l.log.Error("log cannot be closed", "path", l.path, "err", err)
	}
	l.file = nil
}
