// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"net/netip"
)

// TestClusterIP: from a Pod and from the node, both backends are found. A Pod
// is seen by its own address, the node by the one that Pods know it by.
func TestClusterIP(t *testing.T) {
	l := newLab(t)
	a, b, client := l.pod("a"), l.pod("b"), l.pod("client")
	s, _ := web("web", "10.96.0.10", a, b)
	s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP})
	l.apply(s, sliceOf(s, "here", a, b))
	for network, addr := range map[string]string{"tcp": "10.96.0.10:80", "udp": "10.96.0.10:53"} {
		if saw := l.wants(client.netns, network, addr, "a", "b"); saw != client.ip {
			t.Errorf("%s: the Pod was seen as %s, it is %s", network, saw, client.ip)
		}
		if saw := l.wants("node", network, addr, "a", "b"); saw != l.cfg.Gateway.String() {
			t.Errorf("%s: the node was seen as %s, it is %s", network, saw, l.cfg.Gateway)
		}
		l.wants(l.outside, network, addr, "a", "b") // which has a route to the node
	}
	l.refused(client.netns, "tcp", "10.96.0.10:81")
	l.refused("node", "tcp", "10.96.0.10:81")
	l.silent(client.netns, "10.96.0.11:80")

	eps := sliceOf(s, "here", b)
	l.apply(nil, eps)
	for range 30 {
		l.wants(client.netns, "tcp", "10.96.0.10:80", "b")
	}
	l.proxy.takeService(s, nil)
	l.sync()
	l.silent(client.netns, "10.96.0.10:80")
}

// TestNoEndpoints: what nobody serves is refused at once, and only then.
func TestNoEndpoints(t *testing.T) {
	l := newLab(t)
	a, client := l.pod("a"), l.pod("client")
	s, _ := web("web", "10.96.0.10")
	s.Spec.Ports[0].NodePort = 30080
	s.Spec.ExternalIPs = []string{"203.0.113.7"}
	s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP})
	l.apply(s, sliceOf(s, "here"))
	at := []string{"10.96.0.10:80", "203.0.113.7:80", nodeOutside + ":30080"}
	for _, addr := range at {
		l.refused(client.netns, "tcp", addr)
		l.refused("node", "tcp", addr)
		l.refused(l.outside, "tcp", addr)
	}
	l.refused(client.netns, "udp", "10.96.0.10:53")
	l.apply(nil, sliceOf(s, "here", a))
	for _, addr := range at {
		for _, from := range []string{client.netns, "node", l.outside} {
			l.wants(from, "tcp", addr, "a")
		}
	}
	l.wants(client.netns, "udp", "10.96.0.10:53", "a")
}

// TestNodePort: from outside the source is the node's, so that answers come
// back this way; with the policy Local it is kept.
func TestNodePort(t *testing.T) {
	l := newLab(t)
	a, client := l.pod("a"), l.pod("client")
	s, eps := web("web", "10.96.0.10", a)
	s.Spec.Ports[0].NodePort = 30080
	l.apply(s, eps)
	addr := nodeOutside + ":30080"
	if saw := l.wants(l.outside, "tcp", addr, "a"); saw != l.cfg.Gateway.String() {
		t.Errorf("the client was seen as %s", saw)
	}
	l.wants("node", "tcp", "127.0.0.1:30080", "a")
	l.wants("node", "tcp", addr, "a")
	l.wants(client.netns, "tcp", addr, "a")
	l.wants(a.netns, "tcp", addr, "a")

	s = s.DeepCopy()
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	l.apply(s)
	if saw := l.wants(l.outside, "tcp", addr, "a"); saw != outsider {
		t.Errorf("the client was seen as %s, it is %s", saw, outsider)
	}
	l.wants("node", "tcp", "127.0.0.1:30080", "a")
	l.wants(client.netns, "tcp", addr, "a")

	// The endpoint is another node's: outsiders are to ask there, who is
	// inside may go there from here.
	eps = eps.DeepCopy()
	eps.Endpoints[0].NodeName = ptr.To("there")
	l.apply(nil, eps)
	l.silent(l.outside, addr)
	l.wants("node", "tcp", "127.0.0.1:30080", "a")
	l.wants(client.netns, "tcp", addr, "a")
	// Policy Local inside, too: the cluster IP is for none here.
	s = s.DeepCopy()
	s.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
	l.apply(s)
	l.silent(client.netns, "10.96.0.10:80")
}

