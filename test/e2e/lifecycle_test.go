// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/api/pod"
)

// TestRestartPolicies: S25, S53. Exit codes and policies make the phase.
func TestRestartPolicies(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		policy string
		code   int
		want   corev1.PodPhase
	}{
		{"Never", 0, corev1.PodSucceeded}, {"Never", 42, corev1.PodFailed}, {"OnFailure", 0, corev1.PodSucceeded},
	} {
		name := strings.ToLower(fmt.Sprintf("exit-%s-%d", x.policy, x.code))
		apply(t, name, fmt.Sprintf("restartPolicy: %s\ncontainers: [{name: c, image: %s, command: [sh, -c, 'exit %d']}]\n", x.policy, image, x.code))
		p := await(t, name, "ends", phase(x.want))
		if got := p.Status.ContainerStatuses[0].State.Terminated; got == nil || int(got.ExitCode) != x.code {
			t.Errorf("%s: %+v", name, got)
		}
	}
	apply(t, "again", "restartPolicy: OnFailure\nterminationGracePeriodSeconds: 1\ncontainers: [{name: c, image: "+image+", command: [sh, -c, 'exit 3']}]\n")
	p := await(t, "again", "restarts", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount >= 1
	})
	if last := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 3 {
		t.Errorf("last state %+v", last)
	}
}

// TestInitContainers: S37, K7. In order, before the main ones, from a volume.
func TestInitContainers(t *testing.T) {
	t.Parallel()
	apply(t, "init", `
		terminationGracePeriodSeconds: 1
		volumes: [{name: d, emptyDir: {}}]
		initContainers:
		- {name: first, image: peapod.dev/examples:1, command: [sh, -c, "echo first > /d/f"], volumeMounts: [{name: d, mountPath: /d}]}
		- {name: second, image: peapod.dev/examples:1, command: [sh, -c, "echo second >> /d/f"], volumeMounts: [{name: d, mountPath: /d}]}
		containers:
		- {name: main, image: peapod.dev/examples:1, command: [sleep, "1000"], volumeMounts: [{name: d, mountPath: /d}]}
	`)
	await(t, "init", "runs", ready)
	if got := in(t, "init", "main", "cat", "/d/f"); got != "first\nsecond" {
		t.Errorf("the volume holds %q", got)
	}
}

// TestMissingSecret: S37. The Pod waits, says why, and goes on by itself.
func TestMissingSecret(t *testing.T) {
	t.Parallel()
	removeLater(t, "secret/late")
	apply(t, "waits", `
		terminationGracePeriodSeconds: 1
		volumes: [{name: s, secret: {secretName: late}}]
		containers:
		- {name: c, image: peapod.dev/examples:1, command: [sleep, "1000"], volumeMounts: [{name: s, mountPath: /s}]}
	`)
	eventually(t, "an event names the secret", func() bool {
		out := must(t, "get", "events", "--field-selector", "involvedObject.name=waits")
		return strings.Contains(out, `MountVolume.SetUp failed for volume "s" : secret "late" not found`)
	})
	if out := must(t, "get", "pod", "waits", "--no-headers"); !strings.Contains(out, "ContainerCreating") {
		t.Errorf("get shows %s", out)
	}
	must(t, "create", "secret", "generic", "late", "--from-literal=key=value")
	await(t, "waits", "runs", ready)
	if got := in(t, "waits", "c", "cat", "/s/key"); got != "value" {
		t.Errorf("the file holds %q", got)
	}
	// C17: a change reaches the file by itself.
	must(t, "patch", "secret", "late", "-p", `{"stringData":{"key":"changed"}}`)
	eventually(t, "the file follows", func() bool { return in(t, "waits", "c", "cat", "/s/key") == "changed" })
}

