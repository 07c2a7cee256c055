// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"cmp"

	corev1 "k8s.io/api/core/v1"
)

// HostPort is a port of the machine that a Pod wants for itself.
type HostPort struct {
	IP       string // anyAddress is every one
	Protocol corev1.Protocol
	Port     int32
}

// anyAddress is what a port without an address asks for.
const anyAddress = "0.0.0.0"

// Clashes: the same port of the same address, where no address is all of them.
func (a HostPort) Clashes(b HostPort) bool {
	return a.Port == b.Port && a.Protocol == b.Protocol && (a.IP == b.IP || a.IP == anyAddress || b.IP == anyAddress)
}

// HostPorts are those of a Pod's life: of its containers and sidecars. An init
// container that ends holds none.
func HostPorts(p *corev1.Pod) (out []HostPort) {
	take := func(c *corev1.Container) {
		for _, port := range c.Ports {
			if port.HostPort > 0 {
				out = append(out, HostPort{cmp.Or(port.HostIP, anyAddress), cmp.Or(port.Protocol, corev1.ProtocolTCP), port.HostPort})
			}
		}
	}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; Sidecar(c) {
			take(c)
		}
	}
	for i := range p.Spec.Containers {
		take(&p.Spec.Containers[i])
	}
	return out
}
