// SPDX-License-Identifier: Apache-2.0

package node

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A volume that shows the Pod's labels follows them, whoever brings the news.
func TestVolumeFollowsLabels(t *testing.T) {
	inWorld(t, func(w *world) {
		p := w.create(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"a": "1"}}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", VolumeMounts: []corev1.VolumeMount{{Name: "d", MountPath: "/d"}}}},
			Volumes: []corev1.Volume{{Name: "d", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{
				Items: []corev1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}}}},
		}})
		w.pass(time.Second)
		shown := func() string {
			b, err := os.ReadFile(filepath.Join(w.agent.volumes.PodDir(p.UID), "volumes", "kubernetes.io~downward-api", "d", "labels"))
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
		if got := shown(); got != `a="1"` {
			t.Fatalf("at first the volume shows %q", got)
		}
		w.update(p.UID, func(p *corev1.Pod) { p.Labels["a"] = "2" })
		w.pass(time.Second)
		if got := shown(); got != `a="2"` {
			t.Errorf("after a change the volume shows %q", got)
		}
	})
}
