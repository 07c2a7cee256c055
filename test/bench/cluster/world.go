// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
)

// world is where the programs of a stock cluster run: a mount namespace in which
// /run, /var/lib and /var/log are folders of their own, and a cgroup. Programs
// can have their usual paths in it, what they mount and leave there is gone with
// the last of them, and none that they start gets out.
type world struct {
	dir    string
	cgroup *os.File
	calls  chan func()
	// fail ends the context of the cluster, with the cause.
	fail context.CancelCauseFunc
	all  []*program
}

// program is one that was started in the world.
type program struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// newWorld makes the namespace; cgroup is the folder of the cgroup in v2.
func newWorld(dir, cgroup string, fail context.CancelCauseFunc) (*world, error) {
	for _, d := range []string{"lib", "log", "logs"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	f, err := os.Open(cgroup)
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir, cgroup: f, calls: make(chan func()), fail: fail}
	made := make(chan error, 1)
	go func() {
		// Never unlocked: the thread, and with it the namespace, ends here.
		runtime.LockOSThread()
		err := w.enter()
		made <- err
		for call := range w.calls {
			call()
		}
	}()
	if err := <-made; err != nil {
		w.close()
		return nil, fmt.Errorf("cannot make a mount namespace: %w", err)
	}
	return w, nil
}

func (w *world) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	// Mounts of the machine come in and none go out; kubelets want to share
	// theirs with containers.
	for _, propagation := range []uintptr{unix.MS_SLAVE, unix.MS_SHARED} {
		if err := unix.Mount("", "/", "", propagation|unix.MS_REC, ""); err != nil {
			return err
		}
	}
	if err := linux.Tmpfs("/run", 0, 0o755, 0); err != nil {
		return err
	}
	for source, target := range map[string]string{"lib": "/var/lib", "log": "/var/log"} {
		if err := linux.Bind(filepath.Join(w.dir, source), target, false); err != nil {
			return err
		}
	}
	return nil
}

// command prepares a program of the world; its output goes to its log.
func (w *world) command(bin, name string, args ...string) (*program, error) {
	p := &program{name: name, cmd: exec.Command(filepath.Join(bin, name), args...), log: filepath.Join(w.dir, "logs", name+".log"), done: make(chan struct{})}
	f, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p.cmd.Dir = w.dir
	p.cmd.Env = append(os.Environ(), "PATH="+bin+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	// Copied, as the file is closed here.
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL, UseCgroupFD: true, CgroupFD: int(w.cgroup.Fd())}
	started := make(chan error)
	w.calls <- func() { started <- p.cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", name, err)
	}
	w.all = append(w.all, p)
	return p, nil
}

// start starts a program that is to run as long as the cluster.
func (w *world) start(bin, name string, args ...string) error {
	p, err := w.command(bin, name, args...)
	if err != nil {
		return err
	}
	go func() {
		defer close(p.done)
		w.fail(fmt.Errorf("%s has ended: %v\n%s", name, p.cmd.Wait(), p.tail()))
	}()
	return nil
}

// run runs a program to its end.
func (w *world) run(bin, name string, args ...string) error {
	p, err := w.command(bin, name, args...)
	if err != nil {
		return err
	}
	defer close(p.done)
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, p.tail())
	}
	return nil
}

// tail is the end of what a program said.
func (p *program) tail() string {
	const most = 2000
	b, _ := os.ReadFile(p.log)
	return string(b[max(0, len(b)-most):])
}

// wait waits for the end of all programs.
func (w *world) wait(ctx context.Context) error {
	for _, p := range w.all {
		select {
		case <-p.done:
		case <-ctx.Done():
			return fmt.Errorf("%s does not end: %w", p.name, ctx.Err())
		}
	}
	return nil
}

func (w *world) close() {
	close(w.calls)
	w.cgroup.Close()
}
