// SPDX-License-Identifier: Apache-2.0

// Command soak runs a node for a long time under random work and faults, and
// says which of these it did not keep:
//
//   - no acknowledged write is lost (ledger.go);
//   - no identity is doubled: two Pods of one name, two containers of one name
//     in a Pod, alive at once (truth.go);
//   - statuses are true: what the API says runs does, what it says ended does
//     not (truth.go);
//   - what nobody touches goes on: Pods that live through a tide are not
//     restarted and lose no line of their log (residents.go);
//   - nothing is left of what is gone, on the machine and in the API (tide.go);
//   - memory is flat (memory.go).
//
// Time goes in tides: a storm of lives (lives.go, workloads.go) and faults
// (faults.go), then calm, in which everything has to be as it was before. The
// same seed draws the same lives and faults; when they meet is up to the
// machine.
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
	"time"
)

// options are the command line.
type options struct {
	bin, images string
	duration    time.Duration
	tide        time.Duration
	seed        uint64
	workers     int
	storyFile   string
	launcher    string
	listen      string
	upFlags     []string
}

func main() {
	o := options{
		upFlags: []string{"--node-name", "soak", "--node-listen", ":39250", "--pod-cidr", "10.238.0.0/20", "--service-cidr", "10.248.0.0/16"},
	}
	flag.StringVar(&o.bin, "bin", "bin", "folder with peapod, peapod-keeper and peapod-launcher")
	flag.StringVar(&o.images, "archive", "", "image archive to import (scripts/examples-image makes it)")
	flag.DurationVar(&o.duration, "duration", time.Hour, "how long to go on")
	flag.DurationVar(&o.tide, "tide", 2*time.Minute, "how long one storm lasts")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "draws the lives and the faults")
	flag.IntVar(&o.workers, "workers", 5, "lives at a time")
	flag.StringVar(&o.storyFile, "story", "soak.log", "file that everything that happened is written to")
	flag.StringVar(&o.launcher, "launcher", "auto", "who starts containers, as of peapod up")
	flag.StringVar(&o.listen, "listen", "127.0.0.1:39443", "where the API server listens")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.images == "" {
		return errors.New("-archive is missing")
	}
	for _, f := range []*string{&o.bin, &o.images, &o.storyFile} {
		if *f, err = filepath.Abs(*f); err != nil {
			return err
		}
	}
	s, err := newStory(o.storyFile)
	if err != nil {
		return err
	}
	defer s.close()
	if err := os.RemoveAll(o.storyFile + ".up"); err != nil {
		return err
	}
	s.say("seed %d, %v, tides of %v", o.seed, o.duration, o.tide)
	d, err := newDisk(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.remove()) }()
	n := &node{options: o, disk: d, dir: filepath.Join(d.mount, "d"), story: s}
	defer func() { err = errors.Join(err, n.down()) }()
	if err := n.prepare(ctx); err != nil {
		return err
	}
	x, err := newSoak(ctx, o, n, s)
	if err != nil {
		return err
	}
	defer x.close()
	x.run(ctx)
	return x.summary()
}
