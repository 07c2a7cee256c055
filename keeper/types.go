// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"errors"
	"io"
	"time"
)

// Errors that a Client's calls wrap.
var (
	// ErrGone: the keeper does not answer any more. Launch again.
	ErrGone = errors.New("keeper is gone")
	// ErrNotFound: the keeper keeps no process of that ID.
	ErrNotFound = errors.New("not found")
	// ErrExists: an ID is in use. It is free again after Forget.
	ErrExists = errors.New("already exists")
	// ErrBusy: Stop without force while processes run.
	ErrBusy = errors.New("busy")
)

// Spec asks for one process to be run and kept.
type Spec struct {
	// ID names it: letters, digits, "_", "-", ".", at most 128, not starting
	// with a dot. It is free again after Forget.
	ID string `json:"id"`
	// Args is a command line of an OCI runtime (create, run --detach or exec
	// --detach) that ends soon and leaves the real process behind, with its
	// pid in PidFile. Args[0] is a path.
	Args []string `json:"args"`
	// Env of the OCI runtime, not of the container. Nil means none but a
	// default PATH.
	Env []string `json:"env,omitempty"`
	// Dir is the OCI runtime's working directory.
	Dir string `json:"dir,omitempty"`
	// PidFile is absolute, or relative to Dir. What it held before is lost.
	PidFile string `json:"pidFile"`
	// Terminal: stdio is one terminal, whose master the OCI runtime sends to
	// ConsoleSocket (absolute, or relative to Dir; the path as the OCI runtime
	// is given it must be shorter than 108 bytes). The keeper makes the socket.
	Terminal      bool   `json:"terminal,omitempty"`
	ConsoleSocket string `json:"consoleSocket,omitempty"`
	// Stdin gives the process an open stdin instead of /dev/null. With
	// StdinOnce it is closed after the first Attach that brought a Stdin has
	// ended or that Stdin has; without, it stays open for further ones.
	Stdin     bool `json:"stdin,omitempty"`
	StdinOnce bool `json:"stdinOnce,omitempty"`
	// HoldOutput leaves the output unread until the first Attach, which then
	// misses nothing, even when the process ended long before. For exec.
	HoldOutput bool `json:"holdOutput,omitempty"`
	// LogPath is the log in CRI format, appended to; its folder must exist.
	// Empty: no log.
	LogPath string `json:"logPath,omitempty"`
	// ExitFile receives the Exit as JSON, durably, before anyone is told of
	// it. Empty: none.
	ExitFile string `json:"exitFile,omitempty"`
}

// Process identifies a running process for the whole boot.
type Process struct {
	Pid int `json:"pid"`
	// StartTicks is when it started, see linux.StartTicks. 0: it had ended
	// before it could be read.
	StartTicks uint64 `json:"startTicks"`
}

// Exit is how a process ended.
type Exit struct {
	// Seq orders all exits of a keeper folder; it grows, also over restarts
	// of the keeper.
	Seq uint64 `json:"seq"`
	ID  string `json:"id"`
	// Code is the exit code, 128+Signal after a signal, 255 if unknown.
	Code int `json:"code"`
	// Signal that ended it, or 0.
	Signal int       `json:"signal,omitempty"`
	At     time.Time `json:"at"`
	// Unknown is empty, or says why Code could not be learned.
	Unknown string `json:"unknown,omitempty"`
}

// State is what the keeper knows of one process.
type State struct {
	ID string `json:"id"`
	Process
	// Running: it has not ended. Starting: the OCI runtime is at work and
	// there is no pid yet.
	Starting bool `json:"starting,omitempty"`
	Running  bool `json:"running,omitempty"`
	Terminal bool `json:"terminal,omitempty"`
	// Exit is set once the end has been announced.
	Exit *Exit `json:"exit,omitempty"`
}

// Size of a terminal in characters.
type Size struct {
	Width  uint16 `json:"width"`
	Height uint16 `json:"height"`
}

// Streams are the client's ends of a process's stdio. Each may be nil: no
// input, output thrown away.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan Size
}
