// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"strings"
	"testing"
)

// TestDrain: S59, K30. kubectl drain waits for the budget, and goes on once it
// allows. It runs beside no other test: nothing is scheduled meanwhile.
func TestDrain(t *testing.T) {
	manifest := `
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: guarded}
spec:
  minAvailable: 1
  selector: {matchLabels: {app: guarded}}
---
apiVersion: v1
kind: ReplicationController
metadata: {name: guarded}
spec:
  replicas: 1
  selector: {app: guarded}
  template:
    metadata: {labels: {app: guarded}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: ` + image + `, command: [sleep, "1000"]}]
`
	if out, err := kubectlIn(t, manifest, "apply", "-f", "-"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	removeLater(t, "pdb/guarded", "rc/guarded")
	must(t, "wait", "--for=jsonpath={.status.currentHealthy}=1", "pdb/guarded", "--timeout=60s")
	if row := strings.Fields(must(t, "get", "pdb", "guarded", "--no-headers")); strings.Join(row[:4], " ") != "guarded 1 N/A 0" {
		t.Errorf("the row is %v", row)
	}
	node := strings.TrimSpace(must(t, "get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"))
	t.Cleanup(func() {
		if out, err := c.command(context.Background(), "uncordon", node).CombinedOutput(); err != nil {
			t.Errorf("%v %s", err, out)
		}
	})
	drain := func(timeout string) (string, error) {
		return kubectl(t, "drain", node, "--pod-selector=app=guarded", "--delete-emptydir-data", "--timeout="+timeout)
	}
	out, err := drain("3s")
	if err == nil || !strings.Contains(out, "Cannot evict pod as it would violate the pod's disruption budget.") {
		t.Fatalf("drained against the budget: %v %s", err, out)
	}
	first := strings.TrimSpace(must(t, "get", "pods", "-l", "app=guarded", "-o", "name"))
	must(t, "patch", "pdb", "guarded", "-p", `{"spec":{"minAvailable":0}}`)
	must(t, "wait", "--for=jsonpath={.status.disruptionsAllowed}=1", "pdb/guarded", "--timeout=60s")
	if out, err := drain("60s"); err != nil || !strings.Contains(out, first+" evicted") {
		t.Fatalf("not drained: %v %s", err, out)
	}
	eventually(t, "another Pod waits for the node", func() bool {
		return strings.Contains(must(t, "get", "pods", "-l", "app=guarded", "--no-headers"), "Pending")
	})
	must(t, "uncordon", node)
	must(t, "wait", "--for=jsonpath={.status.currentHealthy}=1", "pdb/guarded", "--timeout=60s")
}