// TestLoadBalancer: its address is served, also to the node and Pods, and only
// to those that may.
func TestLoadBalancer(t *testing.T) {
	l := newLab(t)
	a, client := l.pod("a"), l.pod("client")
	s, eps := web("web", "10.96.0.10", a)
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.8"}, {IP: "203.0.113.9", IPMode: ptr.To(corev1.LoadBalancerIPModeProxy)}}
	l.apply(s, eps)
	for _, from := range []string{client.netns, "node", l.outside} {
		l.wants(from, "tcp", "203.0.113.8:80", "a")
	}
	s = s.DeepCopy()
	s.Spec.LoadBalancerSourceRanges = []string{"10.244.0.0/24", "2001:db8::/32"}
	l.apply(s)
	l.wants(client.netns, "tcp", "203.0.113.8:80", "a")
	l.silent(l.outside, "203.0.113.8:80")
	l.wants(l.outside, "tcp", "10.96.0.10:80", "a")
	s = s.DeepCopy()
	s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24"}
	l.apply(s)
	l.silent(client.netns, "203.0.113.8:80")
	l.wants(l.outside, "tcp", "203.0.113.8:80", "a")
}

// TestHairpin: a Pod reaches itself through its Service.
func TestHairpin(t *testing.T) {
	l := newLab(t)
	a := l.pod("a")
	s, _ := web("web", "10.96.0.10", a)
	s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP})
	eps := sliceOf(s, "here", a)
	l.apply(s, eps)
	if saw := l.wants(a.netns, "tcp", "10.96.0.10:80", "a"); saw != l.cfg.Gateway.String() {
		t.Errorf("the Pod saw itself as %s", saw)
	}
	l.wants(a.netns, "udp", "10.96.0.10:53", "a")
}

// TestAffinity: a client stays with its backend, through each address of the
// Service and over a restart, until the backend goes.
func TestAffinity(t *testing.T) {
	l := newLab(t)
	a, b, client := l.pod("a"), l.pod("b"), l.pod("client")
	s, eps := web("web", "10.96.0.10", a, b)
	s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](7200)}}
	s.Spec.Ports[0].NodePort = 30080
	l.apply(s, eps)
	first, _, err := l.ask(client.netns, "tcp", "10.96.0.10:80")
	if err != nil {
		t.Fatal(err)
	}
	stays := func() {
		t.Helper()
		for range 20 {
			l.wants(client.netns, "tcp", "10.96.0.10:80", first)
			l.wants(client.netns, "tcp", nodeOutside+":30080", first)
		}
	}
	stays()
	out, err := exec.Command("nft", "list", "table", "ip", l.cfg.Instance).Output()
	if err != nil || !strings.Contains(string(out), client.ip+" timeout 2h expires") {
		t.Errorf("no memory of %s for 2h in %s, %v", client.ip, out, err)
	}
	l.start()
	l.apply(s, eps)
	stays()
	left := map[string]pod{"a": b, "b": a}[first]
	l.apply(nil, sliceOf(s, "here", left))
	l.wants(client.netns, "tcp", "10.96.0.10:80", left.name)
	l.apply(nil, eps)
	first = left.name
	stays()
	s = s.DeepCopy()
	s.Spec.SessionAffinity = corev1.ServiceAffinityNone
	l.apply(s)
	l.wants(client.netns, "tcp", "10.96.0.10:80", "a", "b")
}

// TestAffinityEnds: a client is free again when it has not come for as long as
// the Service says.
func TestAffinityEnds(t *testing.T) {
	l := newLab(t)
	a, b, client := l.pod("a"), l.pod("b"), l.pod("client")
	s, eps := web("web", "10.96.0.10", a, b)
	s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](1)}}
	l.apply(s, eps)
	remembered := func() bool {
		out, err := exec.CommandContext(t.Context(), "nft", "list", "table", "ip", l.cfg.Instance).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(out), client.ip+" timeout 1s")
	}
	first, _, err := l.ask(client.netns, "tcp", "10.96.0.10:80")
	if err != nil {
		t.Fatal(err)
	}
	for range 40 { // one in 2^40 runs never meets the other
		begun := time.Now()
		for remembered() {
			if time.Since(begun) > patience {
				t.Fatalf("%s is still remembered", client.ip)
			}
		}
		who, _, err := l.ask(client.netns, "tcp", "10.96.0.10:80")
		if err != nil {
			t.Fatal(err)
		}
		if who != first {
			return
		}
	}
	t.Errorf("the client never left %s", first)
}

