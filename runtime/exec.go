// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/peapod/peapod/keeper"
	"github.com/peapod/peapod/linux"
	"github.com/peapod/peapod/sandbox"
)

// execLimit is how much output ExecSync returns of each stream, as containerd.
const execLimit = 16 << 20

// session is one process started beside a container's first.
type session struct {
	id    string
	dir   string
	ended chan keeper.Exit
}

// startExec runs a command in a running container; its output waits.
func (r *Runtime) startExec(ctx context.Context, c *container, args []string, tty, stdin bool) (session, error) {
	if c.state() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return session{}, failed("container %s is not running", c.ID)
	}
	if len(args) == 0 {
		return session{}, invalidArgument("no command")
	}
	spec, err := sandbox.ReadBundle(c.dir)
	if err != nil {
		return session{}, fmt.Errorf("cannot exec in container %s: %w", c.ID, err)
	}
	s := session{id: "exec-" + newID()[:32], ended: make(chan keeper.Exit, 1)}
	s.dir = filepath.Join(c.dir, s.id)
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return session{}, fmt.Errorf("cannot exec in container %s: %w", c.ID, err)
	}
	if err := sandbox.WriteProcess(filepath.Join(s.dir, "process.json"), sandbox.ExecProcess(spec, args, tty)); err != nil {
		return session{}, err
	}
	e := sandbox.Exec{ContainerID: c.ID, ProcessFile: "process.json", PidFile: "pid"}
	k := keeper.Spec{ID: s.id, Dir: s.dir, PidFile: "pid", Terminal: tty, Stdin: stdin, StdinOnce: stdin, HoldOutput: true}
	if tty {
		e.ConsoleSocket, k.ConsoleSocket = "tty.sock", "tty.sock"
	}
	k.Args = r.launcher(c.Handler).Exec(e)
	r.mu.Lock()
	r.execs[s.id] = s.ended
	r.mu.Unlock()
	if err := r.runKept(ctx, k); err != nil {
		r.endExec(context.WithoutCancel(ctx), s, false)
		if errors.Is(err, keeper.ErrGone) || ctx.Err() != nil {
			return session{}, fmt.Errorf("cannot exec in container %s: %w", c.ID, err)
		}
		return session{}, fmt.Errorf("failed to exec in container: failed to start exec %q: OCI runtime exec failed: %s: unknown", s.id, startError(err))
	}
	return s, nil
}

// endExec forgets a session, killing it if it still runs.
func (r *Runtime) endExec(ctx context.Context, s session, ended bool) {
	forget := r.endKept
	if ended {
		forget = r.cfg.Keeper.Forget
	}
	err := forget(ctx, s.id)
	r.mu.Lock()
	delete(r.execs, s.id)
	r.mu.Unlock()
	if err = errors.Join(err, os.RemoveAll(s.dir)); err != nil {
		r.cfg.Log.Warn("cannot tidy up after exec", "op", s.id, "err", err)
	}
}

// await returns how a session has ended.
func (r *Runtime) await(ctx context.Context, s session) (keeper.Exit, error) {
	select {
	case e := <-s.ended:
		return e, nil
	case <-r.cfg.Keeper.Done():
		return keeper.Exit{}, keeper.ErrGone
	case <-ctx.Done():
		return keeper.Exit{}, ctx.Err()
	}
}

// ExecSync runs a command and returns its output and exit code.
func (r *Runtime) ExecSync(ctx context.Context, q *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	ctx, done, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	c, err := r.findContainer(q.GetContainerId())
	if err != nil {
		return nil, err
	}
	if t := q.GetTimeout(); t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(t)*time.Second)
		defer cancel()
	}
	s, err := r.startExec(ctx, c, q.GetCmd(), false, false)
	if err != nil {
		return nil, timedOut(ctx, q, err)
	}
	ended := false
	defer func() { r.endExec(context.WithoutCancel(ctx), s, ended) }()
	var out, stderr limited
	if err := r.cfg.Keeper.Attach(ctx, s.id, keeper.Streams{Stdout: &out, Stderr: &stderr}); err != nil {
		return nil, timedOut(ctx, q, err)
	}
	e, err := r.await(ctx, s)
	if err != nil {
		return nil, timedOut(ctx, q, err)
	}
	ended = true
	return &runtimeapi.ExecSyncResponse{Stdout: out.Bytes(), Stderr: stderr.Bytes(), ExitCode: int32(e.Code)}, nil
}

func timedOut(ctx context.Context, q *runtimeapi.ExecSyncRequest, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return status.Errorf(codes.DeadlineExceeded, "failed to exec in container: timeout %s exceeded: %v", time.Duration(q.GetTimeout())*time.Second, context.DeadlineExceeded)
	}
	return coded(err)
}

// limited keeps the beginning of what is written and swallows the rest.
type limited struct{ bytes.Buffer }

func (l *limited) Write(b []byte) (int, error) {
	if room := execLimit - l.Len(); room < len(b) {
		l.Buffer.Write(b[:max(room, 0)])
		return len(b), nil
	}
	return l.Buffer.Write(b)
}

// streamServer is the HTTP server behind Exec, Attach and PortForward: SPDY and
// WebSocket, on loopback, for whoever holds a URL with its token.
type streamServer struct {
	streaming.Server
	listener net.Listener
}