// TestEnvironment: K15. Values, references, expansion, service variables.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	must(t, "create", "configmap", "settings", "--from-literal=colour=green")
	removeLater(t, "configmap/settings")
	apply(t, "env", `
		restartPolicy: Never
		containers:
		- name: c
		  image: peapod.dev/examples:1
		  command: [sh, -c, "env | sort; echo $(GREETING)"]
		  resources: {requests: {cpu: 250m}}
		  env:
		  - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
		  - {name: GREETING, value: "hello $(NAME) $$(NAME)"}
		  - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
		  - {name: CPU, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}
		  - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
		  envFrom: [{prefix: S_, configMapRef: {name: settings}}]
	`)
	p := await(t, "env", "ends", phase(corev1.PodSucceeded))
	log := must(t, "logs", "env")
	for _, want := range []string{"NAME=env", "GREETING=hello env $(NAME)", "COLOUR=green", "S_colour=green", "CPU=250", "KUBERNETES_SERVICE_HOST=10.202.0.1", "IP=" + p.Status.PodIP, "hello env $(NAME)"} {
		if !strings.Contains(log, want+"\n") {
			t.Errorf("no line %q in\n%s", want, log)
		}
	}
}

// TestProbes: K11. Readiness follows the page; liveness restarts.
func TestProbes(t *testing.T) {
	t.Parallel()
	apply(t, "probed", `
		terminationGracePeriodSeconds: 1
		containers:
		- name: c
		  image: peapod.dev/examples:1
		  command: [sh, -c, "mkdir /tmp/www; exec /bin/web /tmp/www"]
		  startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
		  readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1, failureThreshold: 1}
		  livenessProbe: {exec: {command: [sh, -c, "! test -e /tmp/dead"]}, periodSeconds: 1, failureThreshold: 1}
	`)
	await(t, "probed", "starts and is not ready", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].Started != nil && *p.Status.ContainerStatuses[0].Started && !ready(p)
	})
	in(t, "probed", "c", "touch", "/tmp/www/ready")
	await(t, "probed", "gets ready", ready)
	in(t, "probed", "c", "rm", "/tmp/www/ready")
	await(t, "probed", "is not ready again", func(p *corev1.Pod) bool { return !ready(p) })
	in(t, "probed", "c", "touch", "/tmp/dead")
	await(t, "probed", "is restarted", func(p *corev1.Pod) bool { return p.Status.ContainerStatuses[0].RestartCount == 1 })
	events := must(t, "get", "events", "--field-selector", "involvedObject.name=probed")
	for _, want := range []string{"Readiness probe failed: HTTP probe failed with statuscode: 404", "Container c failed liveness probe, will be restarted"} {
		if !strings.Contains(events, want) {
			t.Errorf("no event %q in\n%s", want, events)
		}
	}
}

// TestImages: K18 and bad input. Missing, never pulled, wrong names.
func TestImages(t *testing.T) {
	t.Parallel()
	apply(t, "never", "containers: [{name: c, image: 'missing:1', imagePullPolicy: Never}]\n")
	await(t, "never", "says so", waitingFor("ErrImageNeverPull"))
	apply(t, "nopull", "containers: [{name: c, image: '127.0.0.1:1/missing:1'}]\n")
	await(t, "nopull", "backs off", waitingFor("ImagePullBackOff"))
}

func waitingFor(reason string) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool {
		for _, s := range p.Status.ContainerStatuses {
			if s.State.Waiting != nil && s.State.Waiting.Reason == reason {
				return true
			}
		}
		return false
	}
}

// TestBadManifests: S2, S96h, K3. Refused with upstream's words.
func TestBadManifests(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct{ manifest, want string }{
		"no containers": {"apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: []}\n", `The Pod "x" is invalid: spec.containers: Required value`},
		"unknown field": {"apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: a, image: b}], colour: red}\n", `unknown field "spec.colour"`},
		"bad name":      {"apiVersion: v1\nkind: Pod\nmetadata: {name: Bad_Name}\nspec: {containers: [{name: a, image: b}]}\n", `metadata.name: Invalid value: "Bad_Name": a lowercase RFC 1123 subdomain must consist of`},
		"same names":    {"apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: a, image: b}, {name: a, image: b}]}\n", `spec.containers[1].name: Duplicate value: "a"`},
		"no volume":     {"apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: a, image: b, volumeMounts: [{name: v, mountPath: /v}]}]}\n", `spec.containers[0].volumeMounts[0].name: Not found: "v"`},
		"over limit":    {"apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: a, image: b, resources: {requests: {cpu: 2}, limits: {cpu: 1}}}]}\n", `spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1`},
	} {
		if out, err := kubectlIn(t, x.manifest, "apply", "-f", "-"); err == nil || !strings.Contains(out, x.want) {
			t.Errorf("%s: %v\n got %s\nwant %s", name, err, out, x.want)
		}
	}
}

