// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/peapod/peapod/test/hosts"
)

// machines starts a cluster of hosts, m1 with the control plane, and ends it with
// the test. links says on which of several switches each is.
func machines(t *testing.T, links ...int) []*cluster {
	t.Helper()
	lans := map[int]*hosts.Switch{}
	for _, link := range links {
		if lans[link] != nil {
			continue
		}
		lan, err := hosts.NewSwitch(fmt.Sprintf("peae2e%d", link), netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 203, byte(link), 0}), 24))
		if err != nil {
			t.Fatal(err)
		}
		lans[link] = lan
		t.Cleanup(func() {
			if err := lan.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	var all []*cluster
	for i, link := range links {
		all = append(all, newMachine(t, lans[link], fmt.Sprintf("m%d", i+1), all))
	}
	return all
}

// newMachine makes one, and joins it to the first.
func newMachine(t *testing.T, lan *hosts.Switch, name string, before []*cluster) *cluster {
	t.Helper()
	host, err := lan.Add()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "pea")
	if err != nil {
		t.Fatal(err)
	}
	flags := []string{"--node-name", name, "--listen", host.Address.String() + ":6443", "--pod-cidr", "10.204.0.0/22", "--service-cidr", "10.205.0.0/16"}
	if len(before) > 0 {
		line, err := before[0].peapod("token", "create")
		words := strings.Fields(line)
		if err != nil || len(words) < 2 {
			t.Fatalf("peapod token create: %v\n%s", err, line)
		}
		flags = append([]string{"--node-name", name}, words[2:]...) // after "peapod up"
	}
	x, err := newCluster(dir, flags...)
	if err != nil {
		t.Fatal(err)
	}
	x.host, x.member = host, len(before) > 0
	t.Cleanup(func() {
		if err := x.down(); err != nil {
			t.Error(err)
		}
	})
	if err := x.importImages(); err != nil {
		t.Fatal(err)
	}
	if err := x.start(); err != nil {
		t.Fatal(err)
	}
	return x
}

// must is kubectl against x that has to succeed.
func (x *cluster) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := x.run(t, "", args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(out)
}

// webs runs a web server w1, w2, ... on each machine m1, m2, ..., behind the
// Service w. A port tells who calls, and the second machine has a host port.
const webs = `
apiVersion: v1
kind: Service
metadata: {name: w}
spec: {selector: {app: w}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: w1, labels: {app: w}}
spec:
  nodeName: m1
  hostname: w1
  terminationGracePeriodSeconds: 1
  containers:
  - {name: web, image: peapod.dev/examples:1, command: [sh, -c, "echo began; mkdir /w; hostname >/w/index.html; dd if=/dev/urandom of=/w/large bs=1M count=3 2>/dev/null; exec httpd -f -p 8080 -h /w"]}
  - {name: who, image: peapod.dev/witness:1, command: [witness, serve, "9000"]}
---
apiVersion: v1
kind: Pod
metadata: {name: w2, labels: {app: w}}
spec:
  nodeName: m2
  hostname: w2
  terminationGracePeriodSeconds: 1
  containers:
  - {name: web, image: peapod.dev/examples:1, ports: [{containerPort: 8080, hostPort: 8081}], command: [sh, -c, "echo began; mkdir /w; hostname >/w/index.html; dd if=/dev/urandom of=/w/large bs=1M count=3 2>/dev/null; exec httpd -f -p 8080 -h /w"]}
  - {name: who, image: peapod.dev/witness:1, command: [witness, serve, "9000"]}
`

