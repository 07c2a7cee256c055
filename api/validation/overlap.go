// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// written is a path that a source writes into a volume.
type written struct{ path, source string }

func (w written) String() string {
	if w.source == "" {
		return fmt.Sprintf("%q", w.path)
	}
	return fmt.Sprintf("%q (%s)", w.path, w.source)
}

// overlaps names paths in one volume where one is, or lies in, the other.
func overlaps(volumes []corev1.Volume) (out []string) {
	note := func(volume, what string, paths []written) {
		var before []written
		for _, p := range paths {
			p.path = strings.TrimRight(p.path, "/")
			for _, o := range before {
				if p.path != "" && o.path != "" && (strings.HasPrefix(o.path+"/", p.path+"/") || strings.HasPrefix(p.path+"/", o.path+"/")) {
					out = append(out, fmt.Sprintf("volume %q (%s): overlapping paths: %s with %s", volume, what, p, o))
				}
			}
			before = append(before, p)
		}
	}
	for _, v := range volumes {
		if c := v.ConfigMap; c != nil {
			note(v.Name, fmt.Sprintf("ConfigMap %q", c.Name), keyed(c.Items, ""))
		}
		if s := v.Secret; s != nil {
			note(v.Name, fmt.Sprintf("Secret %q", s.SecretName), keyed(s.Items, ""))
		}
		if d := v.DownwardAPI; d != nil {
			note(v.Name, "DownwardAPI", told(d.Items, ""))
		}
		if v.Projected == nil {
			continue
		}
		var paths []written
		for _, s := range v.Projected.Sources {
			if s == (corev1.VolumeProjection{}) {
				out = append(out, fmt.Sprintf("volume %q (Projected) has no sources provided", v.Name))
				continue
			}
			paths = append(paths, projectedPaths(s)...)
		}
		note(v.Name, "Projected", paths)
	}
	return out
}

func keyed(items []corev1.KeyToPath, source string) (out []written) {
	for _, k := range items {
		out = append(out, written{k.Path, source})
	}
	return out
}

func told(items []corev1.DownwardAPIVolumeFile, source string) (out []written) {
	for _, f := range items {
		out = append(out, written{f.Path, source})
	}
	return out
}

func projectedPaths(s corev1.VolumeProjection) (out []written) {
	switch {
	case s.ConfigMap != nil && s.ConfigMap.Items != nil:
		return keyed(s.ConfigMap.Items, fmt.Sprintf("ConfigMap %q", s.ConfigMap.Name))
	case s.Secret != nil && s.Secret.Items != nil:
		return keyed(s.Secret.Items, fmt.Sprintf("Secret %q", s.Secret.Name))
	case s.DownwardAPI != nil && s.DownwardAPI.Items != nil:
		return told(s.DownwardAPI.Items, "DownwardAPI")
	case s.ServiceAccountToken != nil:
		return []written{{s.ServiceAccountToken.Path, "ServiceAccountToken"}}
	case s.ClusterTrustBundle != nil:
		name := s.ClusterTrustBundle.Name
		if name == nil {
			name = s.ClusterTrustBundle.SignerName
		}
		if name == nil {
			return nil
		}
		return []written{{s.ClusterTrustBundle.Path, fmt.Sprintf("ClusterTrustBundle %q", *name)}}
	case s.PodCertificate != nil:
		c := s.PodCertificate
		for _, w := range []written{{c.CertificateChainPath, "PodCertificate chain"}, {c.KeyPath, "PodCertificate key"}, {c.CredentialBundlePath, "PodCertificate credential bundle"}} {
			if w.path != "" {
				out = append(out, w)
			}
		}
	}
	return out
}
