// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"
)

// TestDaemonSet: S64. Stock kubectl rolls out an agent on the node, without a
// moment without one, and takes it back.
func TestDaemonSet(t *testing.T) {
	t.Parallel()
	example(t, "agents.yaml")
	const name = "daemonset/agents"
	status := func() { t.Helper(); rolledOut(t, name, "successfully rolled out") }
	status()
	pod := func() string {
		t.Helper()
		return strings.TrimSpace(must(t, "get", "pods", "-l", "app=agents", "-o", "jsonpath={.items[0].metadata.name}"))
	}
	first := pod()
	if p := getPod(t, first); must(t, "logs", first) != first+" on "+p.Spec.NodeName+"\n" {
		t.Errorf("logs say %q", must(t, "logs", first))
	}
	least := leastReady(t, "app=agents", 1)
	must(t, "set", "env", name, "COLOR=blue")
	status()
	gone(t, first)
	if n := least(); n < 1 {
		t.Errorf("%d were ready in the middle of a rollout", n)
	}
	if got := must(t, "rollout", "history", name); strings.Count(got, "<none>") != 2 {
		t.Errorf("rollout history says\n%s", got)
	}
	second := pod()
	must(t, "rollout", "undo", name)
	status()
	gone(t, second)
	if env := getPod(t, pod()).Spec.Containers[0].Env; len(env) != 1 {
		t.Errorf("it was not taken back: %v", env)
	}
	if got := must(t, "get", name, "-o", "wide"); !strings.Contains(got, "UP-TO-DATE") || !strings.Contains(got, "app=agents") {
		t.Errorf("get -o wide says\n%s", got)
	}
	if got := must(t, "describe", name); !strings.Contains(got, "Desired Number of Nodes Scheduled: 1") || !strings.Contains(got, "SuccessfulDelete") {
		t.Errorf("describe says\n%s", got)
	}
	third := pod()
	removeLater(t, "pod", third)
	must(t, "delete", name, "--cascade=orphan")
	if refs := must(t, "get", "pod", third, "-o", "jsonpath={.metadata.ownerReferences}"); refs != "" {
		t.Errorf("the orphan has the owners %s", refs)
	}
	example(t, "agents.yaml")
	status()
	if kind := must(t, "get", "pod", third, "-o", "jsonpath={.metadata.ownerReferences[0].kind}"); kind != "DaemonSet" {
		t.Errorf("the orphan is not taken over: %q", kind)
	}
}
