// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/keeper"
	"github.com/peapod/peapod/linux"
	"github.com/peapod/peapod/network"
	"github.com/peapod/peapod/sandbox"
)

// shmSize is what container runtimes give /dev/shm.
const shmSize = 64 << 20

// podRecord is sandbox.json.
type podRecord struct {
	Version int             `json:"version"`
	ID      string          `json:"id"`
	Config  json.RawMessage `json:"config"` // PodSandboxConfig
	Handler string          `json:"handler,omitempty"`
	Created time.Time       `json:"created"`
	// Made is set when the sandbox is complete; one without goes at the next
	// start.
	Made    bool         `json:"made,omitempty"`
	Stopped bool         `json:"stopped,omitempty"`
	IPs     []netip.Addr `json:"ips,omitempty"`
}

// pod is one sandbox.
type pod struct {
	dir    string
	config *runtimeapi.PodSandboxConfig
	work   sync.Mutex // one stop or remove at a time

	mu sync.Mutex // guards the fields below
	podRecord
	ns sandbox.Namespaces
}

func (p *pod) ready() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.Made && !p.Stopped
}

func (p *pod) name() string {
	m := p.config.GetMetadata()
	return fmt.Sprintf("pod/%s/%s/%s/%d", m.GetNamespace(), m.GetName(), m.GetUid(), m.GetAttempt())
}

func (p *pod) options() *runtimeapi.NamespaceOption {
	return p.config.GetLinux().GetSecurityContext().GetNamespaceOptions()
}

func (p *pod) holderID() string { return "hold-" + p.ID }

// save writes the record; durable says whether it must survive power loss.
func (p *pod) save(durable bool) error {
	b, err := json.MarshalIndent(p.podRecord, "", "  ")
	if err != nil {
		return err
	}
	write := linux.ReplaceFile
	if durable {
		write = linux.WriteFile
	}
	return write(filepath.Join(p.dir, "sandbox.json"), append(b, '\n'), 0o600)
}

func (r *Runtime) isHolder(id string) bool {
	p, ok := strings.CutPrefix(id, "hold-")
	return ok && r.sandboxes[p] != nil
}

// RunPodSandbox makes a sandbox: record, namespaces, shared memory, files,
// network. What fails on the way is taken back.
func (r *Runtime) RunPodSandbox(ctx context.Context, q *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	if q.GetConfig().GetMetadata() == nil {
		return nil, invalidArgument("sandbox config has no metadata")
	}
	if h := q.GetRuntimeHandler(); h != "" && r.cfg.Launchers[h] == nil {
		return nil, failed("no runtime for %q is configured", h)
	}
	config, err := protojson.Marshal(q.GetConfig())
	if err != nil {
		return nil, invalidArgument("sandbox config: %v", err)
	}
	id := newID()
	p := &pod{dir: filepath.Join(r.cfg.Dir, "sandboxes", id), config: q.GetConfig()}
	p.podRecord = podRecord{Version: 1, ID: id, Config: config, Handler: q.GetRuntimeHandler(), Created: now()}
	if err := r.reserve(p.name(), id); err != nil {
		return nil, err
	}
	if err := r.makePod(ctx, p); err != nil {
		undo := r.removePod(context.WithoutCancel(ctx), p)
		return nil, coded(errors.Join(fmt.Errorf("cannot make sandbox of pod %s/%s: %w", p.config.Metadata.Namespace, p.config.Metadata.Name, err), undo))
	}
	r.mu.Lock()
	r.sandboxes[id] = p
	r.mu.Unlock()
	r.cfg.Log.Info("sandbox made", "sandbox", id, "pod", p.config.Metadata.Name)
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

func (r *Runtime) makePod(ctx context.Context, p *pod) error {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return err
	}
	if err := p.save(false); err != nil {
		return err
	}
	o := p.options()
	own := func(m runtimeapi.NamespaceMode) bool { return m != runtimeapi.NamespaceMode_NODE }
	var err error
	p.ns, err = sandbox.Pin(filepath.Join(p.dir, "ns"), sandbox.Request{
		Net: own(o.GetNetwork()), IPC: own(o.GetIpc()), UTS: own(o.GetNetwork()),
		Hostname: p.config.GetHostname(), Sysctls: p.config.GetLinux().GetSysctls(),
	})
	if err != nil {
		return err
	}
	if err := p.files(); err != nil {
		return err
	}
	if o.GetPid() == runtimeapi.NamespaceMode_POD {
		if err := r.hold(ctx, p); err != nil {
			return err
		}
	}
	if p.ns.Net != "" {
		ports, err := hostPorts(p.config.GetPortMappings())
		if err != nil {
			return err
		}
		if p.IPs, err = r.cfg.Network.Setup(ctx, p.ID, p.ns.Net, ports); err != nil {
			return err
		}
	}
	p.Made = true
	return p.save(false)
}

