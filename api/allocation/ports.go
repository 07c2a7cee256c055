// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// nodePort is a port of the nodes and its protocol.
type nodePort struct {
	Protocol corev1.Protocol
	Port     int32
}

func portPath(i int) *field.Path {
	return field.NewPath("spec", "ports").Index(i).Child("nodePort")
}

// newNodePorts gives a new Service its node ports. Ports of one number and
// different protocols share theirs.
func newNodePorts(s *corev1.Service, b *Book) error {
	shared := map[int32]int32{}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort == 0 && !wantsNodePorts(s) {
			continue
		}
		have := shared[p.Port]
		switch asked := askedFor(p.Port, s); {
		case have != 0 && p.NodePort == 0:
			p.NodePort = have
			continue
		case have != 0 && p.NodePort == have:
			continue
		case have != 0:
			if err := b.takePort(p.NodePort); err != nil {
				return refuse(s, field.Invalid(portPath(i), p.NodePort, err.Error()))
			}
			continue
		case asked != 0:
			if err := b.takePort(asked); err != nil {
				return refuse(s, field.Invalid(portPath(i), asked, err.Error()))
			}
			p.NodePort = asked
		default:
			if err := anyNodePort(p, b); err != nil {
				return err
			}
		}
		shared[p.Port] = p.NodePort
	}
	return nil
}

// askedFor is the first node port that is named for a port's number.
func askedFor(port int32, s *corev1.Service) int32 {
	for _, p := range s.Spec.Ports {
		if p.Port == port && p.NodePort != 0 {
			return p.NodePort
		}
	}
	return 0
}

// nodePorts gives a changed Service the node ports it did not have.
func nodePorts(s, old *corev1.Service, b *Book) error {
	held := portsOf(old)
	var taken []int32
	var all []nodePort
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		if p.NodePort == 0 {
			if !wantsNodePorts(s) {
				continue
			}
			if err := anyNodePort(p, b); err != nil {
				return err
			}
		} else if !slices.Contains(held, p.NodePort) && !slices.Contains(taken, p.NodePort) {
			if err := b.takePort(p.NodePort); err != nil {
				return refuse(s, field.Invalid(portPath(i), p.NodePort, err.Error()))
			}
			taken = append(taken, p.NodePort)
		}
		n := nodePort{p.Protocol, p.NodePort}
		if slices.Contains(all, n) {
			return fmt.Errorf("duplicate nodePort: %v", n)
		}
		all = append(all, n)
	}
	return nil
}

func anyNodePort(p *corev1.ServicePort, b *Book) (err error) {
	if p.NodePort, err = b.anyPort(); err != nil {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
	}
	return nil
}

// healthPort gives a Service the node port on which load balancers ask for its
// health.
func healthPort(s *corev1.Service, b *Book) (err error) {
	n := &s.Spec.HealthCheckNodePort
	if *n != 0 {
		if err := b.takePort(*n); err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate requested HealthCheck NodePort %v: %w", *n, err))
		}
		return nil
	}
	if *n, err = b.anyPort(); err != nil {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a HealthCheck NodePort %v: %w", *n, err))
	}
	return nil
}
