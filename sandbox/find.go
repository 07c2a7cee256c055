// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Find returns the first of the candidates (names, or paths, of OCI runtimes)
// that really starts a small container in trialDir, which is made and removed.
// The OCI runtime keeps its own records in stateDir. The error says for each
// why not.
func Find(ctx context.Context, candidates []string, trialDir, stateDir string) (Launcher, error) {
	var why []error
	for _, c := range candidates {
		l, err := try(ctx, c, trialDir, stateDir)
		if err == nil {
			return l, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		why = append(why, fmt.Errorf("%s: %w", c, err))
	}
	return nil, fmt.Errorf("cannot find an OCI runtime that works: %w", errors.Join(why...))
}

func try(ctx context.Context, candidate, trialDir, stateDir string) (Launcher, error) {
	path, err := exec.LookPath(candidate)
	if err != nil {
		return nil, errors.New("not installed")
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	o := &ociRuntime{path: path, state: stateDir}
	if err := o.identify(ctx); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make state folder: %w", err)
	}
	return o, trial(ctx, o, trialDir)
}

// identify asks the program for its name and version.
func (o *ociRuntime) identify(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, o.path, "--version").Output()
	if err != nil {
		return fmt.Errorf("cannot ask for its version: %w", err)
	}
	o.name, o.version = parseVersion(filepath.Base(o.path), string(out))
	return nil
}

// parseVersion reads "runc version 1.2.3" or "crun version 1.8.1".
func parseVersion(base, out string) (name, version string) {
	first, _, _ := strings.Cut(out, "\n")
	if n, v, ok := strings.Cut(strings.TrimSpace(first), " version "); ok {
		return n, v
	}
	return base, strings.TrimSpace(first)
}

// trialCode is what the program of the trial ends with: it shows that it ran,
// and not something else.
const trialCode = 43

// trial starts a real container, as Pods have them, to its end.
func trial(ctx context.Context, l Launcher, dir string) (err error) {
	if err := os.MkdirAll(filepath.Join(dir, "rootfs", "proc"), 0o700); err != nil {
		return fmt.Errorf("cannot make trial: %w", err)
	}
	defer func() {
		if rm := os.RemoveAll(dir); rm != nil && err == nil {
			err = fmt.Errorf("cannot remove trial: %w", rm)
		}
	}()
	program, err := exitProgram(trialCode)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "rootfs", "trial"), program, 0o700); err != nil {
		return fmt.Errorf("cannot make trial: %w", err)
	}
	id := fmt.Sprintf("peapod-trial-%d", os.Getpid())
	if err := WriteBundle(dir, trialSpec(id)); err != nil {
		return err
	}
	a := slices.DeleteFunc(l.Run(Bundle{ID: id, Dir: dir, PidFile: filepath.Join(dir, "pid")}), func(w string) bool { return w == "--detach" })
	cmd := exec.CommandContext(ctx, a[0], a[1:]...)
	var said strings.Builder
	cmd.Stderr = &said
	err = cmd.Run()
	var code *exec.ExitError
	if errors.As(err, &code) && code.ExitCode() == trialCode {
		return nil
	}
	text := complaint([]byte(said.String()))
	cleanup := l.Delete(context.WithoutCancel(ctx), id, true)
	switch {
	case text != "":
		return fmt.Errorf("trial start failed: %s", text)
	case err == nil:
		return errors.New("trial start failed: the program ended with code 0")
	}
	return fmt.Errorf("trial start failed: %w", errors.Join(err, cleanup))
}

func trialSpec(id string) *specs.Spec {
	pids := int64(16)
	return &specs.Spec{
		Version:  ociVersion,
		Process:  &specs.Process{Args: []string{"/trial"}, Cwd: "/", NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{}},
		Root:     &specs.Root{Path: "rootfs", Readonly: true},
		Hostname: "trial",
		Mounts:   []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}}},
		Linux: &specs.Linux{
			CgroupsPath: "/" + id,
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}},
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
				Pids:    &specs.LinuxPids{Limit: &pids},
			},
			MaskedPaths:   []string{"/proc/kcore"},
			ReadonlyPaths: []string{"/proc/sys"},
		},
	}
}

// ociVersion is the oldest OCI runtime specification that has all we use;
// older OCI runtimes refuse a newer one.
const ociVersion = "1.0.2"
