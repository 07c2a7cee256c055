// SPDX-License-Identifier: Apache-2.0

// Package runtime is a container runtime that speaks CRI v1: sandboxes without
// a pause process, containers born by an OCI runtime under the keeper, exec,
// logs, streams and statistics. It does not know Kubernetes: everything comes
// from CRI requests. Images are image/'s, links network's, specs and
// namespaces sandbox/'s, and processes the keeper's.
//
// State on disk, written before what it describes is made:
//
//	boot                          the boot this state is about
//	sandboxes/<id>/sandbox.json   request, addresses, whether it was stopped
//	sandboxes/<id>/{ns/,shm/,resolv.conf,hostname}
//	containers/<id>/container.json  request, image, when it was started
//	containers/<id>/exit.json     written by the keeper: how it ended
//	containers/<id>/{config.json,rootfs/,upper/,work/}
//
// The state of a container is derived from these, never stored.
package runtime

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/image"
	"github.com/peapod/peapod/keeper"
	"github.com/peapod/peapod/network"
	"github.com/peapod/peapod/sandbox"
)

// Network gives sandboxes their links and addresses.
type Network interface {
	Setup(ctx context.Context, id, netns string, ports []network.HostPort) ([]netip.Addr, error)
	Teardown(ctx context.Context, id string) error
	Keep(ctx context.Context, live map[string]bool) error
}

// Config is what a runtime is made from.
type Config struct {
	Dir     string
	Version string
	// Launchers by handler name; "" is the default.
	Launchers map[string]sandbox.Launcher
	Keeper    *keeper.Client
	// KeeperBinary holds shared PID namespaces.
	KeeperBinary string
	Images       *image.Store
	Network      Network
	// CgroupRoot is the parent of cgroups that requests name none for.
	CgroupRoot string
	Log        *slog.Logger
}

// Runtime implements both services of CRI. Run must be running for exits to be
// seen.
type Runtime struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer

	cfg  Config
	host sandbox.Host

	mu         sync.Mutex // guards the fields below
	sandboxes  map[string]*pod
	containers map[string]*container
	execs      map[string]chan keeper.Exit // exec ID -> its end
	names      map[string]string           // reserved names -> ID

	// ends of the calls under way: they end with Run.
	ends   map[*context.CancelFunc]bool
	closed bool // no further call is admitted

	calls sync.WaitGroup // calls under way, and the removal of ended containers

	clamped sync.Once // that an oom_score_adj was raised is told once
	events  hub
	streams *streamServer
}

// New takes up what is on disk. Containers that live are known again, exits
// that happened meanwhile are learned in Run, and what was half made goes.
func New(ctx context.Context, cfg Config) (*Runtime, error) {
	host, err := sandbox.ReadHost()
	if err != nil {
		return nil, fmt.Errorf("cannot start container runtime: %w", err)
	}
	for _, d := range []string{"sandboxes", "containers"} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("cannot start container runtime: %w", err)
		}
	}
	r := &Runtime{
		cfg: cfg, host: host, sandboxes: map[string]*pod{}, containers: map[string]*container{},
		execs: map[string]chan keeper.Exit{}, names: map[string]string{}, ends: map[*context.CancelFunc]bool{},
	}
	if err := r.restore(ctx); err != nil {
		return nil, fmt.Errorf("cannot take up containers of before: %w", err)
	}
	if r.streams, err = newStreaming(r); err != nil {
		return nil, fmt.Errorf("cannot start container runtime: %w", err)
	}
	return r, nil
}

// Run follows the keeper's exits and serves streams until ctx ends. It returns
// keeper.ErrGone when the keeper has died: launch another and call New again.
// When it returns, no call is under way any more and none is admitted, so that
// the next runtime on the same folder is alone with it.
func (r *Runtime) Run(ctx context.Context) error {
	stop := r.streams.serve(ctx)
	defer stop()
	defer r.events.close()
	defer r.close()
	exits, err := r.cfg.Keeper.Events(ctx, 0)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot follow containers: %w", err)
	}
	for e := range exits {
		r.ended(ctx, e)
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("cannot follow containers: %w", keeper.ErrGone)
}

func (r *Runtime) launcher(handler string) sandbox.Launcher {
	if l := r.cfg.Launchers[handler]; l != nil {
		return l
	}
	return r.cfg.Launchers[""]
}

// begin admits a call that changes something. Its context ends with Run.
func (r *Runtime) begin(ctx context.Context) (context.Context, func(), error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, nil, status.Error(codes.Unavailable, "container runtime is going down")
	}
	r.calls.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	r.ends[&cancel] = true
	return ctx, func() {
		r.mu.Lock()
		delete(r.ends, &cancel)
		r.mu.Unlock()
		cancel()
		r.calls.Done()
	}, nil
}

// close ends the calls under way and waits for them.
func (r *Runtime) close() {
	r.mu.Lock()
	r.closed = true
	for end := range r.ends {
		(*end)()
	}
	r.mu.Unlock()
	r.calls.Wait()
}

// newID is as long as other runtimes' IDs: tools cut it to 13.
func newID() string {
	b := make([]byte, 32)
	rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}

// reserve takes a name, so that a second container of the same name and
// attempt is refused.
func (r *Runtime) reserve(name, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if other, taken := r.names[name]; taken {
		return alreadyExists("name %q is reserved for %q", name, other)
	}
	r.names[name] = id
	return nil
}

func (r *Runtime) release(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.names, name)
}

// findPod finds a sandbox by ID or a unique prefix of one.
func (r *Runtime) findPod(id string) (*pod, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return byPrefix(r.sandboxes, id, "sandbox")
}

func (r *Runtime) findContainer(id string) (*container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return byPrefix(r.containers, id, "container")
}

func byPrefix[T any](all map[string]*T, id, what string) (found *T, err error) {
	if x := all[id]; x != nil {
		return x, nil
	}
	for full, x := range all {
		if id != "" && strings.HasPrefix(full, id) {
			if found != nil {
				return nil, invalidArgument("%s ID %q is ambiguous", what, id)
			}
			found = x
		}
	}
	if found == nil {
		return nil, notFound("%s %q", what, id)
	}
	return found, nil
}

// Down stops and removes everything this runtime has made.
func (r *Runtime) Down(ctx context.Context) error {
	r.mu.Lock()
	var ids []string
	for id := range r.sandboxes {
		ids = append(ids, id)
	}
	r.mu.Unlock()
	var errs []error
	for _, id := range ids {
		if _, err := r.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
			errs = append(errs, err)
			continue
		}
		if _, err := r.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Version names the runtime.
func (r *Runtime) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "peapod", RuntimeVersion: r.cfg.Version, RuntimeApiVersion: "v1"}, nil
}

// now is one clock for all records.
func now() time.Time { return time.Now() }
