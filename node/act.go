// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/volume"
)

// Retries of what a Pod needs before its containers: 500 ms, doubled to 2
// minutes, at once when an object it refers to changes.
const (
	firstRetry = 500 * time.Millisecond
	mostRetry  = 2 * time.Minute
)

// act starts a job for each action that is not under way already.
func (x *actor) act(ctx context.Context, p *corev1.Pod, have *observed, d decision) {
	for _, a := range d.actions {
		switch a.verb {
		case prepare:
			x.job(ctx, "setup", func(ctx context.Context) error { return x.prepare(ctx, p) }, x.prepared)
		case makeSandbox:
			x.job(ctx, "setup", func(ctx context.Context) error { return x.makeSandbox(ctx, p, a.attempt) }, x.sandboxMade)
		case removeSandbox:
			x.job(ctx, "remove "+a.sandbox, func(ctx context.Context) error { return x.agent.removeSandbox(ctx, a.sandbox) }, x.complain("remove sandbox"))
		case removeContainer:
			x.job(ctx, "remove "+a.instance.id, func(ctx context.Context) error { return x.agent.removeContainer(ctx, a.instance.id) }, x.complain("remove container"))
		case killContainer:
			x.killOne(ctx, p, a)
		case startContainer:
			sb := have.sandbox()
			x.job(ctx, "container "+a.container.Name, func(ctx context.Context) error { return x.startContainer(ctx, p, sb, a) }, nil)
		}
	}
}

// complain logs what a clean-up could not do; the next step tries again.
func (x *actor) complain(what string) func(error) {
	return func(err error) {
		if err != nil && !errors.Is(err, context.Canceled) {
			x.agent.cfg.Log.Warn("cannot "+what, "pod", key(x.pod()), "err", err)
			x.holdOff()
		}
	}
}

// holdOff delays the next try.
func (x *actor) holdOff() {
	x.mem.retries = min(max(2*x.mem.retries, firstRetry), mostRetry)
	x.mem.retryAt = x.agent.cfg.Now().Add(x.mem.retries)
}

// prepare makes what containers of the Pod lean on: cgroup and volumes.
func (x *actor) prepare(ctx context.Context, p *corev1.Pod) error {
	if err := x.agent.cgroups.make(p); err != nil {
		x.event(p, corev1.EventTypeWarning, "FailedCreatePodContainer", "unable to ensure pod container exists: %v", err)
		return err
	}
	x.agent.objects.follow(x, p)
	for _, v := range p.Spec.Volumes {
		if _, err := x.agent.volumes.Mount(ctx, p, v); err != nil {
			if ctx.Err() == nil {
				x.event(p, corev1.EventTypeWarning, "FailedMount", "%s", err.Error())
			}
			return err
		}
	}
	return nil
}

func (x *actor) prepared(err error) {
	if err != nil {
		x.holdOff()
		return
	}
	x.mem.prepared, x.mem.retries, x.mem.retryAt = true, 0, time.Time{}
}

// refresh writes changed ConfigMaps and Secrets to the volumes made of them,
// and tries again what waited for one.
func (x *actor) refresh() {
	x.tell(func() {
		x.mem.retryAt = time.Time{}
		for name, b := range x.mem.backOffs {
			if x.mem.waiting[name].reason == "CreateContainerConfigError" {
				b.until = time.Time{}
			}
		}
		for _, b := range x.mem.pulls {
			if b.instance == "config" {
				b.until = time.Time{}
			}
		}
		if x.mem.prepared && x.stopper == nil {
			p := x.pod()
			x.job(context.Background(), "refresh", func(ctx context.Context) error {
				for _, v := range p.Spec.Volumes {
					if !volume.Live(v) {
						continue
					}
					if _, err := x.agent.volumes.Mount(ctx, p, v); err != nil {
						x.event(p, corev1.EventTypeWarning, "FailedMount", "%s", err.Error())
					}
				}
				return nil
			}, nil)
		}
	})
}

func (x *actor) makeSandbox(ctx context.Context, p *corev1.Pod, attempt int) error {
	config, err := x.agent.sandboxConfig(p, attempt)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
		return err
	}
	handler, err := x.agent.runtimeHandler(ctx, p)
	if err != nil {
		return err
	}
	_, err = x.agent.cfg.CRI.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	return err
}

func (x *actor) sandboxMade(err error) {
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			x.mem.problem = rpcText(err)
			x.event(x.pod(), corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %v", rpcText(err))
		}
		x.holdOff()
		return
	}
	x.mem.retries, x.mem.retryAt, x.mem.problem = 0, time.Time{}, ""
}

