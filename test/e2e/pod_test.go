// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/test/machine"
)

func sleeper(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{TerminationGracePeriodSeconds: ptr.To(int64(1)), Containers: []corev1.Container{{Name: "c", Image: image, Command: []string{"sleep", "1000"}}}},
	}
}

// TestAddressesAreDistinct: S17, S93. A name is forced away and taken again a
// hundred times; no two Pods that live, the dying ones among them, ever have
// one address, and nothing is left of any.
func TestAddressesAreDistinct(t *testing.T) {
	t.Parallel()
	pods := c.client.CoreV1().Pods("default")
	var mu sync.Mutex // guards uids
	var uids []types.UID
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			name := fmt.Sprintf("again-%d", w)
			for range 25 {
				p, err := pods.Create(t.Context(), sleeper(name), metav1.CreateOptions{})
				if err != nil {
					t.Errorf("the name is not free: %v", err)
					return
				}
				mu.Lock()
				uids = append(uids, p.UID)
				mu.Unlock()
				await(t, name, "runs", running)
				if err := pods.Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))}); err != nil {
					t.Errorf("cannot force: %v", err)
					return
				}
				// The addresses the machine's links lead to, dying Pods' too.
				if twice := doubled(routes(t)); twice != "" {
					t.Errorf("address %s leads to two pods", twice)
				}
			}
		})
	}
	all.Wait()
	for _, uid := range uids {
		eventually(t, "nothing is left of a forced pod", func() bool { return len(leftovers(t, uid)) == 0 })
	}
}

// routes are the single addresses that lead to a link of this node.
func routes(t *testing.T) (out []string) {
	t.Helper()
	b, err := os.ReadFile("/proc/net/route")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range strings.Split(string(b), "\n") {
		if f := strings.Fields(l); len(f) > 7 && strings.HasPrefix(f[0], "pea") && f[7] == "FFFFFFFF" {
			out = append(out, f[1])
		}
	}
	return out
}

func doubled(list []string) string {
	seen := map[string]bool{}
	for _, s := range list {
		if seen[s] {
			return s
		}
		seen[s] = true
	}
	return ""
}

// TestDeadline: S34. activeDeadlineSeconds ends all containers.
func TestDeadline(t *testing.T) {
	t.Parallel()
	apply(t, "deadline", "activeDeadlineSeconds: 2\nterminationGracePeriodSeconds: 1\ncontainers:\n- {name: a, image: "+image+", command: [sleep, '1000']}\n- {name: b, image: "+image+", command: [sleep, '1000']}\n")
	p := await(t, "deadline", "fails", phase(corev1.PodFailed))
	if p.Status.Reason != "DeadlineExceeded" || p.Status.Message != "Pod was active on the node longer than the specified deadline" {
		t.Errorf("reason %q, message %q", p.Status.Reason, p.Status.Message)
	}
	p = await(t, "deadline", "has ended whole", func(p *corev1.Pod) bool {
		for _, s := range p.Status.ContainerStatuses {
			if s.State.Terminated == nil {
				return false
			}
		}
		return len(p.Status.ContainerStatuses) == 2
	})
	if alive := processesOf(p.UID); len(alive) > 0 {
		t.Errorf("alive: %v", alive)
	}
}

// TestHostnames: S41. What a Pod is called inside.
func TestHostnames(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 62) + ".b" + strings.Repeat("c", 16)
	for name, x := range map[string]struct{ spec, host, fqdn string }{
		"plain-name":   {"", "plain-name", "plain-name"},
		long:           {"", strings.Repeat("a", 62), strings.Repeat("a", 62)},
		"own-hostname": {"hostname: mine\n", "mine", "mine"},
		"subdomain":    {"hostname: mine\nsubdomain: sub\n", "mine", "mine.sub.default.svc.cluster.local"},
		"as-fqdn":      {"hostname: mine\nsubdomain: sub\nsetHostnameAsFQDN: true\n", "mine.sub.default.svc.cluster.local", "mine.sub.default.svc.cluster.local"},
		"override":     {"hostnameOverride: other.example.com\n", "other.example.com", "other.example.com"},
	} {
		apply(t, name, x.spec+"terminationGracePeriodSeconds: 1\ncontainers: [{name: c, image: "+image+", command: [sleep, '1000']}]\n")
		p := await(t, name, "runs", ready)
		if got := in(t, name, "c", "hostname"); got != x.host {
			t.Errorf("%s is called %q, want %q", name, got, x.host)
		}
		if hosts := in(t, name, "c", "cat", "/etc/hosts"); !strings.Contains(hosts, p.Status.PodIP+"\t"+x.fqdn) {
			t.Errorf("%s: no %q in %s", name, x.fqdn, hosts)
		}
	}
}

