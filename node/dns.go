// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// How a Pod finds names: its resolv.conf and its /etc/hosts.

// Limits of resolv.conf, as the C library reads it.
const (
	maxNameservers  = 3
	maxSearches     = 32
	maxSearchLength = 2048
	maxDomain       = 253
)

// hostResolv is the node's own file.
const hostResolv = "/etc/resolv.conf"

// dns is what becomes the Pod's resolv.conf.
func (a *Agent) dns(p *corev1.Pod) (*runtimeapi.DNSConfig, error) {
	own, err := os.ReadFile(hostResolv)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return a.resolv(p, string(own)), nil
}

// resolv is the Pod's part of resolv.conf beside the node's own; what has to be
// left out is told in events.
func (a *Agent) resolv(p *corev1.Pod, own string) *runtimeapi.DNSConfig {
	c := parseResolv(own)
	switch {
	case p.Spec.DNSPolicy == corev1.DNSNone:
		c = &runtimeapi.DNSConfig{}
	case !asksCluster(p):
	case a.cfg.ClusterDNS == "":
		a.events.Eventf(p, corev1.EventTypeWarning, "MissingClusterDNS", "pod: %q. kubelet does not have ClusterDNS IP configured and cannot create Pod using %q policy. Falling back to %q policy.", fullName(p), corev1.DNSClusterFirst, corev1.DNSDefault)
	default:
		c.Servers = []string{a.cfg.ClusterDNS}
		c.Searches = unique(append([]string{p.Namespace + ".svc." + a.cfg.ClusterDomain, "svc." + a.cfg.ClusterDomain, a.cfg.ClusterDomain}, c.Searches...))
		c.Options = []string{"ndots:5"}
	}
	if d := p.Spec.DNSConfig; d != nil {
		c.Servers = unique(append(c.Servers, d.Nameservers...))
		c.Searches = unique(append(c.Searches, d.Searches...))
		for _, o := range d.Options {
			text := o.Name
			if o.Value != nil && *o.Value != "" {
				text += ":" + *o.Value
			}
			c.Options = withOption(c.Options, text)
		}
	}
	for _, problem := range fitResolv(c) {
		a.events.Event(p, corev1.EventTypeWarning, "DNSConfigForming", problem)
	}
	return c
}

// asksCluster says whether the Pod is to ask the cluster's name server. A Pod in
// the node's network does so only if it says so.
func asksCluster(p *corev1.Pod) bool {
	return p.Spec.DNSPolicy == corev1.DNSClusterFirst && !p.Spec.HostNetwork || p.Spec.DNSPolicy == corev1.DNSClusterFirstWithHostNet
}

// parseResolv reads resolv.conf(5) as kubelets do: servers add up, the last
// search list holds, and so does the last of each option.
func parseResolv(text string) *runtimeapi.DNSConfig {
	c := &runtimeapi.DNSConfig{}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		switch words[0] {
		case "nameserver":
			c.Servers = append(c.Servers, words[1:min(2, len(words))]...)
		case "search":
			c.Searches = nil
			for _, s := range words[1:] {
				if s != "." {
					c.Searches = append(c.Searches, strings.TrimSuffix(s, "."))
				}
			}
		case "options":
			for _, o := range words[1:] {
				c.Options = withOption(c.Options, o)
			}
		}
	}
	return c
}

// withOption has an option once, as it was said last.
func withOption(have []string, option string) []string {
	name, _, _ := strings.Cut(option, ":")
	have = slices.DeleteFunc(slices.Clone(have), func(o string) bool { n, _, _ := strings.Cut(o, ":"); return n == name })
	return append(have, option)
}

func unique(list []string) (out []string) {
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// fitResolv leaves out what resolvers would not read, or would die of, and says so.
func fitResolv(c *runtimeapi.DNSConfig) (problems []string) {
	if len(c.Servers) > maxNameservers {
		c.Servers = c.Servers[:maxNameservers]
		problems = append(problems, "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "+strings.Join(c.Servers, " "))
	}
	all := len(c.Searches)
	c.Searches = slices.DeleteFunc(c.Searches[:min(all, maxSearches)], func(s string) bool { return len(s) > maxDomain })
	for len(strings.Join(c.Searches, " ")) > maxSearchLength {
		c.Searches = c.Searches[:len(c.Searches)-1]
	}
	if len(c.Searches) < all {
		problems = append(problems, "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "+strings.Join(c.Searches, " "))
	}
	return problems
}

// hostsFile writes the Pod's /etc/hosts.
func (a *Agent) hostsFile(p *corev1.Pod, sb *podSandbox) (string, error) {
	var own []byte
	if p.Spec.HostNetwork {
		var err error
		if own, err = os.ReadFile("/etc/hosts"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	path := filepath.Join(a.volumes.PodDir(p.UID), "etc-hosts")
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return "", err
	}
	return path, os.WriteFile(path, []byte(a.hosts(p, sb.ips, string(own))), 0o644)
}

// hosts is the text of /etc/hosts: of a Pod in the node's network the node's own,
// and then what the Pod adds.
func (a *Agent) hosts(p *corev1.Pod, ips []string, own string) string {
	var b strings.Builder
	if p.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n" + own)
	} else {
		short, fqdn := a.hostname(p)
		b.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		for _, ip := range ips {
			if fqdn != "" {
				fmt.Fprintf(&b, "%s\t%s\t%s\n", ip, fqdn, short)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, short)
			}
		}
	}
	if len(p.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, h := range p.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", h.IP, strings.Join(h.Hostnames, "\t"))
		}
	}
	return b.String()
}
