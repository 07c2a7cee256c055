// SPDX-License-Identifier: Apache-2.0

// Command peapod-launcher starts the containers of a node: it is given an OCI
// bundle, as an OCI runtime would be and with the same words, and leaves the
// container's first process behind (package native). It knows nothing of
// Kubernetes, asks nobody anything, and is gone when the container runs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
	"github.com/peapod/peapod/sandbox/native"
)

func main() {
	// What a careless caller has left open is not for the process to be born,
	// nor for who may trace it.
	if err := unix.CloseRange(3, math.MaxUint32, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// It is over before a collection would be worth it.
	debug.SetGCPercent(-1)
	// The work changes its thread for good, which must not be this one.
	runtime.LockOSThread()
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(code)
}

const usage = "usage: peapod-launcher --root DIR run|create|exec [flags] ID"

func run(args []string) (int, error) {
	var o native.Options
	var process string
	var detach bool
	global := flag.NewFlagSet("peapod-launcher", flag.ContinueOnError)
	global.StringVar(&o.State, "root", "", "folder of the records")
	if err := global.Parse(args); err != nil {
		return 0, err
	}
	if o.State == "" || global.NArg() < 2 {
		return 0, errors.New(usage)
	}
	verb := global.Arg(0)
	flags := flag.NewFlagSet(verb, flag.ContinueOnError)
	flags.StringVar(&o.Bundle, "bundle", "", "folder of config.json")
	flags.StringVar(&o.PidFile, "pid-file", "", "where the number of the process is written")
	flags.StringVar(&o.ConsoleSocket, "console-socket", "", "who takes the terminal")
	flags.StringVar(&process, "process", "", "file that describes the process to be executed")
	flags.BoolVar(&detach, "detach", false, "leave the process behind")
	if err := flags.Parse(global.Args()[1:]); err != nil {
		return 0, err
	}
	if flags.NArg() != 1 {
		return 0, errors.New(usage)
	}
	o.ID = flags.Arg(0)
	var err error
	// The launcher's own root is another by the time that it writes.
	for _, path := range []*string{&o.State, &o.Bundle, &o.PidFile} {
		if *path != "" {
			if *path, err = filepath.Abs(*path); err != nil {
				return 0, err
			}
		}
	}
	var start func() (int, error)
	switch verb {
	case "run":
		start = func() (int, error) { return native.Run(o) }
	case "create":
		o.Held, detach = true, true
		start = func() (int, error) { return native.Run(o) }
	case "exec":
		start = func() (int, error) { return native.Exec(o, process) }
	default:
		return 0, errors.New(usage)
	}
	pid, err := elsewhere(start)
	if err != nil || detach {
		return 0, err
	}
	return foreground(o, verb, pid)
}

// elsewhere runs the work on a thread that ends with it.
func elsewhere(start func() (int, error)) (pid int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		pid, err = start()
	}()
	<-done
	return pid, err
}

// foreground waits for the end of the process and gives its exit code; a
// container is then removed.
func foreground(o native.Options, verb string, pid int) (int, error) {
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &status, 0, nil); err == nil {
			break
		} else if !errors.Is(err, unix.EINTR) {
			return 0, fmt.Errorf("cannot wait for process: %w", err)
		}
	}
	code := status.ExitStatus()
	if status.Signaled() {
		code = 128 + int(status.Signal())
	}
	if verb == "exec" {
		return code, nil
	}
	record, err := native.Load(o.State, o.ID)
	if err != nil {
		return code, err
	}
	layout, err := linux.Cgroups()
	if err != nil {
		return code, err
	}
	// Its other processes have ended with the first. Our own thread may be on
	// its way out still.
	if err := layout.Remove(context.Background(), record.Cgroup); err != nil {
		return code, err
	}
	return code, native.Forget(o.State, o.ID)
}
