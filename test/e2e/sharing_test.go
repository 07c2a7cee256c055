// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestContainersShareAPod: S1-S4, S7, S8, S10, S12, S14-S16, S19-S21, S38, S41.
func TestContainersShareAPod(t *testing.T) {
	t.Parallel()
	apply(t, "shared", `
		terminationGracePeriodSeconds: 1
		volumes: [{name: d, emptyDir: {}}]
		containers:
		- {name: a, image: peapod.dev/examples:1, command: [sh, -c, "echo page > /d/index.html; exec /bin/web /d"], volumeMounts: [{name: d, mountPath: /d}]}
		- {name: b, image: peapod.dev/examples:1, command: [sleep, "1000"], volumeMounts: [{name: d, mountPath: /other, readOnly: true}]}
	`)
	p := await(t, "shared", "runs", ready)
	same := func(what string, command ...string) {
		t.Helper()
		if a, b := in(t, "shared", "a", command...), in(t, "shared", "b", command...); a != b || a == "" {
			t.Errorf("%s differs: %q and %q", what, a, b)
		}
	}
	for _, ns := range []string{"net", "ipc", "uts"} {
		same(ns+" namespace", "readlink", "/proc/self/ns/"+ns)
	}
	for _, ns := range []string{"mnt", "pid"} {
		if a, b := in(t, "shared", "a", "readlink", "/proc/self/ns/"+ns), in(t, "shared", "b", "readlink", "/proc/self/ns/"+ns); a == b {
			t.Errorf("%s namespace is shared", ns)
		}
	}
	same("hostname", "hostname")
	same("hosts file", "cat", "/etc/hosts")
	// A link-local address is tentative for a moment; that is not a difference.
	same("addresses", "sh", "-c", "ip -o addr | sed 's/ tentative//'")
	if h := in(t, "shared", "a", "hostname"); h != "shared" {
		t.Errorf("hostname is %q", h)
	}
	if got := in(t, "shared", "b", "cat", "/other/index.html"); got != "page" {
		t.Errorf("volume holds %q", got)
	}
	if out, err := kubectl(t, "exec", "shared", "-c", "b", "--", "touch", "/other/x"); err == nil || !strings.Contains(out, "Read-only file system") {
		t.Errorf("a read-only mount was written: %v %s", err, out)
	}
	for _, host := range []string{"127.0.0.1", "[::1]", p.Status.PodIP} {
		if got := in(t, "shared", "b", "wget", "-qO-", "http://"+host+":8080/"); got != "page" {
			t.Errorf("http://%s: %q", host, got)
		}
	}
	in(t, "shared", "a", "sh", "-c", "echo posix > /dev/shm/f")
	if got := in(t, "shared", "b", "cat", "/dev/shm/f"); got != "posix" {
		t.Errorf("/dev/shm holds %q", got)
	}
	if conn, err := net.Dial("tcp", p.Status.PodIP+":8080"); err != nil {
		t.Errorf("node to pod: %v", err)
	} else {
		conn.Close()
	}
}

// TestPortClash: S13, S39. The second container fails alone.
func TestPortClash(t *testing.T) {
	t.Parallel()
	apply(t, "clash", `
		terminationGracePeriodSeconds: 1
		containers:
		- {name: a, image: peapod.dev/witness:1, command: [witness, serve, "8080"]}
		- {name: b, image: peapod.dev/witness:1, command: [sh, -c, "until witness ask tcp 127.0.0.1:8080; do usleep 10000; done; exec witness serve 8080"]}
	`)
	p := await(t, "clash", "b backs off", func(p *corev1.Pod) bool {
		for _, s := range p.Status.ContainerStatuses {
			if s.Name == "b" && s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff" {
				return true
			}
		}
		return false
	})
	for _, s := range p.Status.ContainerStatuses {
		if s.Name == "a" && (s.RestartCount != 0 || s.State.Running == nil) {
			t.Errorf("a was touched: %+v", s)
		}
		if s.Name == "b" && !strings.HasPrefix(s.State.Waiting.Message, "back-off 10s restarting failed container=b pod=clash_default(") {
			t.Errorf("b says %q", s.State.Waiting.Message)
		}
	}
	if out := must(t, "get", "pod", "clash", "--no-headers"); !strings.Contains(out, "CrashLoopBackOff") || !strings.Contains(out, "1/2") {
		t.Errorf("get shows %s", out)
	}
}

