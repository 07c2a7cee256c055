// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
)

// balanced is a Service that a load balancer asks about at a port, with one
// endpoint here and one elsewhere.
func balanced(port int32) (*corev1.Service, *discoveryv1.EndpointSlice) {
	s, slice := web("web", "10.96.0.10", pod{ip: "10.244.0.7"}, pod{ip: "10.245.0.8"})
	s.Spec.Type, s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal, port
	slice.Endpoints[0].NodeName, slice.Endpoints[1].NodeName = ptr.To("here"), ptr.To("there")
	return s, slice
}

// asked is what the port of a Service answers: status, weight, body.
func asked(t *testing.T, port int32) (int, string, string) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, r.Header.Get("X-Load-Balancing-Endpoint-Weight"), string(b)
}

// TestHealthCheck asks as a load balancer does while a Service changes.
func TestHealthCheck(t *testing.T) {
	l := newLab(t)
	t.Cleanup(l.proxy.checks.close)
	s, slice := balanced(32100)
	l.apply(s, slice)
	const text = "{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 1,\n\t\"serviceProxyHealthy\": true\n}"
	if code, weight, body := asked(t, 32100); code != 200 || weight != "1" || body != text {
		t.Errorf("with an endpoint: %d, weight %s, %s", code, weight, body)
	}
	l.proxy.checks.setHealthy(false)
	if code, _, body := asked(t, 32100); code != 503 || !strings.Contains(body, `"serviceProxyHealthy": false`) {
		t.Errorf("with old rules: %d, %s", code, body)
	}
	gone := slice.DeepCopy()
	gone.Endpoints[0].Conditions.Ready = ptr.To(false)
	l.apply(nil, gone)
	if code, weight, _ := asked(t, 32100); code != 503 || weight != "0" {
		t.Errorf("without an endpoint: %d, weight %s", code, weight)
	}
	moved := s.DeepCopy()
	moved.Spec.HealthCheckNodePort = 32101
	l.apply(moved)
	if code, _, _ := asked(t, 32101); code != 503 {
		t.Errorf("at another port: %d", code)
	}
	// Whoever has the port does not keep it from the Service for ever.
	other, err := net.Listen("tcp", ":32100")
	if err != nil {
		t.Fatalf("the former port is in use: %v", err)
	}
	said := record.NewFakeRecorder(1)
	l.proxy.cfg.Events = said
	l.proxy.takeService(moved, s)
	if err := l.proxy.sync(t.Context()); err == nil {
		t.Error("a port in use is no error")
	}
	if got := <-said.Events; !strings.HasPrefix(got, `Warning FailedToStartServiceHealthcheck node here failed to start healthcheck "default/web" on port 32100: `) {
		t.Errorf("said %s", got)
	}
	other.Close()
	l.sync()
	if code, _, _ := asked(t, 32100); code != 503 {
		t.Errorf("after it is free: %d", code)
	}
	cluster := s.DeepCopy()
	cluster.Spec.ExternalTrafficPolicy, cluster.Spec.HealthCheckNodePort = corev1.ServiceExternalTrafficPolicyCluster, 0
	l.apply(cluster)
	if c, err := net.Dial("tcp", "127.0.0.1:32100"); err == nil {
		c.Close()
		t.Error("the port is open without need")
	}
}
