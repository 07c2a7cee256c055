// SPDX-License-Identifier: Apache-2.0

// Package cli owns the program's doors: the commands of peapod, their flags,
// help, progress and exit codes. What a command does is the work of daemon/
// and the rooms below it.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/peapod/peapod/daemon"
)

// Exit codes of the program. kubectl's own codes pass through unchanged.
const (
	exitOK     = 0
	exitFailed = 1 // the work could not be done
	exitUsage  = 2 // the command line makes no sense
	exitUnfit  = 3 // this machine cannot run Pods; `peapod doctor` says why
)

// errUsage marks an error of the command line itself.
var errUsage = errors.New("usage")

// terminal is what a command reads and writes.
type terminal struct {
	in       io.Reader
	out, err io.Writer
}

// Main runs the command line args (args[0] is the program) and returns the
// exit code.
func Main(args []string) int {
	if len(args) > 1 && args[1] == "kubectl" {
		return kubectl(args[2:])
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx, args[1:], terminal{os.Stdin, os.Stdout, os.Stderr})
}

func run(ctx context.Context, args []string, t terminal) int {
	root := newRoot(t)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errReported):
		return exitFailed
	}
	fmt.Fprintf(t.err, "%s %v\n", paint(t.err, red, "peapod:"), err)
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprintln(t.err, "Run 'peapod --help' for the commands and their flags.")
		return exitUsage
	case errors.Is(err, daemon.ErrUnfit):
		return exitUnfit
	default:
		return exitFailed
	}
}

func newRoot(t terminal) *cobra.Command {
	root := &cobra.Command{
		Use:   "peapod",
		Short: "Kubernetes Pods on this machine, as one program",
		Long: `Peapod serves the Kubernetes API, keeps its state, schedules Pods and runs them
on this machine. Stock kubectl works with it unchanged.`,
		Example: `  sudo peapod up                      start everything in the foreground
  sudo peapod kubectl run web --image=nginx
  sudo peapod kubectl get pods -o wide
  sudo peapod down                    end all Pods and leave nothing behind`,
		SilenceUsage: true, SilenceErrors: true,
		Version: daemon.Version,
		Args:    noArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetIn(t.in)
	root.SetOut(t.out)
	root.SetErr(t.err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", errUsage, err) })
	root.SetVersionTemplate("peapod {{.Version}}, Kubernetes " + daemon.KubernetesVersion + "\n")
	root.AddCommand(newUp(t), newDown(t), newImage(t), newDoctor(t), newKubectl())
	return root
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%w: unknown command or argument %q for %q", errUsage, args[0], c.CommandPath())
	}
	return nil
}

func someArgs(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("%w: %q needs at least one %s", errUsage, c.CommandPath(), what)
		}
		return nil
	}
}

// dataDirFlag adds --data-dir, which every command of a node has.
// PEAPOD_DATA_DIR is its default, so that a shell can be set up once.
func dataDirFlag(c *cobra.Command, into *string) {
	def := daemon.DefaultDataDir
	if env := os.Getenv("PEAPOD_DATA_DIR"); env != "" {
		def = env
	}
	c.Flags().StringVar(into, "data-dir", def, "folder that holds all state of this node")
}
