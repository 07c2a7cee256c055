// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/test/machine"
)

const webManifest = `
apiVersion: v1
kind: ReplicationController
metadata: {name: served}
spec:
  replicas: 2
  selector: {app: served}
  template:
    metadata: {labels: {app: served}}
    spec:
      terminationGracePeriodSeconds: 5
      volumes: [{name: w, hostPath: {path: %s}}]
      containers:
      - name: c
        image: ` + witnessImage + `
        command: [witness, web, "8080", "4000", /w]
        volumeMounts: [{name: w, mountPath: /w}]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: served}
spec:
  selector: {app: served}
  ports: [{port: 80, targetPort: 8080}]
`

// TestServiceDrain: S86, S88, K28. Two Pods answer on a Service's address, to a
// Pod and to the node, without end. One is deleted and takes its time: its
// slice says so, the rules lose it, then it is asked to end; no connection
// begun after that reaches it, and none fails at any time.
func TestServiceDrain(t *testing.T) {
	t.Parallel()
	pods := &witness{"served", t.TempDir()}
	if out, err := kubectlIn(t, fmt.Sprintf(webManifest, pods.dir), "apply", "-f", "-"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	removeLater(t, "pod", "-l", "app=served")
	removeLater(t, "rc/served", "service/served")
	must(t, "wait", "--for=jsonpath={.status.readyReplicas}=2", "rc/served", "--timeout=60s")
	address := must(t, "get", "service", "served", "-o", "jsonpath={.spec.clusterIP}") + ":80"
	names := strings.Fields(must(t, "get", "pods", "-l", "app=served", "-o", "jsonpath={.items[*].metadata.name}"))
	caller := testify(t, "caller", 2, container{name: "pod", program: "exec witness call " + address + " $0"})
	node := callFromNode(t, caller.dir, address)
	for _, from := range []string{"pod", node} {
		for _, name := range names {
			eventually(t, name+" answers", func() bool { return len(caller.at(t, from, name)) > 0 })
		}
	}

	victim := names[0]
	lost := elementLost(t, getPod(t, victim).Status.PodIP)
	deleted := moment(t)
	del(t, victim, 5)
	left := <-lost
	t.Logf("t(rule gone) - t(DELETE): %d ms", left-deleted)
	eventually(t, "the slice says that it is ending", func() bool { return conditions(t, victim) == "ready=false serving=true terminating=true" })
	gone(t, victim)
	must(t, "wait", "--for=jsonpath={.status.readyReplicas}=2", "rc/served", "--timeout=60s")
	names = strings.Fields(must(t, "get", "pods", "-l", "app=served", "-o", "jsonpath={.items[*].metadata.name}"))
	asked := pods.once(t, victim, "SIGTERM")
	t.Logf("t(TERM) - t(DELETE): %d ms", asked-deleted)
	for _, from := range []string{"pod", node} {
		for _, name := range names {
			eventually(t, name+" answers", func() bool { return len(caller.at(t, from, name)) > 0 })
		}
		calls := caller.at(t, from, victim)
		if last := slices.Max(calls); last > left || last > asked {
			t.Errorf("%s reached the Pod %d ms after its rule was gone and %d ms after its TERM", from, last-left, last-asked)
		} else {
			t.Logf("t(last call from the %s) - t(DELETE): %d ms", from, last-deleted)
		}
		if caller.has(from, "failed") {
			i := strings.Index(caller.text(from), "failed")
			t.Errorf("a call from the %s failed: %.200s", from, caller.text(from)[i:])
		}
	}
}

// callFromNode calls as a process of the machine, until the test ends.
func callFromNode(t *testing.T, dir, address string) (file string) {
	t.Helper()
	cmd := exec.Command(c.home+"/witness", "call", address, dir+"/node")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	})
	return "node"
}

// elementLost tells when the kernel reports that the backends of Services have
// lost an address.
func elementLost(t *testing.T, ip string) <-chan int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	cmd := exec.CommandContext(ctx, "nft", "monitor")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lost := make(chan int64, 1)
	begun := make(chan struct{})
	go func() {
		defer close(lost)
		lines := bufio.NewScanner(out)
		for listening := false; lines.Scan(); {
			if !listening {
				listening = true
				close(begun)
			}
			if l := lines.Text(); strings.HasPrefix(l, "delete element ip "+machine.Instance(c.dir)+" svc-backends-tcp") && strings.Contains(l, ": "+ip+" . 8080") {
				lost <- moment(t)
				return
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		for range lost {
		}
		_ = cmd.Wait() // killed
	})
	// It listens when it reports something: a table that comes and goes.
	probe := machine.Instance(c.dir) + "-monitored"
	eventually(t, "the kernel's reports are heard", func() bool {
		if out, err := exec.Command("nft", "add table ip "+probe+"; delete table ip "+probe).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		select {
		case <-begun:
			return true
		case <-time.After(50 * time.Millisecond):
			return false
		}
	})
	return lost
}

// conditions are those of a Pod in its Service's slice.
func conditions(t *testing.T, pod string) string {
	t.Helper()
	slices, err := c.client.DiscoveryV1().EndpointSlices("default").List(t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=served"})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range slices.Items {
		for _, e := range s.Endpoints {
			if e.TargetRef != nil && e.TargetRef.Name == pod {
				return fmt.Sprintf("ready=%t serving=%t terminating=%t", *e.Conditions.Ready, *e.Conditions.Serving, *e.Conditions.Terminating)
			}
		}
	}
	return "not there"
}

// TestServiceOutlivesTheProgram: Services serve on while the program is dead,
// and while its next start replaces their rules; `down` takes them away.
func TestServiceOutlivesTheProgram(t *testing.T) {
	x := second(t, nil)
	run := func(args ...string) string {
		t.Helper()
		out, err := x.run(t, "", args...)
		if err != nil {
			t.Fatalf("%v %s", err, out)
		}
		return out
	}
	if out, err := x.peapod("image", "import", c.home+"/witness.tar"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	run("run", "web", "--image="+witnessImage, "--port=8080", "--expose", "--command", "--", "witness", "web", "8080", "0", "/")
	run("wait", "--for=condition=Ready", "pod/web", "--timeout=30s")
	address := run("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}") + ":8080"
	caller := &witness{"caller", t.TempDir()}
	file := callFromNode(t, caller.dir, address)
	answers := func() int { return strings.Count(caller.text(file), "\nweb ") }
	goesOn := func(what string) {
		t.Helper()
		n := answers()
		eventually(t, "calls are answered "+what, func() bool { return answers() > n+20 })
	}
	eventually(t, "the Pod answers", func() bool { return answers() > 0 })
	first := len(caller.text(file)) // it may have been called before its rule was there
	x.stop(syscall.SIGKILL)
	goesOn("without the program")
	if err := x.start(); err != nil {
		t.Fatal(err)
	}
	goesOn("after its start")
	if after := caller.text(file)[first:]; strings.Contains(after, "failed") {
		t.Errorf("a call failed: %.200s", after[strings.Index(after, "failed"):])
	}
	run("delete", "pod/web", "service/web", "--now")
	eventually(t, "the rules are gone", func() bool {
		return !strings.Contains(strings.Join(machine.Tables(x.dir), "\n"), strings.Split(address, ":")[0])
	})
}