// files makes what containers see of their Pod: /dev/shm, resolv.conf,
// hostname.
func (p *pod) files() error {
	if p.ns.IPC != "" {
		shm := filepath.Join(p.dir, "shm")
		if err := os.Mkdir(shm, 0o700); err != nil {
			return err
		}
		if err := linux.Tmpfs(shm, shmSize, 0o777|os.ModeSticky); err != nil {
			return err
		}
	}
	resolv := resolvConf(p.config.GetDnsConfig())
	if resolv == "" {
		b, err := os.ReadFile("/etc/resolv.conf")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		resolv = string(b)
	}
	if err := os.WriteFile(filepath.Join(p.dir, "resolv.conf"), []byte(resolv), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(p.dir, "hostname"), []byte(p.hostname()+"\n"), 0o644)
}

func (p *pod) hostname() string {
	if h := p.config.GetHostname(); h != "" {
		return h
	}
	h, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return h
}

func (p *pod) shm() string {
	if p.options().GetIpc() == runtimeapi.NamespaceMode_NODE {
		return "/dev/shm"
	}
	return filepath.Join(p.dir, "shm")
}

// resolvConf is resolv.conf(5), or "" for the machine's own.
func resolvConf(c *runtimeapi.DNSConfig) string {
	if c == nil || len(c.Servers)+len(c.Searches)+len(c.Options) == 0 {
		return ""
	}
	var b strings.Builder
	if len(c.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(c.Searches, " "))
	}
	for _, s := range c.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(c.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(c.Options, " "))
	}
	return b.String()
}

