// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestResize: what a Pod asks for is changed while it runs, without a restart unless
// its container wants one (KEP-1287).
func TestResize(t *testing.T) {
	t.Parallel()
	apply(t, "resized", `
		terminationGracePeriodSeconds: 1
		containers:
		- name: a
		  image: peapod.dev/examples:1
		  command: [sleep, "1000"]
		  resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {cpu: 100m, memory: 64Mi}}
		- name: b
		  image: peapod.dev/examples:1
		  command: [sleep, "1000"]
		  resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]
		  resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {cpu: 100m, memory: 64Mi}}
	`)
	p := await(t, "resized", "runs", ready)
	whole := memoryCgroups(p)[0]
	patch := func(text string) {
		t.Helper()
		must(t, "patch", "pod", "resized", "--subresource", "resize", "--patch", text)
	}
	settled := func(name, memory string) func(p *corev1.Pod) bool {
		return func(p *corev1.Pod) bool {
			for _, s := range p.Status.ContainerStatuses {
				if s.Name == name && s.Resources.Limits.Memory().String() == memory && s.Ready {
					return !strings.Contains(conditionsOf(p), "PodResize")
				}
			}
			return false
		}
	}
	patch(`{"spec":{"containers":[{"name":"a","resources":{"requests":{"cpu":"60m"},"limits":{"cpu":"200m","memory":"128Mi"}}}]}}`)
	p = await(t, "resized", "a has other limits", settled("a", "128Mi"))
	if got := memoryLimit(t, p, "a"); got != "134217728" {
		t.Errorf("the memory limit of a is %s", got)
	}
	if got := number(t, whole, "memory.limit_in_bytes", "memory.max"); got != 192<<20 {
		t.Errorf("the Pod's limit is %d", got)
	}
	patch(`{"spec":{"containers":[{"name":"b","resources":{"limits":{"memory":"96Mi"}}}]}}`)
	p = await(t, "resized", "b has other limits", settled("b", "96Mi"))
	if got := memoryLimit(t, p, "b"); got != "100663296" {
		t.Errorf("the memory limit of b is %s", got)
	}
	for _, s := range p.Status.ContainerStatuses {
		if want := map[string]int32{"a": 0, "b": 1}[s.Name]; s.RestartCount != want {
			t.Errorf("%s was restarted %d times", s.Name, s.RestartCount)
		}
	}
	// All CPUs but a few thousandths, of which a neighbour has more.
	apply(t, "neighbour", `
		terminationGracePeriodSeconds: 1
		containers: [{name: a, image: peapod.dev/examples:1, command: [sleep, "1000"], resources: {requests: {cpu: 100m}}}]
	`)
	await(t, "neighbour", "runs", ready)
	most := fmt.Sprintf("%dm", 1000*runtime.NumCPU()-55)
	patch(`{"spec":{"containers":[{"name":"a","resources":{"requests":{"cpu":"` + most + `"},"limits":{"cpu":"` + most + `"}}}]}}`)
	p = await(t, "resized", "a resize waits", func(p *corev1.Pod) bool { return strings.Contains(conditionsOf(p), "PodResizePending=Deferred") })
	if got := p.Status.ContainerStatuses[0].AllocatedResources.Cpu().String(); got != "60m" {
		t.Errorf("a is allowed %s", got)
	}
	told := must(t, "get", "events", "--field-selector", "involvedObject.name=resized", "-o", "custom-columns=R:.reason,M:.message", "--no-headers")
	for _, want := range []string{"ResizeStarted", "ResizeCompleted", "Container b resize requires restart", `"error":"Node didn't have enough resource: cpu, requested: `} {
		if !strings.Contains(told, want) {
			t.Errorf("nothing is told of %s:\n%s", want, told)
		}
	}
	if out, err := kubectl(t, "patch", "pod", "resized", "--subresource", "resize", "--patch", `{"spec":{"containers":[{"name":"a","resources":{"limits":{"memory":null}}}]}}`); err == nil || !strings.Contains(out, "resource limits cannot be removed") {
		t.Errorf("a limit was taken away: %s", out)
	}
}

// conditionsOf are the Pod's conditions in words.
func conditionsOf(p *corev1.Pod) string {
	var words []string
	for _, c := range p.Status.Conditions {
		words = append(words, string(c.Type)+"="+c.Reason)
	}
	return strings.Join(words, " ")
}
