// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ephemeralContainers are those added to a living Pod to look into it
// (KEP-277). They start once, whatever the others do, never again, and hold up
// nothing.
func ephemeralContainers(p *corev1.Pod) (out []corev1.Container) {
	never := corev1.ContainerRestartPolicyNever
	for _, e := range p.Spec.EphemeralContainers {
		c := corev1.Container(e.EphemeralContainerCommon)
		c.RestartPolicy = &never
		out = append(out, c)
	}
	return out
}

func isEphemeral(p *corev1.Pod, name string) bool {
	for _, e := range p.Spec.EphemeralContainers {
		if e.Name == name {
			return true
		}
	}
	return false
}

// target is the container whose processes an ephemeral one shall see.
type target struct{ name, id string }

func targetOf(p *corev1.Pod, have *observed, name string) *target {
	for _, e := range p.Spec.EphemeralContainers {
		if e.Name != name || e.TargetContainerName == "" {
			continue
		}
		t := &target{name: e.TargetContainerName}
		if at := have.latest(t.name); at != nil {
			t.id = at.id
		}
		return t
	}
	return nil
}

// join puts a container into the PID namespace of its target.
func (t *target) join(config *runtimeapi.ContainerConfig) error {
	if t == nil {
		return nil
	}
	if t.id == "" {
		return fmt.Errorf("unable to find target container %s", t.name)
	}
	o := config.Linux.SecurityContext.NamespaceOptions
	o.Pid, o.TargetId = runtimeapi.NamespaceMode_TARGET, t.id
	return nil
}

// ephemeralStatuses have neither probes nor readiness.
func ephemeralStatuses(p *corev1.Pod, have *observed, m *memory, e *ending) []corev1.ContainerStatus {
	list := statuses(p, ephemeralContainers(p), have, m, e, false)
	for i := range list {
		list[i].Started, list[i].Ready = nil, false
	}
	return list
}
