// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func podLabels(p *corev1.Pod) map[string]string {
	out := maps.Clone(p.Labels)
	if out == nil {
		out = map[string]string{}
	}
	out[labelPodName], out[labelPodNamespace], out[labelPodUID] = p.Name, p.Namespace, string(p.UID)
	return out
}

// hostname is what a Pod calls itself: its name cut to 63, or what its spec
// says (S41). The second value is its full name when it has a subdomain.
func (a *Agent) hostname(p *corev1.Pod) (short, fqdn string) {
	short = p.Name
	if p.Spec.HostnameOverride != nil {
		short = *p.Spec.HostnameOverride
	} else if p.Spec.Hostname != "" {
		short = p.Spec.Hostname
	}
	if len(short) > 63 {
		short = strings.TrimRight(short[:63], "-.")
	}
	if p.Spec.HostnameOverride == nil && p.Spec.Subdomain != "" {
		fqdn = short + "." + p.Spec.Subdomain + "." + p.Namespace + ".svc." + a.cfg.ClusterDomain
	}
	return short, fqdn
}

// namespaces are the CRI's words for what a Pod shares.
func namespaces(p *corev1.Pod) *runtimeapi.NamespaceOption {
	o := &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_POD, Ipc: runtimeapi.NamespaceMode_POD, Pid: runtimeapi.NamespaceMode_CONTAINER}
	if p.Spec.HostNetwork {
		o.Network = runtimeapi.NamespaceMode_NODE
	}
	if p.Spec.HostIPC {
		o.Ipc = runtimeapi.NamespaceMode_NODE
	}
	if p.Spec.HostPID {
		o.Pid = runtimeapi.NamespaceMode_NODE
	} else if p.Spec.ShareProcessNamespace != nil && *p.Spec.ShareProcessNamespace {
		o.Pid = runtimeapi.NamespaceMode_POD
	}
	return o
}

// sandboxConfig is the Pod as a CRI sandbox.
func (a *Agent) sandboxConfig(p *corev1.Pod, attempt int) (*runtimeapi.PodSandboxConfig, error) {
	name, fqdn := a.hostname(p)
	if fqdn != "" && is(p.Spec.SetHostnameAsFQDN) {
		name = fqdn
	}
	if p.Spec.HostNetwork {
		name = ""
	}
	if len(name) > 64 { // what the kernel takes
		return nil, fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (64 characters is the max, %d characters requested)", name, len(name))
	}
	if p.Spec.HostUsers != nil && !*p.Spec.HostUsers {
		return nil, errors.New("can't set `spec.hostUsers: false`, runtime does not support user namespaces")
	}
	dns, err := a.dns(p)
	if err != nil {
		return nil, err
	}
	config := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: p.Name, Namespace: p.Namespace, Uid: string(p.UID), Attempt: uint32(attempt)},
		Hostname: name, LogDirectory: a.logDir(p), DnsConfig: dns, Labels: podLabels(p), Annotations: maps.Clone(p.Annotations),
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: a.cgroups.path(p), Sysctls: map[string]string{}, SecurityContext: sandboxSecurity(p),
			Resources: podResources(p), Overhead: &runtimeapi.LinuxContainerResources{},
		},
	}
	if sc := p.Spec.SecurityContext; sc != nil {
		for _, s := range sc.Sysctls {
			config.Linux.Sysctls[s.Name] = s.Value
		}
	}
	if o := p.Spec.Overhead; o != nil {
		config.Linux.Overhead = linuxResources(o.Cpu(), o.Cpu(), o.Memory())
	}
	if !p.Spec.HostNetwork {
		for _, c := range p.Spec.Containers {
			for _, port := range c.Ports {
				if port.HostPort > 0 {
					config.PortMappings = append(config.PortMappings, &runtimeapi.PortMapping{
						Protocol: runtimeapi.Protocol(runtimeapi.Protocol_value[string(port.Protocol)]), ContainerPort: port.ContainerPort, HostPort: port.HostPort, HostIp: port.HostIP,
					})
				}
			}
		}
	}
	return config, nil
}