// TestScheduling: S6, S24, S39, S56. What does not fit waits and says why.
func TestScheduling(t *testing.T) {
	t.Parallel()
	apply(t, "toobig", "containers: [{name: a, image: "+image+", resources: {requests: {cpu: 60}}}, {name: b, image: "+image+", resources: {requests: {cpu: 60}}}]\n")
	apply(t, "nowhere", "nodeSelector: {disk: none}\ncontainers: [{name: a, image: "+image+"}]\n")
	apply(t, "port1", "terminationGracePeriodSeconds: 1\ncontainers: [{name: a, image: "+image+", command: [sleep, '1000'], ports: [{containerPort: 80, hostPort: 18080}]}]\n")
	await(t, "port1", "runs", ready)
	apply(t, "port2", "terminationGracePeriodSeconds: 1\ncontainers: [{name: a, image: "+image+", command: [sleep, '1000'], ports: [{containerPort: 80, hostPort: 18080}]}]\n")
	for name, want := range map[string]string{
		"toobig":  "0/1 nodes are available: 1 Insufficient cpu.",
		"nowhere": "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
		"port2":   "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.",
	} {
		p := await(t, name, "is said to be unschedulable", func(p *corev1.Pod) bool {
			return len(p.Status.Conditions) == 1 && p.Status.Conditions[0].Reason == "Unschedulable"
		})
		if got := p.Status.Conditions[0].Message; !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
		if out := must(t, "get", "events", "--field-selector", "reason=FailedScheduling,involvedObject.name="+name); !strings.Contains(out, want) {
			t.Errorf("%s: no event in %s", name, out)
		}
	}
	must(t, "delete", "pod", "port1", "--now")
	await(t, "port2", "runs when the port is free", ready)
}

// TestPreemption: a Pod that is more urgent takes the place of one that is less,
// after its grace.
func TestPreemption(t *testing.T) {
	t.Parallel()
	removeLater(t, "priorityclass/urgent")
	must(t, "create", "priorityclass", "urgent", "--value=1000")
	holder := "terminationGracePeriodSeconds: 3\ncontainers: [{name: a, image: " + image + ", command: [sleep, '1000'], ports: [{containerPort: 80, hostPort: 18081}]}]\n"
	apply(t, "less-urgent", holder)
	await(t, "less-urgent", "runs", ready)
	apply(t, "urgent", "priorityClassName: urgent\n"+holder)
	await(t, "less-urgent", "is said to be preempted", func(p *corev1.Pod) bool {
		c := pod.Condition(&p.Status, corev1.DisruptionTarget)
		return c != nil && c.Status == corev1.ConditionTrue && c.Reason == "PreemptionByScheduler" && p.DeletionTimestamp != nil
	})
	gone(t, "less-urgent")
	p := await(t, "urgent", "runs", ready)
	if p.Status.NominatedNodeName != "" {
		t.Errorf("still waits for %s", p.Status.NominatedNodeName)
	}
	for of, want := range map[string]string{
		"Preempted,involvedObject.name=less-urgent": "Preempted by pod " + string(p.UID) + " on node n1",
		"FailedScheduling,involvedObject.name=urgent": "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. " +
			"preemption: found a potential placement for pod on node n1, preempting 1 victims",
	} {
		eventually(t, "the event is there", func() bool {
			return strings.Contains(must(t, "get", "events", "--field-selector", "reason="+of), want)
		})
	}
	if out := must(t, "describe", "pod", "urgent"); !strings.Contains(out, "default-scheduler") || !strings.Contains(out, "FailedScheduling") {
		t.Errorf("described as %s", out)
	}
}

// TestLogs: logs, --previous, --tail, --since, -f.
func TestLogs(t *testing.T) {
	t.Parallel()
	apply(t, "logs", `
		terminationGracePeriodSeconds: 1
		containers:
		- {name: c, image: peapod.dev/examples:1, command: [sh, -c, "for i in 1 2 3; do echo line $i; done; [ -e /dev/shm/once ] && exec sleep 1000; touch /dev/shm/once; exit 1"]}
	`)
	await(t, "logs", "runs again", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount == 1 && running(p)
	})
	await(t, "logs", "is ready", ready)
	all := "line 1\nline 2\nline 3\n"
	for want, args := range map[string][]string{all: {"logs", "logs"}, "line 3\n": {"logs", "logs", "--tail=1"}, all + " ": {"logs", "logs", "--previous"}, all + "  ": {"logs", "logs", "--since=1h"}} {
		if got := must(t, args...); got != strings.TrimRight(want, " ") {
			t.Errorf("%v: %q", args, got)
		}
	}
	if out, err := kubectl(t, "logs", "logs", "-c", "none"); err == nil || !strings.Contains(out, "container none is not valid for pod logs") {
		t.Errorf("logs of a container that is not there: %v %s", err, out)
	}
}

