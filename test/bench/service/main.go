// SPDX-License-Identifier: Apache-2.0

// Command service compares the addresses of Services with kube-proxy in its
// nftables mode on this machine (P12): how long a start takes with many
// Services, and how long a change of an endpoint takes to the kernel's rules
// while others change. Each subject is a program of its own in a network
// namespace of its own and follows the same API in memory. The kernel tells what
// it commits (rules.go), so that nothing is asked of either.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/peapod/peapod/test/bench/result"
)

type options struct {
	stock               string
	services, endpoints int
	changes             int
	pause, limit        time.Duration
	subjects            string
	rounds              int
	results, document   string
}

func main() {
	var o options
	in := flag.String("in", "", "measure this subject in this network namespace; used by the program itself")
	run := flag.String("run", "", "be the proxy for this kubeconfig; used by the program itself")
	flag.StringVar(&o.stock, "stock", "bin/stock-cluster/kube-proxy", "kube-proxy's binary")
	flag.IntVar(&o.services, "services", 10000, "Services")
	flag.IntVar(&o.endpoints, "endpoints", 10, "endpoints of each Service")
	flag.IntVar(&o.changes, "changes", 200, "endpoints to replace, one after another, while the proxy runs")
	flag.DurationVar(&o.pause, "pause", 50*time.Millisecond, "time between two changes")
	flag.DurationVar(&o.limit, "limit", 3*time.Minute, "time that the first rules may take")
	flag.StringVar(&o.subjects, "subjects", result.Stock+","+result.Peapod, "who is measured")
	flag.IntVar(&o.rounds, "rounds", 1, "rounds")
	flag.StringVar(&o.results, "results", "bin/bench", "folder for results; empty: they are only printed")
	flag.StringVar(&o.document, "document", "docs/benchmarks.md", "document to write of all results")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case *run != "":
		err = runOurs(ctx, *run)
	case *in != "":
		err = measureHere(ctx, o, *in)
	default:
		err = measure(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-services:", err)
		os.Exit(1)
	}
}

// figures are what one run of one subject measured.
type figures struct {
	Start   time.Duration   // from the start of the process until all rules are there
	Changes []time.Duration // from each change until it is in the rules
	// StartCPU and CPU are what the proxy, and what it ran, spent on the start
	// and on the changes.
	StartCPU, CPU time.Duration
}

func measure(ctx context.Context, o options) error {
	version, err := result.Version("kube-proxy", o.stock)
	if err != nil {
		return err
	}
	part := result.Begin("services", map[string]string{"kube-proxy": version})
	for round := 1; round <= o.rounds; round++ {
		for _, who := range strings.Split(o.subjects, ",") {
			f, err := inNamespace(ctx, who)
			if err != nil {
				return fmt.Errorf("%s: %w", who, err)
			}
			m := result.Measurement{Goal: "P12", Subject: who, Round: round}
			m.Name = result.EndpointToRules
			for _, d := range f.Changes {
				part.AddTime(m, d)
			}
			m.Name = "CPU per change of an endpoint"
			part.AddTime(m, f.CPU/time.Duration(len(f.Changes)))
			m.Name = fmt.Sprintf("start with %d Services of %d endpoints", o.services, o.endpoints)
			part.AddTime(m, f.Start)
			m.Name += ", CPU"
			part.AddTime(m, f.StartCPU)
		}
	}
	return part.Finish(o.results, o.document)
}

// inNamespace runs this program again, in a network namespace that goes with it.
func inNamespace(ctx context.Context, who string) (f figures, err error) {
	self, err := os.Executable()
	if err != nil {
		return f, err
	}
	cmd := exec.CommandContext(ctx, self, append(os.Args[1:], "-in", who)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Run(); err != nil {
		return f, fmt.Errorf("cannot measure in a network namespace (root is needed): %w", err)
	}
	return f, json.Unmarshal(out.Bytes(), &f)
}
