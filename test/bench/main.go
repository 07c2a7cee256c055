// SPDX-License-Identifier: Apache-2.0

// Command bench measures what a user waits for on one node: an empty folder to
// the first Pod (P10), create to Running and delete to gone seen by a watch
// (P2, P4), the end of a process to its status (P5), and the runtime alone over
// its CRI socket (P1). It starts bin/peapod on folders of its own and removes
// everything it made.
//
// Absolute figures are of this machine and this moment; compare ratios of one
// run. With -profile it also says where the CPU time of the program went.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// options are the command line.
type options struct {
	bin, image, tar string
	pods, starts    int
	profile         string
	launcher        string
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "folder with peapod and peapod-keeper")
	flag.StringVar(&o.tar, "archive", "", "image archive to import (scripts/examples-image makes it)")
	flag.StringVar(&o.image, "image", "peapod.dev/examples:1", "name of the image in the archive")
	flag.IntVar(&o.pods, "pods", 60, "Pods of each one-at-a-time measurement")
	flag.IntVar(&o.starts, "starts", 5, "starts from an empty folder")
	flag.StringVar(&o.profile, "profile", "", "write CPU profiles of the program to this folder")
	flag.StringVar(&o.launcher, "launcher", "auto", "who starts containers, as of peapod up")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.tar == "" {
		return errors.New("-archive is missing")
	}
	for _, f := range []*string{&o.bin, &o.tar} {
		if *f, err = filepath.Abs(*f); err != nil {
			return err
		}
	}
	if o.profile != "" {
		if err := os.MkdirAll(o.profile, 0o755); err != nil {
			return err
		}
	}
	var r report
	fmt.Fprintf(os.Stderr, "bench: %d starts from an empty folder\n", o.starts)
	if err := firstPods(ctx, o, &r); err != nil {
		return err
	}
	if err := lives(ctx, o, &r); err != nil {
		return err
	}
	r.print(os.Stdout)
	return nil
}

// firstPods measures P10: every start has a folder with nothing but the image.
func firstPods(ctx context.Context, o options, r *report) error {
	for range o.starts {
		err := withNode(ctx, o, func(n *node) error {
			p := pod("first", o.image, "sleep 3600")
			w, err := n.watch(ctx)
			if err != nil {
				return err
			}
			defer w.stop()
			if err := n.create(ctx, p); err != nil {
				return err
			}
			at, err := w.until(ctx, p.Name, running)
			if err != nil {
				return err
			}
			r.add("P10", "empty folder to node Ready", n.ready.Sub(n.begun))
			r.add("P10", "empty folder to first Pod Running", at.Sub(n.begun))
			return n.delete(ctx, p.Name)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// lives measures everything that needs a node that is up.
func lives(ctx context.Context, o options, r *report) error {
	return withNode(ctx, o, func(n *node) error {
		for _, m := range []struct {
			name string
			do   func(context.Context, options, *node, *report) error
		}{
			{"life", measureLife}, {"exit", measureExit}, {"burst", measureBurst}, {"cri", measureCRI},
		} {
			fmt.Fprintf(os.Stderr, "bench: %s\n", m.name)
			stop, err := n.profile(ctx, o.profile, m.name)
			if err != nil {
				return err
			}
			if err := errors.Join(m.do(ctx, o, n, r), stop()); err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
		}
		return n.memory(r)
	})
}
