// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/linux"
	"github.com/peapod/peapod/sandbox/native"
)

// NativeName is what the native launcher is called.
const NativeName = "native"

// nativeLauncher starts containers with the program peapod-launcher, and does
// all else itself.
type nativeLauncher struct {
	version, path, state string
	cgroups              linux.CgroupLayout
}

var _ Launcher = (*nativeLauncher)(nil)

// Native returns the launcher of our own, with the program peapod-launcher at
// path, if a small container really starts with it on this machine, in
// trialDir, which is made and removed. Its records are in stateDir.
func Native(ctx context.Context, path, version, trialDir, stateDir string) (Launcher, error) {
	fail := func(err error) (Launcher, error) {
		return nil, fmt.Errorf("cannot use the native launcher: %w", err)
	}
	layout, err := linux.Cgroups()
	if err != nil {
		return fail(err)
	}
	sealed, err := seal(path)
	if err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return fail(err)
	}
	n := &nativeLauncher{version: version, path: sealed, state: stateDir, cgroups: layout}
	if err := trial(ctx, n, trialDir); err != nil {
		return fail(err)
	}
	return n, nil
}

// seal opens the program in a mount of its own that is read-only and nowhere
// to be found, for as long as we live, and returns a path by which the keeper
// can run it. A process of a container that gets hold of the file of the
// launcher's process (/proc/<pid>/exe) cannot write to it (CVE-2019-5736).
func seal(path string) (string, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err == nil {
		err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
			Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE})
	}
	if err != nil {
		return "", &os.PathError{Op: "open tree", Path: path, Err: err}
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), nil
}

func (n *nativeLauncher) Name() string    { return NativeName }
func (n *nativeLauncher) Version() string { return n.version }
func (n *nativeLauncher) Path() string    { return n.path }

func (n *nativeLauncher) Create(b Bundle) []string { return n.bundle("create", b) }

func (n *nativeLauncher) Run(b Bundle) []string { return n.bundle("run", b, "--detach") }

func (n *nativeLauncher) bundle(verb string, b Bundle, flags ...string) []string {
	a := append([]string{n.path, "--root", n.state, verb}, flags...)
	a = append(a, "--bundle", b.Dir, "--pid-file", b.PidFile)
	if b.ConsoleSocket != "" {
		a = append(a, "--console-socket", b.ConsoleSocket)
	}
	return append(a, b.ID)
}

func (n *nativeLauncher) Exec(e Exec) []string {
	a := []string{n.path, "--root", n.state, "exec", "--detach", "--process", e.ProcessFile, "--pid-file", e.PidFile}
	if e.ConsoleSocket != "" {
		a = append(a, "--console-socket", e.ConsoleSocket)
	}
	return append(a, e.ContainerID)
}

// load reads the record of a container.
func (n *nativeLauncher) load(id string) (native.Record, error) {
	r, err := native.Load(n.state, id)
	if errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("%w: %w", ErrNoContainer, err)
	}
	return r, err
}

func (n *nativeLauncher) Start(_ context.Context, id string) error {
	r, err := n.load(id)
	if err == nil {
		err = r.Start(n.state)
	}
	if err != nil {
		return fmt.Errorf("cannot start container %s: %w", id, err)
	}
	return nil
}

func (n *nativeLauncher) Kill(_ context.Context, id string, sig int, all bool) error {
	r, err := n.load(id)
	switch {
	case err != nil:
	case all:
		err = n.cgroups.Signal(r.Cgroup, unix.Signal(sig))
	default:
		err = signalFirst(r, unix.Signal(sig))
	}
	if err != nil {
		return fmt.Errorf("cannot kill container %s: %w", id, err)
	}
	return nil
}

func signalFirst(r native.Record, sig unix.Signal) error {
	p, err := r.Open()
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("container not running: %w", err)
	}
	if err != nil {
		return err
	}
	return errors.Join(p.Signal(sig), p.Close())
}

func (n *nativeLauncher) Update(_ context.Context, id string, resources *specs.LinuxResources) error {
	r, err := n.load(id)
	if err == nil {
		err = native.Update(r.Cgroup, resources)
	}
	if err != nil {
		return fmt.Errorf("cannot update container %s: %w", id, err)
	}
	return nil
}

