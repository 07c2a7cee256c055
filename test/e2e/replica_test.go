// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestReplacement: S32, S35, S60, S66, S67, S87. A ReplicaSet replaces at once
// what is ending, releases what is relabelled, and leaves orphans alone.
func TestReplacement(t *testing.T) {
	t.Parallel()
	manifest := `
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: twins}}
  template:
    metadata: {labels: {app: twins}}
    spec:
      terminationGracePeriodSeconds: 20
      containers: [{name: c, image: ` + image + `, command: [sh, -c, "trap : TERM; while :; do sleep 1; done"]}]
`
	if out, err := kubectlIn(t, manifest, "apply", "-f", "-"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	removeLater(t, "rs/web")
	removeLater(t, "pod", "-l", "app=twins")
	removeLater(t, "pod", "-l", "app=free")
	must(t, "wait", "--for=jsonpath={.status.readyReplicas}=2", "rs/web", "--timeout=60s")
	names := func() []string {
		return strings.Fields(must(t, "get", "pods", "-l", "app=twins", "-o", "name"))
	}
	must(t, "delete", names()[0], "--wait=false")
	eventually(t, "two run and one ends", func() bool { return len(names()) == 3 })
	must(t, "wait", "--for=jsonpath={.status.readyReplicas}=2", "rs/web", "--timeout=60s")
	must(t, "label", names()[2], "app=free", "--overwrite")
	eventually(t, "the released one is replaced", func() bool {
		return strings.TrimSpace(must(t, "get", "rs", "web", "-o", "jsonpath={.status.replicas}")) == "2"
	})
	if ref := strings.TrimSpace(must(t, "get", "pods", "-l", "app=free", "-o", "jsonpath={.items[*].metadata.ownerReferences}")); ref != "" {
		t.Errorf("the released pod still has an owner: %s", ref)
	}
	must(t, "scale", "rs", "web", "--replicas=1")
	must(t, "wait", "--for=jsonpath={.status.replicas}=1", "rs/web", "--timeout=60s")
	must(t, "delete", "rs", "web", "--cascade=orphan")
	list, err := c.client.CoreV1().Pods("default").List(context.Background(), metav1.ListOptions{LabelSelector: "app=twins"})
	if err != nil {
		t.Fatal(err)
	}
	alive := 0
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil && len(p.OwnerReferences) == 0 {
			alive++
		}
	}
	if alive != 1 {
		t.Errorf("%d orphans live", alive)
	}
}
