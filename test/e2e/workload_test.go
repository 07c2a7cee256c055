// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestDeployment: S60, S62, S70. Stock kubectl rolls out, looks, pauses, goes
// back and scales; there are never less Pods than were asked for.
func TestDeployment(t *testing.T) {
	t.Parallel()
	example(t, "rollout.yaml")
	const name = "deployment/rollout"
	status := func() { t.Helper(); rolledOut(t, name, "successfully rolled out") }
	status()
	least := leastReady(t, "app=rollout", 3)
	must(t, "set", "env", name, "MESSAGE=second")
	status()
	if n := least(); n < 3 {
		t.Errorf("%d were ready in the middle of a rollout", n)
	}
	if got := must(t, "rollout", "history", name); !strings.Contains(got, "REVISION") || strings.Count(got, "<none>") != 2 {
		t.Errorf("rollout history says\n%s", got)
	}
	must(t, "rollout", "pause", name)
	must(t, "set", "env", name, "MESSAGE=third")
	must(t, "wait", "--for=jsonpath={.status.conditions[?(@.type==\"Progressing\")].reason}=DeploymentPaused", name, "--timeout=60s")
	if sets := strings.Fields(must(t, "get", "rs", "-l", "app=rollout", "-o", "name")); len(sets) != 2 {
		t.Errorf("a paused deployment has %v", sets)
	}
	must(t, "rollout", "resume", name)
	status()
	must(t, "rollout", "undo", name)
	status()
	pods, err := c.client.CoreV1().Pods("default").List(context.Background(), metav1.ListOptions{LabelSelector: "app=rollout"})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil && p.Spec.Containers[0].Env[0].Value != "second" {
			t.Errorf("%s says %s", p.Name, p.Spec.Containers[0].Env[0].Value)
		}
	}
	must(t, "rollout", "restart", name)
	status()
	must(t, "scale", name, "--replicas=1")
	must(t, "wait", "--for=jsonpath={.status.replicas}=1", name, "--timeout=60s")
	if got := must(t, "get", name, "-o", "wide"); !strings.Contains(got, "1/1") || !strings.Contains(got, "app=rollout") {
		t.Errorf("get -o wide says\n%s", got)
	}
	if got := must(t, "describe", name); !strings.Contains(got, "NewReplicaSetAvailable") || !strings.Contains(got, "Scaled down replica set") {
		t.Errorf("describe says\n%s", got)
	}
	if got := must(t, "explain", "deployment.spec.strategy"); !strings.Contains(got, "rollingUpdate") {
		t.Errorf("explain says\n%s", got)
	}
	removeLater(t, "rs", "-l", "app=rollout")
	must(t, "delete", name, "--cascade=orphan")
	set := strings.TrimSpace(must(t, "get", "rs", "-l", "app=rollout", "-o", `jsonpath={.items[?(@.spec.replicas==1)].metadata.name}`))
	if refs := must(t, "get", "rs", set, "-o", "jsonpath={.metadata.ownerReferences}"); refs != "" {
		t.Errorf("an orphan has the owners %s", refs)
	}
	example(t, "rollout.yaml")
	status()
	if refs := must(t, "get", "rs", set, "-o", "jsonpath={.metadata.ownerReferences[0].kind}"); refs != "Deployment" {
		t.Errorf("the orphan is not taken over: %q", refs)
	}
}

// rolledOut waits for the end of a rollout, of which kubectl has words.
func rolledOut(t *testing.T, what, words string) {
	t.Helper()
	if got := must(t, "rollout", "status", what, "--timeout=120s"); !strings.Contains(got, words) {
		t.Errorf("rollout status says %q", got)
	}
}

// leastReady follows the Pods that a selector chooses, of which so many are
// ready; the answer is the smallest number of them since.
func leastReady(t *testing.T, selector string, from int32) func() int32 {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	pods := c.client.CoreV1().Pods("default")
	list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		t.Fatal(err)
	}
	is := map[string]bool{}
	for i := range list.Items {
		is[list.Items[i].Name] = ready(&list.Items[i])
	}
	w, err := pods.Watch(ctx, metav1.ListOptions{LabelSelector: selector, ResourceVersion: list.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	var least atomic.Int32
	least.Store(from)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range w.ResultChan() {
			p, ok := e.Object.(*corev1.Pod)
			if !ok {
				continue
			}
			is[p.Name] = ready(p) && p.DeletionTimestamp == nil
			n := int32(0)
			for _, yes := range is {
				if yes {
					n++
				}
			}
			least.Store(min(least.Load(), n))
		}
	}()
	stop := func() { w.Stop(); cancel(); <-done }
	t.Cleanup(stop)
	return least.Load
}

// TestStatefulSet: S63. Stock kubectl rolls out members with names that stay,
// and takes a rollout back.
func TestStatefulSet(t *testing.T) {
	t.Parallel()
	example(t, "members.yaml")
	const name = "statefulset/members"
	status := func() { t.Helper(); rolledOut(t, name, "partitioned roll out complete: 3 new pods") }
	must(t, "wait", "--for=jsonpath={.status.availableReplicas}=3", name, "--timeout=120s")
	if got := page(getPod(t, "members-1").Status.PodIP); got != "members-1" {
		t.Errorf("members-1 says %q", got)
	}
	before := getPod(t, "members-1").UID
	must(t, "set", "env", name, "COLOR=blue")
	status()
	if p := getPod(t, "members-1"); p.UID == before || p.Spec.Containers[0].Env[0].Value != "blue" {
		t.Errorf("members-1 was not replaced: %v", p.Spec.Containers[0].Env)
	}
	if got := must(t, "rollout", "history", name); strings.Count(got, "<none>") != 2 {
		t.Errorf("rollout history says\n%s", got)
	}
	must(t, "rollout", "undo", name)
	status()
	if p := getPod(t, "members-0"); len(p.Spec.Containers[0].Env) != 0 {
		t.Errorf("members-0 was not taken back: %v", p.Spec.Containers[0].Env)
	}
	must(t, "scale", name, "--replicas=1")
	gone(t, "members-2")
	gone(t, "members-1")
	if got := must(t, "get", "controllerrevisions", "-l", "app=members"); !strings.Contains(got, "statefulset.apps/members") {
		t.Errorf("get controllerrevisions says\n%s", got)
	}
	must(t, "delete", name, "--cascade=orphan")
	if refs := must(t, "get", "pod", "members-0", "-o", "jsonpath={.metadata.ownerReferences}"); refs != "" {
		t.Errorf("the orphan has the owners %s", refs)
	}
	removeLater(t, "pod", "members-0")
}
