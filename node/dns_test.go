// SPDX-License-Identifier: Apache-2.0

package node

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
)

// resolvCase is a node's resolv.conf, a Pod, and what else there is.
type resolvCase struct {
	own       string
	pod       func(*corev1.Pod)
	noCluster bool
}

func resolvCases() map[string]resolvCase {
	const own = "# the node's\ndomain ignored.example\nsearch first.example\nsearch corp.example. lab.example .\nnameserver 192.0.2.1\nnameserver 192.0.2.2\noptions ndots:2 rotate\noptions timeout:1 ndots:3\n"
	policy := func(d corev1.DNSPolicy) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.DNSPolicy, p.Spec.DNSConfig = d, nil }
	}
	val := func(s string) *string { return &s }
	return map[string]resolvCase{
		"cluster-first":      {own: own, pod: policy(corev1.DNSClusterFirst)},
		"cluster-first-bare": {pod: policy(corev1.DNSClusterFirst)},
		"cluster-first-host-network": {own: own, pod: func(p *corev1.Pod) {
			policy(corev1.DNSClusterFirst)(p)
			p.Spec.HostNetwork = true
		}},
		"cluster-first-with-host-net": {own: own, pod: func(p *corev1.Pod) {
			policy(corev1.DNSClusterFirstWithHostNet)(p)
			p.Spec.HostNetwork = true
		}},
		"default":    {own: own, pod: policy(corev1.DNSDefault)},
		"no-cluster": {own: own, pod: policy(corev1.DNSClusterFirst), noCluster: true},
		"none": {own: own, pod: func(p *corev1.Pod) {
			p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"198.51.100.1"}, Searches: []string{"own.example"}, Options: []corev1.PodDNSConfigOption{{Name: "edns0"}}}
		}},
		"cluster-first-and-more": {own: own, pod: func(p *corev1.Pod) {
			policy(corev1.DNSClusterFirst)(p)
			p.Spec.DNSConfig = &corev1.PodDNSConfig{
				Nameservers: []string{"198.51.100.1", "10.96.0.10"}, Searches: []string{"own.example", "cluster.local"},
				Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: val("1")}, {Name: "edns0"}, {Name: "attempts", Value: val("")}},
			}
		}},
		"too-much": {own: own + "search a.example " + strings.Repeat("x", 254) + " " + strings.Repeat(strings.Repeat("y", 240)+" ", 9) + "\n", pod: func(p *corev1.Pod) {
			policy(corev1.DNSDefault)(p)
			p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"198.51.100.1", "198.51.100.2"}}
			for i := range 9 {
				p.Spec.DNSConfig.Searches = append(p.Spec.DNSConfig.Searches, strings.Repeat("z", 230)+string(rune('a'+i)))
			}
		}},
	}
}

// TestResolv compares what becomes a Pod's resolv.conf, and what is said of it,
// with golden files read beside the kubelet's pkg/kubelet/network/dns.
func TestResolv(t *testing.T) {
	cases := resolvCases()
	noStrays(t, "resolv", cases)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p, a := plainPod(), configAgent(t)
			c.pod(p)
			if c.noCluster {
				a.cfg.ClusterDNS = ""
			}
			said := record.NewFakeRecorder(10)
			a.events = said
			config := a.resolv(p, c.own)
			close(said.Events)
			var events []string
			for e := range said.Events {
				events = append(events, e)
			}
			golden(t, "resolv/"+name+".yaml", map[string]any{"servers": config.Servers, "searches": config.Searches, "options": config.Options, "events": events})
		})
	}
}

// TestHosts compares a Pod's /etc/hosts with golden files that were read beside
// the kubelet's (managedHostsFileContent, nodeHostsFileContent).
func TestHosts(t *testing.T) {
	cases := map[string]func(*corev1.Pod){
		"plain":        func(*corev1.Pod) {},
		"host-network": func(p *corev1.Pod) { p.Spec.HostNetwork = true },
		"hostname":     func(p *corev1.Pod) { p.Spec.Hostname = "db-0" },
		"subdomain":    func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "db-0", "db" },
		"override": func(p *corev1.Pod) {
			name := "db.example.com"
			p.Spec.HostnameOverride, p.Spec.Subdomain = &name, "db"
		},
		"long-name": func(p *corev1.Pod) { p.Name = strings.Repeat("a", 61) + "-.b" },
		"aliases": func(p *corev1.Pod) {
			p.Spec.HostAliases = []corev1.HostAlias{{IP: "192.0.2.9", Hostnames: []string{"a.example", "a"}}, {IP: "192.0.2.10", Hostnames: []string{"b"}}}
		},
		"host-network-aliases": func(p *corev1.Pod) {
			p.Spec.HostNetwork, p.Spec.HostAliases = true, []corev1.HostAlias{{IP: "192.0.2.9", Hostnames: []string{"a"}}}
		},
	}
	noStrays(t, "hosts", cases)
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			p := plainPod()
			change(p)
			golden(t, "hosts/"+name+".yaml", configAgent(t).hosts(p, []string{"10.244.0.7", "fd00::7"}, "127.0.0.1 localhost own\n"))
		})
	}
}

// An option that a Pod says takes the place of the node's, where it is said.
func TestWithOption(t *testing.T) {
	have := []string{"ndots:5", "rotate"}
	if diff := cmp.Diff([]string{"rotate", "ndots:1"}, withOption(have, "ndots:1")); diff != "" {
		t.Error(diff)
	}
	if have[0] != "ndots:5" {
		t.Errorf("the options given were changed: %q", have)
	}
}