// TestUDPFlows: a client that sends on from one socket is led away from an
// endpoint that is gone, and to the first one that comes.
func TestUDPFlows(t *testing.T) {
	l := newLab(t)
	a, b, client := l.pod("a"), l.pod("b"), l.pod("client")
	s, _ := web("web", "10.96.0.10")
	s.Spec.Ports[0] = corev1.ServicePort{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, NodePort: 30053}
	l.apply(s, sliceOf(s, "here", a))
	for _, from := range []string{client.netns, l.outside, "node"} {
		for _, addr := range []string{"10.96.0.10:53", nodeOutside + ":30053"} {
			l.apply(nil, sliceOf(s, "here", a))
			var c net.Conn
			dial := func() (err error) { c, err = net.Dial("udp", addr); return err }
			if from == "node" {
				if err := dial(); err != nil {
					t.Fatal(err)
				}
			} else {
				inNamespace(t, from, dial)
			}
			defer c.Close()
			for _, p := range []pod{a, b, a} {
				l.apply(nil, sliceOf(s, "here", p))
				if who, _, err := exchange(c); who != p.name || err != nil {
					t.Errorf("%s: answered by %q, %v; want %q", addr, who, err, p.name)
				}
			}
		}
	}
}

// TestOwnAddress: default/kubernetes, whose endpoint is its cluster IP, which
// the node holds itself.
func TestOwnAddress(t *testing.T) {
	l := newLab(t)
	client := l.pod("client")
	if err := l.net.Claim(netip.MustParseAddr("10.96.0.1")); err != nil {
		t.Fatal(err)
	}
	if err := serve(t, "api", "10.96.0.1:443"); err != nil {
		t.Fatal(err)
	}
	s, _ := web("kubernetes", "10.96.0.1")
	s.Spec.Ports[0] = corev1.ServicePort{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP}
	eps := sliceOf(s, "here", pod{ip: "10.96.0.1"})
	eps.Ports[0].Port = ptr.To[int32](443)
	eps.Endpoints[0].NodeName = nil
	l.apply(s, eps)
	if saw := l.wants(client.netns, "tcp", "10.96.0.1:443", "api"); saw != client.ip {
		t.Errorf("the Pod was seen as %s", saw)
	}
	l.wants("node", "tcp", "10.96.0.1:443", "api")
	// What the node holds answers also while no Service says so; any other
	// address of the range does not.
	if err := l.net.Claim(netip.MustParseAddr("10.96.0.10")); err != nil {
		t.Fatal(err)
	}
	if err := serve(t, "names", "10.96.0.10:53"); err != nil {
		t.Fatal(err)
	}
	l.wants(client.netns, "tcp", "10.96.0.10:53", "names")
	l.wants("node", "tcp", "10.96.0.10:53", "names")
	l.silent(client.netns, "10.96.0.11:53")
	l.refused(client.netns, "tcp", "10.96.0.1:80")
}

// TestRestart: a new process replaces the rules without a gap, whatever was
// left, and what is no more is gone.
func TestRestart(t *testing.T) {
	l := newLab(t)
	a, client := l.pod("a"), l.pod("client")
	keep, keepEps := web("keep", "10.96.0.10", a)
	lost, lostEps := web("lost", "10.96.0.11", a)
	l.apply(keep, keepEps)
	l.apply(lost, lostEps)
	l.wants(client.netns, "tcp", "10.96.0.11:80", "a")
	stop, ended := make(chan struct{}), make(chan error)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				if n < 10 {
					ended <- fmt.Errorf("only %d connections", n)
				}
				ended <- nil
				return
			default:
			}
			if _, _, err := answer("tcp", "10.96.0.10:80"); err != nil {
				ended <- fmt.Errorf("connection %d: %w", n, err)
				return
			}
		}
	}()
	for range 10 {
		l.start()
		l.apply(keep, keepEps)
		l.wants(client.netns, "tcp", "10.96.0.10:80", "a")
	}
	close(stop)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	l.silent(client.netns, "10.96.0.11:80")
}

// TestFlushed: somebody has thrown our rules away; the next change brings all
// of them back.
func TestFlushed(t *testing.T) {
	l := newLab(t)
	a, client := l.pod("a"), l.pod("client")
	s, eps := web("web", "10.96.0.10", a)
	other, otherEps := web("other", "10.96.0.11", a)
	l.apply(s, eps)
	l.apply(other, otherEps)
	if out, err := exec.Command("nft", "delete", "table", "ip", l.cfg.Instance).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	l.proxy.takeSlice(eps, sliceOf(s, "here"))
	if err := l.proxy.sync(t.Context()); err == nil {
		t.Error("the loss was not noticed")
	}
	l.sync()
	l.refused(client.netns, "tcp", "10.96.0.10:80")
	l.wants(client.netns, "tcp", "10.96.0.11:80", "a")
}
