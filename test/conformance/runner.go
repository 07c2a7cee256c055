// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// runner runs tests and tells how far it is.
type runner struct {
	o     options
	total int
	begin time.Time

	mu       sync.Mutex
	outcomes map[string]outcome
	done     int
	failed   int
}

func newRunner(o options, outcomes map[string]outcome, total int) *runner {
	return &runner{o: o, total: total, begin: time.Now(), outcomes: outcomes}
}

// runAll runs what may run beside others, several at a time, and then the rest.
func (r *runner) runAll(ctx context.Context, all []spec) error {
	if err := os.MkdirAll(r.o.results, 0o755); err != nil {
		return fmt.Errorf("cannot keep outcomes: %w", err)
	}
	var parallel, serial []spec
	for _, s := range all {
		if s.isSerial() {
			serial = append(serial, s)
		} else {
			parallel = append(parallel, s)
		}
	}
	err := r.runBeside(ctx, parallel, r.o.workers)
	return errors.Join(err, r.runBeside(ctx, serial, 1))
}

// insist gives the tests that did not pass a second try, alone: some of
// upstream's expect more of the clock than a busy machine keeps. What fails twice
// is an error.
func (r *runner) insist(ctx context.Context, all []spec) error {
	again := slices.DeleteFunc(slices.Clone(all), func(s spec) bool { return r.outcomes[s.Name].State == passed })
	if len(again) == 0 {
		return nil
	}
	fmt.Printf("%d tests have a second try, alone\n", len(again))
	r.total += len(again)
	if err := r.runBeside(ctx, again, 1); err != nil {
		return err
	}
	var errs []error
	for _, s := range again {
		if o := r.outcomes[s.Name]; o.State != passed {
			errs = append(errs, fmt.Errorf("%s %s twice: %s", s.Name, o.State, o.Message))
		}
	}
	return errors.Join(errs...)
}

func (r *runner) runBeside(ctx context.Context, specs []spec, workers int) error {
	queue := make(chan spec, len(specs))
	for _, s := range specs {
		queue <- s
	}
	close(queue)
	errs := make([]error, workers)
	var group sync.WaitGroup
	for i := range workers {
		group.Go(func() {
			for s := range queue {
				if errs[i] = r.runSpec(ctx, s); errs[i] != nil {
					return
				}
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// runSpec runs one test in a process of its own. That the test fails is no error.
func (r *runner) runSpec(ctx context.Context, s spec) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	dir, err := os.MkdirTemp(r.o.results, "run-")
	if err != nil {
		return fmt.Errorf("cannot run test: %w", err)
	}
	defer os.RemoveAll(dir)
	report := filepath.Join(dir, "report.json")
	log, err := os.Create(filepath.Join(r.o.results, s.file()+".log"))
	if err != nil {
		return fmt.Errorf("cannot run test: %w", err)
	}
	defer log.Close()
	c := exec.CommandContext(ctx, r.o.binary,
		"-ginkgo.focus="+s.focus(), "-ginkgo.json-report="+report, "-ginkgo.no-color", "-ginkgo.v", "-ginkgo.timeout="+longestRun,
		"-kubeconfig="+r.o.kubeconfig, "-kubectl-path="+r.o.kubectl, "-provider=skeleton", "-disable-log-dump",
		"-num-nodes=1", "-system-daemonsets-startup-timeout=1s", "-e2e-output-dir="+dir)
	c.Dir, c.Stdout, c.Stderr = dir, log, log
	// A group of its own: the terminal's interrupt reaches it through us, once,
	// and ginkgo then cleans up after the test that is running.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 30 * time.Second
	ended := c.Run()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	o, err := outcomeOf(s, report, r.o.version)
	if err != nil {
		return fmt.Errorf("%w (the tests ended with %v; see %s)", err, ended, log.Name())
	}
	return r.keep(s, o)
}

// keep writes down what came of a test and tells it.
func (r *runner) keep(s spec, o outcome) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := o.write(filepath.Join(r.o.results, s.file()+".json")); err != nil {
		return err
	}
	r.outcomes[s.Name] = o
	r.done++
	if o.State != passed {
		r.failed++
	}
	fmt.Printf("%4d/%d %3d not passed %7s %-8s %5.1fs %s\n", r.done, r.total, r.failed,
		time.Since(r.begin).Truncate(time.Second), o.State, o.Seconds, s.Name)
	return nil
}

// longestRun is how long a test may take; none of upstream's needs as much.
const longestRun = "20m"
