// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// HostPort is a port of the machine that a Pod wants for itself.
type HostPort struct {
	IP       string // "0.0.0.0" is every address
	Protocol corev1.Protocol
	Port     int32
}

// HostPorts are those of all its containers: init containers may be sidecars.
func HostPorts(p *corev1.Pod) (out []HostPort) {
	for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for _, c := range list {
			for _, port := range c.Ports {
				if port.HostPort <= 0 {
					continue
				}
				h := HostPort{port.HostIP, port.Protocol, port.HostPort}
				if h.IP == "" {
					h.IP = allAddresses
				}
				if h.Protocol == "" {
					h.Protocol = corev1.ProtocolTCP
				}
				out = append(out, h)
			}
		}
	}
	return out
}

const allAddresses = "0.0.0.0"

// PortsClash says whether two Pods want the same port of one address.
func PortsClash(a, b *corev1.Pod) bool {
	wanted := HostPorts(a)
	return len(wanted) > 0 && slices.ContainsFunc(HostPorts(b), func(x HostPort) bool {
		return slices.ContainsFunc(wanted, func(y HostPort) bool {
			return x.Port == y.Port && x.Protocol == y.Protocol && (x.IP == y.IP || x.IP == allAddresses || y.IP == allAddresses)
		})
	})
}
