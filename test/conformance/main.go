// SPDX-License-Identifier: Apache-2.0

// Command conformance runs the conformance tests of Kubernetes against a
// cluster and writes what came of them as a document:
//
//	conformance -binary e2e.test -kubeconfig FILE -kubectl FILE -results DIR -reasons FILE -document FILE
//
// The tests are upstream's own, as its binary lists them. Each test's outcome
// is kept in the folder of results as soon as it is known, so that a run that
// was interrupted goes on where it was.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// options are what the command line says.
type options struct {
	binary, kubeconfig, kubectl, results, reasons, document string

	version string         // of the program under test
	focus   *regexp.Regexp // nil: all
	only    []string       // the names of those that may run; none: all
	must    bool           // what ran must have passed
	again   string         // which of the tests that have an outcome run again: "", "failed" or "all"
	workers int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	specs, err := list(ctx, o.binary)
	if err != nil {
		return err
	}
	outcomes, err := readOutcomes(o.results)
	if err != nil {
		return err
	}
	if err := o.knows(specs); err != nil {
		return err
	}
	var due []spec
	for _, s := range specs {
		if o.isDue(s, outcomes) {
			due = append(due, s)
		}
	}
	r := newRunner(o, outcomes, len(due))
	if o.kubeconfig != "" {
		err = r.runAll(ctx, due)
	}
	if o.must && err == nil {
		err = r.insist(ctx, due)
	}
	if o.document != "" {
		err = errors.Join(err, writeDocument(o, specs, outcomes))
	}
	return err
}

// knows says whether all tests that may run exist: one that upstream has renamed
// must not be left out in silence.
func (o options) knows(specs []spec) error {
	for _, name := range o.only {
		if !slices.ContainsFunc(specs, func(s spec) bool { return s.Name == name }) {
			return fmt.Errorf("cannot run %q: there is no such test", name)
		}
	}
	return nil
}

// isDue says whether a test is to be run: one in focus is, whatever became of it before.
func (o options) isDue(s spec, outcomes map[string]outcome) bool {
	if o.focus != nil && !o.focus.MatchString(s.Name) {
		return false
	}
	if len(o.only) > 0 && !slices.Contains(o.only, s.Name) {
		return false
	}
	before, has := outcomes[s.Name]
	switch o.again {
	case "all":
		return true
	case "failed":
		return !has || before.State != passed
	}
	return !has || o.focus != nil
}

func parse(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("conformance", flag.ContinueOnError)
	f.StringVar(&o.binary, "binary", "", "upstream's tests, built")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "how to reach the cluster; without it only the document is written")
	f.StringVar(&o.kubectl, "kubectl", "kubectl", "the kubectl that the tests use")
	f.StringVar(&o.results, "results", "", "the folder where outcomes are kept")
	f.StringVar(&o.reasons, "reasons", "", "the file of known reasons for failures")
	f.StringVar(&o.document, "document", "", "the document to write, if any")
	f.StringVar(&o.version, "of", "", "the version of the program under test")
	f.StringVar(&o.again, "again", "", "run again what has an outcome: failed, or all")
	f.IntVar(&o.workers, "workers", 4, "how many tests run beside each other, of those that may")
	f.BoolVar(&o.must, "must", false, "fail unless every test that runs passes; one that does not has a second try")
	only := f.String("only", "", "a file of names, one in a line: only these tests")
	focus := f.String("focus", "", "a regular expression: only the tests with such names")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if o.again != "" && o.again != "failed" && o.again != "all" {
		return o, fmt.Errorf("-again is %q, neither failed nor all", o.again)
	}
	if *focus != "" {
		var err error
		if o.focus, err = regexp.Compile(*focus); err != nil {
			return o, fmt.Errorf("cannot use -focus: %w", err)
		}
	}
	if *only != "" {
		names, err := os.ReadFile(*only)
		if err != nil {
			return o, fmt.Errorf("cannot use -only: %w", err)
		}
		o.only = strings.Split(strings.TrimSpace(string(names)), "\n")
	}
	return o, nil
}
