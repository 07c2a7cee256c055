// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Bundle is a container as an OCI runtime wants it.
type Bundle struct {
	ID string
	// Dir holds config.json.
	Dir string
	// PidFile and ConsoleSocket are paths, absolute or relative to Dir, which
	// the command must have as its working directory. ConsoleSocket only with
	// a terminal.
	PidFile       string
	ConsoleSocket string
}

// Exec is a further process for a running container.
type Exec struct {
	ContainerID string
	// ProcessFile holds the process as JSON (WriteProcess).
	ProcessFile   string
	PidFile       string
	ConsoleSocket string
}

// ContainerState is the answer of the OCI runtime's state command.
type ContainerState struct {
	ID string `json:"id"`
	// Status is creating, created, running, paused or stopped.
	Status string `json:"status"`
	Pid    int    `json:"pid"`
	Bundle string `json:"bundle"`
}

// ErrNoContainer: the OCI runtime knows no such container.
var ErrNoContainer = errors.New("container does not exist")

// Launcher is an OCI runtime. Create, Run and Exec return command lines that
// the keeper carries out, since the processes they leave behind must be its
// own; the other calls act at once. Errors carry the OCI runtime's text.
type Launcher interface {
	Name() string
	Version() string
	// Path of the program.
	Path() string
	// Create makes the container, its program held until Start.
	Create(Bundle) []string
	// Run is Create and Start in one command, which saves one.
	Run(Bundle) []string
	Exec(Exec) []string
	Start(ctx context.Context, id string) error
	// Kill signals the first process, or all of the container.
	Kill(ctx context.Context, id string, sig int, all bool) error
	Update(ctx context.Context, id string, r *specs.LinuxResources) error
	// Delete removes a stopped container; with force a running one is killed
	// first. One that is not there is fine.
	Delete(ctx context.Context, id string, force bool) error
	// State gives ErrNoContainer if there is none.
	State(ctx context.Context, id string) (ContainerState, error)
	// List returns the IDs the OCI runtime knows.
	List(ctx context.Context) ([]string, error)
}

// Find returns the first of the candidates (names or paths of OCI runtimes)
// that really starts a small container in trialDir. The OCI runtime keeps its
// own state in stateDir. The error says for each why not.
func Find(ctx context.Context, candidates []string, trialDir, stateDir string) (Launcher, error) {
	return nil, errSkeleton
}

var errSkeleton = errors.New("not built yet")
