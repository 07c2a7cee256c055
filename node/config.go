// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/volume"
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

// containerConfig is one container as CRI wants it.
func (a *Agent) containerConfig(ctx context.Context, p *corev1.Pod, sb *podSandbox, c *corev1.Container, attempt int, image *runtimeapi.Image) (*runtimeapi.ContainerConfig, error) {
	env, err := a.environment(ctx, p, sb, c)
	if err != nil {
		return nil, err
	}
	mounts, err := a.mounts(ctx, p, sb, c, attempt, env)
	if err != nil {
		return nil, err
	}
	security, err := a.securityContext(p, c, image)
	if err != nil {
		return nil, err
	}
	made, err := json.Marshal(effective(p, c))
	if err != nil {
		return nil, err
	}
	config := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: uint32(attempt)},
		Image:    &runtimeapi.ImageSpec{Image: image.Id, UserSpecifiedImage: c.Image},
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

// mounts are the container's volumes, /etc/hosts and its termination message.
func (a *Agent) mounts(ctx context.Context, p *corev1.Pod, sb *podSandbox, c *corev1.Container, attempt int, env map[string]string) ([]*runtimeapi.Mount, error) {
	var out []*runtimeapi.Mount
	hostsMounted := false
	for _, m := range c.VolumeMounts {
		i := slices.IndexFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		if i < 0 {
			return nil, fmt.Errorf("cannot find volume %q to mount into container %q", m.Name, c.Name)
		}
		path, err := a.volumes.Mount(ctx, p, p.Spec.Volumes[i])
		if err != nil {
			return nil, err
		}
		if path, err = subPath(path, m, c.Name, env, volume.Live(p.Spec.Volumes[i])); err != nil {
			return nil, err
		}
		hostsMounted = hostsMounted || m.MountPath == "/etc/hosts"
		mount := &runtimeapi.Mount{ContainerPath: m.MountPath, HostPath: path, Readonly: m.ReadOnly, Propagation: propagation(m.MountPropagation)}
		if m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled && m.ReadOnly {
			mount.RecursiveReadOnly = true
		}
		out = append(out, mount)
	}
	if !hostsMounted {
		path, err := a.hostsFile(p, sb)
		if err != nil {
			return nil, err
		}
		out = append(out, &runtimeapi.Mount{ContainerPath: "/etc/hosts", HostPath: path})
	}
	message := a.messageFile(p.UID, c.Name, attempt)
	if err := os.MkdirAll(filepath.Dir(message), 0o750); err != nil {
		return nil, err
	}
	if err := os.WriteFile(message, nil, 0o666); err != nil {
		return nil, err
	}
	if err := os.Chmod(message, 0o666); err != nil { // whoever runs inside writes it
		return nil, err
	}
	return append(out, &runtimeapi.Mount{ContainerPath: c.TerminationMessagePath, HostPath: message}), nil
}

func propagation(m *corev1.MountPropagationMode) runtimeapi.MountPropagation {
	if m == nil {
		return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
	}
	switch *m {
	case corev1.MountPropagationHostToContainer:
		return runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	case corev1.MountPropagationBidirectional:
		return runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	}
	return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
}

// subPath resolves a path inside a volume without ever leaving it; a folder
// that is missing is made with the volume's own mode, so that whoever may write
// there may write in it. Events must not tell what is on the machine.
func subPath(root string, m corev1.VolumeMount, container string, env map[string]string, data bool) (string, error) {
	sub := m.SubPath
	if m.SubPathExpr != "" {
		var err error
		if sub, err = expandStrict(m.SubPathExpr, env); err != nil {
			return "", err
		}
	}
	switch {
	case sub == "":
		return root, nil
	case filepath.IsAbs(sub):
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", sub)
	case slices.Contains(strings.Split(sub, "/"), ".."):
		return "", fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", sub)
	}
	path, err := securejoin.SecureJoin(root, sub)
	if err == nil {
		_, err = os.Stat(path)
	}
	if errors.Is(err, os.ErrNotExist) && !data {
		if makeLike(root, path) != nil {
			return "", fmt.Errorf("failed to create subPath directory for volumeMount %q of container %q", m.Name, container)
		}
		return path, nil
	}
	if err != nil {
		return "", fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q", m.Name, container)
	}
	return path, nil
}

// makeLike makes the folders from root to path that are missing, with root's
// mode.
func makeLike(root, path string) error {
	st, err := os.Stat(root)
	if err != nil {
		return err
	}
	var missing []string
	for dir := path; dir != root; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(dir); err == nil {
			break
		}
		missing = append(missing, dir)
	}
	for _, dir := range slices.Backward(missing) {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if err := os.Chmod(dir, st.Mode()); err != nil {
			return err
		}
	}
	return nil
}
