// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// Version is the first byte of every frame. A side that sees another one ends
// the connection.
const Version = 1

// MaxFrame is the longest payload of a frame in bytes.
const MaxFrame = 1 << 20

// Kind says what a frame carries: JSON, or a piece of a stream while attached.
type Kind byte

// The kinds of frames. All but Message are used only after Attach was granted.
const (
	Message Kind = iota
	Stdin
	Stdout
	Stderr
	StdinEnd
	End
	kinds
)

// headerLen: version, kind, payload length as big-endian uint32.
const headerLen = 6

// WriteFrame writes one frame with a single Write.
func WriteFrame(w io.Writer, kind Kind, payload []byte) error {
	if len(payload) > MaxFrame {
		return fmt.Errorf("cannot send frame of %d bytes: limit is %d", len(payload), MaxFrame)
	}
	b := make([]byte, headerLen, headerLen+len(payload))
	b[0], b[1] = Version, byte(kind)
	binary.BigEndian.PutUint32(b[2:], uint32(len(payload)))
	if _, err := w.Write(append(b, payload...)); err != nil {
		return fmt.Errorf("cannot send frame: %w", err)
	}
	return nil
}

// ReadFrame reads one frame into buf, which grows as needed, and returns its
// payload, valid until buf is used again. At a clean end between two frames
// the error is io.EOF.
func ReadFrame(r io.Reader, buf []byte) (Kind, []byte, error) {
	var h [headerLen]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return 0, nil, io.EOF
		}
		return 0, nil, fmt.Errorf("cannot read frame: %w", err)
	}
	if h[0] != Version {
		return 0, nil, fmt.Errorf("cannot read frame: protocol version %d, want %d", h[0], Version)
	}
	kind, n := Kind(h[1]), binary.BigEndian.Uint32(h[2:])
	if kind >= kinds || n > MaxFrame {
		return 0, nil, fmt.Errorf("cannot read frame: kind %d of %d bytes", kind, n)
	}
	if cap(buf) < int(n) {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(r, buf); err != nil {
		return 0, nil, fmt.Errorf("cannot read frame: %w", err)
	}
	return kind, buf, nil
}

// WriteMessage sends v as JSON.
func WriteMessage(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot send message: %w", err)
	}
	return WriteFrame(w, Message, b)
}

// ReadMessage receives JSON into v.
func ReadMessage(r io.Reader, v any) error {
	kind, b, err := ReadFrame(r, nil)
	if err != nil {
		return err
	}
	if kind != Message {
		return fmt.Errorf("cannot read message: frame of kind %d", kind)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("cannot read message: %w", err)
	}
	return nil
}

// Op is a request's verb.
type Op string

// The verbs. A connection carries one request and its answer, except that
// OpHello may stay open to learn when the keeper goes, OpEvents goes on with
// one answer per Exit, and OpAttach goes on with stream frames.
const (
	OpHello      Op = "hello"
	OpRun        Op = "run"
	OpAttach     Op = "attach"
	OpCloseStdin Op = "closeStdin"
	OpResize     Op = "resize"
	OpReopenLog  Op = "reopenLog"
	OpSignal     Op = "signal"
	OpList       Op = "list"
	OpEvents     Op = "events"
	OpForget     Op = "forget"
	OpAbort      Op = "abort"
	OpStop       Op = "stop"
)

// Request is what a client sends first.
type Request struct {
	Op     Op     `json:"op"`
	ID     string `json:"id,omitempty"`
	Spec   *Spec  `json:"spec,omitempty"`
	Size   *Size  `json:"size,omitempty"`
	Signal int    `json:"signal,omitempty"`
	Since  uint64 `json:"since,omitempty"`
	Force  bool   `json:"force,omitempty"`
	// WithStdin: the attaching client brings a stdin.
	WithStdin bool `json:"withStdin,omitempty"`
	// To is the keeper that is meant. Another one, which has taken its place,
	// refuses: it has not what the client speaks of.
	To *Process `json:"to,omitempty"`
}

// Response is what the keeper answers.
type Response struct {
	// Error is empty on success; Fault names the error it wraps, if known.
	Error string `json:"error,omitempty"`
	Fault string `json:"fault,omitempty"`
	// Process answers run with the new process and hello with the keeper's.
	Process *Process `json:"process,omitempty"`
	States  []State  `json:"states,omitempty"`
	Exit    *Exit    `json:"exit,omitempty"`
}

// faults gives errors a name that survives the socket.
func faults() map[string]error {
	return map[string]error{"notFound": ErrNotFound, "exists": ErrExists, "busy": ErrBusy, "gone": ErrGone, "done": os.ErrProcessDone}
}

// Fail makes the answer that stands for err.
func Fail(err error) Response {
	r := Response{Error: err.Error()}
	for name, f := range faults() {
		if errors.Is(err, f) {
			r.Fault = name
		}
	}
	return r
}

// Err gives back the error that Fail was made from: its text, and its identity
// for errors.Is.
func (r Response) Err() error {
	if r.Error == "" {
		return nil
	}
	return &remoteError{r.Error, faults()[r.Fault]}
}

type remoteError struct {
	text  string
	fault error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.fault }
