// SPDX-License-Identifier: Apache-2.0

package auth

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/peapod/peapod/api/claim"
)

// podClaims are the PersistentVolumeClaims that a Pod mounts.
func podClaims(p *corev1.Pod) (out []string) {
	for i := range p.Spec.Volumes {
		if name := claim.Of(p, &p.Spec.Volumes[i]); name != "" {
			out = append(out, name)
		}
	}
	return out
}

// podResourceClaims are the claims to devices that a Pod names, or that were
// made for it.
func podResourceClaims(p *corev1.Pod) (out []string) {
	add := func(name *string) {
		if name != nil {
			out = append(out, *name)
		}
	}
	for _, c := range p.Spec.ResourceClaims {
		add(c.ResourceClaimName)
	}
	for _, s := range p.Status.ResourceClaimStatuses {
		add(s.ResourceClaimName)
	}
	if s := p.Status.ExtendedResourceClaimStatus; s != nil {
		add(&s.ResourceClaimName)
	}
	return out
}

// podConfigMaps are those that its containers and volumes read.
func podConfigMaps(p *corev1.Pod) (out []string) {
	eachEnv(p, func(e *corev1.EnvVarSource) {
		if e.ConfigMapKeyRef != nil {
			out = append(out, e.ConfigMapKeyRef.Name)
		}
	}, func(e corev1.EnvFromSource) {
		if e.ConfigMapRef != nil {
			out = append(out, e.ConfigMapRef.Name)
		}
	})
	for _, v := range p.Spec.Volumes {
		if v.ConfigMap != nil {
			out = append(out, v.ConfigMap.Name)
		}
		if v.Projected != nil {
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil {
					out = append(out, s.ConfigMap.Name)
				}
			}
		}
	}
	return out
}

// podSecrets are those that its containers and volumes read, and that its
// images are pulled with.
func podSecrets(p *corev1.Pod) (out []string) {
	for _, s := range p.Spec.ImagePullSecrets {
		out = append(out, s.Name)
	}
	eachEnv(p, func(e *corev1.EnvVarSource) {
		if e.SecretKeyRef != nil {
			out = append(out, e.SecretKeyRef.Name)
		}
	}, func(e corev1.EnvFromSource) {
		if e.SecretRef != nil {
			out = append(out, e.SecretRef.Name)
		}
	})
	for i := range p.Spec.Volumes {
		out = append(out, volumeSecrets(&p.Spec.Volumes[i])...)
	}
	return out
}

func volumeSecrets(v *corev1.Volume) (out []string) {
	local := func(s *corev1.LocalObjectReference) {
		if s != nil {
			out = append(out, s.Name)
		}
	}
	switch {
	case v.Secret != nil:
		out = append(out, v.Secret.SecretName)
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			if s.Secret != nil {
				out = append(out, s.Secret.Name)
			}
		}
	case v.AzureFile != nil:
		out = append(out, v.AzureFile.SecretName)
	case v.CephFS != nil:
		local(v.CephFS.SecretRef)
	case v.Cinder != nil:
		local(v.Cinder.SecretRef)
	case v.FlexVolume != nil:
		local(v.FlexVolume.SecretRef)
	case v.RBD != nil:
		local(v.RBD.SecretRef)
	case v.ScaleIO != nil:
		local(v.ScaleIO.SecretRef)
	case v.ISCSI != nil:
		local(v.ISCSI.SecretRef)
	case v.StorageOS != nil:
		local(v.StorageOS.SecretRef)
	case v.CSI != nil:
		local(v.CSI.NodePublishSecretRef)
	}
	return out
}

// eachEnv visits what the environments of all containers come from.
func eachEnv(p *corev1.Pod, one func(*corev1.EnvVarSource), many func(corev1.EnvFromSource)) {
	visit := func(env []corev1.EnvVar, from []corev1.EnvFromSource) {
		for _, e := range env {
			if e.ValueFrom != nil {
				one(e.ValueFrom)
			}
		}
		for _, e := range from {
			many(e)
		}
	}
	for _, c := range p.Spec.InitContainers {
		visit(c.Env, c.EnvFrom)
	}
	for _, c := range p.Spec.Containers {
		visit(c.Env, c.EnvFrom)
	}
	for _, c := range p.Spec.EphemeralContainers {
		visit(c.Env, c.EnvFrom)
	}
}

// Refers says which objects of the API a Pod refers to, if any.
func Refers(p *corev1.Pod) string {
	switch {
	case p.Spec.ServiceAccountName != "":
		return "serviceaccounts"
	case len(podSecrets(p)) > 0:
		return "secrets"
	case len(podConfigMaps(p)) > 0:
		return "configmaps"
	case len(p.Spec.ResourceClaims) > 0:
		return "resourceclaims"
	}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		switch {
		case v.CSI != nil:
			return "csidrivers (via CSI volumes)"
		case v.Glusterfs != nil:
			return "endpoints (via glusterFS volumes)"
		case v.PersistentVolumeClaim != nil:
			return "persistentvolumeclaims"
		case v.Ephemeral != nil:
			return "persistentvolumeclaims (via ephemeral volumes)"
		case v.Projected != nil:
			if what := projects(v.Projected.Sources); what != "" {
				return what
			}
		}
	}
	return ""
}

func projects(sources []corev1.VolumeProjection) string {
	for _, s := range sources {
		switch {
		case s.ServiceAccountToken != nil:
			return "serviceaccounts (via projected volumes)"
		case s.ClusterTrustBundle != nil:
			return "clustertrustbundles"
		case s.PodCertificate != nil:
			return "podcertificates"
		}
	}
	return ""
}