// TestPodsAreApart: S17-S19, S40. Own addresses, own IPC, no NAT in between.
func TestPodsAreApart(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"one", "two"} {
		apply(t, name, `
		terminationGracePeriodSeconds: 1
		containers:
		- {name: c, image: peapod.dev/witness:1, command: [sh, -c, "echo > /dev/shm/`+name+`; exec witness serve 9000"]}
		`)
	}
	a, b := await(t, "one", "runs", ready), await(t, "two", "runs", ready)
	if a.Status.PodIP == b.Status.PodIP {
		t.Fatalf("both pods have %s", a.Status.PodIP)
	}
	if got := in(t, "two", "c", "ls", "/dev/shm"); got != "two" {
		t.Errorf("/dev/shm of two holds %q", got)
	}
	if x, y := in(t, "one", "c", "readlink", "/proc/self/ns/ipc"), in(t, "two", "c", "readlink", "/proc/self/ns/ipc"); x == y {
		t.Error("two pods share an IPC namespace")
	}
	// A server sees its caller's own address, whoever calls.
	for _, network := range []string{"tcp", "udp"} {
		if got := in(t, "two", "c", "witness", "ask", network, a.Status.PodIP+":9000"); got != b.Status.PodIP {
			t.Errorf("one sees %s over %s, want two's %s", got, network, b.Status.PodIP)
		}
	}
	conn, err := net.Dial("tcp", a.Status.PodIP+":9000")
	if err != nil {
		t.Fatalf("node to pod: %v", err)
	}
	defer conn.Close()
	seen, err := io.ReadAll(conn)
	if self, _, _ := net.SplitHostPort(conn.LocalAddr().String()); err != nil || string(seen) != self {
		t.Errorf("one sees the node as %s, %v; want %s", seen, err, self)
	}
	// And a Pod reaches servers of the machine.
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			fmt.Fprint(conn, "machine")
			conn.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if got := in(t, "one", "c", "witness", "ask", "tcp", a.Status.HostIP+":"+port); got != "machine" {
		t.Errorf("the machine answers %q", got)
	}
}

// TestSemaphores: S15, S18. System V semaphores are the Pod's, and those of
// the machine only with hostIPC.
func TestSemaphores(t *testing.T) {
	t.Parallel()
	pair := func(name, more string) {
		apply(t, name, more+`terminationGracePeriodSeconds: 1
containers:
- {name: a, image: peapod.dev/witness:1, command: [sleep, "1000"]}
- {name: b, image: peapod.dev/witness:1, command: [sleep, "1000"]}
`)
	}
	const key = "1717986918"
	pair("sem-a", "")
	pair("sem-b", "")
	pair("sem-host-a", "hostIPC: true\n")
	pair("sem-host-b", "hostIPC: true\n")
	for _, name := range []string{"sem-a", "sem-b", "sem-host-a", "sem-host-b"} {
		await(t, name, "runs", ready)
	}
	in(t, "sem-a", "a", "witness", "semaphore", "make", key)
	in(t, "sem-a", "b", "witness", "semaphore", "has", key)
	for _, other := range []string{"sem-b", "sem-host-a"} {
		if out, err := kubectl(t, "exec", other, "-c", "a", "--", "witness", "semaphore", "has", key); err == nil {
			t.Errorf("%s sees a semaphore of another pod: %s", other, out)
		}
	}
	in(t, "sem-host-a", "a", "witness", "semaphore", "make", key)
	t.Cleanup(func() {
		if out, err := exec.Command(filepath.Join(c.home, "witness"), "semaphore", "remove", key).CombinedOutput(); err != nil {
			t.Errorf("the machine does not have the semaphore: %v %s", err, out)
		}
	})
	in(t, "sem-host-b", "b", "witness", "semaphore", "has", key)
}

