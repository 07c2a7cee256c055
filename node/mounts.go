// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/volume"
)

// mounts are the container's volumes, /etc/hosts and its termination message.
func (a *Agent) mounts(ctx context.Context, p *corev1.Pod, sb *podSandbox, c *corev1.Container, attempt int, env map[string]string, fromImages map[string]*runtimeapi.Image) ([]*runtimeapi.Mount, error) {
	var out []*runtimeapi.Mount
	hostsMounted := false
	for _, m := range c.VolumeMounts {
		i := slices.IndexFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		if i < 0 {
			return nil, fmt.Errorf("cannot find volume %q to mount into container %q", m.Name, c.Name)
		}
		mount, err := a.mount(ctx, p, p.Spec.Volumes[i], m, c.Name, env, fromImages[m.Name])
		if err != nil {
			return nil, err
		}
		hostsMounted = hostsMounted || m.MountPath == "/etc/hosts"
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

// mount is one volume in a container: a folder of this machine, or what is in
// an image.
func (a *Agent) mount(ctx context.Context, p *corev1.Pod, v corev1.Volume, m corev1.VolumeMount, container string, env map[string]string, image *runtimeapi.Image) (*runtimeapi.Mount, error) {
	out := &runtimeapi.Mount{ContainerPath: m.MountPath, Readonly: m.ReadOnly, Propagation: propagation(m.MountPropagation)}
	if m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled && m.ReadOnly {
		out.RecursiveReadOnly = true
	}
	sub, err := subPath(m, env)
	if err != nil {
		return nil, err
	}
	if image != nil {
		out.Image, out.ImageSubPath = &runtimeapi.ImageSpec{Image: image.Id, UserSpecifiedImage: v.Image.Reference}, sub
		return out, nil
	}
	if c := v.PersistentVolumeClaim; c != nil && c.ReadOnly {
		out.Readonly = true
	}
	path, err := a.volumes.Mount(ctx, p, v)
	if err == nil {
		out.HostPath, err = inVolume(path, sub, m.Name, container, volume.Live(v))
	}
	return out, err
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

// subPath is the part of a volume that is mounted, its variables replaced.
func subPath(m corev1.VolumeMount, env map[string]string) (string, error) {
	sub := m.SubPath
	if m.SubPathExpr != "" {
		var err error
		if sub, err = expandStrict(m.SubPathExpr, env); err != nil {
			return "", err
		}
	}
	switch {
	case filepath.IsAbs(sub):
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", sub)
	case slices.Contains(strings.Split(sub, "/"), ".."):
		return "", fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", sub)
	}
	return sub, nil
}

// inVolume resolves a path inside a volume without ever leaving it; a folder
// that is missing is made with the volume's own mode, so that whoever may write
// there may write in it. Events must not tell what is on the machine.
func inVolume(root, sub, volume, container string, data bool) (string, error) {
	if sub == "" {
		return root, nil
	}
	path, err := securejoin.SecureJoin(root, sub)
	if err == nil {
		_, err = os.Stat(path)
	}
	if errors.Is(err, os.ErrNotExist) && !data {
		if makeLike(root, path) != nil {
			return "", fmt.Errorf("failed to create subPath directory for volumeMount %q of container %q", volume, container)
		}
		return path, nil
	}
	if err != nil {
		return "", fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q", volume, container)
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
