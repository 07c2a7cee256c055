// SPDX-License-Identifier: Apache-2.0

// Command cri runs critest, Kubernetes' conformance suite for container
// runtimes, against the CRI socket of a node that it starts on a folder of its
// own and removes again. Nothing comes from the network: the images the suite
// names are made here and served by a registry on loopback.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/peapod/peapod/test/registry"
)

// options are the command line.
type options struct{ bin, critest, programs, focus, skip, launcher string }

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "folder with peapod and peapod-keeper")
	flag.StringVar(&o.critest, "critest", "", "the suite's program (scripts/critest builds it)")
	flag.StringVar(&o.programs, "programs", "", "folder with the programs of its images")
	flag.StringVar(&o.focus, "focus", "", "run only specs that match this expression")
	flag.StringVar(&o.skip, "skip", "", "leave out specs that match this expression")
	flag.StringVar(&o.launcher, "launcher", "auto", "who starts containers, as of peapod up")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "cri:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	// Short: sockets lie below it.
	home, err := os.MkdirTemp("", "cri")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(home)) }()
	r := registry.Start()
	defer r.Server.Close()
	if err := pushImages(r, o.programs); err != nil {
		return err
	}
	data := filepath.Join(home, "d")
	if err := mirror(data, r.Server.URL); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, down(o, data)) }()
	if err := up(ctx, o, data, filepath.Join(home, "up.log")); err != nil {
		return err
	}
	file := filepath.Join(home, "report.json")
	failed := suite(ctx, o, "unix://"+filepath.Join(data, "run/cri.sock"), file)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return report(os.Stdout, file, failed)
}

// up starts the node on ports that are free, and waits for its one line.
func up(ctx context.Context, o options, data, logFile string) error {
	api, err := freePort()
	if err != nil {
		return err
	}
	log, err := os.Create(logFile)
	if err != nil {
		return err
	}
	defer log.Close()
	c := exec.CommandContext(ctx, filepath.Join(o.bin, "peapod"), "up", "--data-dir", data, "--node-name", "critest", "--launcher", o.launcher,
		"--listen", "127.0.0.1:"+api, "--node-listen", ":0", "--pod-cidr", "10.232.0.0/20", "--service-cidr", "10.233.0.0/16")
	c.Stderr = log
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.Contains(line, "is Ready") {
		said, _ := os.ReadFile(logFile)
		return fmt.Errorf("peapod up did not become Ready: %q, %w\n%s", line, err, said)
	}
	return nil
}

// down takes the node back, which also ends it.
func down(o options, data string) error {
	out, err := exec.Command(filepath.Join(o.bin, "peapod"), "down", "--data-dir", data, "--purge", "--grace=1s").CombinedOutput()
	if err != nil {
		return fmt.Errorf("peapod down: %w\n%s", err, out)
	}
	return nil
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// suite runs critest, with a line for each spec as it ends.
func suite(ctx context.Context, o options, endpoint, reportFile string) error {
	args := []string{"-runtime-endpoint", endpoint, "-config", os.DevNull, "-ginkgo.no-color", "-ginkgo.v", "-ginkgo.seed=1", "-ginkgo.json-report", reportFile}
	if o.focus != "" {
		args = append(args, "-ginkgo.focus", o.focus)
	}
	if o.skip != "" {
		args = append(args, "-ginkgo.skip", o.skip)
	}
	c := exec.CommandContext(ctx, o.critest, args...)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) } // it cleans up after itself
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		return err
	}
	progress(os.Stderr, out)
	return c.Wait()
}