func (n *nativeLauncher) Delete(ctx context.Context, id string, force bool) error {
	r, err := n.load(id)
	if errors.Is(err, ErrNoContainer) {
		// A folder without a record: it was made, and nothing else.
		return native.Forget(n.state, id)
	}
	if err == nil && !force {
		status, statusErr := r.Status(n.state)
		if err = statusErr; err == nil && status != "stopped" {
			err = fmt.Errorf("container is not stopped: %s", status)
		}
	}
	if err == nil {
		err = n.cgroups.Kill(ctx, r.Cgroup)
	}
	if err == nil {
		err = n.cgroups.Remove(ctx, r.Cgroup)
	}
	if err == nil {
		err = native.Forget(n.state, id)
	}
	if err != nil {
		return fmt.Errorf("cannot delete container %s: %w", id, err)
	}
	return nil
}

func (n *nativeLauncher) State(_ context.Context, id string) (ContainerState, error) {
	r, err := n.load(id)
	var status string
	if err == nil {
		status, err = r.Status(n.state)
	}
	if err != nil {
		return ContainerState{}, fmt.Errorf("cannot state container %s: %w", id, err)
	}
	return ContainerState{ID: r.ID, Status: status, Pid: r.Pid, Bundle: r.Bundle}, nil
}

func (n *nativeLauncher) List(ctx context.Context) ([]string, error) { return foldersIn(ctx, n.state) }

// Prefer starts with first, the native launcher, what that can do (Supports),
// and the rest with second. What is done with a container later is done by who
// started it.
func Prefer(first, second Launcher) Launcher {
	return &preference{Launcher: first, second: second, yields: true}
}

// Succeed starts everything with first; what former started before, it goes on
// to look after.
func Succeed(first, former Launcher) Launcher { return &preference{Launcher: first, second: former} }

type preference struct {
	Launcher
	second Launcher
	// yields: second starts what first cannot.
	yields bool
}

// starter chooses for a bundle. One that cannot be read is the first's to
// complain about.
func (p *preference) starter(b Bundle) Launcher {
	if !p.yields {
		return p.Launcher
	}
	if s, err := ReadBundle(b.Dir); err == nil && native.Supports(s) != nil {
		return p.second
	}
	return p.Launcher
}

// owner is who started a container: who knows it. One that nobody knows is the
// first's.
func (p *preference) owner(ctx context.Context, id string) Launcher {
	known, err := p.Launcher.List(ctx)
	if err == nil && slices.Contains(known, id) {
		return p.Launcher
	}
	if known, err = p.second.List(ctx); err == nil && slices.Contains(known, id) {
		return p.second
	}
	return p.Launcher
}

func (p *preference) Create(b Bundle) []string { return p.starter(b).Create(b) }
func (p *preference) Run(b Bundle) []string    { return p.starter(b).Run(b) }
func (p *preference) Exec(e Exec) []string {
	return p.owner(context.Background(), e.ContainerID).Exec(e)
}

func (p *preference) Start(ctx context.Context, id string) error {
	return p.owner(ctx, id).Start(ctx, id)
}

func (p *preference) Kill(ctx context.Context, id string, sig int, all bool) error {
	return p.owner(ctx, id).Kill(ctx, id, sig, all)
}

func (p *preference) Update(ctx context.Context, id string, r *specs.LinuxResources) error {
	return p.owner(ctx, id).Update(ctx, id, r)
}

func (p *preference) Delete(ctx context.Context, id string, force bool) error {
	return p.owner(ctx, id).Delete(ctx, id, force)
}

func (p *preference) State(ctx context.Context, id string) (ContainerState, error) {
	return p.owner(ctx, id).State(ctx, id)
}

func (p *preference) List(ctx context.Context) ([]string, error) {
	a, err := p.Launcher.List(ctx)
	if err != nil {
		return nil, err
	}
	b, err := p.second.List(ctx)
	return append(a, b...), err
}
