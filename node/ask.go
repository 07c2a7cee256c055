// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// verdict is the outcome of asking once.
type verdict int

const (
	probeSuccess verdict = iota
	probeWarning         // a success with something to say
	probeFailure
	probeUnknown // it could not be asked
)

func (v verdict) String() string {
	return [...]string{"success", "warning", "failure", "unknown"}[v]
}

// probeTries is how often a probe that could not be carried out is repeated.
const probeTries = 3

// answerLimit is how much of a probe's answer is kept.
const answerLimit = 10 << 10

// probe asks one probe. text is what the answer was; an error is that it could
// not be asked at all.
func (a *Agent) probe(ctx context.Context, p *corev1.Pod, c *corev1.Container, at *instance, pr *corev1.Probe) (v verdict, text string, err error) {
	for range probeTries {
		if v, text, err = a.ask(ctx, p, c, at, pr); err == nil || ctx.Err() != nil {
			break
		}
	}
	return v, text, err
}

func (a *Agent) ask(ctx context.Context, p *corev1.Pod, c *corev1.Container, at *instance, pr *corev1.Probe) (verdict, string, error) {
	timeout := time.Duration(max(pr.TimeoutSeconds, 1)) * time.Second
	switch {
	case pr.Exec != nil:
		return a.askExec(ctx, c, at, pr.Exec.Command, timeout)
	case pr.HTTPGet != nil:
		return a.askHTTP(ctx, p, c, pr.HTTPGet, timeout)
	case pr.TCPSocket != nil:
		port, err := portNumber(c, pr.TCPSocket.Port)
		if err != nil {
			return probeUnknown, "", err
		}
		host := pr.TCPSocket.Host
		if host == "" {
			host = a.podAddress(ctx, p)
		}
		d := probeDialer()
		d.Timeout = timeout
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			return probeFailure, err.Error(), nil
		}
		conn.Close()
		return probeSuccess, "", nil
	case pr.GRPC != nil:
		if err := a.askGRPC(ctx, p, pr.GRPC, timeout); err != nil {
			return probeFailure, err.Error(), nil
		}
		return probeSuccess, "", nil
	}
	return probeUnknown, "", fmt.Errorf("missing probe handler for %s:%s", fullName(p), c.Name)
}

// askExec runs a command in the container; $(NAME) is known for plain values
// alone, as in a kubelet.
func (a *Agent) askExec(ctx context.Context, c *corev1.Container, at *instance, command []string, timeout time.Duration) (verdict, string, error) {
	static := map[string]string{}
	for _, e := range c.Env {
		static[e.Name] = e.Value
	}
	command = expandAll(command, static)
	r, err := a.cfg.CRI.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: at.id, Cmd: command, Timeout: int64(timeout.Seconds())})
	switch {
	case grpcstatus.Code(err) == codes.DeadlineExceeded:
		return probeFailure, fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(command, " "), timeout), nil
	case err != nil:
		return probeUnknown, "", err
	}
	text := string(r.Stdout) + string(r.Stderr)
	text = text[:min(len(text), answerLimit)]
	if r.ExitCode != 0 {
		return probeFailure, text, nil
	}
	return probeSuccess, text, nil
}

func (a *Agent) askHTTP(ctx context.Context, p *corev1.Pod, c *corev1.Container, g *corev1.HTTPGetAction, timeout time.Duration) (verdict, string, error) {
	q, err := a.httpRequest(ctx, p, c, g, "probe")
	if err != nil {
		return probeUnknown, "", err
	}
	code, body, err := a.httpDo(q, timeout)
	switch {
	case err != nil && code == 0:
		return probeFailure, err.Error(), nil
	case err != nil: // it began to answer
		return probeFailure, "", err
	case code >= 200 && code < 300:
		return probeSuccess, "", nil
	case code >= 300 && code < 400:
		return probeWarning, "Probe terminated redirects, Response body: " + body, nil
	}
	return probeFailure, fmt.Sprintf("HTTP probe failed with statuscode: %d", code), nil
}

// podAddress is where the Pod answers by now.
func (a *Agent) podAddress(ctx context.Context, p *corev1.Pod) string {
	if p.Spec.HostNetwork {
		return a.cfg.IP.String()
	}
	if p.Status.PodIP != "" {
		return p.Status.PodIP
	}
	have, err := a.observe(ctx, p.UID)
	if err != nil {
		return ""
	}
	if sb := have.sandbox(); sb != nil && len(sb.ips) > 0 {
		return sb.ips[0]
	}
	return ""
}

func portNumber(c *corev1.Container, port intstr.IntOrString) (int, error) {
	n := port.IntValue()
	if port.Type == intstr.String {
		n = -1
		for _, cp := range c.Ports {
			if cp.Name == port.StrVal {
				n = int(cp.ContainerPort)
			}
		}
		if n < 0 {
			return 0, fmt.Errorf("port %q not found", port.StrVal)
		}
	}
	if n <= 0 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", n)
	}
	return n, nil
}

// httpRequest is the GET of a probe or a hook; what names the asker.
func (a *Agent) httpRequest(ctx context.Context, p *corev1.Pod, c *corev1.Container, g *corev1.HTTPGetAction, what string) (*http.Request, error) {
	port, err := portNumber(c, g.Port)
	if err != nil {
		return nil, err
	}
	host := g.Host
	if host == "" {
		if host = a.podAddress(ctx, p); host == "" {
			return nil, errors.New("the pod has no address")
		}
	}
	u, err := url.Parse(g.Path)
	if err != nil {
		u = &url.URL{Path: g.Path}
	}
	u.Scheme, u.Host = strings.ToLower(string(g.Scheme)), net.JoinHostPort(host, strconv.Itoa(port))
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, h := range g.HTTPHeaders {
		q.Header.Add(h.Name, h.Value)
	}
	if _, ok := q.Header["User-Agent"]; !ok {
		q.Header.Set("User-Agent", userAgent(what))
	}
	if _, ok := q.Header["Accept"]; !ok {
		q.Header.Set("Accept", "*/*")
	} else if q.Header.Get("Accept") == "" {
		q.Header.Del("Accept")
	}
	q.Host = q.Header.Get("Host")
	return q, nil
}

// httpDo asks without proof of identity, compression or proxies, and follows
// redirects within the host. A timeout of zero is none. An error with a code is
// that of an answer that has no end.
func (a *Agent) httpDo(q *http.Request, timeout time.Duration) (code int, body string, err error) {
	t := &http.Transport{
		DisableKeepAlives: true, DisableCompression: true, ForceAttemptHTTP2: true, TLSHandshakeTimeout: handshakePatience, DialContext: probeDialer().DialContext,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as kubelets probe
	}
	client := http.Client{
		Transport: t, Timeout: timeout,
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Hostname() != via[0].URL.Hostname() {
				return http.ErrUseLastResponse
			}
			if len(via) >= 10 {
				return errors.New("stopped after 10 redirects")
			}
			return nil
		},
	}
	r, err := client.Do(q)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(io.LimitReader(r.Body, answerLimit))
	return r.StatusCode, string(b), err
}

// handshakePatience bounds a TLS handshake where nothing else does.
const handshakePatience = 10 * time.Second

// probeDialer closes connections within a second: those that probes leave
// behind must not fill the table of the node's ports.
func probeDialer() *net.Dialer {
	return &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			// Without it a connection lingers for a minute, no more.
			_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 1})
		})
	}}
}
