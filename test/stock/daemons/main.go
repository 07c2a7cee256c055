// SPDX-License-Identifier: Apache-2.0

// Daemons asks kube-controller-manager about DaemonSets: its controller is
// given the objects of all questions, with the API in memory, and what it has
// made of them when it has come to rest becomes the answers.
//
//	daemons QUESTIONS-FILE ANSWERS-FILE
package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/kubernetes/pkg/controller/daemon"

	"github.com/peapod/peapod/test/stock/exam"
)

// question is a DaemonSet with its Pods and past, in a namespace of their own,
// and nodes that only it selects.
type question struct {
	Seed  uint64
	Set   *appsv1.DaemonSet
	Nodes []*corev1.Node
	Pods  []*corev1.Pod
	Past  []*appsv1.ControllerRevision
}

// answer is what has become of them.
type answer struct {
	Seed   uint64
	Status appsv1.DaemonSetStatus
	Pods   []string
	Past   []string
}

func main() { exam.Main(answers) }

func answers(list []question, out io.Writer) error {
	var objects []runtime.Object
	for _, q := range list {
		objects = append(objects, q.Set)
		for _, n := range q.Nodes {
			objects = append(objects, n)
		}
		for _, p := range q.Pods {
			objects = append(objects, p)
		}
		for _, r := range q.Past {
			objects = append(objects, r)
		}
	}
	client := fake.NewClientset(objects...)
	var made atomic.Int64
	client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if p, ok := a.(clienttesting.CreateAction).GetObject().(*corev1.Pod); ok { // the one in memory gives no names and times
			p.Name, p.CreationTimestamp = fmt.Sprint(p.GenerateName, made.Add(1)), metav1.Now()
		}
		return false, nil, nil
	})
	err := exam.Settle(client, func(ctx context.Context, f informers.SharedInformerFactory) (*daemon.DaemonSetsController, error) {
		return daemon.NewDaemonSetsController(ctx, f.Apps().V1().DaemonSets(), f.Apps().V1().ControllerRevisions(), f.Core().V1().Pods(), f.Core().V1().Nodes(),
			client, flowcontrol.NewBackOff(time.Second, 15*time.Minute))
	})
	if err != nil {
		return err
	}
	return exam.Each(list, out, func(q question) (answer, error) { return read(client, q) })
}

func read(client *fake.Clientset, q question) (answer, error) {
	ctx, ns := context.Background(), q.Set.Namespace
	set, err := client.AppsV1().DaemonSets(ns).Get(ctx, q.Set.Name, metav1.GetOptions{})
	if err != nil {
		return answer{}, err
	}
	pods, err := client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return answer{}, err
	}
	past, err := client.AppsV1().ControllerRevisions(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return answer{}, err
	}
	a := answer{Seed: q.Seed, Status: set.Status}
	for i := range pods.Items {
		a.Pods = append(a.Pods, describe(&pods.Items[i]))
	}
	for _, r := range past.Items {
		a.Past = append(a.Past, fmt.Sprint(r.Name, " ", r.Revision, " ", r.Labels))
	}
	slices.Sort(a.Pods)
	slices.Sort(a.Past)
	return a, nil
}

// describe tells of a Pod what does not depend on which of equal nodes is
// chosen: Kubernetes takes them in any order.
func describe(p *corev1.Pod) string {
	return fmt.Sprint(p.Status.Phase, " ", len(p.Status.Conditions), " ", p.DeletionTimestamp != nil, " ", p.Labels, " ", len(p.Spec.Tolerations))
}
