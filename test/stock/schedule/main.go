// SPDX-License-Identifier: Apache-2.0

// Schedule asks kube-scheduler about clusters: each is given to one of its own,
// with the API in memory, and what it does first with the Pod that has no node
// becomes a line: its seed, and the node or the message of the condition.
//
//	schedule CLUSTERS-FILE ANSWERS-FILE
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/events"
	"k8s.io/kubernetes/pkg/scheduler"
	"k8s.io/kubernetes/pkg/scheduler/profile"

	"github.com/peapod/peapod/test/stock/exam"
)

// cluster is one question, as the test of scheduler/ writes it.
type cluster struct {
	Seed  uint64
	Nodes []*corev1.Node
	Pods  []*corev1.Pod // on the nodes
	Pod   *corev1.Pod   // looks for one

	Namespaces  []*corev1.Namespace
	Services    []*corev1.Service
	ReplicaSets []*appsv1.ReplicaSet
	Budgets     []*policyv1.PodDisruptionBudget
}

// patience bounds one answer.
const patience = 30 * time.Second

func main() { exam.Main(answers) }

func answers(clusters []cluster, out io.Writer) error {
	for _, c := range clusters {
		said, err := ask(c)
		if err != nil {
			return fmt.Errorf("cannot ask about cluster %d: %w", c.Seed, err)
		}
		fmt.Fprintf(out, "%d\t%s\n", c.Seed, said)
	}
	return nil
}

// ask gives the node that the Pod is bound to, or the message of its condition.
func ask(c cluster) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var objects []runtime.Object
	for _, n := range c.Nodes {
		objects = append(objects, n)
	}
	for _, p := range append(c.Pods, c.Pod) {
		objects = append(objects, p)
	}
	for _, n := range c.Namespaces {
		objects = append(objects, n)
	}
	for _, s := range c.Services {
		objects = append(objects, s)
	}
	for _, s := range c.ReplicaSets {
		objects = append(objects, s)
	}
	for _, b := range c.Budgets {
		objects = append(objects, b)
	}
	client := fake.NewClientset(objects...)
	said := make(chan string, 1)
	say := func(what string) {
		select {
		case said <- what:
		default:
		}
	}
	client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		b, ok := a.(clienttesting.CreateAction).GetObject().(*corev1.Binding)
		if ok {
			say(b.Target.Name)
		}
		return ok, b, nil
	})
	client.PrependReactor("patch", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		var p corev1.Pod
		if err := json.Unmarshal(a.(clienttesting.PatchAction).GetPatch(), &p); err != nil {
			return true, nil, err
		}
		for _, condition := range p.Status.Conditions {
			if condition.Type == corev1.PodScheduled {
				say(condition.Message)
			}
		}
		return false, nil, nil
	})
	f := informers.NewSharedInformerFactory(client, 0)
	s, err := scheduler.New(ctx, client, f, nil, profile.NewRecorderFactory(events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})))
	if err != nil {
		return "", err
	}
	f.Start(ctx.Done())
	f.WaitForCacheSync(ctx.Done())
	if err := s.WaitForHandlersSync(ctx); err != nil {
		return "", err
	}
	go s.Run(ctx)
	select {
	case what := <-said:
		return what, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
