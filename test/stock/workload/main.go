// SPDX-License-Identifier: Apache-2.0

// Workload asks kube-controller-manager about workloads: its controllers are
// given the objects of all questions, with the API in memory, and what they
// have made of them when they have come to rest becomes the answers.
//
//	workload QUESTIONS-FILE ANSWERS-FILE
package main

import (
	"context"
	"io"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/kubernetes/pkg/controller/deployment"

	"github.com/peapod/peapod/test/stock/exam"
)

// question is a Deployment and its ReplicaSets, in a namespace of their own.
type question struct {
	Seed       uint64
	Deployment *appsv1.Deployment
	Sets       []*appsv1.ReplicaSet
}

// answer is what has become of them.
type answer struct {
	Seed     uint64
	Revision string
	Status   appsv1.DeploymentStatus
	Sets     []set
	Events   []string
}

type set struct {
	Name        string
	Replicas    int32
	Annotations map[string]string
}

func main() { exam.Main(answers) }

func answers(list []question, out io.Writer) error {
	var objects []runtime.Object
	for _, q := range list {
		objects = append(objects, q.Deployment)
		for _, s := range q.Sets {
			objects = append(objects, s)
		}
	}
	client := fake.NewClientset(objects...)
	err := exam.Settle(client, func(ctx context.Context, f informers.SharedInformerFactory) (*deployment.DeploymentController, error) {
		return deployment.NewDeploymentController(ctx, f.Apps().V1().Deployments(), f.Apps().V1().ReplicaSets(), f.Core().V1().Pods(), client)
	})
	if err != nil {
		return err
	}
	return exam.Each(list, out, func(q question) (answer, error) { return read(client, q) })
}

func read(client *fake.Clientset, q question) (answer, error) {
	ctx, ns := context.Background(), q.Deployment.Namespace
	d, err := client.AppsV1().Deployments(ns).Get(ctx, q.Deployment.Name, metav1.GetOptions{})
	if err != nil {
		return answer{}, err
	}
	sets, err := client.AppsV1().ReplicaSets(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return answer{}, err
	}
	events, err := client.CoreV1().Events(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return answer{}, err
	}
	a := answer{Seed: q.Seed, Revision: d.Annotations["deployment.kubernetes.io/revision"], Status: d.Status}
	for i := range a.Status.Conditions {
		c := &a.Status.Conditions[i]
		c.LastTransitionTime, c.LastUpdateTime = metav1.Time{}, metav1.Time{}
	}
	// Their order is that of the writes, of which ours are fewer.
	slices.SortFunc(a.Status.Conditions, func(x, y appsv1.DeploymentCondition) int { return strings.Compare(string(x.Type), string(y.Type)) })
	for _, s := range sets.Items {
		a.Sets = append(a.Sets, set{s.Name, *s.Spec.Replicas, s.Annotations})
	}
	slices.SortFunc(a.Sets, func(x, y set) int { return strings.Compare(x.Name, y.Name) })
	slices.SortStableFunc(events.Items, func(x, y corev1.Event) int { return strings.Compare(x.Name, y.Name) })
	for _, e := range events.Items {
		a.Events = append(a.Events, e.Type+" "+e.Reason+" "+e.Message)
	}
	slices.Sort(a.Events)
	return a, nil
}