// startContainer pulls the image, creates and starts one container, and runs
// its postStart hook.
func (x *actor) startContainer(ctx context.Context, p *corev1.Pod, sb *podSandbox, a action) error {
	c := a.container
	image, err := x.ensureImage(ctx, p, c)
	if err != nil {
		return nil // said and remembered
	}
	id, err := x.createContainer(ctx, p, sb, a, image)
	if err != nil {
		return nil
	}
	if _, err := x.agent.cfg.CRI.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		if ctx.Err() == nil {
			x.wait(c.Name, "RunContainerError", rpcText(err))
			x.containerEvent(p, c, corev1.EventTypeWarning, "Failed", "Error: %s", rpcText(err))
		}
		return nil
	}
	x.containerEvent(p, c, corev1.EventTypeNormal, "Started", "Container started")
	x.tell(func() { delete(x.mem.waiting, c.Name) })
	if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
		x.postStart(ctx, p, c, id)
	}
	return nil
}

// wait remembers why a container does not run.
func (x *actor) wait(container, reason, message string) {
	x.tell(func() { x.mem.waiting[container] = waiting{reason, message} })
}

func (x *actor) createContainer(ctx context.Context, p *corev1.Pod, sb *podSandbox, a action, image *runtimeapi.Image) (string, error) {
	c := a.container
	sandboxConfig, err := x.agent.sandboxConfig(p, sb.attempt)
	if err != nil {
		return "", err
	}
	config, err := x.agent.containerConfig(ctx, p, sb, c, a.attempt, image)
	if err != nil {
		if ctx.Err() == nil {
			x.wait(c.Name, "CreateContainerConfigError", err.Error())
			x.containerEvent(p, c, corev1.EventTypeWarning, "Failed", "Error: %s", err.Error())
			x.backOffPull(c.Name, "config")
		}
		return "", err
	}
	r, err := x.agent.cfg.CRI.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: sb.id, Config: config, SandboxConfig: sandboxConfig})
	if err != nil {
		if ctx.Err() == nil {
			x.wait(c.Name, "CreateContainerError", rpcText(err))
			x.containerEvent(p, c, corev1.EventTypeWarning, "Failed", "Error: %s", rpcText(err))
			x.backOffPull(c.Name, "create")
		}
		return "", err
	}
	x.containerEvent(p, c, corev1.EventTypeNormal, "Created", "Container created")
	return r.ContainerId, nil
}

func (a *Agent) removeContainer(ctx context.Context, id string) error {
	st, err := a.cfg.CRI.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if _, rmErr := a.cfg.CRI.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id}); rmErr != nil {
		return rmErr
	}
	if err == nil && st.Status.GetLogPath() != "" {
		if err := os.Remove(st.Status.LogPath); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (a *Agent) removeSandbox(ctx context.Context, id string) error {
	if _, err := a.cfg.CRI.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return err
	}
	_, err := a.cfg.CRI.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	return err
}

// runtimeHandler is the handler of the Pod's runtime class.
func (a *Agent) runtimeHandler(ctx context.Context, p *corev1.Pod) (string, error) {
	if p.Spec.RuntimeClassName == nil {
		return "", nil
	}
	class, err := a.objects.runtimeClass(ctx, *p.Spec.RuntimeClassName)
	if err != nil {
		return "", err
	}
	return class.Handler, nil
}

// logDir is the folder of a Pod's logs, as log collectors expect it.
func (a *Agent) logDir(p *corev1.Pod) string {
	return filepath.Join(a.cfg.LogDir, strings.Join([]string{p.Namespace, p.Name, string(p.UID)}, "_"))
}

func logName(container string, attempt int) string {
	return filepath.Join(container, strconv.Itoa(attempt)+".log")
}

// messageFile is where a container leaves its termination message.
func (a *Agent) messageFile(uid types.UID, container string, attempt int) string {
	return filepath.Join(a.volumes.PodDir(uid), "containers", container, fmt.Sprintf("message.%d", attempt))
}

// rpcText is an error's own words without gRPC's.
func rpcText(err error) string {
	text := err.Error()
	if _, after, ok := strings.Cut(text, " desc = "); ok && strings.HasPrefix(text, "rpc error: code = ") {
		return after
	}
	return text
}

func (x *actor) event(p *corev1.Pod, kind, reason, format string, args ...any) {
	x.agent.events.Eventf(p, kind, reason, format, args...)
}

// containerEvent is about one container: its reference says which.
func (x *actor) containerEvent(p *corev1.Pod, c *corev1.Container, kind, reason, format string, args ...any) {
	x.agent.events.Eventf(containerReference(p, c.Name), kind, reason, format, args...)
}

func containerReference(p *corev1.Pod, name string) *corev1.ObjectReference {
	field := "spec.containers{" + name + "}"
	for _, c := range p.Spec.InitContainers {
		if c.Name == name {
			field = "spec.initContainers{" + name + "}"
		}
	}
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion, FieldPath: field}
}
