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

	"golang.org/x/sys/unix"
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
	ns      sandbox.Namespaces
	removed bool
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

// RunPodSandbox makes a sandbox: record, namespaces, shared memory, files,
// network. What fails on the way is taken back.
func (r *Runtime) RunPodSandbox(ctx context.Context, q *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	ctx, done, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
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
		if undo != nil {
			// It stays in the list, not ready, so that it can be removed.
			r.add(p)
		}
		return nil, coded(errors.Join(fmt.Errorf("cannot make sandbox of pod %s/%s: %w", p.config.Metadata.Namespace, p.config.Metadata.Name, err), undo))
	}
	r.add(p)
	r.cfg.Log.Info("sandbox made", "sandbox", id, "pod", p.config.Metadata.Name)
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

func (r *Runtime) add(p *pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sandboxes[p.ID] = p
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
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Made = true
	return p.save(false)
}

// files makes what containers see of their Pod: /dev/shm, hosts, resolv.conf,
// hostname.
func (p *pod) files() error {
	if p.ns.IPC != "" {
		shm := filepath.Join(p.dir, "shm")
		if err := os.Mkdir(shm, 0o700); err != nil {
			return err
		}
		if err := linux.Tmpfs(shm, shmSize, 0o777|os.ModeSticky, unix.MS_NOEXEC); err != nil {
			return err
		}
	}
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(filepath.Join(p.dir, "hosts"), hosts, 0o644); err != nil {
		return err
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
	ctx, done, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	p, err := r.findPod(q.GetPodSandboxId())
	if err != nil {
		return &runtimeapi.StopPodSandboxResponse{}, nil
	}
	p.work.Lock()
	defer p.work.Unlock()
	if err := errors.Join(p.markStopped(), r.tearDown(ctx, p)); err != nil {
		return nil, coded(fmt.Errorf("cannot stop sandbox %s: %w", p.ID, err))
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

// markStopped comes before anything is taken from the sandbox: from then on
// nothing new starts in it, and after a kill of ours nobody takes a sandbox
// that is half gone for a good one.
func (p *pod) markStopped() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.Stopped || p.removed {
		return nil
	}
	p.Stopped = true
	if !p.Made {
		return nil // its record says already that it goes
	}
	return p.save(false)
}

// tearDown takes everything from a sandbox but its folder.
func (r *Runtime) tearDown(ctx context.Context, p *pod) error {
	for _, c := range r.containersOf(p.ID) {
		if err := r.stop(ctx, c, 0); err != nil {
			return err
		}
	}
	if p.options().GetPid() == runtimeapi.NamespaceMode_POD {
		if err := r.endKept(ctx, p.holderID()); err != nil {
			return err
		}
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
	p.ns = sandbox.Namespaces{}
	return nil
}

// endKept kills what the keeper keeps under an ID, if anything, and forgets it.
func (r *Runtime) endKept(ctx context.Context, id string) error {
	k := r.cfg.Keeper
	if err := k.Abort(ctx, id); err != nil {
		return err
	}
	err := k.Signal(ctx, id, int(unix.SIGKILL))
	if err == nil || errors.Is(err, os.ErrProcessDone) {
		_, err = k.Wait(ctx, id)
	}
	if errors.Is(err, keeper.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return k.Forget(ctx, id)
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
	ctx, done, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
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
	marked := p.markStopped()
	if err := r.tearDown(ctx, p); err != nil {
		// On a full disk the mark is lost, which must not keep the sandbox
		// from going and making room: it is told only if that fails too.
		return errors.Join(marked, err)
	}
	for _, c := range r.containersOf(p.ID) {
		if err := r.removeContainer(ctx, c); err != nil {
			return err
		}
	}
	if p.config.GetLinux().GetCgroupParent() == "" {
		if err := r.host.Cgroups.Remove(ctx, filepath.Join(r.cfg.CgroupRoot, p.ID)); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(p.dir); err != nil {
		return err
	}
	p.mu.Lock()
	again := p.removed
	p.removed = true
	p.mu.Unlock()
	if again {
		return nil // its name may be another's by now
	}
	r.mu.Lock()
	delete(r.sandboxes, p.ID)
	r.mu.Unlock()
	r.release(p.name())
	return nil
}
