// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
)

// projected joins several sources in one volume.
func (m *Mounter) projected(ctx context.Context, p *corev1.Pod, s *corev1.ProjectedVolumeSource) (files, error) {
	out := files{}
	for _, src := range s.Sources {
		var part files
		var err error
		switch {
		case src.ConfigMap != nil:
			c := src.ConfigMap
			part, err = m.configMap(ctx, p, &corev1.ConfigMapVolumeSource{LocalObjectReference: c.LocalObjectReference, Items: c.Items, Optional: c.Optional})
		case src.Secret != nil:
			c := src.Secret
			part, err = m.secret(ctx, p, &corev1.SecretVolumeSource{SecretName: c.Name, Items: c.Items, Optional: c.Optional})
		case src.DownwardAPI != nil:
			part, err = m.downward(p, src.DownwardAPI.Items)
		case src.ServiceAccountToken != nil:
			part, err = m.token(ctx, p, src.ServiceAccountToken)
		default:
			err = fmt.Errorf("projected volume source is not supported by this node")
		}
		if err != nil {
			return nil, err
		}
		maps.Copy(out, part)
	}
	return out, nil
}

// onlyUser is the user all containers run as, if there is one.
func onlyUser(p *corev1.Pod) (uid *int64) {
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for _, c := range list {
			own := p.Spec.SecurityContext.RunAsUser
			if c.SecurityContext != nil && c.SecurityContext.RunAsUser != nil {
				own = c.SecurityContext.RunAsUser
			}
			if own == nil || uid != nil && *uid != *own {
				return nil
			}
			uid = own
		}
	}
	return uid
}
