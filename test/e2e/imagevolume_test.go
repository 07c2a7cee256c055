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
	withImage := func(name, mounts string) {
		apply(t, name, `
		terminationGracePeriodSeconds: 1
		volumes:
		- {name: data, image: {reference: "`+witnessImage+`"}}
		containers:
		- name: a
		  image: peapod.dev/examples:1
		  command: [sleep, "1000"]
		  volumeMounts: [`+mounts+`]
		`)
	}
	withImage("image-volume", "{name: data, mountPath: /all}, {name: data, mountPath: /part, subPath: bin}")
	p := await(t, "image-volume", "runs", ready)
	if got := in(t, "image-volume", "a", "sh", "-c", "cmp /all/bin/witness /part/witness && echo same"); got != "same" {
		t.Errorf("the image is not there: %s", got)
	}
	if out, err := kubectl(t, "exec", "image-volume", "--", "touch", "/all/x"); err == nil || !strings.Contains(out, "Read-only file system") {
		t.Errorf("it was written: %v %s", err, out)
	}
	told := 0
	for _, m := range p.Status.ContainerStatuses[0].VolumeMounts {
		if m.Name != "data" {
			continue
		}
		told++
		if m.VolumeStatus == nil || !strings.HasPrefix(m.VolumeStatus.Image.ImageRef, "sha256:") {
			t.Errorf("the status of %s is %+v", m.MountPath, m.VolumeStatus)
		}
	}
	if told != 2 {
		t.Errorf("the status tells of %d of the 2 mounts", told)
	}
	withImage("image-volume-part", "{name: data, mountPath: /part, subPath: no/such}")
	await(t, "image-volume-part", "says what is missing", func(p *corev1.Pod) bool {
		for _, s := range p.Status.ContainerStatuses {
			if w := s.State.Waiting; w != nil && w.Reason == "CreateContainerError" && strings.Contains(w.Message, `sub path "no/such": not found`) {
				return true
			}
		}
		return false
	})
}
