// SPDX-License-Identifier: Apache-2.0

package node

import (
	"maps"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// statusCase is a Pod's history: what the runtime shows at each look, ten
// seconds apart (see seen). Its last status is golden.
type statusCase struct {
	pod    string // see planPod
	policy corev1.RestartPolicy
	looks  []string
	// with changes Pod, memory and the last look before status is asked for it.
	with func(p *corev1.Pod, m *memory, have *observed)
	// spec changes the Pod from the beginning.
	spec   func(p *corev1.Pod)
	ending *ending // at the last look
}

func looks(list ...string) []string { return list }

func waits(name, reason, message string) func(*corev1.Pod, *memory, *observed) {
	return func(_ *corev1.Pod, m *memory, _ *observed) {
		m.waiting[name] = waiting{reason: reason, message: message}
	}
}

const (
	always    = corev1.RestartPolicyAlways
	onFailure = corev1.RestartPolicyOnFailure
	never     = corev1.RestartPolicyNever
)

// startingStatuses: from nothing to a Pod that is ready.
func startingStatuses() map[string]statusCase {
	probed := func(p *corev1.Pod) { p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{} }
	gated := func(p *corev1.Pod) {
		p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/a"}, {ConditionType: "example.com/b"}}
	}
	gate := func(t corev1.PodConditionType, s corev1.ConditionStatus) corev1.PodCondition {
		return corev1.PodCondition{Type: t, Status: s, Reason: "Said", LastTransitionTime: metav1.NewTime(noon())}
	}
	return map[string]statusCase{
		"nothing":           {pod: "a", policy: always, looks: looks("")},
		"nothing-with-init": {pod: "i a", policy: always, looks: looks("")},
		"sandbox":           {pod: "a", policy: always, looks: looks("", "s0")},
		"created":           {pod: "a", policy: always, looks: looks("s0 a0:made")},
		"init-runs":         {pod: "i s b a", policy: always, looks: looks("s0 i0:run")},
		"init-waits":        {pod: "i a", policy: always, looks: looks("s0 i0:1@9 i1:2@5"), with: waits("i", "CrashLoopBackOff", "back-off 10s restarting failed container=i pod=p_ns(u)")},
		"sidecar-starts":    {pod: "i s a", policy: always, looks: looks("s0 i0:0@9 s0:run"), spec: func(p *corev1.Pod) { p.Spec.InitContainers[1].StartupProbe = &corev1.Probe{} }},
		"image-is-missing":  {pod: "b a", policy: always, looks: looks("s0 b0:run"), with: waits("a", "ImagePullBackOff", `Back-off pulling image "img": ErrImagePull: not found`)},
		"postStart-runs":    {pod: "a", policy: always, looks: looks("s0 a0:run"), with: func(_ *corev1.Pod, m *memory, _ *observed) { m.hooking["a0"] = true }},
		"ready":             {pod: "i s b a", policy: always, looks: looks("s0 i0:run", "s0 i0:0@5 s0:run", "s0 i0:0@9 s0:run b0:run a0:run")},
		"not-probed-yet":    {pod: "a b", policy: always, spec: probed, looks: looks("s0 a0:run b0:run")},
		"probed":            {pod: "a b", policy: always, spec: probed, looks: looks("s0 a0:run b0:run", "s0 a0:run b0:run"), with: func(_ *corev1.Pod, m *memory, _ *observed) { m.results["a0"] = probeResult{ready: true} }},
		"startup-probe":     {pod: "a", policy: always, spec: func(p *corev1.Pod) { p.Spec.Containers[0].StartupProbe = &corev1.Probe{} }, looks: looks("s0 a0:run")},
		"gates-missing-and-shut": {pod: "a", policy: always, spec: gated, looks: looks("s0 a0:run"), with: func(p *corev1.Pod, _ *memory, _ *observed) {
			p.Status.Conditions = append(p.Status.Conditions, gate("example.com/b", "False"))
		}},
		"gates-open": {pod: "a", policy: always, spec: gated, looks: looks("s0 a0:run"), with: func(p *corev1.Pod, _ *memory, _ *observed) {
			p.Status.Conditions = append(p.Status.Conditions, gate("example.com/b", "True"), gate("example.com/a", "True"))
		}},
		"changed-spec": {pod: "a", policy: always, looks: looks("s0 a0:run", "s0 a0:run"), with: func(p *corev1.Pod, _ *memory, _ *observed) { p.Generation = 4 }},
		"host-network": {pod: "a", policy: always, spec: func(p *corev1.Pod) { p.Spec.HostNetwork = true }, looks: looks("s0 a0:run")},
		"two-addresses": {pod: "a", policy: always, looks: looks("s0 a0:run"), with: func(_ *corev1.Pod, _ *memory, have *observed) {
			have.sandboxes[0].ips = []string{"10.0.0.7", "fd00::7"}
		}},
		"mounts-resources-user": {pod: "a", policy: always, spec: furnished, looks: looks("s0 a0:run"), with: func(_ *corev1.Pod, _ *memory, have *observed) {
			have.latest("a").images = map[string]string{"/r": "sha256:data"}
			have.latest("a").user = &runtimeapi.ContainerUser{Linux: &runtimeapi.LinuxContainerUser{Uid: 1000, Gid: 3000, SupplementalGroups: []int64{3000, 2000}}}
		}},
	}
}

func furnished(p *corev1.Pod) {
	enabled, ifPossible := corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
		{Name: "v", MountPath: "/w"}, {Name: "v", MountPath: "/r", ReadOnly: true},
		{Name: "v", MountPath: "/rro", ReadOnly: true, RecursiveReadOnly: &enabled}, {Name: "v", MountPath: "/try", ReadOnly: true, RecursiveReadOnly: &ifPossible},
	}
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("64Mi")}, Limits: corev1.ResourceList{"memory": resource.MustParse("128Mi")},
	}
}

