// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	ispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/peapod/peapod/test/imagefile"
)

var update = flag.Bool("update", false, "write the golden parts of the scripts anew")

// program is the test binary as peapod, with keeper and launcher beside it.
type program struct{ *testing.M }

func (p program) Run() int {
	self, err := exec.LookPath("peapod")
	if err == nil {
		build := exec.Command("go", "build", "-o", filepath.Dir(self)+"/", "../keeper/peapod-keeper", "../sandbox/peapod-launcher")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		build.Stderr = os.Stderr
		err = build.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot build keeper and launcher:", err)
		return 1
	}
	return p.M.Run()
}

func TestMain(m *testing.M) {
	testscript.Main(program{m}, map[string]func(){"peapod": func() { os.Exit(Main(os.Args)) }})
}

// TestScripts runs the command line as a user does; see testdata/script.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true, RequireUniqueNames: true, UpdateScripts: *update,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PEAPOD_DATA_DIR", filepath.Join(e.WorkDir, "d"))
			e.Setenv("KUBECONFIG", "")
			self, err := exec.LookPath("peapod")
			e.Setenv("PEAPOD", self) // for scripts that empty PATH
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "archive": archive},
	})
}

// exits CODE COMMAND... runs a command that has to end with this exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		e, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = e.ExitCode()
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("%v ended with code %d, want %s", args[1:], got, args[0])
	}
}

// archive FILE NAME [whole|cut|foreign] writes a docker archive: whole, with
// its second half missing, or for a machine that this is not.
func archive(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: archive FILE NAME whole|cut|foreign")
	}
	var b bytes.Buffer
	err := imagefile.Write(&b, imagefile.Image{
		Ref:     args[1],
		Entries: []imagefile.Entry{{Path: "/motd", Data: bytes.Repeat([]byte("hello\n"), 10_000), Mode: 0o644}},
		Config:  ispecs.ImageConfig{Cmd: []string{"/motd"}},
	})
	ts.Check(err)
	out := b.Bytes()
	switch args[2] {
	case "whole":
	case "cut":
		out = out[:len(out)/2]
	case "foreign": // as long, so that the tar stays one
		out = bytes.Replace(out, []byte(`"amd64"`), []byte(`"s390x"`), 1)
	default:
		ts.Fatalf("unknown kind of archive %q", args[2])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), out, 0o600))
}
