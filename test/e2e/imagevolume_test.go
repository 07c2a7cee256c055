// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestImageVolume: the content of an image as a volume, whole and in part (KEP-4639).
func TestImageVolume(t *testing.T) {
	t.Parallel()
	apply(t, "image-volume", `
		terminationGracePeriodSeconds: 1
		volumes:
		- {name: data, image: {reference: "`+witnessImage+`"}}
		containers:
		- name: a
		  image: peapod.dev/examples:1
		  command: [sleep, "1000"]
		  volumeMounts: [{name: data, mountPath: /all}, {name: data, mountPath: /part, subPath: bin}]
	`)
	p := await(t, "image-volume", "runs", ready)
	if got := in(t, "image-volume", "a", "sh", "-c", "cmp /all/bin/witness /part/witness && echo same"); got != "same" {
		t.Errorf("the image is not there: %s", got)
	}
	if out, err := kubectl(t, "exec", "image-volume", "--", "touch", "/all/x"); err == nil || !strings.Contains(out, "Read-only file system") {
		t.Errorf("it was written: %v %s", err, out)
	}
	for _, m := range p.Status.ContainerStatuses[0].VolumeMounts {
		if m.Name == "data" && (m.VolumeStatus == nil || !strings.HasPrefix(m.VolumeStatus.Image.ImageRef, "sha256:")) {
			t.Errorf("the status of %s is %+v", m.MountPath, m.VolumeStatus)
		}
	}
	apply(t, "image-volume-part", `
		terminationGracePeriodSeconds: 1
		volumes:
		- {name: data, image: {reference: "`+witnessImage+`"}}
		containers:
		- name: a
		  image: peapod.dev/examples:1
		  command: [sleep, "1000"]
		  volumeMounts: [{name: data, mountPath: /part, subPath: no/such}]
	`)
	await(t, "image-volume-part", "says what is missing", func(p *corev1.Pod) bool {
		for _, s := range p.Status.ContainerStatuses {
			if w := s.State.Waiting; w != nil && w.Reason == "CreateContainerError" && strings.Contains(w.Message, `sub path "no/such": not found`) {
				return true
			}
		}
		return false
	})
}
