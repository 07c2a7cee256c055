// SPDX-License-Identifier: Apache-2.0

package service

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// health is what a load balancer asks a node about a Service, at its health
// check node port: whether the node has endpoints of it.
type health struct {
	port  int32
	local int // ready endpoints of this node
}

// health is that of a Service, or nil for one that no load balancer asks about.
func (w site) health(s *corev1.Service, slices []*discoveryv1.EndpointSlice) *health {
	_, ours := w.clusterIP(s)
	if !ours || s.Spec.Type != corev1.ServiceTypeLoadBalancer || s.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal || s.Spec.HealthCheckNodePort == 0 {
		return nil
	}
	here := map[string]bool{}
	for _, port := range s.Spec.Ports {
		for _, e := range w.endpoints(slices, port) {
			if e.ready && e.local {
				here[e.at.Addr().String()] = true
			}
		}
	}
	return &health{s.Spec.HealthCheckNodePort, len(here)}
}

// checks are the servers of the health check node ports.
type checks struct {
	running sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	healthy bool       // the kernel has what the Services say
	served  map[string]*check
}

// check answers for one Service.
type check struct {
	port   int32
	local  int
	server *http.Server
}

// setHealthy says whether the rules are up to date.
func (c *checks) setHealthy(healthy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.healthy = healthy
}

// set makes the check of a Service what it should be; nil is none.
func (c *checks) set(name string, want *health) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	have := c.served[name]
	if have != nil && (want == nil || want.port != have.port) {
		delete(c.served, name)
		have.server.Close()
		have = nil
	}
	if want == nil {
		return nil
	}
	if have == nil {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", want.port))
		if err != nil {
			return err
		}
		have = &check{port: want.port, server: &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { c.answer(w, name) })}}
		c.served[name] = have
		// Only Close ends it, and that is how a stop looks.
		c.running.Go(func() { _ = have.server.Serve(l) })
	}
	have.local = want.local
	return nil
}

// answer is kube-proxy's, to the letter.
func (c *checks) answer(w http.ResponseWriter, name string) {
	c.mu.Lock()
	local, healthy := 0, c.healthy
	if have := c.served[name]; have != nil {
		local = have.local
	}
	c.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(local))
	if local == 0 || !healthy {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	namespace, service, _ := strings.Cut(name, "/")
	fmt.Fprintf(w, "{\n\t\"service\": {\n\t\t\"namespace\": %q,\n\t\t\"name\": %q\n\t},\n\t\"localEndpoints\": %d,\n\t\"serviceProxyHealthy\": %v\n}", namespace, service, local, healthy)
}

// close ends all servers and waits until they have ended.
func (c *checks) close() {
	c.mu.Lock()
	for name, have := range c.served {
		delete(c.served, name)
		have.server.Close()
	}
	c.mu.Unlock()
	c.running.Wait()
}

// check serves the health check node ports of Services that were looked at. One
// that cannot be served is told in an event, and looked at again.
func (p *Proxy) check(want map[string]*health) error {
	var errs []error
	for name, h := range want {
		err := p.checks.set(name, h)
		if err == nil {
			continue
		}
		p.mu.Lock()
		s := p.services[name]
		p.dirty[name] = true
		p.mu.Unlock()
		if s != nil && p.cfg.Events != nil {
			p.cfg.Events.Eventf(s, corev1.EventTypeWarning, "FailedToStartServiceHealthcheck", "node %s failed to start healthcheck %q on port %d: %v", p.cfg.NodeName, name, h.port, err)
		}
		errs = append(errs, fmt.Errorf("cannot serve the health check of service %s: %w", name, err))
	}
	return errors.Join(errs...)
}
