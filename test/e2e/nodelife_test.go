// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"

	"github.com/peapod/peapod/api/pod"
)

// mortal is a node that is an object and a lease alone; this test is its agent.
type mortal struct {
	*testing.T
	*cluster
	name string
}

// bear makes a node, which lives until it is ended.
func bear(t *testing.T, x *cluster, name string) (m mortal, end func() (last time.Time)) {
	t.Helper()
	m = mortal{t, x, name}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	n.Spec.Taints = []corev1.Taint{{Key: "mortal", Effect: corev1.TaintEffectNoSchedule}}
	if _, err := x.client.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	m.beat()
	m.renew()
	last, ctx, done := time.Now(), t.Context(), make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer close(done)
		for {
			clock := time.NewTimer(10 * time.Second)
			select {
			case <-clock.C:
				last = time.Now()
				m.renew()
			case <-ctx.Done():
				clock.Stop()
				return
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return m, func() time.Time {
		cancel()
		<-done
		return last
	}
}

// beat posts that the node is ready.
func (m mortal) beat() {
	m.Helper()
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		n, err := m.client.CoreV1().Nodes().Get(m.Context(), m.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		now := metav1.Now()
		n.Status.Allocatable = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("10"), corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("4Gi")}
		n.Status.Conditions = []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status", LastHeartbeatTime: now, LastTransitionTime: now,
		}}
		_, err = m.client.CoreV1().Nodes().UpdateStatus(m.Context(), n, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		m.Error(err)
	}
}

func (m mortal) renew() {
	m.Helper()
	leases, now := m.client.CoordinationV1().Leases(corev1.NamespaceNodeLease), metav1.NowMicro()
	l, err := leases.Get(m.Context(), m.name, metav1.GetOptions{})
	if err == nil {
		l.Spec.RenewTime = &now
		_, err = leases.Update(m.Context(), l, metav1.UpdateOptions{})
	} else {
		_, err = leases.Create(m.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: m.name}, Spec: coordinationv1.LeaseSpec{RenewTime: &now}}, metav1.CreateOptions{})
	}
	if err != nil && m.Context().Err() == nil {
		m.Error(err)
	}
}

