// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/peapod/peapod/sandbox/native"
)

// Bundle is a container as an OCI runtime wants it.
type Bundle struct {
	ID string
	// Dir holds config.json.
	Dir string
	// PidFile and ConsoleSocket are paths, absolute or relative to the working
	// directory of the command. ConsoleSocket only with a terminal.
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
	// Name is "runc" or "crun", or the base name of another.
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
	// Update changes the limits of a running container.
	Update(ctx context.Context, id string, r *specs.LinuxResources) error
	// Delete removes a stopped container; with force a running one is killed
	// first. One that is not there is fine.
	Delete(ctx context.Context, id string, force bool) error
	// State gives ErrNoContainer if there is none.
	State(ctx context.Context, id string) (ContainerState, error)
	// List returns the IDs the OCI runtime knows.
	List(ctx context.Context) ([]string, error)
}

// ociRuntime speaks the command line that runc has set and others follow.
type ociRuntime struct {
	name, version, path string
	// state is where the OCI runtime keeps its own records.
	state string
}

var _ Launcher = (*ociRuntime)(nil)

func (o *ociRuntime) Name() string    { return o.name }
func (o *ociRuntime) Version() string { return o.version }
func (o *ociRuntime) Path() string    { return o.path }

// args begins a command line. Warnings of runc would go to stderr, which is
// already the container's: they are dropped, as a log of them would grow for
// ever, and errors come to stderr all the same. crun writes no warnings, and
// with a log its errors would not come to stderr.
func (o *ociRuntime) args(words ...string) []string {
	out := []string{o.path, "--root", o.state}
	if o.name == "runc" {
		out = append(out, "--log", os.DevNull)
	}
	return append(out, words...)
}

func (o *ociRuntime) Create(b Bundle) []string { return o.bundle("create", b) }

func (o *ociRuntime) Run(b Bundle) []string { return o.bundle("run", b, "--detach") }

func (o *ociRuntime) bundle(verb string, b Bundle, flags ...string) []string {
	a := append(o.args(verb), flags...)
	a = append(a, "--bundle", b.Dir, "--pid-file", b.PidFile)
	if b.ConsoleSocket != "" {
		a = append(a, "--console-socket", b.ConsoleSocket)
	}
	return append(a, b.ID)
}

func (o *ociRuntime) Exec(e Exec) []string {
	a := o.args("exec", "--detach", "--process", e.ProcessFile, "--pid-file", e.PidFile)
	if e.ConsoleSocket != "" {
		a = append(a, "--console-socket", e.ConsoleSocket)
	}
	return append(a, e.ContainerID)
}

func (o *ociRuntime) Start(ctx context.Context, id string) error {
	_, err := o.do(ctx, nil, "start", id)
	return err
}

func (o *ociRuntime) Kill(ctx context.Context, id string, sig int, all bool) error {
	words := []string{"kill"}
	if all {
		words = append(words, "--all")
	}
	_, err := o.do(ctx, nil, append(words, id, strconv.Itoa(sig))...)
	return err
}

func (o *ociRuntime) Update(ctx context.Context, id string, r *specs.LinuxResources) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("cannot update container %s: %w", id, err)
	}
	_, err = o.do(ctx, b, "update", "--resources", "-", id)
	return err
}

func (o *ociRuntime) Delete(ctx context.Context, id string, force bool) error {
	words := []string{"delete"}
	if force {
		words = append(words, "--force")
	}
	_, err := o.do(ctx, nil, append(words, id)...)
	if errors.Is(err, ErrNoContainer) {
		return nil
	}
	return err
}

func (o *ociRuntime) State(ctx context.Context, id string) (ContainerState, error) {
	var st ContainerState
	b, err := o.do(ctx, nil, "state", id)
	if err == nil {
		err = json.Unmarshal(b, &st)
	}
	return st, err
}

func (o *ociRuntime) List(ctx context.Context) ([]string, error) {
	// The folder of the OCI runtime has one folder per container: also those
	// whose making was interrupted, of which its list command knows nothing.
	return foldersIn(ctx, o.state)
}

func foldersIn(ctx context.Context, dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list containers: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() {
			ids = append(ids, e.Name())
		}
	}
	return ids, ctx.Err()
}

// do runs a command to its end and returns what it said.
func (o *ociRuntime) do(ctx context.Context, stdin []byte, words ...string) ([]byte, error) {
	a := o.args(words...)
	cmd := exec.CommandContext(ctx, a[0], a[1:]...)
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &said
	err := cmd.Run()
	if err == nil {
		return out.Bytes(), nil
	}
	text := complaint(said.Bytes())
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case strings.Contains(text, "does not exist"), strings.Contains(text, "No such file or directory") && words[0] == "state":
		err = fmt.Errorf("%w: %s", ErrNoContainer, text)
	case text != "":
		err = errors.New(text)
	}
	return nil, fmt.Errorf("cannot %s container %s: %w", words[0], words[len(words)-1], err)
}

// complaint is what an OCI runtime means by its stderr: runc says it twice,
// first as a log line.
func complaint(stderr []byte) string {
	var lines []string
	for l := range strings.Lines(string(stderr)) {
		l = strings.TrimSpace(l)
		if l != "" && !strings.HasPrefix(l, "time=") {
			lines = append(lines, l)
		}
	}
	return strings.Join(lines, "\n")
}

// WriteProcess writes the process file of an Exec.
func WriteProcess(file string, p *specs.Process) error { return writeJSON(file, p) }

// WriteBundle writes config.json into dir.
func WriteBundle(dir string, s *specs.Spec) error {
	return writeJSON(filepath.Join(dir, "config.json"), s)
}

// ReadBundle reads the config.json of dir.
func ReadBundle(dir string) (*specs.Spec, error) { return native.ReadBundle(dir) }

// writeJSON need not be atomic: nobody reads the file before we start who does.
func writeJSON(file string, v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", file, err)
	}
	return nil
}
