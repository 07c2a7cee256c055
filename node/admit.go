// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/util/sysctl"
	resourcehelper "k8s.io/component-helpers/resource"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/api/pod"
)

// refusal is why a node does not take a Pod: reason and words are a kubelet's.
type refusal struct{ reason, message string }

// host is what a Pod is admitted to.
type host struct {
	node     *corev1.Node // nil is not known: then nothing is asked of it
	others   []*corev1.Pod
	appArmor bool
}

// admitted decides once, before anything of a Pod is made, whether this node
// takes it: it may have been bound by someone who did not look. A Pod that has
// begun was taken by an earlier agent. A refused one has failed for good.
func (x *actor) admitted(p *corev1.Pod, have *observed) bool {
	a := x.agent
	a.admission.Lock()
	defer a.admission.Unlock()
	if x.accepted || p.Status.StartTime != nil || !have.nothing() {
		x.accepted = true
		return true
	}
	r := refuse(p, host{node: a.node.object(), others: a.accepted(x), appArmor: a.appArmor})
	if r == nil {
		x.accepted = true
		return true
	}
	x.mem.outcome = &outcome{phase: corev1.PodFailed, reason: r.reason, message: "Pod was rejected: " + r.message, refused: true}
	x.event(p, corev1.EventTypeWarning, r.reason, "%s", r.message)
	return false
}

// accepted are the Pods that have something of this node, as much as they were
// granted, without x's own. The caller holds admission.
func (a *Agent) accepted(x *actor) (out []*corev1.Pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, y := range a.actors {
		if p := y.pod(); y != x && !pod.Terminal(p) && (y.accepted || p.Status.StartTime != nil) {
			out = append(out, y.allocated())
		}
	}
	return out
}

// refuse asks what a kubelet asks, in its order, and gives the first answer.
func refuse(p *corev1.Pod, h host) *refusal {
	for _, ask := range []func(*corev1.Pod, host) *refusal{refuseSysctls, refuseOS, refuseGroups, refuseResources, refuseAffinity, refusePorts, refuseTaints, refuseAppArmor} {
		if r := ask(p, h); r != nil {
			return r
		}
	}
	return nil
}

// safeSysctls are those that every Pod may set: they end with a namespace of
// its own. (Kubernetes documentation, "Safe and Unsafe Sysctls".)
func safeSysctls() []string {
	return []string{
		"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
		"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout",
		"net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
		"net.ipv4.tcp_slow_start_after_idle", "net.ipv4.tcp_notsent_lowat",
	}
}

func refuseSysctls(p *corev1.Pod, _ host) *refusal {
	if p.Spec.SecurityContext == nil {
		return nil
	}
	forbidden := func(format string, args ...any) *refusal {
		return &refusal{"SysctlForbidden", "forbidden sysctl: " + fmt.Sprintf(format, args...)}
	}
	for _, s := range p.Spec.SecurityContext.Sysctls {
		name := sysctl.NormalizeName(s.Name)
		if !slices.Contains(safeSysctls(), name) {
			return forbidden("%q not allowlisted", name)
		}
		if ns, _, _ := sysctl.GetNamespace(name); ns == sysctl.IPCNamespace && p.Spec.HostIPC || ns == sysctl.NetNamespace && p.Spec.HostNetwork {
			return forbidden("%q not allowed with host %s enabled", name, ns)
		}
	}
	return nil
}

func refuseOS(p *corev1.Pod, _ host) *refusal {
	if name, ok := p.Labels[corev1.LabelOSStable]; ok && name != runtime.GOOS {
		return &refusal{"PodOSSelectorNodeLabelDoesNotMatch", "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"}
	}
	if p.Spec.OS != nil && string(p.Spec.OS.Name) != runtime.GOOS {
		return &refusal{"PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"}
	}
	return nil
}

func refuseGroups(p *corev1.Pod, h host) *refusal {
	sc := p.Spec.SecurityContext
	if h.node == nil || sc == nil || sc.SupplementalGroupsPolicy == nil || *sc.SupplementalGroupsPolicy != corev1.SupplementalGroupsPolicyStrict {
		return nil
	}
	if f := h.node.Status.Features; f != nil && f.SupplementalGroupsPolicy != nil && *f.SupplementalGroupsPolicy {
		return nil
	}
	return &refusal{"SupplementalGroupsPolicyNotSupported", "SupplementalGroupsPolicy=Strict is not supported in this node"}
}

// refuseResources looks at what the node has to give beside what its Pods have
// been promised.
func refuseResources(p *corev1.Pod, h host) *refusal {
	if h.node == nil {
		return nil
	}
	room := h.node.Status.Allocatable
	lacking := func(name corev1.ResourceName, requested, used, capacity int64) *refusal {
		return &refusal{"OutOf" + string(name), fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, requested, used, capacity)}
	}
	if most, used := room.Pods().Value(), int64(len(h.others)); used+1 > most {
		return lacking(corev1.ResourcePods, 1, used, most)
	}
	promised := corev1.ResourceList{}
	for _, o := range h.others {
		for name, q := range resourcehelper.PodRequests(o, resourcehelper.PodResourcesOptions{}) {
			sum := promised[name]
			sum.Add(q)
			promised[name] = sum
		}
	}
	wanted := resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{})
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		amount := func(l corev1.ResourceList) int64 {
			q := l[name]
			if name == corev1.ResourceCPU {
				return q.MilliValue()
			}
			return q.Value()
		}
		want, used, all := amount(wanted), amount(promised), amount(room)
		if want > 0 && want > all-used {
			return lacking(name, want, used, all)
		}
	}
	return nil
}

func predicate(name, text string) *refusal {
	return &refusal{name, fmt.Sprintf("Predicate %s failed: %s", name, text)}
}

func refuseAffinity(p *corev1.Pod, h host) *refusal {
	if h.node == nil {
		return nil
	}
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(p).Match(h.node); err != nil || !ok {
		return predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector")
	}
	return nil
}

func refusePorts(p *corev1.Pod, h host) *refusal {
	wanted := pod.HostPorts(p)
	if len(wanted) == 0 {
		return nil
	}
	for _, o := range h.others {
		clash := func(taken pod.HostPort) bool { return slices.ContainsFunc(wanted, taken.Clashes) }
		if slices.ContainsFunc(pod.HostPorts(o), clash) {
			return predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports")
		}
	}
	return nil
}

// refuseTaints looks at NoExecute alone: the others are the scheduler's.
func refuseTaints(p *corev1.Pod, h host) *refusal {
	if h.node == nil {
		return nil
	}
	noExecute := func(t *corev1.Taint) bool { return t.Effect == corev1.TaintEffectNoExecute }
	if _, untolerated := corev1helpers.FindMatchingUntoleratedTaint(klog.Background(), h.node.Spec.Taints, p.Spec.Tolerations, noExecute, true); untolerated {
		return predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate")
	}
	return nil
}

// refuseAppArmor: a profile that was asked for by name is not left out.
func refuseAppArmor(p *corev1.Pod, h host) *refusal {
	if h.appArmor {
		return nil
	}
	var ofPod *corev1.AppArmorProfile
	if p.Spec.SecurityContext != nil {
		ofPod = p.Spec.SecurityContext.AppArmorProfile
	}
	for c := range pod.Containers(p) {
		profile := ofPod
		if c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
			profile = c.SecurityContext.AppArmorProfile
		}
		if profile != nil && profile.Type != corev1.AppArmorProfileTypeUnconfined {
			return &refusal{"AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"}
		}
	}
	return nil
}

func appArmorEnabled() bool {
	b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(b), "Y")
}
