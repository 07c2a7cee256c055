// SPDX-License-Identifier: Apache-2.0

// Package volume owns the volumes of Pods on one node: one file per kind that
// makes what a container mounts, live updates, and removal that never hangs
// and never leaves the Pod's folder. It knows the API's types but no client:
// what it needs comes from Sources.
//
//	<root>/pods/<uid>/volumes/kubernetes.io~<kind>/<name>
package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/linux"
)

// Sources are the objects volumes are made from. A missing one is a NotFound
// error with the API's text.
type Sources interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error)
	PersistentVolume(ctx context.Context, name string) (*corev1.PersistentVolume, error)
	Token(ctx context.Context, namespace, account string, r *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)
	ClusterTrustBundle(ctx context.Context, name string) (*certificatesv1.ClusterTrustBundle, error)
	// ClusterTrustBundles are all of a signer.
	ClusterTrustBundles(ctx context.Context, signer string) ([]*certificatesv1.ClusterTrustBundle, error)
}

// Mounter makes the volumes of a node's Pods.
type Mounter struct {
	Root    string
	Sources Sources
	// Allocatable of the node, for resourceFieldRef without a limit.
	Allocatable func() corev1.ResourceList
	// Due, if set, is told that the volumes of a Pod should be mounted again:
	// a token in them is about to expire.
	Due func(uid types.UID)

	mu     sync.Mutex // guards tokens
	tokens map[types.UID]map[string]*heldToken
}

// PodDir is the folder of a Pod.
func (m *Mounter) PodDir(uid types.UID) string { return filepath.Join(m.Root, "pods", string(uid)) }

func (m *Mounter) path(p *corev1.Pod, kind, name string) string {
	return filepath.Join(m.PodDir(p.UID), "volumes", "kubernetes.io~"+kind, name)
}

// Mount makes one volume of a Pod and returns its path on the node. Repeating
// it refreshes the content. The error has upstream's event text.
func (m *Mounter) Mount(ctx context.Context, p *corev1.Pod, v corev1.Volume) (string, error) {
	path, err := m.mount(ctx, p, v)
	if err != nil {
		return "", fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", v.Name, err)
	}
	return path, nil
}

func (m *Mounter) mount(ctx context.Context, p *corev1.Pod, v corev1.Volume) (string, error) {
	switch {
	case v.EmptyDir != nil:
		return m.emptyDir(p, v.Name, v.EmptyDir)
	case v.HostPath != nil:
		return hostPath(v.HostPath)
	case v.ConfigMap != nil:
		return m.write(ctx, p, v.Name, "configmap", v.ConfigMap.DefaultMode, func() (files, error) { return m.configMap(ctx, p, v.ConfigMap) })
	case v.Secret != nil:
		return m.write(ctx, p, v.Name, "secret", v.Secret.DefaultMode, func() (files, error) { return m.secret(ctx, p, v.Secret) })
	case v.DownwardAPI != nil:
		return m.write(ctx, p, v.Name, "downward-api", v.DownwardAPI.DefaultMode, func() (files, error) { return m.downward(p, v.DownwardAPI.Items) })
	case v.Projected != nil:
		return m.write(ctx, p, v.Name, "projected", v.Projected.DefaultMode, func() (files, error) { return m.projected(ctx, p, v.Projected) })
	case v.PersistentVolumeClaim != nil || v.Ephemeral != nil:
		return m.claimed(ctx, p, &v)
	}
	return "", fmt.Errorf("no volume plugin matched name: %s", kindOf(v.VolumeSource))
}

// kindOf names the source that is set.
func kindOf(s corev1.VolumeSource) string {
	v := reflect.ValueOf(s)
	for i := range v.NumField() {
		if !v.Field(i).IsNil() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			return "kubernetes.io/" + name
		}
	}
	return "none"
}

// Live says whether the content of a volume follows its sources.
func Live(v corev1.Volume) bool {
	return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
}

// Unmount removes all volumes and the folder of a Pod. Mounts that are busy
// are detached, links are not followed, and repeating it is no error.
func (m *Mounter) Unmount(uid types.UID) error {
	m.dropTokens(uid)
	dir := m.PodDir(uid)
	mounts, err := linux.MountsBelow(dir)
	if err != nil {
		return fmt.Errorf("cannot remove volumes of pod %s: %w", uid, err)
	}
	for _, mount := range mounts {
		if err := linux.Detach(mount); err != nil {
			return fmt.Errorf("cannot remove volumes of pod %s: %w", uid, err)
		}
	}
	// What is mounted there is not the Pod's: it must not be removed with it.
	if mounts, err = linux.MountsBelow(dir); err == nil && len(mounts) > 0 {
		err = fmt.Errorf("%s is still mounted", mounts[0])
	}
	if err != nil {
		return fmt.Errorf("cannot remove volumes of pod %s: %w", uid, err)
	}
	if err := os.RemoveAll(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove volumes of pod %s: %w", uid, err)
	}
	return nil
}

// fsGroup gives a volume's files to the Pod's group, if it has one.
func fsGroup(p *corev1.Pod) *int64 {
	if p.Spec.SecurityContext == nil {
		return nil
	}
	return p.Spec.SecurityContext.FSGroup
}