func newStreaming(r *Runtime) (*streamServer, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("cannot listen for streams: %w", err)
	}
	c := streaming.DefaultConfig
	c.Addr = l.Addr().String()
	s, err := streaming.NewServer(c, streams{r})
	if err != nil {
		l.Close()
		return nil, err
	}
	return &streamServer{s, l}, nil
}

func (s *streamServer) serve(ctx context.Context) (stop func()) {
	h := &http.Server{Handler: s.Server, ReadHeaderTimeout: 30 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	var done sync.WaitGroup
	done.Go(func() { _ = h.Serve(s.listener) }) // ends with Close
	return func() { h.Close(); done.Wait() }
}

// Exec returns a URL to stream a command.
func (r *Runtime) Exec(_ context.Context, q *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	c, err := r.findContainer(q.GetContainerId())
	if err != nil {
		return nil, err
	}
	if c.state() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return nil, failed("container %s is not running", c.ID)
	}
	q.ContainerId = c.ID
	return r.streams.GetExec(q)
}

// Attach returns a URL to stream a container's own stdio.
func (r *Runtime) Attach(_ context.Context, q *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	c, err := r.findContainer(q.GetContainerId())
	if err != nil {
		return nil, err
	}
	if c.state() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return nil, failed("container %s is not running", c.ID)
	}
	q.ContainerId = c.ID
	return r.streams.GetAttach(q)
}

// PortForward returns a URL to reach ports inside a sandbox.
func (r *Runtime) PortForward(_ context.Context, q *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	p, err := r.findPod(q.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if !p.ready() {
		return nil, failed("sandbox %s is not running", p.ID)
	}
	q.PodSandboxId = p.ID
	return r.streams.GetPortForward(q)
}

// streams carries out what the streaming server has authenticated.
type streams struct{ r *Runtime }

func (s streams) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	ctx, done, err := s.r.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	c, err := s.r.findContainer(id)
	if err != nil {
		return err
	}
	e, err := s.r.startExec(ctx, c, cmd, tty, in != nil)
	if err != nil {
		return err
	}
	ended := false
	defer func() { s.r.endExec(context.WithoutCancel(ctx), e, ended) }()
	if err := s.attach(ctx, e.id, in, out, errs, resize); err != nil {
		return err
	}
	x, err := s.r.await(ctx, e)
	if err != nil {
		return err
	}
	ended = true
	if x.Code != 0 {
		return &utilexec.CodeExitError{Err: fmt.Errorf("command terminated with non-zero exit code: %v, exit code %d", cmd, x.Code), Code: x.Code}
	}
	return nil
}

func (s streams) Attach(ctx context.Context, id string, in io.Reader, out, errs io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	return s.attach(ctx, id, in, out, errs, resize)
}

func (s streams) attach(ctx context.Context, id string, in io.Reader, out, errs io.WriteCloser, resize <-chan remotecommand.TerminalSize) error {
	k := keeper.Streams{Stdin: in}
	// A nil *T inside an interface is not nil.
	if out != nil {
		k.Stdout = out
	}
	if errs != nil {
		k.Stderr = errs
	}
	if resize != nil {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		k.Resize = sizes(ctx, resize)
		return s.r.cfg.Keeper.Attach(ctx, id, k)
	}
	return s.r.cfg.Keeper.Attach(ctx, id, k)
}

// sizes hands on terminal sizes until ctx ends.
func sizes(ctx context.Context, in <-chan remotecommand.TerminalSize) <-chan keeper.Size {
	out := make(chan keeper.Size)
	go func() {
		defer close(out)
		for {
			select {
			case t, ok := <-in:
				if !ok {
					return
				}
				select {
				case out <- keeper.Size{Width: t.Width, Height: t.Height}:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// PortForward joins a stream and a port on the sandbox's loopback.
func (s streams) PortForward(ctx context.Context, id string, port int32, stream io.ReadWriteCloser) error {
	p, err := s.r.findPod(id)
	if err != nil {
		return err
	}
	defer stream.Close()
	var conn net.Conn
	dial := func() (err error) {
		var d net.Dialer
		// IPv4 first, as kubelets do; then what localhost means otherwise.
		if conn, err = d.DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port)))); err != nil {
			conn, err = d.DialContext(ctx, "tcp6", net.JoinHostPort("::1", strconv.Itoa(int(port))))
		}
		return err
	}
	p.mu.Lock()
	ns, gone := p.ns.Net, p.Stopped
	p.mu.Unlock()
	switch {
	case gone:
		// Without its namespace the port would be one of the machine.
		err = failed("sandbox %s is not running", p.ID)
	case p.options().GetNetwork() == runtimeapi.NamespaceMode_NODE:
		err = dial()
	default:
		err = linux.InNamespace("net", ns, dial)
	}
	if err != nil {
		return fmt.Errorf("cannot connect to port %d in sandbox %s: %w", port, id, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close(); stream.Close() })
	defer stop()
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, stream)
		if c, ok := conn.(*net.TCPConn); ok {
			err = errors.Join(err, c.CloseWrite())
		}
		done <- err
	}()
	_, err = io.Copy(stream, conn)
	stream.Close()
	<-done
	return err
}
