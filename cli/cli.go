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
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/peapod/peapod/daemon"
)

// Exit codes of the program. kubectl's own codes pass through unchanged.
const (
	exitOK          = 0
	exitFailed      = 1   // the work could not be done
	exitUsage       = 2   // the command line makes no sense
	exitUnfit       = 3   // this machine cannot run Pods; `peapod doctor` says why
	exitInterrupted = 130 // SIGINT or SIGTERM came before the end of the work
)

const exitCodes = `Exit codes:
  0    done
  1    it could not be done; the message says why
  2    the command line makes no sense
  3    this machine cannot run Pods; "peapod doctor" says why and what to do
  130  interrupted by Ctrl-C or SIGTERM ("peapod up" ends with 0 then)
"peapod kubectl" ends with kubectl's own exit codes.`

// usageError is an error of the command line itself.
type usageError struct{ error }

func misuse(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// terminal is what a command reads and writes.
type terminal struct {
	in       io.Reader
	out, err io.Writer
}

// Main runs the command line args (args[0] is the program) and returns the
// exit code.
func Main(args []string) int {
	switch {
	case len(args) > 1 && args[1] == "kubectl":
		return kubectl(args[2:])
	case len(args) > 2 && args[2] == "kubectl" && (args[1] == cobra.ShellCompRequestCmd || args[1] == cobra.ShellCompNoDescRequestCmd):
		return kubectl(append([]string{args[1]}, args[3:]...))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The second Ctrl-C is for those who do not want to wait for the first.
	context.AfterFunc(ctx, stop)
	defer stop()
	return run(ctx, args[1:], terminal{os.Stdin, os.Stdout, os.Stderr})
}

func run(ctx context.Context, args []string, t terminal) int {
	root := newRoot(t)
	root.SetArgs(args)
	c, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	code := exitCode(ctx, err)
	if code == exitInterrupted {
		err = fmt.Errorf("interrupted: %w", err)
	}
	fmt.Fprintf(t.err, "%s %v\n", paint(t.err, red, "peapod:"), err)
	switch {
	case code == exitUsage:
		fmt.Fprintf(t.err, "Run '%s --help' for what it takes.\n", c.CommandPath())
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		fmt.Fprintln(t.err, "Peapod is for root: run it with sudo.")
	}
	return code
}

func exitCode(ctx context.Context, err error) int {
	_, usage := errors.AsType[usageError](err)
	switch {
	case usage || errors.Is(err, daemon.ErrOptions):
		return exitUsage
	case errors.Is(err, daemon.ErrUnfit):
		return exitUnfit
	case ctx.Err() != nil:
		return exitInterrupted
	default:
		return exitFailed
	}
}

func newRoot(t terminal) *cobra.Command {
	root := &cobra.Command{
		Use:   "peapod",
		Short: "Kubernetes Pods on this machine, as one program",
		Long: `Peapod serves the Kubernetes API, keeps its state, schedules Pods and runs them
on this machine. Stock kubectl works with it unchanged.

` + exitCodes,
		Example: `  sudo peapod up                      start everything in the foreground
  sudo peapod kubectl run web --image=nginx
  sudo peapod kubectl get pods -o wide
  sudo peapod down                    end all Pods and leave nothing behind`,
		SilenceUsage: true, SilenceErrors: true,
		Version: daemon.Version,
		Args:    noArgs,
		RunE:    showHelp,
	}
	root.SetIn(t.in)
	root.SetOut(t.out)
	root.SetErr(t.err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.SetVersionTemplate(versionLine())
	root.AddCommand(newUp(t), newDown(t), newBackup(t), newRestore(t), newImage(t), newDoctor(t), newKubectl(), newToken(t), newVersion(t))
	root.SetHelpCommand(newHelp(root))
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			c.Args, c.RunE = noArgs, showHelp
		}
	}
	return root
}

func showHelp(c *cobra.Command, _ []string) error { return c.Help() }

func versionLine() string {
	return "peapod " + daemon.Version + ", Kubernetes " + daemon.KubernetesVersion + "\n"
}

func newVersion(t terminal) *cobra.Command {
	return &cobra.Command{
		Use:               "version",
		Short:             "Print the version of Peapod and of the Kubernetes API it serves",
		Args:              noArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(t.out, versionLine())
			return err
		},
	}
}

// newHelp is cobra's help command, with an exit code for what is not there.
func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "Help about any command",
		RunE: func(_ *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err != nil || c == root && len(rest) > 0 {
				return noArgs(root, args)
			}
			c.InitDefaultHelpFlag()
			c.InitDefaultVersionFlag()
			return c.Help()
		},
	}
}

// noArgs refuses words after a command, which are mostly a command misspelt.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !c.HasSubCommands() {
		return misuse("%q takes no arguments, but got %q", c.CommandPath(), args[0])
	}
	c.SuggestionsMinimumDistance = 2 // letters
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		return misuse("unknown command %q for %q; did you mean %q?", args[0], c.CommandPath(), near[0])
	}
	return misuse("unknown command %q for %q", args[0], c.CommandPath())
}

func someArgs(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return misuse("%q needs at least one %s", c.CommandPath(), what)
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
	c.Flags().StringVar(into, "data-dir", def, "folder that holds all state of this node; PEAPOD_DATA_DIR is its default")
	if err := c.MarkFlagDirname("data-dir"); err != nil {
		panic(err) // the flag was made two lines above
	}
}
