// SPDX-License-Identifier: Apache-2.0

package node

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/api/pod"
)

// TestEphemeralContainers: KEP-277. Added to a living Pod they start once, also
// after a restart of the agent, see their target's processes, change nothing
// about the Pod, and hold up nothing.
func TestEphemeralContainers(t *testing.T) {
	inWorld(t, func(w *world) {
		w.cri.programs = map[string]program{"main": {runs: time.Hour}, "look": {runs: time.Second, code: 3}, "stay": {runs: 10 * time.Hour}}
		p := podOf("p", 1, corev1.Container{Name: "main"})
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		w.create(p)
		w.pass(time.Second)
		w.update("uid-p", func(p *corev1.Pod) {
			for _, name := range []string{"look", "stay", "lost"} {
				e := corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: name, Image: "peapod.dev/test:1", ImagePullPolicy: corev1.PullIfNotPresent}}
				e.TargetContainerName = map[string]string{"look": "main", "lost": "nobody"}[name]
				p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, e)
			}
		})
		w.pass(10 * time.Second)
		w.restart()
		w.pass(time.Minute)
		w.wantTimes(w.about("start look", "start stay", "start lost"), "1000 start look #0", "1000 start stay #0")
		s := w.get("uid-p").Status
		look, stay, lost := s.EphemeralContainerStatuses[0], s.EphemeralContainerStatuses[1], s.EphemeralContainerStatuses[2]
		if end := look.State.Terminated; end == nil || end.ExitCode != 3 || look.RestartCount != 0 || look.Started != nil || look.Ready {
			t.Errorf("look is %+v", look)
		}
		if stay.State.Running == nil || s.Phase != corev1.PodRunning || !pod.Ready(w.get("uid-p")) {
			t.Errorf("stay is %+v, the Pod %s", stay, s.Phase)
		}
		if wait := lost.State.Waiting; wait == nil || wait.Reason != "CreateContainerConfigError" || wait.Message != "unable to find target container nobody" {
			t.Errorf("lost is %+v", lost.State)
		}
		joined := map[string]string{}
		w.setCRI(func(f *fakeCRI) {
			for _, c := range f.containers {
				if o := c.config.Linux.SecurityContext.NamespaceOptions; o.Pid == runtimeapi.NamespaceMode_TARGET {
					joined[c.config.Metadata.Name] = o.TargetId
				}
			}
		})
		if len(joined) != 1 || joined["look"] == "" {
			t.Errorf("targets are %v", joined)
		}
		w.pass(time.Hour)
		s = w.get("uid-p").Status
		if s.Phase != corev1.PodSucceeded || s.EphemeralContainerStatuses[1].State.Terminated == nil {
			t.Errorf("after its container the Pod is %s, stay %+v", s.Phase, s.EphemeralContainerStatuses[1].State)
		}
	})
}