// endingStatuses: containers that end, by every policy, and Pods that do.
func endingStatuses() map[string]statusCase {
	deadline := &ending{outcome: &outcome{phase: corev1.PodFailed, reason: "DeadlineExceeded", message: "Pod was active on the node longer than the specified deadline"}}
	return map[string]statusCase{
		"first-end":          {pod: "a", policy: always, looks: looks("s0 a0:run", "s0 a0:3@5")},
		"crash-loop":         {pod: "a", policy: always, looks: looks("s0 a0:run", "s0 a0:3@15 a1:4@5"), with: waits("a", "CrashLoopBackOff", "back-off 10s restarting failed container=a pod=p_ns(u)")},
		"restarted":          {pod: "a", policy: always, looks: looks("s0 a0:run", "s0 a0:3@15", "s0 a0:3@15 a1:run")},
		"done-always":        {pod: "a", policy: always, looks: looks("s0 a0:0@5")},
		"failed-onfailure":   {pod: "a", policy: onFailure, looks: looks("s0 a0:1@5")},
		"one-done-onfailure": {pod: "a b", policy: onFailure, looks: looks("s0 a0:0@5 b0:run")},
		"done-onfailure":     {pod: "i a", policy: onFailure, looks: looks("s0 i0:0@9 a0:run", "s0 i0:0@9 a0:0@5"), ending: &ending{}},
		"failed-never":       {pod: "a b", policy: never, looks: looks("s0 a0:0@5 b0:1@5"), ending: &ending{}},
		"init-failed-never":  {pod: "i a", policy: never, looks: looks("s0 i0:1@5"), ending: &ending{}},
		"sidecar-ends-last":  {pod: "s a", policy: never, looks: looks("s0 s0:run a0:run", "s0 s0:run a0:0@5"), ending: &ending{}},
		"sidecar-has-failed": {pod: "s a", policy: never, looks: looks("s0 s0:run a0:run", "s0 s0:137@1 a0:0@5"), ending: &ending{}},
		"rule-restarts": {pod: "a", policy: never, looks: looks("s0 a0:42@5"), spec: func(p *corev1.Pod) {
			rules(corev1.ContainerRestartRuleOnExitCodesOpIn)(p, nil)
		}},
		"oom-killed":              {pod: "a", policy: never, looks: looks("s0 a0:137@5"), ending: &ending{}, with: func(_ *corev1.Pod, _ *memory, have *observed) { have.latest("a").reason = "OOMKilled" }},
		"message":                 {pod: "a", policy: never, looks: looks("s0 a0:1@5"), ending: &ending{}, with: func(_ *corev1.Pod, m *memory, _ *observed) { m.messages["a0"] = "disk full\n" }},
		"deadline-while-it-runs":  {pod: "a", policy: always, looks: looks("s0 a0:run", "s0 a0:run"), ending: deadline},
		"deadline":                {pod: "a", policy: always, looks: looks("s0 a0:run", "s0 a0:137@1"), ending: deadline},
		"evicted":                 {pod: "a", policy: always, looks: looks("s0 a0:run", "s0 a0:137@1"), ending: &ending{outcome: &outcome{phase: corev1.PodFailed, reason: "Evicted", message: "The node was low on resource: memory."}}},
		"deleted-while-it-runs":   {pod: "a", policy: always, looks: looks("s0 a0:run", "s0 a0:run"), ending: &ending{delete: true}},
		"deleted":                 {pod: "b a", policy: always, looks: looks("s0 b0:run a0:run", "s0 b0:0@1 a0:0@1"), ending: &ending{delete: true}},
		"deleted-before-it-ran":   {pod: "a", policy: always, looks: looks("s0"), ending: &ending{delete: true}},
		"deleted-in-init":         {pod: "i j a", policy: always, spec: bothInit, looks: looks("s0 i0:run", "s0 i0:137@1"), ending: &ending{delete: true}},
		"deleted-while-it-waited": {pod: "a", policy: always, looks: looks("s0 a0:3@15 a1:4@5"), with: waits("a", "CrashLoopBackOff", "x"), ending: &ending{delete: true}},
		"a-phase-never-comes-back": {pod: "a", policy: always, looks: looks("s0 a0:run"), with: func(p *corev1.Pod, _ *memory, _ *observed) {
			p.Status.Phase, p.Status.Reason, p.Status.Message = corev1.PodFailed, "Evicted", "by somebody else"
		}, ending: &ending{}},
	}
}

