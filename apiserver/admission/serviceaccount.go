// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/utils/ptr"
)

const (
	tokenVolumePrefix = "kube-api-access-"
	tokenMountPath    = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenSeconds      = 60*60 + 7 // an hour, and recognisable as injected
	// enforceSecrets is the annotation of an account whose Pods may use its own
	// secrets alone.
	enforceSecrets = "kubernetes.io/enforce-mountable-secrets"
)

// serviceAccount gives each Pod an account, its pull secrets and a token
// volume (ServiceAccount admission).
type serviceAccount struct {
	*admission.Handler
	Objects
}

// Admit completes a new Pod.
func (s serviceAccount) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	p := podOf(a)
	if p == nil || a.GetOperation() != admission.Create {
		return nil
	}
	if _, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return nil
	}
	if p.Spec.ServiceAccountName == "" {
		p.Spec.ServiceAccountName, p.Spec.DeprecatedServiceAccount = "default", "default"
	}
	account, err := s.account(ctx, a, p)
	if err != nil {
		return err
	}
	if automount(account, p) {
		mountToken(p)
	}
	if len(p.Spec.ImagePullSecrets) == 0 {
		p.Spec.ImagePullSecrets = slices.Clone(account.ImagePullSecrets)
	}
	return nil
}

func (s serviceAccount) account(ctx context.Context, a admission.Attributes, p *corev1.Pod) (*corev1.ServiceAccount, error) {
	if p.Spec.ServiceAccountName == "" {
		return nil, admission.NewForbidden(a, fmt.Errorf("no service account specified for pod %s/%s", a.GetNamespace(), p.Name))
	}
	account, err := s.ServiceAccount(ctx, a.GetNamespace(), p.Spec.ServiceAccountName)
	if apierrors.IsNotFound(err) {
		err = apierrors.NewNotFound(corev1.Resource("serviceaccount"), p.Spec.ServiceAccountName)
	}
	if err != nil {
		return nil, admission.NewForbidden(a, fmt.Errorf("error looking up service account %s/%s: %w", a.GetNamespace(), p.Spec.ServiceAccountName, err))
	}
	return account, nil
}

// Validate holds a Pod to the secrets of its account, where the account asks
// for that, and keeps mirror Pods from the API's secrets.
func (s serviceAccount) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	p, _ := a.GetObject().(*corev1.Pod)
	debug := a.GetOperation() == admission.Update && a.GetSubresource() == "ephemeralcontainers"
	if p == nil || a.GetResource().GroupResource() != corev1.Resource("pods") || !debug && (a.GetOperation() != admission.Create || a.GetSubresource() != "") {
		return nil
	}
	if _, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]; mirror && !debug {
		if err := mirrorPod(p); err != nil {
			return admission.NewForbidden(a, err)
		}
		return nil
	}
	account, err := s.account(ctx, a, p)
	if err != nil {
		return err
	}
	if on, _ := strconv.ParseBool(account.Annotations[enforceSecrets]); !on { // not a boolean is no
		return nil
	}
	if debug {
		return ephemeralSecrets(account, p)
	}
	if err := podSecrets(account, p); err != nil {
		return admission.NewForbidden(a, err)
	}
	return nil
}

func automount(account *corev1.ServiceAccount, p *corev1.Pod) bool {
	if p.Spec.AutomountServiceAccountToken != nil {
		return *p.Spec.AutomountServiceAccountToken
	}
	return ptr.Deref(account.AutomountServiceAccountToken, true)
}

// mountToken adds the projected volume and mounts it in every container that
// has nothing else at its place.
func mountToken(p *corev1.Pod) {
	volume := ""
	for _, v := range p.Spec.Volumes {
		if len(v.Name) > len(tokenVolumePrefix) && v.Name[:len(tokenVolumePrefix)] == tokenVolumePrefix {
			volume = v.Name
		}
	}
	name := volume
	if name == "" {
		name = names.SimpleNameGenerator.GenerateName(tokenVolumePrefix)
	}
	mounted := false
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if slices.ContainsFunc(list[i].VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenMountPath }) {
				continue
			}
			list[i].VolumeMounts = append(list[i].VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenMountPath})
			mounted = true
		}
	}
	if volume == "" && mounted {
		p.Spec.Volumes = append(p.Spec.Volumes, tokenVolume(name))
	}
}

func tokenVolume(name string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: ptr.To(corev1.ProjectedVolumeSourceDefaultMode),
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To[int64](tokenSeconds)}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}},
			}}},
		},
	}}}
}