// TestRestartsKeepThePod: S25, S29, S42. Three ends of the container: the same
// UID, address, node and volumes.
func TestRestartsKeepThePod(t *testing.T) {
	t.Parallel()
	apply(t, "restarts", `
		terminationGracePeriodSeconds: 1
		volumes: [{name: d, emptyDir: {}}]
		containers: [{name: c, image: peapod.dev/examples:1, command: [sh, -c, "echo life >> /d/lives; exec sleep 1000"], volumeMounts: [{name: d, mountPath: /d}]}]
	`)
	first := await(t, "restarts", "runs", ready)
	for n := int32(1); n <= 3; n++ {
		before := getPod(t, "restarts").Status.ContainerStatuses[0].ContainerID
		pid := mainProcess(t, first.UID)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		p := await(t, "restarts", "runs again", func(p *corev1.Pod) bool {
			s := p.Status.ContainerStatuses[0]
			return s.RestartCount == n && s.State.Running != nil
		})
		last := p.Status.ContainerStatuses[0].LastTerminationState.Terminated
		if last == nil || last.ExitCode != 137 || last.Reason != "Error" || last.ContainerID != before {
			t.Errorf("restart %d: last state %+v", n, last)
		}
		if p.UID != first.UID || p.Status.PodIP != first.Status.PodIP || p.Spec.NodeName != first.Spec.NodeName {
			t.Errorf("restart %d changed the pod: %s %s", n, p.UID, p.Status.PodIP)
		}
	}
	if got := in(t, "restarts", "c", "cat", "/d/lives"); got != "life\nlife\nlife\nlife" {
		t.Errorf("the volume holds %q", got)
	}
}