// run waits until a Pod is bound to the node and says that it is ready there.
func (m mortal) runs(name string) *corev1.Pod {
	m.Helper()
	m.say("wait", "--for=jsonpath={.spec.nodeName}="+m.name, "pod/"+name, "--timeout=30s")
	p := m.pod(name)
	p.Status.Phase, p.Status.StartTime = corev1.PodRunning, new(metav1.Now())
	pod.SetCondition(&p.Status, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
	p, err := m.client.CoreV1().Pods("default").UpdateStatus(m.Context(), p, metav1.UpdateOptions{})
	if err != nil {
		m.Fatal(err)
	}
	return p
}

func (m mortal) pod(name string) *corev1.Pod {
	m.Helper()
	p, err := m.client.CoreV1().Pods("default").Get(m.Context(), name, metav1.GetOptions{})
	if err != nil {
		m.Fatal(err)
	}
	return p
}

// say is kubectl, which must succeed.
func (m mortal) say(args ...string) string {
	m.Helper()
	out, err := m.cluster.run(m.T, "", args...)
	if err != nil {
		m.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// places are the nodes that each Pod was seen on, by UID.
type places struct {
	mu   sync.Mutex
	seen map[types.UID][]string
}

// follow watches all Pods until the test ends.
func follow(t *testing.T, x *cluster) *places {
	t.Helper()
	w, err := x.client.CoreV1().Pods("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p, done := &places{seen: map[types.UID][]string{}}, make(chan struct{})
	go func() {
		defer close(done)
		for e := range w.ResultChan() {
			if x, ok := e.Object.(*corev1.Pod); ok {
				p.mu.Lock()
				if list := p.seen[x.UID]; x.Spec.NodeName != "" && !slices.Contains(list, x.Spec.NodeName) {
					p.seen[x.UID] = append(list, x.Spec.NodeName)
				}
				p.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() { w.Stop(); <-done })
	return p
}

const mortalPod = `
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %[1]s}}
spec:
  nodeSelector: {kubernetes.io/hostname: mortal}
  tolerations: [%s{key: mortal, operator: Exists}]
  containers: [{name: c, image: ` + image + `, command: [sleep, "1000"]}]
`

const soon = `{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}, `

// TestDeadNode: S26, S27, S95, K37. A node that gives no sign of life is given
// up after 50 s, its Pods are deleted after the time they tolerate that, and
// replaced elsewhere by others; none of them moves.
func TestDeadNode(t *testing.T) {
	t.Parallel()
	x := apart(t, nil, "--listen", "127.0.0.1:26443", "--node-listen", ":26250", "--node-name", "n4", "--pod-cidr", "10.216.0.0/20", "--service-cidr", "10.226.0.0/16")
	m, end := bear(t, x, "mortal")
	where := follow(t, x)
	manifest := fmt.Sprintf(mortalPod, "lone", soon) + "---" + fmt.Sprintf(mortalPod, "patient", "")
	if out, err := x.run(t, manifest, "apply", "-f", "-"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	first := m.runs("lone")
	m.runs("patient")
	manifest = `
apiVersion: v1
kind: ReplicationController
metadata: {name: lone}
spec:
  replicas: 1
  selector: {app: lone}
  template:
    metadata: {labels: {app: lone}}
    spec:
      containers: [{name: c, image: ` + image + `, command: [sleep, "1000"]}]
`
	if out, err := x.run(t, manifest, "apply", "-f", "-"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	m.say("wait", "--for=jsonpath={.status.readyReplicas}=1", "rc/lone", "--timeout=30s")

	last := end()
	m.say("wait", "--for=condition=Ready=Unknown", "node/mortal", "--timeout=58s")
	if d := time.Since(last); d < 50*time.Second || d > 55*time.Second {
		t.Errorf("given up after %v", d)
	}
	given := time.Now()
	eventually(t, "the Pod is ending", func() bool { return m.pod("lone").DeletionTimestamp != nil })
	if d := time.Since(given); d < time.Second || d > 5*time.Second {
		t.Errorf("deleted %v after its node was given up", d)
	}
	m.say("wait", "--for=jsonpath={.status.readyReplicas}=1", "rc/lone", "--timeout=30s")
	m.replaced(first)
	m.told()
	if out := m.say("get", "nodes", "--no-headers"); !strings.Contains(out, "mortal   NotReady") || !strings.Contains(out, "n4       Ready") {
		t.Errorf("get nodes: %s", out)
	}
	if out, err := x.run(t, "", "patch", "pod", "lone", "-p", `{"spec":{"nodeName":"n4"}}`); err == nil || !strings.Contains(out, "pod updates may not change fields other than") {
		t.Errorf("a Pod is moved: %v %s", err, out)
	}

	m.renew()
	m.beat()
	eventually(t, "the taints are gone", func() bool {
		return m.say("get", "node", "mortal", "-o", "jsonpath={.spec.taints[*].key}") == "mortal"
	})
	eventually(t, "the deletion is called off", func() bool {
		return strings.Contains(m.say("get", "events", "--field-selector", "reason=TaintManagerEviction"), "Cancelling deletion of Pod default/patient")
	})
	if m.pod("patient").DeletionTimestamp != nil {
		t.Error("a Pod whose node is back in time is deleted")
	}
	out := m.say("delete", "pod", "lone", "patient", "--force", "--grace-period=0")
	if !strings.Contains(out, "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely.") {
		t.Errorf("no warning: %s", out)
	}
	m.say("delete", "node", "mortal")
	where.mu.Lock()
	defer where.mu.Unlock()
	if len(where.seen) != 3 {
		t.Errorf("not three Pods were seen: %v", where.seen)
	}
	for uid, nodes := range where.seen {
		if len(nodes) != 1 {
			t.Errorf("Pod %s was on %v", uid, nodes)
		}
	}
	m.contradicted()
	m.standstill()
}

// replaced checks that another Pod runs elsewhere.
func (m mortal) replaced(first *corev1.Pod) {
	m.Helper()
	pods, err := m.client.CoreV1().Pods("default").List(m.Context(), metav1.ListOptions{LabelSelector: "app=lone"})
	if err != nil {
		m.Fatal(err)
	}
	if len(pods.Items) != 2 {
		m.Errorf("%d Pods", len(pods.Items))
	}
	for _, p := range pods.Items {
		if old := p.UID == first.UID; old != (p.Spec.NodeName == "mortal") || old != (p.DeletionTimestamp != nil) {
			m.Errorf("%s is on %s, deletion %v", p.Name, p.Spec.NodeName, p.DeletionTimestamp)
		}
	}
}

// told checks what is said of the dead node's Pods.
func (m mortal) told() {
	m.Helper()
	p := m.pod("lone")
	if c := pod.Condition(&p.Status, corev1.DisruptionTarget); c == nil || c.Status != corev1.ConditionTrue || c.Reason != "DeletionByTaintManager" || c.Message != "Taint manager: deleting due to NoExecute taint" {
		m.Errorf("condition %+v", c)
	}
	for _, name := range []string{"lone", "patient"} {
		if pod.Ready(m.pod(name)) {
			m.Errorf("%s is ready", name)
		}
	}
	out := m.say("describe", "node", "mortal")
	for _, want := range []string{
		"node.kubernetes.io/unreachable:NoExecute", "node.kubernetes.io/unreachable:NoSchedule", "Kubelet stopped posting node status.",
		"RegisteredNode", "Node mortal event: Registered Node mortal in Controller", "Node mortal status is now: NodeNotReady",
	} {
		if !strings.Contains(out, want) {
			m.Errorf("describe node does not say %q:\n%s", want, out)
		}
	}
	out = m.say("get", "events", "--field-selector", "involvedObject.kind=Pod", "-o", "custom-columns=:type,:reason,:message,:source.component")
	for _, want := range []string{"Node is not ready", "Marking for deletion Pod default/lone", "taint-eviction-controller", "node-controller"} {
		if !strings.Contains(out, want) {
			m.Errorf("events do not say %q:\n%s", want, out)
		}
	}
}

// contradicted says of a living node that nothing is known of it: it speaks
// up, and its Pods and taints follow.
func (m mortal) contradicted() {
	m.Helper()
	m.say("patch", "node", "n4", "--subresource=status", "-p", `{"status":{"conditions":[{"type":"Ready","status":"Unknown"}]}}`)
	m.say("wait", "--for=condition=Ready", "node/n4", "--timeout=30s")
	m.say("wait", "--for=condition=Ready", "pods", "-l", "app=lone", "--timeout=30s")
	eventually(m.T, "the taints are gone", func() bool {
		return m.say("get", "node", "n4", "-o", "jsonpath={.spec.taints}") == ""
	})
}

// standstill stops the whole program for longer than a node may be silent: it
// has not listened, and gives nobody up.
func (m mortal) standstill() {
	m.Helper()
	const ready = `jsonpath={.status.conditions[?(@.type=="Ready")]['status','lastTransitionTime']}`
	before := m.say("get", "node", "n4", "-o", ready)
	if err := m.process.Process.Signal(syscall.SIGSTOP); err != nil {
		m.Fatal(err)
	}
	clock := time.NewTimer(58 * time.Second)
	<-clock.C
	if err := m.process.Process.Signal(syscall.SIGCONT); err != nil {
		m.Fatal(err)
	}
	began := time.Now()
	eventually(m.T, "the lease is renewed", func() bool {
		l, err := m.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(m.Context(), "n4", metav1.GetOptions{})
		return err == nil && l.Spec.RenewTime.After(began)
	})
	if after := m.say("get", "node", "n4", "-o", ready); after != before {
		m.Errorf("Ready was %s and is %s", before, after)
	}
	if out := m.say("get", "events", "--field-selector", "reason=NodeNotReady,involvedObject.name=n4", "-o", "name"); strings.TrimSpace(out) != "" && !strings.Contains(out, "No resources found") {
		m.Errorf("events: %s", out)
	}
}
