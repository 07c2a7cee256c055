// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestClaim: what a Pod writes to its claim another one finds there, and with
// the claim it is gone.
func TestClaim(t *testing.T) {
	t.Parallel()
	const claim = `{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"kept"},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Mi"}}}}`
	if out, err := kubectlIn(t, claim, "apply", "-f", "-"); err != nil {
		t.Fatal(out, err)
	}
	removeLater(t, "pvc", "kept")
	pod := func(name, command string) string {
		apply(t, name, `
		restartPolicy: Never
		securityContext: {runAsUser: 1000, fsGroup: 2000}
		containers:
		- name: c
		  image: peapod.dev/examples:1
		  command: [sh, -c, "`+command+`"]
		  volumeMounts: [{name: data, mountPath: /data}]
		volumes: [{name: data, persistentVolumeClaim: {claimName: kept}}]
		`)
		await(t, name, "has ended", phase(corev1.PodSucceeded))
		return must(t, "logs", name)
	}
	pod("writes", "echo here > /data/file")
	must(t, "delete", "pod", "writes", "--wait")
	if got := strings.TrimSpace(pod("reads", "cat /data/file")); got != "here" {
		t.Errorf("read %q", got)
	}
	volume := must(t, "get", "pvc", "kept", "-o", "jsonpath={.spec.volumeName}")
	must(t, "delete", "pod", "reads", "--wait")
	must(t, "delete", "pvc", "kept", "--wait")
	must(t, "wait", "--for=delete", "pv/"+volume, "--timeout=60s")
}
