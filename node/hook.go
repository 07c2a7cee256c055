// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func removeAll(path string) error { return os.RemoveAll(path) }

// runHook carries out a postStart or preStop.
func (a *Agent) runHook(ctx context.Context, p *corev1.Pod, i *instance, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		r, err := a.cfg.CRI.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: i.id, Cmd: h.Exec.Command})
		if err != nil {
			return err
		}
		if r.ExitCode != 0 {
			return fmt.Errorf("command '%s' exited with %d: %s", strings.Join(h.Exec.Command, " "), r.ExitCode, r.Stderr)
		}
		return nil
	case h.HTTPGet != nil:
		_, _, err := a.httpGet(ctx, p, i.name, h.HTTPGet)
		return err
	case h.Sleep != nil:
		clock := time.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer clock.Stop()
		select {
		case <-clock.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return fmt.Errorf("invalid handler: %v", h)
}

// postStart runs right after the start; a container whose hook fails is
// killed and goes through its restart policy.
func (x *actor) postStart(ctx context.Context, p *corev1.Pod, c *corev1.Container, id string) {
	i := &instance{id: id, name: c.Name}
	if err := x.agent.runHook(ctx, p, i, c.Lifecycle.PostStart); err != nil && ctx.Err() == nil {
		x.containerEvent(p, c, corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
		x.tell(func() { x.mem.failed[id] = "FailedPostStartHook" })
	}
}

// podAddress is where the Pod answers by now.
func (a *Agent) podAddress(ctx context.Context, p *corev1.Pod) string {
	if p.Spec.HostNetwork {
		return a.cfg.IP.String()
	}
	have, err := a.observe(ctx, p.UID)
	if err != nil {
		return p.Status.PodIP
	}
	if sb := have.sandbox(); sb != nil && len(sb.ips) > 0 {
		return sb.ips[0]
	}
	return p.Status.PodIP
}

func portNumber(p *corev1.Pod, container string, port intstr.IntOrString) (int, error) {
	if port.Type == intstr.Int {
		return port.IntValue(), nil
	}
	for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for _, c := range list {
			for _, cp := range c.Ports {
				if c.Name == container && cp.Name == port.StrVal {
					return int(cp.ContainerPort), nil
				}
			}
		}
	}
	if n, err := strconv.Atoi(port.StrVal); err == nil {
		return n, nil
	}
	return 0, fmt.Errorf("port %q of container %s not found", port.StrVal, container)
}

// bodyLimit is how much of a probe's answer is kept.
const bodyLimit = 10 << 10

// httpGet asks once, following no redirect to another host.
func (a *Agent) httpGet(ctx context.Context, p *corev1.Pod, container string, g *corev1.HTTPGetAction) (code int, body string, err error) {
	port, err := portNumber(p, container, g.Port)
	if err != nil {
		return 0, "", err
	}
	host := g.Host
	if host == "" {
		host = a.podAddress(ctx, p)
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
		return 0, "", err
	}
	q.Header.Set("User-Agent", "kube-probe/1.37")
	q.Header.Set("Accept", "*/*")
	for _, h := range g.HTTPHeaders {
		if strings.EqualFold(h.Name, "host") {
			q.Host = h.Value
		} else {
			q.Header.Add(h.Name, h.Value)
		}
	}
	client := http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, //nolint:gosec // as kubelets probe
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if r.URL.Hostname() != via[0].URL.Hostname() || len(via) >= 10 {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
	r, err := client.Do(q)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(io.LimitReader(r.Body, bodyLimit))
	if err != nil {
		return r.StatusCode, "", err
	}
	return r.StatusCode, string(b), nil
}