// flat shows that Pods of all machines reach each other, Services and names, and
// that streams come to the right machine.
func flat(t *testing.T, first *cluster, second *hosts.Host) {
	t.Helper()
	if out, err := first.run(t, webs, "apply", "-f", "-"); err != nil {
		t.Fatalf("apply: %v\n%s", err, out)
	}
	first.must(t, "wait", "--for=condition=Ready", "pod/w1", "pod/w2", "--timeout=60s")
	address := func(pod string) string { return first.must(t, "get", "pod", pod, "-o", "jsonpath={.status.podIP}") }
	in := func(pod, container string, command ...string) string {
		return first.must(t, append([]string{"exec", pod, "-c", container, "--"}, command...)...)
	}
	for from, to := range map[string]string{"w1": "w2", "w2": "w1"} {
		if got := in(from, "web", "wget", "-qO-", "http://"+address(to)+":8080/"); got != to {
			t.Errorf("%s gets %q from %s", from, got, to)
		}
		if got := in(from, "who", "witness", "ask", "tcp", address(to)+":9000"); got != address(from) {
			t.Errorf("%s sees %s as %s, want its own address %s", to, from, got, address(from))
		}
		// More than any packet holds: the MTU is right all the way.
		want := in(to, "web", "md5sum", "/w/large")
		if got := in(from, "web", "sh", "-c", "wget -qO- http://"+address(to)+":8080/large | md5sum"); strings.Fields(got)[0] != strings.Fields(want)[0] {
			t.Errorf("%s gets %s of %s from %s", from, got, want, to)
		}
		// Of 40 draws among two none is missed.
		if got := in(from, "web", "sh", "-c", "for i in $(seq 40); do wget -qO- http://w.default.svc.cluster.local/; done | sort -u"); got != "w1\nw2" {
			t.Errorf("%s reaches %q behind the Service, want both", from, got)
		}
		if got := in(from, "web", "sh", "-c", "echo | nc -w 5 10.205.0.1 443 && echo reached"); got != "reached" {
			t.Errorf("%s does not reach the API: %q", from, got)
		}
		if got := in(from, "web", "wget", "-qO-", "http://"+second.Address.String()+":8081/"); got != "w2" {
			t.Errorf("%s gets %q from the host port", from, got)
		}
	}
	if got := first.must(t, "logs", "w2", "-c", "web", "--limit-bytes=5"); got != "began" {
		t.Errorf("logs of w2: %q", got)
	}
	for path, want := range map[string]string{"/api/v1/nodes/m2/proxy/healthz": "ok", "/api/v1/namespaces/default/pods/w2:8080/proxy/": "w2"} {
		if got := first.must(t, "get", "--raw", path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	forwarded(t, first, "w2")
}

// forwarded reads a Pod's page through port-forward.
func forwarded(t *testing.T, x *cluster, pod string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	forward := x.command(ctx, "port-forward", "pod/"+pod, ":8080")
	out, err := forward.StdoutPipe()
	if err == nil {
		err = forward.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = forward.Wait() }()
	line, err := bufio.NewReader(out).ReadString('\n')
	var port int
	if _, scanned := fmt.Sscanf(line, "Forwarding from 127.0.0.1:%d", &port); scanned != nil {
		t.Fatalf("port-forward says %q, %v", line, err)
	}
	answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil {
		t.Fatalf("through port-forward: %v", err)
	}
	defer answer.Body.Close()
	if body, err := io.ReadAll(answer.Body); strings.TrimSpace(string(body)) != pod {
		t.Errorf("through port-forward: %q, %v", body, err)
	}
}

// TestTwoMachines: S17, S19, S40 over a link that both are on.
func TestTwoMachines(t *testing.T) {
	all := machines(t, 0, 0)
	flat(t, all[0], all[1].host)
	routes, err := all[0].host.Command(t.Context(), "ip", "route").CombinedOutput()
	if want := "10.204.4.0/22 via 10.203.0.2 dev eth0"; err != nil || !strings.Contains(string(routes), want) {
		t.Errorf("the way to m2 is not %q: %v\n%s", want, err, routes)
	}
}

// TestMachinesBehindARouter: the same where a router knows nothing of Pods.
func TestMachinesBehindARouter(t *testing.T) {
	all := machines(t, 0, 1)
	flat(t, all[0], all[1].host)
	routes, err := all[0].host.Command(t.Context(), "ip", "route").CombinedOutput()
	if err != nil || !strings.Contains(string(routes), "10.204.4.0/22 via 10.204.4.1 dev pea") {
		t.Errorf("the way to m2 is not the overlay: %v\n%s", err, routes)
	}
}
