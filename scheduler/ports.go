// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/peapod/peapod/api/pod"
)

const portsTaken = "node(s) didn't have free ports for the requested pod ports"

// hostPorts are ports of the node that Pods ask for; each is given once.
var hostPorts = rule{
	refuse: func(w *wish, i *nodeInfo) []reason {
		for _, want := range w.ports {
			for taken := range i.ports {
				if want.clashes(taken) {
					return []reason{{text: portsTaken}}
				}
			}
		}
		return nil
	},
	cures: func(w *wish, c any) bool {
		switch c := c.(type) {
		case nodeChange:
			return c.old == nil
		case podLeft:
			return slices.ContainsFunc(w.ports, func(want hostPort) bool { return slices.ContainsFunc(c.ports, want.clashes) })
		}
		return false
	},
}

type hostPort struct {
	ip       string
	protocol corev1.Protocol
	port     int32
}

// anyAddress is what a port without an address asks for.
const anyAddress = "0.0.0.0"

// clashes: the same port of the same address, where no address is all of them.
func (a hostPort) clashes(b hostPort) bool {
	return a.port == b.port && a.protocol == b.protocol && (a.ip == b.ip || a.ip == anyAddress || b.ip == anyAddress)
}

// portsOf are the host ports of a Pod's life: those of its containers and
// sidecars. An init container that ends holds none.
func portsOf(p *corev1.Pod) (out []hostPort) {
	take := func(c *corev1.Container) {
		for _, port := range c.Ports {
			if port.HostPort > 0 {
				out = append(out, hostPort{cmp.Or(port.HostIP, anyAddress), cmp.Or(port.Protocol, corev1.ProtocolTCP), port.HostPort})
			}
		}
	}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; pod.Sidecar(c) {
			take(c)
		}
	}
	for i := range p.Spec.Containers {
		take(&p.Spec.Containers[i])
	}
	return out
}