// bothInit makes the first of the main containers an init container too.
func bothInit(p *corev1.Pod) {
	p.Spec.InitContainers, p.Spec.Containers = append(p.Spec.InitContainers, p.Spec.Containers[0]), p.Spec.Containers[1:]
}

// oddStatuses: what a runtime shows that has lost something.
func oddStatuses() map[string]statusCase {
	deleted := func(p *corev1.Pod, _ *memory, _ *observed) { p.DeletionTimestamp = &metav1.Time{Time: noon()} }
	return map[string]statusCase{
		"unknown":          {pod: "a", policy: always, looks: looks("s0 a0:run", "s0 a0:unknown")},
		"lost-running":     {pod: "a", policy: always, looks: looks("s0 a0:run", "s0")},
		"lost-and-deleted": {pod: "a", policy: always, looks: looks("s0 a0:run", "s0"), with: deleted, ending: &ending{delete: true}},
		"lost-ended":       {pod: "a b", policy: never, looks: looks("s0 a0:3@5 b0:run", "s0 b0:run")},
		"lost-init":        {pod: "i a", policy: always, looks: looks("s0 a0:run")},
		"lost-sidecar":     {pod: "s a", policy: always, looks: looks("s0 s0:run a0:run", "s0 a0:run")},
		"sandbox-died":     {pod: "i a", policy: always, looks: looks("s0 i0:0@9 a0:run", "s0! i0:0@9 a0:137@5")},
		"sandbox-anew":     {pod: "i a", policy: always, looks: looks("s0 i0:0@9 a0:run", "s0! i0:0@9 a0:137@5 s1 i1:run")},
		"two-sandboxes":    {pod: "a", policy: always, looks: looks("s0 a0:run s1")},
		"start-has-failed": {pod: "a", policy: always, looks: looks("s0 a0:128@0"), with: func(_ *corev1.Pod, m *memory, have *observed) {
			have.latest("a").started, m.waiting["a"] = time.Time{}, waiting{reason: "RunContainerError", message: "no such file"}
		}},
		"image-changed": {pod: "a", policy: never, looks: looks("s0 a0:run", "s0 a0:137@5"), with: func(p *corev1.Pod, _ *memory, _ *observed) { p.Spec.Containers[0].Image, p.Generation = "new", 2 }},
		"foreign-condition": {pod: "a", policy: always, looks: looks("", "s0 a0:run"), with: func(p *corev1.Pod, _ *memory, _ *observed) {
			p.Status.Conditions = append([]corev1.PodCondition{{Type: "example.com/x", Status: "Unknown"}}, p.Status.Conditions...)
		}},
	}
}

func statusCases() map[string]statusCase {
	all := startingStatuses()
	maps.Copy(all, endingStatuses())
	maps.Copy(all, oddStatuses())
	return all
}

// tell gives the status after all looks, and what it would be a moment later.
func (c statusCase) tell(t *testing.T) (last, later corev1.PodStatus) {
	p, m := planPod(c.pod, c.policy), newMemory()
	m.runtime = "peapod"
	if c.spec != nil {
		c.spec(p)
	}
	for n, look := range c.looks {
		have, now, e := seen(t, p, look), noon().Add(time.Duration(n)*10*time.Second), (*ending)(nil)
		if n == len(c.looks)-1 {
			e = c.ending
			if c.with != nil {
				c.with(p, &m, have)
			}
		}
		p.Status = status(p, have, &m, e, net.IPv4(192, 0, 2, 1), now)
		last, later = p.Status, status(p, have, &m, e, net.IPv4(192, 0, 2, 1), now.Add(time.Hour))
	}
	return last, later
}

// TestStatus compares with golden files, which were compared with what the
// kubelet's own functions make of the same (getPhase, Generate…Condition,
// convertToAPIContainerStatuses, TerminatePod). Asked again about the same,
// status says the same, or each look would be a write.
func TestStatus(t *testing.T) {
	cases := statusCases()
	noStrays(t, "status", cases)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			last, later := c.tell(t)
			golden(t, "status/"+name+".yaml", last)
			if diff := cmp.Diff(last, later); diff != "" {
				t.Errorf("an hour later it is another (-first +later):\n%s", diff)
			}
		})
	}
}

// TestMessagesAreLimited: all termination messages of a Pod take 12 KiB at
// most, each its share.
func TestMessagesAreLimited(t *testing.T) {
	p, m := planPod("i a b", never), newMemory()
	for _, id := range []string{"i0", "a0", "b0"} {
		m.messages[id] = strings.Repeat("x", 5000)
	}
	s := status(p, seen(t, p, "s0 i0:0@9 a0:1@5 b0:1@5"), &m, &ending{}, net.IPv4zero, noon())
	for _, c := range append(s.InitContainerStatuses, s.ContainerStatuses...) {
		if n := len(c.State.Terminated.Message); n != 4096 {
			t.Errorf("the message of %s has %d bytes", c.Name, n)
		}
	}
}