func anyPrivileged(p *corev1.Pod) bool {
	privileged := func(c corev1.Container) bool { return c.SecurityContext != nil && is(c.SecurityContext.Privileged) }
	return slices.ContainsFunc(p.Spec.InitContainers, privileged) || slices.ContainsFunc(p.Spec.Containers, privileged)
}

// images are those of one container: its own, and by volume those it mounts.
type images struct {
	own     *runtimeapi.Image
	volumes map[string]*runtimeapi.Image
}

// containerConfig is one container as CRI wants it.
func (a *Agent) containerConfig(ctx context.Context, p *corev1.Pod, sb *podSandbox, c *corev1.Container, attempt int, have images) (*runtimeapi.ContainerConfig, error) {
	env, err := a.environment(ctx, p, sb, c)
	if err != nil {
		return nil, err
	}
	mounts, err := a.mounts(ctx, p, sb, c, attempt, env, have.volumes)
	if err != nil {
		return nil, err
	}
	security, err := a.securityContext(p, c, have.own)
	if err != nil {
		return nil, err
	}
	made, err := json.Marshal(effective(p, c))
	if err != nil {
		return nil, err
	}
	config := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: uint32(attempt)},
		Image:    &runtimeapi.ImageSpec{Image: have.own.Id, UserSpecifiedImage: c.Image},
		Command:  expandAll(c.Command, env), Args: expandAll(c.Args, env), WorkingDir: c.WorkingDir,
		Mounts: mounts, LogPath: logName(c.Name, attempt),
		Stdin: c.Stdin, StdinOnce: c.StdinOnce, Tty: c.TTY,
		Labels: map[string]string{
			labelPodName: p.Name, labelPodNamespace: p.Namespace, labelPodUID: string(p.UID), labelContainerName: c.Name,
		},
		Annotations: map[string]string{
			annotationHash: hashOf(c), annotationRestarts: strconv.Itoa(attempt), annotationResources: string(made),
			annotationMessage: c.TerminationMessagePath, annotationPolicy: string(c.TerminationMessagePolicy),
			annotationMessageDir: a.messageFile(p.UID, c.Name, attempt),
		},
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: security, Resources: resourcesOf(p, c, a.node.memory(), a.cgroups.layout.V2())},
	}
	for k, v := range env {
		config.Envs = append(config.Envs, &runtimeapi.KeyValue{Key: k, Value: []byte(v)})
	}
	slices.SortFunc(config.Envs, func(a, b *runtimeapi.KeyValue) int { return strings.Compare(a.Key, b.Key) })
	if err := annotateEnd(config.Annotations, p, c); err != nil {
		return nil, err
	}
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		config.StopSignal = runtimeapi.Signal(runtimeapi.Signal_value["SIGNAL_"+string(*c.Lifecycle.StopSignal)])
	}
	return config, nil
}

// annotateEnd writes down what the container's end needs when the Pod is not
// known any more.
func annotateEnd(out map[string]string, p *corev1.Pod, c *corev1.Container) error {
	if g := p.DeletionGracePeriodSeconds; g != nil {
		out[annotationDeletionGrace] = strconv.FormatInt(*g, 10)
	}
	if g := p.Spec.TerminationGracePeriodSeconds; g != nil {
		out[annotationGrace] = strconv.FormatInt(*g, 10)
	}
	if rank := stopOrder(p)[c.Name]; rank > 0 {
		out[annotationOrder] = strconv.Itoa(rank)
	}
	write := func(name string, value any) error {
		b, err := json.Marshal(value)
		out[name] = string(b)
		return err
	}
	if len(c.Ports) > 0 {
		if err := write(annotationPorts, c.Ports); err != nil {
			return err
		}
	}
	if c.Lifecycle != nil && c.Lifecycle.PreStop != nil {
		return write(annotationPreStop, c.Lifecycle.PreStop)
	}
	return nil
}
