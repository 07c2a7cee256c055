// SPDX-License-Identifier: Apache-2.0

// Command scheduler compares Peapod's scheduler with kube-scheduler on this
// machine (P7): the cases of Kubernetes' scheduler_perf with simulated nodes.
// Each scheduler is a program of its own that speaks to the same API in memory
// (test/bench/memory), so that what is compared is the scheduler and its client, and not
// two API servers. The time is from when the measured Pods are there, all at
// once, until the last is bound; CPU is what the scheduler's process spent in
// that time. A Pod that is bound first shows that the scheduler is ready.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/peapod/peapod/test/bench/memory"
	"github.com/peapod/peapod/test/bench/result"
)

type options struct {
	stock             string
	nodes, pods, many int
	growth            string
	rounds            int
	limit             time.Duration
	only              *regexp.Regexp
	subjects          string
	results, document string
	profile           string
}

// figure is what one run of one scheduler measured.
type figure struct {
	name      string
	subject   string
	nodes     int
	bound     int
	asked     int
	took, cpu time.Duration
}

func (f *figure) rate() float64 { return float64(f.bound) / f.took.Seconds() }

// each is the CPU time of a Pod in milliseconds.
func (f *figure) each() float64 { return 1000 * f.cpu.Seconds() / float64(max(f.bound, 1)) }

