// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/peapod/peapod/test/bench/result"
	node "github.com/peapod/peapod/test/machine"
)

// PeapodOptions are what Peapod is started with.
type PeapodOptions struct {
	Bin      string // folder with peapod, peapod-keeper and peapod-launcher
	Archive  string // image to import before the start, "" for none
	Launcher string // as of peapod up; "" for its default
	Args     []string
}

// Peapod starts `peapod up` and waits for its one line.
func Peapod(ctx context.Context, o PeapodOptions) (*Cluster, error) {
	// Short: sockets lie below it.
	dir, err := os.MkdirTemp("", "pb")
	if err != nil {
		return nil, err
	}
	p := &peapod{program: filepath.Join(o.Bin, "peapod"), dir: dir}
	c := &Cluster{
		Subject: result.Peapod, Dir: dir, Kubeconfig: filepath.Join(dir, "admin.kubeconfig"), CRI: "unix://" + filepath.Join(dir, "run", "cri.sock"),
		processes: p.processes, down: p.down,
	}
	if err := p.up(ctx, o, c); err != nil {
		return nil, errors.Join(err, c.Down())
	}
	return c, nil
}

type peapod struct {
	program, dir string
	process      *exec.Cmd
}

func (p *peapod) up(ctx context.Context, o PeapodOptions, c *Cluster) error {
	if o.Archive != "" {
		if out, err := exec.CommandContext(ctx, p.program, "image", "import", "--data-dir", p.dir, o.Archive).CombinedOutput(); err != nil {
			return fmt.Errorf("cannot import the image: %w\n%s", err, out)
		}
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	args := []string{"up", "--data-dir", p.dir, "--node-name", "bench", "--listen", "127.0.0.1:" + port, "--node-listen", ":0", "--pod-cidr", "10.230.0.0/20", "--service-cidr", "10.231.0.0/16"}
	if o.Launcher != "" {
		args = append(args, "--launcher", o.Launcher)
	}
	p.process = exec.Command(p.program, append(args, o.Args...)...)
	p.process.Stderr = os.Stderr
	out, err := p.process.StdoutPipe()
	if err != nil {
		return err
	}
	c.Begun = time.Now()
	if err := p.process.Start(); err != nil {
		p.process = nil
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	c.Ready = time.Now()
	if err != nil || !strings.Contains(line, "is Ready") {
		return fmt.Errorf("peapod up did not become Ready: %q, %w", line, err)
	}
	return c.connect()
}

func (p *peapod) down() error {
	out, err := exec.Command(p.program, "down", "--data-dir", p.dir, "--purge", "--grace=1s").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, out)
	}
	if p.process != nil {
		// It was told to stop; `down` waited for its end.
		_ = p.process.Wait()
	}
	return err
}

func (p *peapod) processes() (Processes, error) {
	keeper, err := node.Keeper(p.dir)
	if err != nil {
		return nil, err
	}
	return Processes{"peapod": {p.process.Process.Pid}, "peapod-keeper": {keeper}}, nil
}
