// SPDX-License-Identifier: Apache-2.0

// Command peapod-keeper is the parent of all container processes of a node: it
// owns their stdio, their logs and their exit codes, in the way that package
// keeper describes, and outlives Peapod. It does not decide what runs; Peapod
// does. It has two more, even smaller lives: "hold" makes the PID namespace of
// a Pod whose containers share one, and "pause" is the first process in it.
package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// memoryLimit is when the garbage collector starts to work hard. A keeper of
// 200 containers needs about a third of it.
const memoryLimit = 24 << 20

func main() {
	runtime.GOMAXPROCS(2)
	debug.SetMemoryLimit(memoryLimit)
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peapod-keeper:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "keep":
		return keep(args[1])
	case len(args) >= 2 && args[0] == "hold":
		return hold(args[1], args[2:])
	case len(args) == 2 && args[0] == "pause":
		return pause(args[1])
	}
	return fmt.Errorf("usage: peapod-keeper keep DIR | hold PIDFILE [KIND=NAMESPACE]...")
}

// keep serves the folder dir on the socket that is descriptor 3 until it is
// asked to stop.
func keep(dir string) error {
	unix.CloseOnExec(3)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot become the parent of orphans: %w", err)
	}
	// Containers that share our user and PID namespace must not look into us.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot hide memory: %w", err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	k, err := newKeeper(dir, log)
	if err != nil {
		return err
	}
	// A signal meant to end Peapod with all its processes must not end the
	// keeper while it keeps something.
	end := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	go func() {
		for range end {
			if err := k.stop(false); err != nil {
				log.Info("stay", "err", err)
			}
		}
	}()
	return k.serve(os.NewFile(3, "listener"))
}