func main() {
	var o options
	run := flag.String("run", "", "be the scheduler for this kubeconfig; used by the program itself")
	only := flag.String("only", "", "cases to run, a regular expression")
	flag.StringVar(&o.stock, "stock", "bin/stock-cluster/kube-scheduler", "kube-scheduler's binary")
	flag.IntVar(&o.nodes, "nodes", 5000, "nodes of each case")
	flag.IntVar(&o.pods, "pods", 1000, "Pods to be placed in each case but the basic one")
	flag.IntVar(&o.many, "many", 10000, "Pods to be placed in the basic case")
	flag.StringVar(&o.growth, "growth", "100,500,1000,2000,5000", "also place -pods basic Pods on these numbers of nodes")
	flag.IntVar(&o.rounds, "rounds", 1, "rounds; the median counts")
	flag.DurationVar(&o.limit, "limit", time.Minute, "time that one run may take")
	flag.StringVar(&o.subjects, "subjects", result.Stock+","+result.Peapod, "who is measured")
	flag.StringVar(&o.results, "results", "bin/bench", "folder for results; empty: they are only printed")
	flag.StringVar(&o.document, "document", "docs/benchmarks.md", "document to write of all results")
	flag.StringVar(&o.profile, "profile", "", "write CPU profiles of our scheduler to this folder, or with -run to this file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *run != "" {
		err = runOurs(ctx, *run, o.profile)
	} else if o.only, err = regexp.Compile(*only); err == nil {
		err = measure(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-scheduler:", err)
		os.Exit(1)
	}
}

// measure runs all cases, the schedulers one after the other in each.
func measure(ctx context.Context, o options) error {
	version, err := result.Version("kube-scheduler", o.stock)
	if err != nil {
		return err
	}
	part := result.Begin("scheduler", map[string]string{"kube-scheduler": version})
	for round := 1; round <= o.rounds; round++ {
		worst := map[string]*figure{}
		for k := range scenarios {
			c := &scenarios[k]
			if !o.only.MatchString(c.name) {
				continue
			}
			count := o.pods
			if k == 0 {
				count = o.many
			}
			both, err := o.runBoth(ctx, c, o.nodes, count)
			if err != nil {
				return err
			}
			o.note(part, round, both, c.name, 0)
			if k == 0 && o.nodes == 5000 && o.many == 10000 {
				o.note(part, round, both, result.PodsScheduled, 0)
			}
			if len(worst) == 0 || lead(both) < lead(worst) {
				worst = both
			}
		}
		o.note(part, round, worst, result.PodsScheduledWorst, 0)
		if err := o.grow(ctx, part, round); err != nil {
			return err
		}
	}
	return part.Finish(o.results, o.document)
}

// grow places as many Pods on more and more nodes.
func (o options) grow(ctx context.Context, part *result.Part, round int) error {
	c := &scenarios[0]
	if o.growth == "" || !o.only.MatchString(c.name) {
		return nil
	}
	for _, x := range strings.Split(o.growth, ",") {
		n, err := strconv.Atoi(x)
		if err != nil {
			return fmt.Errorf("cannot read -growth: %w", err)
		}
		both, err := o.runBoth(ctx, c, n, o.pods)
		if err != nil {
			return err
		}
		o.note(part, round, both, result.PodsScheduledByNodes, n)
	}
	return nil
}

// lead is how many times as many Pods ours binds.
func lead(both map[string]*figure) float64 {
	ours, theirs := both[result.Peapod], both[result.Stock]
	if ours == nil || theirs == nil {
		return math.Inf(1)
	}
	return ours.rate() / theirs.rate()
}

func (o options) runBoth(ctx context.Context, c *scenario, nodes, count int) (map[string]*figure, error) {
	both := map[string]*figure{}
	for _, who := range strings.Split(o.subjects, ",") {
		f, err := o.runCase(ctx, c, who, nodes, count)
		if err != nil {
			return nil, fmt.Errorf("%s, %s: %w", c.name, who, err)
		}
		fmt.Fprintf(os.Stderr, "bench-scheduler: %s, %d nodes, %s: %d of %d Pods in %.2f s, %.0f/s, %.2f ms of CPU each\n",
			f.name, f.nodes, f.subject, f.bound, f.asked, f.took.Seconds(), f.rate(), f.each())
		both[who] = f
	}
	return both, nil
}

func (o options) note(part *result.Part, round int, both map[string]*figure, name string, at int) {
	for _, who := range []string{result.Peapod, result.Stock} {
		f := both[who]
		if f == nil {
			continue
		}
		m := result.Measurement{Goal: "P7", Name: name, Subject: who, Unit: "Pods/s", Round: round, At: at}
		part.Add(m, f.rate())
		m.Name, m.Unit = name+", CPU of the scheduler per Pod", "ms"
		part.Add(m, f.each())
	}
}

// runCase lets one scheduler place the Pods of a case.
func (o options) runCase(ctx context.Context, c *scenario, who string, nodeCount, asked int) (f *figure, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	folder, err := os.MkdirTemp("", "bench-scheduler-")
	if err != nil {
		return f, err
	}
	defer os.RemoveAll(folder)
	if c.nodes > 0 {
		nodeCount = min(nodeCount, c.nodes)
	}
	count := min(asked, nodeCount*25) // a node takes 40 of the default Pod
	if c.count != nil {
		count = c.count(asked, nodeCount)
	}
	s := memory.New()
	ready, all := make(chan struct{}), make(chan struct{})
	var bound atomic.Int64
	s.Seen = func(kind watch.EventType, o runtime.Object) {
		p, ok := o.(*corev1.Pod)
		switch {
		case !ok || p.Spec.NodeName == "" || kind != watch.Modified:
		case p.Name == "first":
			close(ready)
		case p.Namespace == measured:
			if bound.Add(1) == int64(count) {
				close(all)
			}
		}
	}
	c.fill(s, nodeCount)
	server := s.Serve()
	defer server.Close()
	defer server.CloseClientConnections()
	profile, binary := "", ""
	if who != result.Peapod {
		binary = o.stock
	} else if o.profile != "" {
		profile = filepath.Join(o.profile, strings.ReplaceAll(c.name, " ", "-")+".pprof")
	}
	x, err := start(binary, folder, memory.Kubeconfig(server), profile)
	if err != nil {
		return f, err
	}
	defer x.end()
	s.Put(pods, newPod(early, "first", func(p *corev1.Pod) { asks(p, "10m", "10Mi") }))
	select {
	case <-ready:
	case <-x.done:
		return f, fmt.Errorf("the scheduler ended: %s", x.said.String())
	case <-time.After(o.limit):
		return f, errors.New("the scheduler binds nothing: " + x.said.String())
	case <-ctx.Done():
		return f, ctx.Err()
	}
	if c.beside != nil {
		go c.beside(ctx, s)
	}
	list := c.asked(count)
	cpu, err := x.cpu()
	if err != nil {
		return f, err
	}
	begun := time.Now()
	s.Put(pods, list...)
	select {
	case <-all:
	case <-x.done:
		return f, fmt.Errorf("the scheduler ended: %s", x.said.String())
	case <-time.After(o.limit):
	case <-ctx.Done():
		return f, ctx.Err()
	}
	took := time.Since(begun)
	spent, err := x.cpu()
	return &figure{c.name, who, nodeCount, int(bound.Load()), count, took, spent - cpu}, err
}