// TestStreams: exec with stdin and exit code, cp, port-forward.
func TestStreams(t *testing.T) {
	t.Parallel()
	apply(t, "streams", "terminationGracePeriodSeconds: 1\ncontainers: [{name: c, image: "+image+", command: [sh, -c, 'mkdir /tmp/www; echo forwarded > /tmp/www/index.html; exec /bin/web /tmp/www']}]\n")
	await(t, "streams", "runs", ready)
	if out, err := kubectlIn(t, "typed\n", "exec", "-i", "streams", "--", "cat"); err != nil || out != "typed\n" {
		t.Errorf("exec -i cat: %q, %v", out, err)
	}
	if out, err := kubectl(t, "exec", "streams", "--", "sh", "-c", "exit 7"); err == nil || !strings.Contains(out, "command terminated with exit code 7") {
		t.Errorf("exec exit 7: %v %s", err, out)
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("copied"), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "cp", file, "streams:/tmp/f")
	if got := in(t, "streams", "c", "cat", "/tmp/f"); got != "copied" {
		t.Errorf("cp brought %q", got)
	}
}

// TestSurvival: S77, M4. kill -9 of the program changes nothing for Pods, and
// an exit meanwhile is known afterwards.
func TestSurvival(t *testing.T) {
	apply(t, "stays", "terminationGracePeriodSeconds: 1\ncontainers: [{name: c, image: "+image+", command: [sh, -c, 'i=0; while :; do i=$((i+1)); echo $i; usleep 100000; done']}]\n")
	apply(t, "leaves", "restartPolicy: Never\nterminationGracePeriodSeconds: 1\ncontainers: [{name: c, image: "+image+", command: [sh, -c, 'until [ -e /dev/shm/go ]; do usleep 10000; done; sleep 1; exit 9']}]\n")
	before := await(t, "stays", "runs", ready)
	await(t, "leaves", "runs", ready)
	in(t, "leaves", "c", "touch", "/dev/shm/go")
	c.stop(syscall.SIGKILL)
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	p := await(t, "leaves", "has failed", phase(corev1.PodFailed))
	if got := p.Status.ContainerStatuses[0].State.Terminated; got == nil || got.ExitCode != 9 {
		t.Errorf("the exit while nobody looked: %+v", got)
	}
	after := getPod(t, "stays")
	if b, a := before.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]; a.ContainerID != b.ContainerID || a.RestartCount != 0 || after.Status.PodIP != before.Status.PodIP {
		t.Errorf("before %+v\nafter %+v", b, a)
	}
	lines := strings.Fields(must(t, "logs", "stays"))
	for i, l := range lines {
		if l != fmt.Sprint(i+1) {
			t.Fatalf("log line %d is %q: lines were lost", i+1, l)
		}
	}
}

