// SPDX-License-Identifier: Apache-2.0

// Workload asks kube-controller-manager about workloads: its controllers are
// given the objects of all questions, with the API in memory, and what they
// have made of them when they have come to rest becomes the answers.
//
//	workload QUESTIONS-FILE ANSWERS-FILE
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/kubernetes/pkg/controller/deployment"
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

// quiet is how long nothing is written by who has come to rest.
const quiet = time.Second

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: workload QUESTIONS-FILE ANSWERS-FILE")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "workload:", err)
		os.Exit(1)
	}
}

func run(questions, answers string) (err error) {
	b, err := os.ReadFile(questions)
	if err != nil {
		return err
	}
	var list []question
	if err := json.Unmarshal(b, &list); err != nil {
		return fmt.Errorf("cannot read %s: %w", questions, err)
	}
	var objects []runtime.Object
	for _, q := range list {
		objects = append(objects, q.Deployment)
		for _, s := range q.Sets {
			objects = append(objects, s)
		}
	}
	client := fake.NewClientset(objects...)
	if err := settle(client); err != nil {
		return err
	}
	f, err := os.Create(answers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, q := range list {
		a, err := read(client, q)
		if err != nil {
			return fmt.Errorf("cannot read the answer to question %d: %w", q.Seed, err)
		}
		b, err := json.Marshal(a)
		if err != nil {
			return err
		}
		if _, err := f.Write(append(b, '\n')); err != nil {
			return err
		}
	}
	return nil
}

// settle runs the controller until it rests.
func settle(client *fake.Clientset) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var last atomic.Int64
	client.PrependReactor("*", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if v := a.GetVerb(); v != "get" && v != "list" && v != "watch" {
			last.Store(time.Now().UnixNano())
		}
		return false, nil, nil
	})
	f := informers.NewSharedInformerFactory(client, 0)
	c, err := deployment.NewDeploymentController(ctx, f.Apps().V1().Deployments(), f.Apps().V1().ReplicaSets(), f.Core().V1().Pods(), client)
	if err != nil {
		return err
	}
	f.Start(ctx.Done())
	f.WaitForCacheSync(ctx.Done())
	last.Store(time.Now().UnixNano())
	go c.Run(ctx, 1)
	for time.Since(time.Unix(0, last.Load())) < quiet {
		time.Sleep(quiet / 10)
	}
	return nil
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
