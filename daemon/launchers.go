// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"log/slog"
	"os"

	"github.com/peapod/peapod/sandbox"
)

// What --launcher may be: who starts containers. With LauncherAuto the native
// launcher starts what it can do, and an OCI runtime the rest.
const (
	LauncherAuto   = "auto"
	LauncherNative = sandbox.NativeName
	LauncherOCI    = "oci"
)

// launchers finds those that work on this machine, by the names of runtime
// handlers; "" is the one that mode says. It also looks after what another one
// has started in an earlier life.
func (l layout) launchers(ctx context.Context, mode string, log *slog.Logger) (map[string]sandbox.Launcher, error) {
	out := map[string]sandbox.Launcher{}
	oci, err := sandbox.Find(ctx, []string{"crun", "runc"}, l.path("runtime", "trial"), l.path("runtime", "oci"))
	if err == nil {
		out[oci.Name()], out[""] = oci, oci
	}
	state := l.path("runtime", "native")
	if left, _ := os.ReadDir(state); mode == LauncherOCI && (err != nil || len(left) == 0) {
		return out, err
	}
	if mode == LauncherAuto && err != nil {
		return nil, err
	}
	binary, unfit := besides("peapod-launcher")
	var native sandbox.Launcher
	if unfit == nil {
		native, unfit = sandbox.Native(ctx, binary, Version, l.path("runtime", "trial"), state)
	}
	switch {
	case unfit != nil && mode == LauncherNative:
		return nil, unfit
	case unfit != nil:
		log.Warn("containers are started by an OCI runtime", "op", "launcher", "err", unfit)
		return out, err
	}
	out[native.Name()] = native
	switch {
	case oci == nil:
		out[""] = native
	case mode == LauncherAuto:
		out[""] = sandbox.Prefer(native, oci)
	case mode == LauncherNative:
		out[""] = sandbox.Succeed(native, oci)
	default:
		out[""] = sandbox.Succeed(oci, native)
	}
	return out, nil
}

// allLaunchers are those that may have started something here, however they
// were chosen then.
func (l layout) allLaunchers(ctx context.Context, log *slog.Logger) (map[string]sandbox.Launcher, error) {
	out, err := l.launchers(ctx, LauncherOCI, log)
	if err != nil {
		if out, unfit := l.launchers(ctx, LauncherNative, log); unfit == nil {
			return out, nil
		}
	}
	return out, err
}