// TestIdentity: S23, S28, S29, S42. A UID lives once, and its volumes with it:
// through a restart of the container, and not into an identical replacement.
func TestIdentity(t *testing.T) {
	t.Parallel()
	spec := "terminationGracePeriodSeconds: 1\nvolumes: [{name: d, emptyDir: {}}]\ncontainers: [{name: c, image: " + image + ", command: [sleep, '1000'], volumeMounts: [{name: d, mountPath: /d}]}]\n"
	apply(t, "same", spec)
	first := await(t, "same", "runs", ready)
	in(t, "same", "c", "touch", "/d/file")
	if err := syscall.Kill(mainProcess(t, first.UID), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "same", "restarts", func(p *corev1.Pod) bool { return p.Status.ContainerStatuses[0].RestartCount == 1 && ready(p) })
	if got := in(t, "same", "c", "ls", "/d"); got != "file" {
		t.Errorf("after a restart the volume holds %q", got)
	}
	manifest := "apiVersion: v1\nkind: Pod\nmetadata:\n  name: same\nspec:\n" + indent(spec)
	if out, err := kubectlIn(t, manifest, "replace", "--force", "-f", "-"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if left := leftovers(t, first.UID); len(left) > 0 {
		t.Errorf("left of the first: %v", left)
	}
	second := await(t, "same", "runs", ready)
	if first.UID == second.UID {
		t.Error("two pods have one UID")
	}
	if got := in(t, "same", "c", "ls", "/d"); got != "" {
		t.Errorf("the second finds %q", got)
	}
}

// TestNothingComesBack: S22, S25. A bare Pod that was deleted, has failed or
// succeeded is not resurrected: not within a minute.
func TestNothingComesBack(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]int{"over-deleted": 0, "over-failed": 1, "over-succeeded": 0} {
		apply(t, name, fmt.Sprintf("restartPolicy: Never\ncontainers: [{name: c, image: %s, command: [sh, -c, 'exit %d']}]\n", image, code))
	}
	await(t, "over-failed", "has failed", phase(corev1.PodFailed))
	await(t, "over-succeeded", "has succeeded", phase(corev1.PodSucceeded))
	await(t, "over-deleted", "has succeeded", phase(corev1.PodSucceeded))
	must(t, "delete", "pod", "over-deleted")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pods := c.client.CoreV1().Pods("default")
	now, err := pods.List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := pods.Watch(ctx, metav1.ListOptions{ResourceVersion: now.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if p, ok := e.Object.(*corev1.Pod); !ok || strings.HasPrefix(p.Name, "over-") {
			t.Errorf("%s %+v", e.Type, e.Object)
		}
	}
	if ctx.Err() == nil {
		t.Error("the watch ended before the minute")
	}
	if out := must(t, "get", "pods", "-o", "name"); strings.Contains(out, "pod/over-deleted\n") || !strings.Contains(out, "pod/over-failed\n") || !strings.Contains(out, "pod/over-succeeded\n") {
		t.Errorf("after a minute there are\n%s", out)
	}
}

// TestRefusedByTheNode: S24, S39. Who binds a Pod without asking the scheduler
// is told by the node that it cannot be; nothing of the Pod is begun.
func TestRefusedByTheNode(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]struct{ spec, reason, message string }{
		"refused-cpu":      {"containers: [{name: c, image: " + image + ", resources: {requests: {cpu: 60}}}]\n", "OutOfcpu", "Node didn't have enough resource: cpu, requested: 60000, used: "},
		"refused-selector": {"nodeSelector: {disk: none}\ncontainers: [{name: c, image: " + image + "}]\n", "NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"},
		"refused-sysctl":   {"securityContext: {sysctls: [{name: kernel.msgmax, value: '1'}]}\ncontainers: [{name: c, image: " + image + "}]\n", "SysctlForbidden", `forbidden sysctl: "kernel.msgmax" not allowlisted`},
	} {
		apply(t, name, "nodeName: n1\n"+x.spec)
		p := await(t, name, "is refused", phase(corev1.PodFailed))
		if p.Status.Reason != x.reason || !strings.HasPrefix(p.Status.Message, "Pod was rejected: "+x.message) || len(p.Status.ContainerStatuses) > 0 {
			t.Errorf("%s: %+v", name, p.Status)
		}
		if out := must(t, "get", "pod", name, "--no-headers"); !strings.Contains(out, x.reason) {
			t.Errorf("get shows %s", out)
		}
		eventually(t, "the event says so", func() bool {
			return strings.Contains(must(t, "get", "events", "--field-selector", "type=Warning,reason="+x.reason+",involvedObject.name="+name), x.message)
		})
		if left := leftovers(t, p.UID); len(left) > 0 {
			t.Errorf("%s was begun: %v", name, left)
		}
	}
	apply(t, "own-users", "hostUsers: false\ncontainers: [{name: c, image: "+image+"}]\n")
	eventually(t, "it is said that users cannot be apart", func() bool {
		return strings.Contains(must(t, "get", "events", "--field-selector", "reason=FailedCreatePodSandBox,involvedObject.name=own-users"),
			"Failed to create pod sandbox: can't set `spec.hostUsers: false`, runtime does not support user namespaces")
	})
}
