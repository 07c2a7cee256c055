// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// smallNode has room for two Pods, two CPUs and 1 GiB.
func smallNode() *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"disk": "ssd"}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			"cpu": resource.MustParse("2"), "memory": resource.MustParse("1Gi"), "ephemeral-storage": resource.MustParse("1Gi"), "pods": resource.MustParse("2"),
		}},
	}
}

func wanting(cpu, memory string) *corev1.Pod {
	p := podOf("p", 30, corev1.Container{Name: "a"})
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory)}
	return p
}

func TestRefuse(t *testing.T) {
	with := func(change func(p *corev1.Pod)) *corev1.Pod {
		p := wanting("0", "0")
		change(p)
		return p
	}
	secured := func(s corev1.PodSecurityContext) *corev1.Pod {
		return with(func(p *corev1.Pod) { p.Spec.SecurityContext = &s })
	}
	port := func(ip string, protocol corev1.Protocol) *corev1.Pod {
		return with(func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostIP: ip, Protocol: protocol, HostPort: 80, ContainerPort: 1}}
		})
	}
	tainted := smallNode()
	tainted.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}, {Key: "broken", Effect: corev1.TaintEffectNoExecute}}
	others := func(p ...*corev1.Pod) host { return host{node: smallNode(), others: p} }
	for name, x := range map[string]struct {
		pod  *corev1.Pod
		host host
		want refusal
	}{
		"fits":            {wanting("2", "1Gi"), others(), refusal{}},
		"beside another":  {wanting("1", "512Mi"), others(wanting("1", "512Mi")), refusal{}},
		"no node yet":     {wanting("100", "1Gi"), host{}, refusal{}},
		"cpu":             {wanting("1500m", "0"), others(wanting("1", "0")), refusal{"OutOfcpu", "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000"}},
		"memory":          {wanting("0", "2Gi"), others(), refusal{"OutOfmemory", "Node didn't have enough resource: memory, requested: 2147483648, used: 0, capacity: 1073741824"}},
		"cpu comes first": {wanting("3", "2Gi"), others(), refusal{"OutOfcpu", "Node didn't have enough resource: cpu, requested: 3000, used: 0, capacity: 2000"}},
		"pods":            {wanting("3", "0"), others(wanting("0", "0"), wanting("0", "0")), refusal{"OutOfpods", "Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2"}},
		"selector": {with(func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "hdd"} }), others(),
			refusal{"NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}},
		"selector met":   {with(func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }), others(), refusal{}},
		"port":           {port("", ""), others(port("10.0.0.1", "TCP")), refusal{"NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}},
		"other address":  {port("10.0.0.2", "TCP"), others(port("10.0.0.1", "TCP")), refusal{}},
		"other protocol": {port("", "UDP"), others(port("", "TCP")), refusal{}},
		"taint":          {wanting("0", "0"), host{node: tainted}, refusal{"TaintToleration", "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"}},
		"taint tolerated": {with(func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "broken", Operator: corev1.TolerationOpExists}}
		}), host{node: tainted}, refusal{}},
		"safe sysctl":       {secured(corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "net/ipv4/ip_unprivileged_port_start", Value: "0"}}}), others(), refusal{}},
		"unsafe sysctl":     {secured(corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "kernel.msgmax", Value: "1"}}}), others(), refusal{"SysctlForbidden", `forbidden sysctl: "kernel.msgmax" not allowlisted`}},
		"other system":      {with(func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }), others(), refusal{"PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"}},
		"label of a system": {with(func(p *corev1.Pod) { p.Labels = map[string]string{corev1.LabelOSStable: "windows"} }), others(), refusal{"PodOSSelectorNodeLabelDoesNotMatch", "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"}},
		"groups": {secured(corev1.PodSecurityContext{SupplementalGroupsPolicy: ptr.To(corev1.SupplementalGroupsPolicyStrict)}), others(),
			refusal{"SupplementalGroupsPolicyNotSupported", "SupplementalGroupsPolicy=Strict is not supported in this node"}},
		"AppArmor": {secured(corev1.PodSecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}}), others(),
			refusal{"AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"}},
		"AppArmor is there": {secured(corev1.PodSecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}}), host{appArmor: true}, refusal{}},
		"unconfined":        {secured(corev1.PodSecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}}), others(), refusal{}},
		"host's network": {with(func(p *corev1.Pod) {
			p.Spec.HostNetwork = true
			p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "net.ipv4.tcp_syncookies", Value: "0"}}}
		}), others(), refusal{"SysctlForbidden", `forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host Net enabled`}},
	} {
		var got refusal
		if r := refuse(x.pod, x.host); r != nil {
			got = *r
		}
		if got != x.want {
			t.Errorf("%s: %+v, want %+v", name, got, x.want)
		}
	}
}

// TestAdmission: of Pods that come together the node takes what fits, once and
// for good; what was refused has failed, begins nothing, and says why.
func TestAdmission(t *testing.T) {
	inWorld(t, func(w *world) {
		w.agent.node.learn(smallNode())
		for i := range 3 {
			p := wanting("1500m", "0")
			p.Name = fmt.Sprint("p", i)
			w.create(p)
		}
		w.pass(time.Minute)
		var running, refused int
		for i := range 3 {
			p := w.get(types.UID(fmt.Sprint("uid-p", i)))
			switch {
			case p.Status.Phase == corev1.PodRunning:
				running++
			case p.Status.Phase == corev1.PodFailed && p.Status.Reason == "OutOfcpu" && len(p.Status.ContainerStatuses) == 0 && p.Status.HostIP == "" &&
				p.Status.Message == "Pod was rejected: Node didn't have enough resource: cpu, requested: 1500, used: 1500, capacity: 2000":
				refused++
			default:
				t.Errorf("%s is %+v", p.Name, p.Status)
			}
		}
		if running != 1 || refused != 2 {
			t.Errorf("%d run and %d were refused", running, refused)
		}
		if events := w.about("OutOfcpu"); len(events) != 2 {
			t.Errorf("events: %v", events)
		}
		// A refused Pod takes no room, and an agent that starts anew neither
		// asks again nor says anything else.
		before := w.patches
		w.restart()
		w.agent.node.learn(smallNode())
		w.pass(time.Minute)
		if w.patches != before || len(w.about("OutOfcpu")) != 2 {
			t.Errorf("after a restart: %d statuses, events %v", w.patches-before, w.about("OutOfcpu"))
		}
		small := wanting("400m", "0")
		small.Name = "small"
		w.create(small)
		w.pass(time.Minute)
		if p := w.get("uid-small"); p.Status.Phase != corev1.PodRunning {
			t.Errorf("what fits beside is %s %s", p.Status.Phase, p.Status.Message)
		}
	})
}