// TestIsolation: S11. Users, read-only roots and limits are per container.
func TestIsolation(t *testing.T) {
	t.Parallel()
	apply(t, "isolated", `
		terminationGracePeriodSeconds: 1
		containers:
		- name: a
		  image: peapod.dev/examples:1
		  command: [sleep, "1000"]
		  securityContext: {runAsUser: 1234, runAsGroup: 5678, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
		  resources: {limits: {memory: 64Mi, cpu: 500m}}
		- {name: b, image: peapod.dev/examples:1, command: [sleep, "1000"]}
	`)
	p := await(t, "isolated", "runs", ready)
	if got := in(t, "isolated", "a", "id", "-u"); got != "1234" {
		t.Errorf("a runs as %s", got)
	}
	if got := in(t, "isolated", "b", "id", "-u"); got != "0" {
		t.Errorf("b runs as %s", got)
	}
	if out, err := kubectl(t, "exec", "isolated", "-c", "a", "--", "touch", "/x"); err == nil {
		t.Errorf("a wrote its read-only root: %s", out)
	}
	if got := in(t, "isolated", "a", "grep", "CapEff", "/proc/self/status"); !strings.HasSuffix(got, "0000000000000000") {
		t.Errorf("a holds %s", got)
	}
	if got := in(t, "isolated", "b", "grep", "Seccomp:", "/proc/1/status"); !strings.HasSuffix(got, "2") {
		t.Errorf("b runs without seccomp: %s", got)
	}
	if got := memoryLimit(t, p, "a"); got != "67108864" {
		t.Errorf("the memory limit of a is %s", got)
	}
	if p.Status.QOSClass != corev1.PodQOSBurstable {
		t.Errorf("QoS class %s", p.Status.QOSClass)
	}
}

// memoryLimit reads a container's limit in whatever hierarchy the machine has.
func memoryLimit(t *testing.T, p *corev1.Pod, name string) string {
	t.Helper()
	for _, s := range p.Status.ContainerStatuses {
		if s.Name != name {
			continue
		}
		id := strings.TrimPrefix(s.ContainerID, "peapod://")
		for _, pattern := range []string{"/sys/fs/cgroup/memory/*/kubepods/*/*/%s/memory.limit_in_bytes", "/sys/fs/cgroup/*/kubepods/*/*/%s/memory.max"} {
			if found, _ := filepath.Glob(fmt.Sprintf(pattern, id)); len(found) == 1 {
				b, err := os.ReadFile(found[0])
				if err != nil {
					t.Fatal(err)
				}
				return strings.TrimSpace(string(b))
			}
		}
	}
	return "not found"
}

// TestOOM: only the container that took too much ends, and says why.
func TestOOM(t *testing.T) {
	t.Parallel()
	apply(t, "oom", `
		restartPolicy: Never
		terminationGracePeriodSeconds: 1
		containers:
		- name: hog
		  image: peapod.dev/examples:1
		  command: [sh, -c, "exec tail /dev/zero"]
		  resources: {limits: {memory: 32Mi}}
		- {name: calm, image: peapod.dev/examples:1, command: [sleep, "1000"]}
	`)
	// The hog may be dead before its neighbour has begun.
	p := await(t, "oom", "hog is killed and calm has begun", func(p *corev1.Pod) bool {
		killed, begun := false, false
		for _, s := range p.Status.ContainerStatuses {
			killed = killed || s.Name == "hog" && s.State.Terminated != nil
			begun = begun || s.Name == "calm" && s.State.Waiting == nil
		}
		return killed && begun
	})
	for _, s := range p.Status.ContainerStatuses {
		if s.Name == "hog" && (s.State.Terminated.Reason != "OOMKilled" || s.State.Terminated.ExitCode != 137) {
			t.Errorf("hog ended as %+v", s.State.Terminated)
		}
		if s.Name == "calm" && s.State.Running == nil {
			t.Errorf("calm is %+v", s.State)
		}
	}
}
