// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
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

// errNoDevices keeps a Pod that claims devices from running without them,
// whoever bound it here.
var errNoDevices = errors.New("this node has no drivers of devices")

// act starts a job for each action that is not under way already.
func (x *actor) act(ctx context.Context, p *corev1.Pod, have *observed, d decision) {
	for _, a := range d.actions {
		switch a.verb {
		case prepare:
			limits := x.mem.limits
			x.job(ctx, "setup", func(ctx context.Context) error { return x.prepare(ctx, p, limits) }, x.prepared)
		case makeSandbox:
			x.newSandbox(ctx, p, a.attempt)
		case stopSandbox:
			x.job(ctx, "sandbox "+a.sandbox, func(ctx context.Context) error { return x.agent.stopSandbox(ctx, a.sandbox) }, x.complain("stop sandbox"))
		case removeSandbox:
			x.job(ctx, "sandbox "+a.sandbox, func(ctx context.Context) error { return x.agent.removeSandbox(ctx, a.sandbox) }, x.complain("remove sandbox"))
		case removeContainer:
			x.job(ctx, "remove "+a.instance.id, func(ctx context.Context) error { return x.agent.removeContainer(ctx, a.instance.id) }, x.complain("remove container"))
		case killContainer:
			x.killOne(ctx, p, a)
		case startContainer:
			x.begin(ctx, p, have, a)
		case tellBackOff:
			x.containerEvent(p, a.container, corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s", a.container.Name, fullName(p))
		case resizePod:
			x.beginResize(ctx, p, have)
		case tellPullBackOff:
			x.pullHeldBack(a.container)
		}
	}
}

func (x *actor) newSandbox(ctx context.Context, p *corev1.Pod, attempt int) {
	if _, under := x.jobs["setup"]; under {
		return
	}
	if attempt > 0 {
		x.event(p, corev1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	x.job(ctx, "setup", func(ctx context.Context) error { return x.makeSandbox(ctx, p, attempt) }, x.sandboxMade)
}

func (x *actor) begin(ctx context.Context, p *corev1.Pod, have *observed, a action) {
	name, sb := a.container.Name, have.sandbox()
	if x.mem.starting[name] {
		return
	}
	x.mem.starting[name] = true
	if list := have.containers[name]; len(list) > 0 && (changed(a.container, false, list[0]) || x.mem.resized[list[0].id]) {
		x.mem.swapping[name] = true
	}
	if isEphemeral(p, name) {
		a.target = targetOf(p, have, name)
		x.agent.objects.follow(x, p) // it may refer to what nobody did before
	}
	x.job(ctx, "container "+name, func(ctx context.Context) error {
		x.startContainer(ctx, p, sb, a)
		return nil
	}, func(error) {
		delete(x.mem.starting, name)
		delete(x.mem.swapping, name)
	})
}

// swaps says whether a container is just being followed by one of another
// definition. That is one step of the Pod: a status in the middle of it would
// take the Pod out of its Services for milliseconds, and a kubelet writes none.
func (x *actor) swaps(have *observed) bool {
	maps.DeleteFunc(x.mem.swapping, func(name string, _ bool) bool {
		list := have.containers[name]
		return len(list) == 0 || list[0].running()
	})
	return len(x.mem.swapping) > 0
}

// complain logs what a clean-up could not do; the next step tries again.
func (x *actor) complain(what string) func(error) {
	return func(err error) {
		if err != nil && !errors.Is(err, context.Canceled) {
			x.agent.cfg.Log.Warn("cannot "+what, "pod", key(x.pod()), "uid", x.pod().UID, "err", err)
			x.holdOff()
		}
	}
}

// holdOff delays the next try of what concerns the whole Pod.
func (x *actor) holdOff() {
	x.mem.retries = min(max(2*x.mem.retries, firstRetry), mostRetry)
	x.mem.retryAt = x.agent.cfg.Now().Add(x.mem.retries)
}

// prepare makes what containers of the Pod lean on: cgroup and volumes. Devices
// of drivers it has none.
func (x *actor) prepare(ctx context.Context, p *corev1.Pod, limits podLimits) error {
	if err := x.agent.cgroups.make(p, limits); err != nil {
		x.event(p, corev1.EventTypeWarning, "FailedCreatePodContainer", "unable to ensure pod container exists: %v", err)
		return err
	}
	if err := x.keepAllocation(p); err != nil {
		return err
	}
	x.agent.objects.follow(x, p)
	if len(p.Spec.ResourceClaims) > 0 {
		x.event(p, corev1.EventTypeWarning, "FailedPrepareDynamicResources", "Failed to prepare dynamic resources: %v", errNoDevices)
		return errNoDevices
	}
	for _, v := range p.Spec.Volumes {
		if v.Image != nil {
			continue // the runtime's
		}
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
	x.mem.prepared = true
	x.goOn()
}

// goOn forgets failures: what failed has succeeded, or is worth another try.
func (x *actor) goOn() { x.mem.retries, x.mem.retryAt = 0, time.Time{} }

// tryAgain writes changed ConfigMaps and Secrets to the volumes made of them,
// and tries again at once what waited for one.
func (x *actor) tryAgain(ctx context.Context, p *corev1.Pod) {
	x.mem.retryAt = time.Time{}
	for name, h := range x.mem.holds {
		if h.kind == holdConfig {
			delete(x.mem.holds, name)
		}
	}
	if !x.mem.prepared {
		return
	}
	if _, under := x.jobs["refresh"]; under {
		x.jobs["refresh"]() // it may have read the older one
		x.refresh()
		return
	}
	x.job(ctx, "refresh", func(ctx context.Context) error {
		for _, v := range p.Spec.Volumes {
			if !volume.Live(v) {
				continue
			}
			if _, err := x.agent.volumes.Mount(ctx, p, v); err != nil && ctx.Err() == nil {
				x.event(p, corev1.EventTypeWarning, "FailedMount", "%s", err.Error())
			}
		}
		return nil
	}, nil)
}

func (x *actor) makeSandbox(ctx context.Context, p *corev1.Pod, attempt int) error {
	config, err := x.agent.sandboxConfig(p, attempt)
	if err != nil {
		return err
	}
	if err := x.agent.makeLogDir(config.LogDirectory); err != nil {
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
	switch {
	case err == nil:
		x.goOn()
	case !errors.Is(err, context.Canceled):
		x.event(x.pod(), corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %v", err)
		x.holdOff()
	}
}

// startContainer pulls the image, creates and starts one container, and runs
// its postStart hook. What goes wrong is said and remembered in between.
func (x *actor) startContainer(ctx context.Context, p *corev1.Pod, sb *podSandbox, a action) {
	c, id := a.container, ""
	if a.instance != nil {
		id = a.instance.id // made by an agent that died before it was started
	} else {
		volumes, ok := x.ensureVolumes(ctx, p, c)
		if !ok {
			return
		}
		image := x.ensureImage(ctx, p, x.ownImage(p, c))
		if image == nil {
			return
		}
		if id = x.createContainer(ctx, p, sb, a, images{image, volumes}); id == "" {
			return
		}
	}
	hook := c.Lifecycle != nil && c.Lifecycle.PostStart != nil
	if hook {
		x.tell(func() { x.mem.hooking[id] = true })
		defer x.tell(func() { delete(x.mem.hooking, id) })
	}
	if _, err := x.agent.cfg.CRI.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		if ctx.Err() == nil {
			x.containerEvent(p, c, corev1.EventTypeWarning, "Failed", "Error: %s", rpcText(err))
			x.startFailed(c, holdStart, waiting{reason: "RunContainerError", message: rpcText(err)})
			x.dropUnstarted(ctx, id)
		}
		return
	}
	x.containerEvent(p, c, corev1.EventTypeNormal, "Started", "Container started")
	if hook && !x.postStart(ctx, p, c, id) {
		return
	}
	x.tell(func() {
		delete(x.mem.waiting, c.Name)
		delete(x.mem.holds, c.Name)
	})
}

// startFailed remembers why a container does not run, and holds the next try
// back.
func (x *actor) startFailed(c *corev1.Container, kind holdKind, why waiting) {
	x.tell(func() {
		x.mem.waiting[c.Name] = why
		x.mem.holdBack(c.Name, kind, x.agent.cfg.Now())
	})
}

// dropUnstarted removes a container whose start has failed so that it did not
// even end: the next try makes it anew.
func (x *actor) dropUnstarted(ctx context.Context, id string) {
	st, err := x.agent.cfg.CRI.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil || st.Status.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		return
	}
	if err := x.agent.removeContainer(ctx, id); err != nil && ctx.Err() == nil {
		x.agent.cfg.Log.Warn("cannot remove container that did not start", "pod", key(x.pod()), "container", id, "err", err)
	}
}

func (x *actor) createContainer(ctx context.Context, p *corev1.Pod, sb *podSandbox, a action, have images) (id string) {
	c := a.container
	failed := func(kind holdKind, reason string, err error) string {
		if ctx.Err() == nil {
			x.containerEvent(p, c, corev1.EventTypeWarning, "Failed", "Error: %s", rpcText(err))
			x.startFailed(c, kind, waiting{reason: reason, message: rpcText(err)})
		}
		return ""
	}
	sandboxConfig, err := x.agent.sandboxConfig(p, sb.attempt)
	if err != nil {
		return failed(holdConfig, "CreateContainerConfigError", err)
	}
	config, err := x.agent.containerConfig(ctx, p, sb, c, a.attempt, have)
	if err != nil {
		return failed(holdConfig, "CreateContainerConfigError", err)
	}
	if err := a.target.join(config); err != nil {
		return failed(holdConfig, "CreateContainerConfigError", err)
	}
	r, err := x.agent.cfg.CRI.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: sb.id, Config: config, SandboxConfig: sandboxConfig})
	if err != nil {
		return failed(holdCreate, "CreateContainerError", err)
	}
	x.containerEvent(p, c, corev1.EventTypeNormal, "Created", "Container created")
	return r.ContainerId
}

func (a *Agent) removeContainer(ctx context.Context, id string) error {
	st, err := a.cfg.CRI.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if _, rmErr := a.cfg.CRI.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id}); rmErr != nil {
		return rmErr
	}
	if err == nil && st.Status.GetLogPath() != "" {
		return removeLogs(st.Status.LogPath)
	}
	return nil
}

func (a *Agent) stopSandbox(ctx context.Context, id string) error {
	_, err := a.cfg.CRI.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
	return err
}

func (a *Agent) removeSandbox(ctx context.Context, id string) error {
	if err := a.stopSandbox(ctx, id); err != nil {
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
	if isEphemeral(p, name) {
		field = "spec.ephemeralContainers{" + name + "}"
	}
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion, FieldPath: field}
}