func hostPorts(list []*runtimeapi.PortMapping) (out []network.HostPort, err error) {
	for _, m := range list {
		if m.GetHostPort() == 0 {
			continue
		}
		p := network.HostPort{Protocol: strings.ToLower(m.GetProtocol().String()), HostPort: uint16(m.GetHostPort()), ContainerPort: uint16(m.GetContainerPort())}
		if ip := m.GetHostIp(); ip != "" {
			if p.HostIP, err = netip.ParseAddr(ip); err != nil {
				return nil, invalidArgument("host IP %q: %v", ip, err)
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// hold starts the process that keeps a shared PID namespace open.
func (r *Runtime) hold(ctx context.Context, p *pod) error {
	proc, err := r.cfg.Keeper.Run(ctx, keeper.Spec{
		ID: p.holderID(), Args: sandbox.Holder(r.cfg.KeeperBinary, filepath.Join(p.dir, "hold.pid"), p.ns),
		Dir: p.dir, PidFile: filepath.Join(p.dir, "hold.pid"),
	})
	if err != nil {
		return err
	}
	p.ns.PID, err = sandbox.PinPID(filepath.Join(p.dir, "ns"), proc.Pid)
	return err
}

// StopPodSandbox ends what runs in the sandbox and gives up its network.
// Repeating it, or stopping an unknown one, is no error.
func (r *Runtime) StopPodSandbox(ctx context.Context, q *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	p, err := r.findPod(q.GetPodSandboxId())
	if err != nil {
		return &runtimeapi.StopPodSandboxResponse{}, nil
	}
	p.work.Lock()
	defer p.work.Unlock()
	if err := r.stopPod(ctx, p); err != nil {
		return nil, coded(fmt.Errorf("cannot stop sandbox %s: %w", p.ID, err))
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

func (r *Runtime) stopPod(ctx context.Context, p *pod) error {
	for _, c := range r.containersOf(p.ID) {
		if err := r.stop(ctx, c, 0); err != nil {
			return err
		}
	}
	if err := r.endHolder(ctx, p); err != nil {
		return err
	}
	if err := r.cfg.Network.Teardown(ctx, p.ID); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := sandbox.Unpin(filepath.Join(p.dir, "ns")); err != nil {
		return err
	}
	if err := linux.Detach(filepath.Join(p.dir, "shm")); err != nil {
		return err
	}
	p.ns, p.Stopped = sandbox.Namespaces{}, true
	return p.save(false)
}

func (r *Runtime) endHolder(ctx context.Context, p *pod) error {
	if p.options().GetPid() != runtimeapi.NamespaceMode_POD {
		return nil
	}
	ended := make(chan keeper.Exit, 1)
	r.mu.Lock()
	r.execs[p.holderID()] = ended
	r.mu.Unlock()
	err := r.cfg.Keeper.Signal(ctx, p.holderID(), 9)
	switch {
	case err == nil:
		select {
		case <-ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	case !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, keeper.ErrNotFound):
		return err
	}
	r.mu.Lock()
	delete(r.execs, p.holderID())
	r.mu.Unlock()
	return r.cfg.Keeper.Forget(ctx, p.holderID())
}

func (r *Runtime) containersOf(id string) (out []*container) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		if c.SandboxID == id {
			out = append(out, c)
		}
	}
	return out
}

// RemovePodSandbox removes a sandbox and all its containers.
func (r *Runtime) RemovePodSandbox(ctx context.Context, q *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	p, err := r.findPod(q.GetPodSandboxId())
	if err != nil {
		return &runtimeapi.RemovePodSandboxResponse{}, nil
	}
	p.work.Lock()
	defer p.work.Unlock()
	if err := r.removePod(ctx, p); err != nil {
		return nil, coded(fmt.Errorf("cannot remove sandbox %s: %w", p.ID, err))
	}
	r.cfg.Log.Info("sandbox removed", "sandbox", p.ID)
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

func (r *Runtime) removePod(ctx context.Context, p *pod) error {
	if err := r.stopPod(ctx, p); err != nil {
		return err
	}
	for _, c := range r.containersOf(p.ID) {
		if err := r.removeContainer(ctx, c); err != nil {
			return err
		}
	}
	if p.config.GetLinux().GetCgroupParent() == "" {
		if err := r.removeCgroup(filepath.Join(r.cfg.CgroupRoot, p.ID)); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(p.dir); err != nil {
		return err
	}
	r.mu.Lock()
	delete(r.sandboxes, p.ID)
	r.mu.Unlock()
	r.release(p.name())
	return nil
}

// restorePods reads the sandboxes of before.
func (r *Runtime) restorePods(ctx context.Context, rebooted bool) error {
	dirs, err := filepath.Glob(filepath.Join(r.cfg.Dir, "sandboxes", "*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		p := &pod{dir: dir, config: &runtimeapi.PodSandboxConfig{}}
		b, err := os.ReadFile(filepath.Join(dir, "sandbox.json"))
		if errors.Is(err, os.ErrNotExist) {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			continue
		}
		if err == nil {
			err = json.Unmarshal(b, &p.podRecord)
		}
		if err == nil {
			err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(p.Config, p.config)
		}
		if err != nil {
			return fmt.Errorf("cannot read %s/sandbox.json: %w", dir, err)
		}
		if p.ns, err = sandbox.Pinned(filepath.Join(dir, "ns")); err != nil {
			return err
		}
		r.sandboxes[p.ID], r.names[p.name()] = p, p.ID
		switch {
		case !p.Made:
			if err := r.removePod(ctx, p); err != nil {
				return err
			}
		case rebooted:
			p.Stopped = true
		}
	}
	return nil
}
