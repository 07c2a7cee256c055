// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// runHook carries out a postStart or preStop. message is for the container's
// status alone: events must not tell what a hook has printed.
func (a *Agent) runHook(ctx context.Context, p *corev1.Pod, c *corev1.Container, id string, h *corev1.LifecycleHandler) (message string, err error) {
	switch {
	case h.Exec != nil:
		r, err := a.cfg.CRI.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: h.Exec.Command})
		if err == nil && r.ExitCode != 0 {
			err = fmt.Errorf("command '%s' exited with %d: %s", strings.Join(h.Exec.Command, " "), r.ExitCode, r.Stderr)
		}
		if err != nil {
			message = fmt.Sprintf("Exec lifecycle hook (%v) for Container %q in Pod %q failed - error: %v, message: %q", h.Exec.Command, c.Name, fullName(p), err, string(r.GetStdout())+string(r.GetStderr()))
		}
		return message, err
	case h.HTTPGet != nil:
		if err := a.httpHook(ctx, p, c, h.HTTPGet); err != nil {
			return fmt.Sprintf("HTTP lifecycle hook (%s) for Container %q in Pod %q failed - error: %v", h.HTTPGet.Path, c.Name, fullName(p), err), err
		}
		return "", nil
	case h.Sleep != nil:
		clock := time.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer clock.Stop()
		select {
		case <-clock.C:
			return "", nil
		case <-ctx.Done():
			err := errors.New("container terminated before sleep hook finished")
			return fmt.Sprintf("Sleep lifecycle hook (%d) for Container %q in Pod %q failed - error: %v", h.Sleep.Seconds, c.Name, fullName(p), err), err
		}
	}
	err = fmt.Errorf("invalid handler: %v", h)
	return fmt.Sprintf("Cannot run handler: %v", err), err
}

// httpHook asks once; any answer is a success. A hook that says HTTPS to a
// server of plain HTTP is asked again, as kubelets do for old manifests.
func (a *Agent) httpHook(ctx context.Context, p *corev1.Pod, c *corev1.Container, g *corev1.HTTPGetAction) error {
	q, err := a.httpRequest(ctx, p, c, g, "lifecycle")
	if err != nil {
		return err
	}
	_, _, err = a.httpDo(q, 0)
	var plain *url.Error
	if errors.As(err, &plain) && strings.Contains(plain.Err.Error(), "server gave HTTP response to HTTPS client") {
		again := q.Clone(ctx)
		again.URL.Scheme = "http"
		again.Header.Del("Authorization")
		if _, _, err = a.httpDo(again, 0); err == nil {
			a.events.Eventf(p, corev1.EventTypeWarning, "LifecycleHTTPFallback", "request to HTTPS lifecycle hook %s got HTTP response, retry with HTTP succeeded", again.URL.Host)
		}
	}
	return err
}

// postStart runs right after the start; a container whose hook fails is
// killed and goes through its restart policy.
func (x *actor) postStart(ctx context.Context, p *corev1.Pod, c *corev1.Container, id string) bool {
	message, err := x.agent.runHook(ctx, p, c, id, c.Lifecycle.PostStart)
	if err == nil {
		return true
	}
	if ctx.Err() == nil {
		x.containerEvent(p, c, corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
		x.tell(func() {
			x.mem.failed[id] = failedPostStart
			x.mem.waiting[c.Name] = waiting{reason: "PostStartHookError", message: message}
		})
	}
	return false
}

// userAgent names the asker as a kubelet of this version does.
func userAgent(what string) string { return "kube-" + what + "/1.37" }
