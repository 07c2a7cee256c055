// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/peapod/peapod/volume"
)

// environment is what a container finds in its variables: Services, then
// envFrom, then env, later ones seeing earlier ones by $(NAME).
func (a *Agent) environment(ctx context.Context, p *corev1.Pod, sb *podSandbox, c *corev1.Container) (map[string]string, error) {
	out, err := a.serviceEnv(ctx, p)
	if err != nil {
		return nil, err
	}
	for _, f := range c.EnvFrom {
		part, err := a.envFrom(ctx, p, f)
		if err != nil {
			return nil, err
		}
		maps.Copy(out, part)
	}
	seen := maps.Clone(out)
	for _, e := range c.Env {
		v := e.Value
		if e.ValueFrom != nil {
			var ok bool
			if v, ok, err = a.envValue(ctx, p, sb, c, e.ValueFrom); err != nil {
				return nil, err
			} else if !ok {
				continue
			}
		} else {
			v = expand(v, seen)
		}
		out[e.Name], seen[e.Name] = v, v
	}
	return out, nil
}

// serviceEnv are the variables every container has: where the API is, and with
// enableServiceLinks the Services of its namespace.
func (a *Agent) serviceEnv(ctx context.Context, p *corev1.Pod) (map[string]string, error) {
	out := map[string]string{}
	add := func(name, ip string, ports []corev1.ServicePort) {
		prefix := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		out[prefix+"_SERVICE_HOST"] = ip
		for i, port := range ports {
			number, proto := fmt.Sprint(port.Port), string(port.Protocol)
			if proto == "" {
				proto = "TCP"
			}
			url := strings.ToLower(proto) + "://" + net.JoinHostPort(ip, number)
			if i == 0 {
				out[prefix+"_SERVICE_PORT"], out[prefix+"_PORT"] = number, url
			}
			if port.Name != "" {
				out[prefix+"_SERVICE_PORT_"+strings.ToUpper(strings.ReplaceAll(port.Name, "-", "_"))] = number
			}
			base := prefix + "_PORT_" + number + "_" + proto
			out[base], out[base+"_PROTO"], out[base+"_PORT"], out[base+"_ADDR"] = url, strings.ToLower(proto), number, ip
		}
	}
	if p.Spec.EnableServiceLinks == nil || *p.Spec.EnableServiceLinks {
		list, err := a.services(ctx, p.Namespace)
		if err != nil {
			return nil, fmt.Errorf("cannot list services for the environment: %w", err)
		}
		for _, s := range list {
			if s.Spec.ClusterIP != "" && s.Spec.ClusterIP != corev1.ClusterIPNone {
				add(s.Name, s.Spec.ClusterIP, s.Spec.Ports)
			}
		}
	}
	add("kubernetes", a.cfg.APIHost, []corev1.ServicePort{{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP}})
	return out, nil
}

func (a *Agent) envFrom(ctx context.Context, p *corev1.Pod, f corev1.EnvFromSource) (map[string]string, error) {
	out := map[string]string{}
	switch {
	case f.ConfigMapRef != nil:
		c, err := a.objects.ConfigMap(ctx, p.Namespace, f.ConfigMapRef.Name)
		if err != nil {
			return out, unless(f.ConfigMapRef.Optional, err)
		}
		for k, v := range c.Data {
			out[f.Prefix+k] = v
		}
	case f.SecretRef != nil:
		s, err := a.objects.Secret(ctx, p.Namespace, f.SecretRef.Name)
		if err != nil {
			return out, unless(f.SecretRef.Optional, err)
		}
		for k, v := range s.Data {
			out[f.Prefix+k] = string(v)
		}
	}
	return out, nil
}

// unless swallows that something optional is not there.
func unless(optional *bool, err error) error {
	if optional != nil && *optional && apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// envValue reads one valueFrom; ok is false for an optional key that is not
// there.
func (a *Agent) envValue(ctx context.Context, p *corev1.Pod, sb *podSandbox, c *corev1.Container, f *corev1.EnvVarSource) (v string, ok bool, err error) {
	switch {
	case f.FieldRef != nil:
		v, err = volume.FieldValue(a.withAddresses(p, sb), f.FieldRef.FieldPath)
		return v, true, err
	case f.ResourceFieldRef != nil:
		name := f.ResourceFieldRef.ContainerName
		if name == "" {
			name = c.Name
		}
		v, err = volume.ResourceValue(p, name, f.ResourceFieldRef, a.node.allocatable())
		return v, true, err
	case f.ConfigMapKeyRef != nil:
		r := f.ConfigMapKeyRef
		m, err := a.objects.ConfigMap(ctx, p.Namespace, r.Name)
		if err != nil {
			return "", false, unless(r.Optional, err)
		}
		if v, ok = m.Data[r.Key]; !ok && (r.Optional == nil || !*r.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", r.Key, p.Namespace, r.Name)
		}
		return v, ok, nil
	case f.SecretKeyRef != nil:
		r := f.SecretKeyRef
		s, err := a.objects.Secret(ctx, p.Namespace, r.Name)
		if err != nil {
			return "", false, unless(r.Optional, err)
		}
		b, ok := s.Data[r.Key]
		if !ok && (r.Optional == nil || !*r.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", r.Key, p.Namespace, r.Name)
		}
		return string(b), ok, nil
	case f.FileKeyRef != nil:
		return a.envFromFile(ctx, p, f.FileKeyRef)
	}
	return "", false, nil
}

// withAddresses is the Pod with the addresses it has by now, which its status
// may not say yet.
func (a *Agent) withAddresses(p *corev1.Pod, sb *podSandbox) *corev1.Pod {
	p = p.DeepCopy()
	p.Status.HostIP = a.cfg.IP.String()
	p.Status.HostIPs = []corev1.HostIP{{IP: a.cfg.IP.String()}}
	ips := sb.ips
	if p.Spec.HostNetwork {
		ips = []string{a.cfg.IP.String()}
	}
	p.Status.PodIPs = nil
	for i, ip := range ips {
		if i == 0 {
			p.Status.PodIP = ip
		}
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	return p
}

// expand replaces $(NAME) by its value; $$ is a dollar, and what is not known
// stays as it is.
func expand(s string, env map[string]string) string {
	return expandBy(s, func(name string) string {
		if v, ok := env[name]; ok {
			return v
		}
		return "$(" + name + ")"
	})
}

func expandBy(s string, value func(name string) string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i:], ')')
			if end < 0 {
				b.WriteString("$(")
				i++
				continue
			}
			b.WriteString(value(s[i+2 : i+end]))
			i += end
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}

func expandAll(list []string, env map[string]string) (out []string) {
	for _, s := range list {
		out = append(out, expand(s, env))
	}
	return out
}

// expandStrict is expand for subPathExpr, where a name without a value is an
// error.
func expandStrict(s string, env map[string]string) (string, error) {
	missing := map[string]bool{}
	out := expandBy(s, func(name string) string {
		if env[name] == "" {
			missing[name] = true
		}
		return env[name]
	})
	if len(missing) > 0 {
		return "", fmt.Errorf("missing value for %s", strings.Join(slices.Sorted(maps.Keys(missing)), ", "))
	}
	return out, nil
}
