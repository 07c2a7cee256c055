// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
)

// projected joins several sources in one volume, and tells of all that fail.
func (m *Mounter) projected(ctx context.Context, p *corev1.Pod, s *corev1.ProjectedVolumeSource) (files, error) {
	out, problems := files{}, []error(nil)
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
		case src.ClusterTrustBundle != nil:
			part, err = m.trustBundle(ctx, p, src.ClusterTrustBundle)
		default:
			err = fmt.Errorf("projected volume source is not supported by this node")
		}
		if err != nil {
			problems = append(problems, err)
		}
		maps.Copy(out, part)
	}
	return out, utilerrors.NewAggregate(problems)
}

// private is a file that is its reader's alone when all containers run as one
// user; with a group, the group gets its part when the volume is given to it.
func private(p *corev1.Pod, data []byte) file {
	f := file{data: data}
	if fsGroup(p) != nil {
		f.mode = 0o600
	} else if uid := onlyUser(p); uid != nil {
		f.uid, f.mode = uid, 0o600
	}
	return f
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
