// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/peapod/peapod/test/machine"
)

// startTime is how long a start may take, on a busy machine.
const startTime = 90 * time.Second

// node is the node under test. One goroutine at a time starts and stops it.
type node struct {
	options
	disk  *disk
	dir   string // the data folder
	story *story

	process *exec.Cmd
	ended   chan struct{} // closed when process has ended
	pid     atomic.Int64  // of process, for those that only look
}

// prepare imports the images and starts the node.
func (n *node) prepare(ctx context.Context) error {
	if out, err := n.peapod(ctx, "image", "import", n.images); err != nil {
		return fmt.Errorf("cannot import the images: %w\n%s", err, out)
	}
	return n.start()
}

func (n *node) peapod(ctx context.Context, args ...string) (string, error) {
	c := exec.CommandContext(ctx, filepath.Join(n.bin, "peapod"), args...)
	c.Env = append(os.Environ(), "PEAPOD_DATA_DIR="+n.dir)
	out, err := c.CombinedOutput()
	return string(out), err
}

// logFile is kept off the node's disk, and after the run.
func (n *node) logFile() string { return n.storyFile + ".up" }

// start runs `peapod up` until it says that the node is Ready.
func (n *node) start() error {
	log, err := os.OpenFile(n.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p := exec.Command(filepath.Join(n.bin, "peapod"), append([]string{"up", "--data-dir", n.dir, "--listen", n.listen, "--launcher", n.launcher, "-v=1"}, n.upFlags...)...)
	p.Stderr = log
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	p.Stdout = in
	err = p.Start()
	in.Close()
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	n.process, n.ended = p, ended
	n.pid.Store(int64(p.Process.Pid))
	go func() {
		_ = p.Wait() // how it ended is in its state
		n.pid.Store(0)
		close(ended)
	}()
	if err := out.SetReadDeadline(time.Now().Add(startTime)); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.Contains(line, "is Ready") {
		n.stop(syscall.SIGKILL)
		return fmt.Errorf("peapod up did not become Ready: %q, %w\n%s", line, err, n.tail())
	}
	return nil
}

// stop ends the program, not its Pods.
func (n *node) stop(sig syscall.Signal) {
	_ = n.process.Process.Signal(sig) // it may have ended by itself
	<-n.ended
}

// fallen says that the program has ended though nobody stopped it.
func (n *node) fallen() bool {
	select {
	case <-n.ended:
		return true
	default:
		return false
	}
}

// tail is the end of the log.
func (n *node) tail() string {
	const most = 6000
	f, err := os.Open(n.logFile())
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, end-most), io.SeekStart) // at worst all of it is read
	}
	b, _ := io.ReadAll(f)
	return string(b)
}

// down ends everything; that nothing is left is part of the run.
func (n *node) down() error {
	if n.process != nil {
		n.stop(syscall.SIGTERM)
	}
	if err := n.disk.empty(); err != nil {
		return err
	}
	if out, err := n.peapod(context.Background(), "down", "--purge", "--grace=1s"); err != nil {
		return fmt.Errorf("peapod down: %w\n%s", err, out)
	}
	if left := machine.Belongings(n.dir, ""); len(left) > 0 {
		return fmt.Errorf("peapod down --purge left:\n%s", strings.Join(left, "\n"))
	}
	if _, err := os.Lstat(n.dir); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("peapod down --purge left the data folder %s: %v", n.dir, err)
	}
	return nil
}