// mainProcess is the machine's number of a Pod's only process.
func mainProcess(t *testing.T, uid types.UID) int {
	t.Helper()
	found, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, f := range found {
		if b, _ := os.ReadFile(f); strings.Contains(string(b), string(uid)) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("no process of %s", uid)
	return 0
}

// TestPrivileged: S96a. All capabilities, devices and mounts with it; not
// without.
func TestPrivileged(t *testing.T) {
	t.Parallel()
	apply(t, "privileged", "terminationGracePeriodSeconds: 1\ncontainers:\n- {name: 'yes', image: "+image+", command: [sleep, '1000'], securityContext: {privileged: true}}\n- {name: 'no', image: "+image+", command: [sleep, '1000']}\n")
	await(t, "privileged", "runs", ready)
	mount := []string{"sh", "-c", "mkdir -p /tmp/m && mount -t tmpfs none /tmp/m"}
	in(t, "privileged", "yes", mount...)
	if out, err := kubectl(t, append([]string{"exec", "privileged", "-c", "no", "--"}, mount...)...); err == nil {
		t.Errorf("an ordinary container mounts: %s", out)
	}
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	line := func(status, key string) string {
		_, rest, _ := strings.Cut(status, key)
		value, _, _ := strings.Cut(rest, "\n")
		return strings.TrimSpace(value)
	}
	status := in(t, "privileged", "yes", "cat", "/proc/self/status")
	if got, want := line(status, "CapEff:"), line(string(own), "CapBnd:"); got != want {
		t.Errorf("capabilities %s, the machine's are %s", got, want)
	}
	if got := line(status, "Seccomp:"); got != "0" && got != line(string(own), "Seccomp:") {
		t.Errorf("seccomp is %s", got)
	}
	if y, n := in(t, "privileged", "yes", "ls", "/dev"), in(t, "privileged", "no", "ls", "/dev"); len(strings.Fields(y)) <= len(strings.Fields(n)) {
		t.Errorf("devices: %s\nand without: %s", y, n)
	}
}

// TestEndpoints: S86. A Pod that begins to end is no endpoint any more, and its
// slice says that it is terminating.
func TestEndpoints(t *testing.T) {
	t.Parallel()
	w := testify(t, "serves", 4)
	must(t, "label", "pod", "serves", "app=serves")
	removeLater(t, "service/serves")
	must(t, "create", "service", "clusterip", "serves", "--tcp=80:8080")
	ip := getPod(t, "serves").Status.PodIP
	addresses := func() string {
		out, _ := kubectl(t, "get", "endpoints", "serves", "-o", "jsonpath={.subsets[*].addresses[*].ip}") // not there at first
		return out
	}
	eventually(t, "the pod is an endpoint", func() bool { return strings.Contains(addresses(), ip) })
	must(t, "delete", "pod", w.name, "--wait=false")
	eventually(t, "the pod is no endpoint", func() bool { return !strings.Contains(addresses(), ip) })
	if w.has("c", "SIGKILL") || len(processesOf(getPod(t, "serves").UID)) == 0 {
		t.Error("it left the endpoints only when it was dead")
	}
	gone(t, "serves")
}

// TestReplicationController: S32, S35, S87. As a ReplicaSet: whole Pods, scaled
// by number, replaced while they end.
func TestReplicationController(t *testing.T) {
	t.Parallel()
	manifest := `
apiVersion: v1
kind: ReplicationController
metadata: {name: old}
spec:
  replicas: 1
  selector: {app: old}
  template:
    metadata: {labels: {app: old}}
    spec:
      terminationGracePeriodSeconds: 20
      containers:
      - {name: a, image: ` + image + `, command: [sh, -c, "trap : TERM; while :; do usleep 100000; done"]}
      - {name: b, image: ` + image + `, command: [sh, -c, "trap 'exit 0' TERM; while :; do usleep 100000; done"]}
`
	if out, err := kubectlIn(t, manifest, "apply", "-f", "-"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	removeLater(t, "pod", "-l", "app=old")
	removeLater(t, "rc/old")
	settle := func(n string) {
		t.Helper()
		eventually(t, n+" are ready", func() bool {
			return must(t, "get", "rc", "old", "-o", "jsonpath={.status.readyReplicas}") == n
		})
	}
	settle("1")
	must(t, "scale", "rc", "old", "--replicas=5")
	settle("5")
	for _, sets := range strings.Fields(must(t, "get", "pods", "-l", "app=old", "-o", `jsonpath={range .items[*]}{.spec.containers[0].name},{.spec.containers[1].name} {end}`)) {
		if sets != "a,b" {
			t.Errorf("a replica has the containers %s", sets)
		}
	}
	names := strings.Fields(must(t, "get", "pods", "-l", "app=old", "-o", "name"))
	must(t, "delete", names[0], "--wait=false")
	eventually(t, "its replacement comes while it ends", func() bool {
		return len(strings.Fields(must(t, "get", "pods", "-l", "app=old", "-o", "name"))) == 6
	})
	must(t, "scale", "rc", "old", "--replicas=0")
	eventually(t, "none is wanted", func() bool {
		return must(t, "get", "rc", "old", "-o", "jsonpath={.status.replicas}") == "0"
	})
	must(t, "scale", "rc", "old", "--replicas=2")
	settle("2")
	must(t, "delete", "rc", "old")
	eventually(t, "its pods go with it", func() bool {
		ending := must(t, "get", "pods", "-l", "app=old", "-o", "jsonpath={.items[*].metadata.deletionTimestamp}")
		return len(strings.Fields(ending)) == len(strings.Fields(must(t, "get", "pods", "-l", "app=old", "-o", "name")))
	})
}

// TestKeeperIsKilled: the keeper dies. The Pod goes on; when it ends, its
// status says how, or that it cannot be known, and it is restarted. An event of
// the Pod says what may be missing, once.
func TestKeeperIsKilled(t *testing.T) {
	x := second(t, nil)
	if out, err := x.run(t, "", "run", "kept", "--image="+image, "--grace-period=1", "--command", "--", "sh", "-c", "trap 'exit 7' TERM; while :; do usleep 20000; done"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if out, err := x.run(t, "", "wait", "--for=condition=Ready", "pod/kept", "--timeout=30s"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	const state = "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].lastState.terminated}"
	uid, _ := x.run(t, "", "get", "pod", "kept", "-o", "jsonpath={.metadata.uid}")
	before, _ := x.run(t, "", "get", "pod", "kept", "-o", state)
	keeper, err := machine.Keeper(x.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(keeper, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "exec works again", func() bool {
		out, err := x.run(t, "", "exec", "kept", "--", "echo", "alive")
		return err == nil && out == "alive\n"
	})
	if now, _ := x.run(t, "", "get", "pod", "kept", "-o", state); now != before {
		t.Errorf("the pod was %s and is %s", before, now)
	}
	told := func(reason string) int {
		t.Helper()
		out, err := x.run(t, "", "get", "events", "--field-selector", "involvedObject.name=kept,reason="+reason, "-o", "jsonpath={range .items[*]}{.count},{end}")
		if err != nil {
			t.Fatalf("%v %s", err, out)
		}
		return strings.Count(out, "1,")
	}
	eventually(t, "an event says that output may be lost", func() bool { return told("OutputMayBeLost") == 1 })
	if out, err := x.run(t, "", "describe", "pod", "kept"); err != nil || !strings.Contains(out, "The keeper of containers was killed: the last output before that may be missing from the log") {
		t.Errorf("describe says %s, %v", out, err)
	}
	// Its exit code is known where the kernel tells it to others than the
	// parent (6.15); elsewhere it is said that it is not.
	if err := syscall.Kill(mainProcess(t, types.UID(uid)), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if out, err := x.run(t, "", "wait", "--for=jsonpath={.status.containerStatuses[0].restartCount}=1", "pod/kept", "--timeout=50s"); err != nil {
		t.Errorf("%v %s", err, out)
	}
	last, _ := x.run(t, "", "get", "pod", "kept", "-o", "jsonpath={.status.containerStatuses[0].lastState.terminated}")
	if !strings.Contains(last, `"exitCode":7`) && !(strings.Contains(last, `"exitCode":255`) && strings.Contains(last, `"message":"`)) {
		t.Errorf("the last state is %s", last)
	}
	unknown := 0
	if strings.Contains(last, `"exitCode":255`) {
		unknown = 1
	}
	eventually(t, "an event says that its end is not known, if so", func() bool { return told("ContainerStatusUnknown") == unknown })
	if n := told("OutputMayBeLost"); n != 1 {
		t.Errorf("it is told %d times that output may be lost", n)
	}
}
