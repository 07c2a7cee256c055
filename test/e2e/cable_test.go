// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/test/machine"
)

// tolerant lets a Pod leave a lost machine after a second.
const tolerant = `
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      terminationGracePeriodSeconds: 1
`

// onLost is what runs when the machine m2 is lost: web can go to any other
// machine, db is bound to identities, and one notes each start and ends again and
// again, and stays.
const onLost = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:` + tolerant + `
      affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 100, preference: {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [m2]}]}}]}}
      containers: [{name: c, image: peapod.dev/witness:1, command: [witness, live, /dev/null]}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:` + tolerant + `
      affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 100, preference: {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [m2]}]}}]}}
      containers: [{name: c, image: peapod.dev/witness:1, command: [witness, live, /dev/null]}]
---
apiVersion: v1
kind: Pod
metadata: {name: again}
spec:
  nodeName: m2
  terminationGracePeriodSeconds: 1
  tolerations: [{operator: Exists}]
  volumes: [{name: h, hostPath: {path: HOME}}]
  containers:
  - name: c
    image: peapod.dev/witness:1
    volumeMounts: [{name: h, mountPath: /h}]
    command: [sh, -c, "echo start >>/h/starts; sleep 1"]
`

// TestPulledCable: what a lost machine costs, and what it does meanwhile: its
// Pods go on and are restarted; replacements have other names and UIDs; an
// identity is not doubled; and when it is back it ends what is not its own any
// more.
func TestPulledCable(t *testing.T) {
	all := machines(t, 0, 0, 0)
	first, lost := all[0], all[1]
	if out, err := first.run(t, strings.ReplaceAll(onLost, "HOME", lost.home), "apply", "-f", "-"); err != nil {
		t.Fatalf("apply: %v\n%s", err, out)
	}
	first.must(t, "rollout", "status", "deployment/web", "statefulset/db", "--timeout=60s")
	pods := func(app string) []corev1.Pod {
		l, err := first.client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
		if err != nil {
			t.Fatal(err)
		}
		return l.Items
	}
	web, db := pods("web")[0], pods("db")[0]
	if web.Spec.NodeName != "m2" || db.Spec.NodeName != "m2" {
		t.Fatalf("web runs on %s and db on %s, want m2", web.Spec.NodeName, db.Spec.NodeName)
	}
	starts := func() int {
		b, _ := os.ReadFile(filepath.Join(lost.home, "starts")) // none yet
		return strings.Count(string(b), "start")
	}
	eventually(t, "again runs", func() bool { return starts() > 0 })

	if err := lost.host.Unplug(); err != nil {
		t.Fatal(err)
	}
	pulled, before := time.Now(), starts()
	eventuallyWithin(t, 2*patience, "web runs elsewhere", func() bool {
		for _, p := range pods("web") {
			if p.UID != web.UID && p.Spec.NodeName != "m2" && ready(&p) {
				return true
			}
		}
		return false
	})
	t.Logf("web runs elsewhere %v after the cable was pulled", time.Since(pulled).Round(time.Second))
	eventually(t, "db is asked to leave", func() bool { return pods("db")[0].DeletionTimestamp != nil })
	if now := pods("db"); len(now) != 1 || now[0].UID != db.UID {
		t.Errorf("db has %d Pods, want the one that is on the lost machine", len(now))
	}
	if len(processesOn(lost, web)) == 0 || len(processesOn(lost, db)) == 0 {
		t.Error("the lost machine has ended Pods on its own")
	}
	eventually(t, "the lost machine restarts its containers", func() bool { return starts() > before })

	if err := lost.host.Plug(); err != nil {
		t.Fatal(err)
	}
	plugged := time.Now()
	eventually(t, "the old Pods have ended", func() bool { return len(processesOn(lost, web))+len(processesOn(lost, db)) == 0 })
	t.Logf("the old Pods have ended %v after the cable was back", time.Since(plugged).Round(10*time.Millisecond))
	eventually(t, "db has another Pod", func() bool { now := pods("db"); return len(now) == 1 && now[0].UID != db.UID && ready(&now[0]) })
	first.must(t, "wait", "--for=condition=Ready", "node/m2", "--timeout=60s")
	if got := first.must(t, "get", "pod", "again", "-o", "jsonpath={.spec.nodeName}"); got != "m2" {
		t.Errorf("again is on %q", got)
	}
}

// processesOn are those of a Pod on a machine.
func processesOn(x *cluster, p corev1.Pod) (out []string) {
	for _, s := range machine.Belongings(x.dir, string(p.UID)) {
		if strings.HasPrefix(s, "process ") {
			out = append(out, s)
		}
	}
	return out
}
