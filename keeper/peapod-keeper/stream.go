// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/keeper"
)

// grace is how long a process that has ended is still listened to when others
// have inherited its output.
const grace = 2 * time.Second

// stream carries one output of a process from a pipe or terminal into the log
// and to who is attached.
type stream struct {
	kind keeper.Kind
	name string
	file *os.File
	raw  interface {
		Read(func(uintptr) bool) error
	}
	// tty: the bytes waiting in it cannot be counted exactly.
	tty bool
	log *criLog
	// held keeps the unfinished line where the next keeper finds it.
	held *os.File
	// opened is closed when reading may begin.
	opened chan struct{}
	once   sync.Once
	pool   *sync.Pool

	// mu guards the fields below; changed tells of changes to the counts.
	mu      sync.Mutex
	changed *sync.Cond
	rest    []byte
	sinks   map[*sink]bool
	// logged and delivered count bytes; until is what both must reach for all
	// that the process itself wrote to be out, known once it has ended.
	logged, delivered, until int64
	// eof: all that will ever come was logged and delivered. late: the grace
	// is over.
	eof, late bool
}

func newStream(kind keeper.Kind, f *os.File, log *criLog, held *os.File, pool *sync.Pool) (*stream, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &stream{kind: kind, name: "stdout", file: f, raw: raw, log: log, held: held, pool: pool,
		opened: make(chan struct{}), sinks: map[*sink]bool{}}
	if kind == keeper.Stderr {
		s.name = "stderr"
	}
	s.changed = sync.NewCond(&s.mu)
	if held != nil {
		s.rest = readHeld(held)
	}
	return s, nil
}

// open lets the reading begin.
func (s *stream) open() { s.once.Do(func() { close(s.opened) }) }

// run carries until end of file; closing the file ends it as well.
func (s *stream) run() {
	<-s.opened
	for s.step() {
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log != nil {
		s.log.finish(s.name, s.rest)
		s.rest = nil
		s.hold()
	}
	s.eof = true
	s.changed.Broadcast()
}

// step carries one chunk. A buffer is taken only once there is something to
// read, so that an idle stream costs none.
func (s *stream) step() bool {
	var buf *[]byte
	var n int
	var failed error
	defer func() {
		if buf != nil {
			s.pool.Put(buf)
		}
	}()
	err := s.raw.Read(func(fd uintptr) bool {
		buf = s.pool.Get().(*[]byte)
		// The lock is held from the read to the log, so that what was taken
		// from the pipe and what was logged agree for who has it.
		s.mu.Lock()
		defer s.mu.Unlock()
		for {
			n, failed = unix.Read(int(fd), *buf)
			if !errors.Is(failed, unix.EINTR) {
				break
			}
		}
		if errors.Is(failed, unix.EAGAIN) {
			s.pool.Put(buf)
			buf = nil
			return false
		}
		if failed == nil && n > 0 {
			s.record((*buf)[:n])
		}
		return true
	})
	if err != nil || failed != nil || n <= 0 {
		return false
	}
	s.deliver((*buf)[:n])
	return true
}

// record logs a chunk. The caller holds mu.
func (s *stream) record(chunk []byte) {
	if s.log != nil {
		before := len(s.rest)
		s.rest = s.log.add(s.name, s.rest, chunk)
		if before > 0 || len(s.rest) > 0 {
			s.hold()
		}
		if len(s.rest) == 0 {
			s.rest = nil
		}
	}
	s.logged += int64(len(chunk))
	s.changed.Broadcast()
}

// hold keeps the unfinished line: its length, then the bytes. One write, as a
// kill cannot come between.
func (s *stream) hold() {
	if s.held == nil {
		return
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(s.rest)), uint32(len(s.rest)))
	if _, err := s.held.WriteAt(append(b, s.rest...), 0); err != nil {
		s.log.log.Error("unfinished line cannot be held", "err", err)
	}
}

func readHeld(f *os.File) []byte {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 4+maxLine))
	if err != nil || len(b) < 4 {
		return nil
	}
	n := binary.BigEndian.Uint32(b)
	if n == 0 || int(n) > len(b)-4 {
		return nil
	}
	return b[4 : 4+n]
}

func (s *stream) deliver(chunk []byte) {
	s.mu.Lock()
	sinks := make([]*sink, 0, len(s.sinks))
	for k := range s.sinks {
		sinks = append(sinks, k)
	}
	s.mu.Unlock()
	for _, k := range sinks {
		if err := k.write(s.kind, chunk); err != nil {
			// It has left, or does not read: the process comes first.
			k.conn.Close()
			s.remove(k)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delivered += int64(len(chunk))
	s.changed.Broadcast()
}

func (s *stream) add(k *sink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sinks[k] = true
}

func (s *stream) remove(k *sink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sinks, k)
	s.changed.Broadcast()
}

// processEnded notes how much the process has left in the pipe: a write is
// in the pipe when it returns, so at its end everything it wrote is there.
func (s *stream) processEnded() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.eof {
		s.until = s.logged + int64(s.waiting())
	}
	time.AfterFunc(grace, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.late = true
		s.changed.Broadcast()
	})
	s.changed.Broadcast()
}

// waiting counts the bytes in the pipe.
func (s *stream) waiting() (n int) {
	conn, err := s.file.SyscallConn()
	if err == nil {
		err = conn.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	}
	if err != nil {
		return 0
	}
	return n
}

// drained returns when all that the ended process wrote is in the log.
func (s *stream) drained() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.eof && !(s.logged >= s.until && (!s.tty || s.late)) {
		s.changed.Wait()
	}
}

// follow returns when k has got everything: at end of file, when the process
// and its grace are over, or when k has left.
func (s *stream) follow(k *sink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.sinks[k] && !s.eof && !(s.late && s.delivered >= s.until) {
		s.changed.Wait()
	}
}

// sink is one attached client.
type sink struct {
	conn interface {
		io.WriteCloser
		SetWriteDeadline(time.Time) error
	}
	// mu: frames of the two streams must not mix.
	mu sync.Mutex
}

func (k *sink) write(kind keeper.Kind, b []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return keeper.WriteFrame(k.conn, kind, b)
}
