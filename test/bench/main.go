// SPDX-License-Identifier: Apache-2.0

// Command bench measures what a user waits for on one node, for Peapod and for a
// stock Kubernetes with containerd, with the same client. Its parts:
//
//	pods    an empty folder to the first Pod (P10), create to Running and delete to
//	        gone seen by a watch (P2, P4), the end of a process to its status (P5),
//	        many Pods at once (P3), and the runtime alone over its CRI socket (P1, P11)
//	growth  starts among more and more Pods, and what each of them costs (P9)
//	idle    memory, CPU and writes of a cluster that nobody uses (P8)
//
// The clusters are up in turn, never together. Each start has a folder of its
// own, and everything is removed again. With -profile it also says where the CPU
// time of Peapod went.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/peapod/peapod/test/bench/cluster"
	"github.com/peapod/peapod/test/bench/result"
)

// options are the command line.
type options struct {
	bin, stock            string
	image, archive, pause string
	parts                 string
	alone                 bool
	rounds, pods          int
	sizes, stockSizes     []int
	idle                  time.Duration
	results, document     string
	profile, launcher     string
}

func main() {
	o := options{sizes: []int{10, 100, 500}, stockSizes: []int{10, 100}}
	flag.StringVar(&o.bin, "bin", "bin", "folder with peapod, peapod-keeper and peapod-launcher")
	flag.StringVar(&o.stock, "stock", "bin/stock-cluster", "folder that scripts/stock-cluster fills")
	flag.StringVar(&o.archive, "archive", "", "image archive to import (scripts/examples-image makes it)")
	flag.StringVar(&o.image, "image", "peapod.dev/examples:1", "name of the image in the archive")
	flag.StringVar(&o.pause, "pause", "", "archive of the pause image of a stock cluster")
	flag.StringVar(&o.parts, "parts", "pods,growth,idle", "what to measure")
	flag.BoolVar(&o.alone, "alone", false, "measure only Peapod, and only print")
	flag.Func("sizes", "numbers of Pods among which Peapod's starts are measured (10,100,500)", sizes(&o.sizes))
	flag.Func("stock-sizes", "and a stock cluster's, which takes a minute for each 300 (10,100)", sizes(&o.stockSizes))
	flag.IntVar(&o.rounds, "rounds", 3, "rounds of the part pods")
	flag.IntVar(&o.pods, "pods", 20, "Pods of each one-at-a-time measurement")
	flag.DurationVar(&o.idle, "idle", 2*time.Minute, "how long the part idle looks")
	flag.StringVar(&o.results, "results", "bin/bench", "folder for results; empty: they are only printed")
	flag.StringVar(&o.document, "document", "docs/benchmarks.md", "document to write of all results")
	flag.StringVar(&o.profile, "profile", "", "write CPU profiles of Peapod to this folder")
	flag.StringVar(&o.launcher, "launcher", "", "who starts Peapod's containers, as of peapod up")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// sizes reads a list of numbers into list.
func sizes(list *[]int) func(string) error {
	return func(s string) error {
		*list = nil
		for _, field := range strings.Split(s, ",") {
			n, err := strconv.Atoi(field)
			if err != nil || n < 1 {
				return fmt.Errorf("%q is no number of Pods", field)
			}
			*list = append(*list, n)
		}
		slices.Sort(*list)
		return nil
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.archive == "" {
		return errors.New("-archive is missing")
	}
	for _, f := range []*string{&o.bin, &o.stock, &o.archive, &o.pause} {
		if *f, err = filepath.Abs(*f); err != nil {
			return err
		}
	}
	if o.alone {
		o.results = ""
	}
	if o.profile != "" {
		if err := os.MkdirAll(o.profile, 0o755); err != nil {
			return err
		}
	}
	known := map[string]func(context.Context, options, *result.Part) error{"pods": measurePods, "growth": measureGrowth, "idle": measureIdle}
	versions, err := cluster.Versions(o.bin, o.stock, !o.alone)
	if err != nil {
		return err
	}
	names := strings.Split(o.parts, ",")
	for _, name := range names {
		if known[name] == nil {
			return fmt.Errorf("there is no part %q", name)
		}
	}
	// What fails takes nothing else with it: the rounds before, the other parts.
	for _, name := range names {
		part := result.Begin(name, versions)
		if failed := known[name](ctx, o, part); failed != nil {
			err = errors.Join(err, fmt.Errorf("cannot measure %s: %w", name, failed))
		}
		if ctx.Err() != nil {
			return err
		}
		if len(part.Measurements) > 0 {
			err = errors.Join(err, part.Finish(o.results, o.document))
		}
	}
	return err
}

// subject is how one of the two is started.
type subject struct {
	name string
	up   func() (*cluster.Cluster, error)
}

func (o options) peapod(ctx context.Context, launcher string) func() (*cluster.Cluster, error) {
	return func() (*cluster.Cluster, error) {
		return cluster.Peapod(ctx, cluster.PeapodOptions{Bin: o.bin, Archive: o.archive, Launcher: launcher})
	}
}

// subjects lists who is measured in a round: each begins every other.
func (o options) subjects(ctx context.Context, round int) []subject {
	both := []subject{{result.Peapod, o.peapod(ctx, o.launcher)}}
	if !o.alone {
		both = append(both, subject{result.Stock, func() (*cluster.Cluster, error) {
			return cluster.Stock(ctx, cluster.StockOptions{Bin: o.stock, Archives: []string{o.archive, o.pause}})
		}})
	}
	if round%2 == 0 {
		slices.Reverse(both)
	}
	return both
}

// visit is a cluster that is up in a round.
type visit struct {
	options
	*cluster.Cluster
	part  *result.Part
	round int
}

// each runs do on each subject in turn.
func (o options) each(ctx context.Context, part *result.Part, round int, do func(*visit) error) error {
	for _, s := range o.subjects(ctx, round) {
		fmt.Fprintf(os.Stderr, "bench: %s, round %d, %s\n", part.Name, round, s.name)
		err := cluster.With(s.up, func(c *cluster.Cluster) error { return do(&visit{o, c, part, round}) })
		if err != nil {
			part.Drop(round)
			return fmt.Errorf("%s, round %d: %w", s.name, round, err)
		}
	}
	return nil
}

func (v *visit) measurement(goal, name, unit string) result.Measurement {
	return result.Measurement{Goal: goal, Name: name, Subject: v.Subject, Unit: unit, Round: v.round}
}

// time adds one sample of a duration.
func (v *visit) time(goal, name string, d time.Duration) {
	v.part.AddTime(v.measurement(goal, name, "ms"), d)
}

func (v *visit) add(goal, name, unit string, samples ...float64) {
	v.part.Add(v.measurement(goal, name, unit), samples...)
}
