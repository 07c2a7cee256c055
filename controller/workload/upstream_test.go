// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/peapod/peapod/api/defaults"
	"github.com/peapod/peapod/controller/owned"
	"github.com/peapod/peapod/controller/world"
)

// question is a Deployment and its ReplicaSets, as test/stock/workload reads
// them; answer is what became of them.
type (
	question struct {
		Seed       uint64
		Deployment *appsv1.Deployment
		Sets       []*appsv1.ReplicaSet
	}
	answer struct {
		Seed     uint64
		Revision string
		Status   appsv1.DeploymentStatus
		Sets     []sized
		Events   []string
	}
	sized struct {
		Name        string
		Replicas    int32
		Annotations map[string]string
	}
)

const asked = 200

// ask makes a Deployment in the middle of something.
func ask(seed uint64) question {
	r := rand.New(rand.NewPCG(seed, 37))
	n := func(most int32) int32 { return r.Int32N(most + 1) }
	amount := func() *intstr.IntOrString {
		if r.IntN(2) == 0 {
			return ptr.To(intstr.FromInt32(n(4)))
		}
		return ptr.To(intstr.FromString(fmt.Sprint(n(100), "%")))
	}
	template := func(version int) corev1.PodTemplateSpec {
		return corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: fmt.Sprint("app:", version)}}},
		}
	}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprint("ns", seed), Name: "web", UID: types.UID(fmt.Sprint("d", seed)), Generation: 3}}
	d.Spec = appsv1.DeploymentSpec{
		Replicas: ptr.To(n(12)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: template(int(n(4))),
		Paused: r.IntN(6) == 0, RevisionHistoryLimit: ptr.To(n(3)), ProgressDeadlineSeconds: ptr.To[int32](600),
	}
	d.Annotations = map[string]string{"note": fmt.Sprint(n(2))}
	if r.IntN(5) == 0 {
		d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType
	} else {
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: amount(), MaxUnavailable: amount()}
	}
	if d.Spec.Paused {
		// Kubernetes may delete what it has just scaled up, if it keeps none.
		d.Spec.RevisionHistoryLimit = ptr.To[int32](10)
	}
	if r.IntN(6) == 0 {
		d.Status.CollisionCount = ptr.To(n(3))
	}
	defaults.Deployment(d)
	q := question{Seed: seed, Deployment: d}
	for v := range int(n(4)) {
		s := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{
			Namespace: d.Namespace, Name: fmt.Sprint("web-v", v), UID: types.UID(fmt.Sprint("s", seed, "-", v)), Generation: 1,
			CreationTimestamp: metav1.NewTime(world.Noon.Add(time.Duration(n(3)) * time.Minute)), Labels: map[string]string{"app": "web"},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))},
			Annotations:     map[string]string{"note": fmt.Sprint(n(2))},
		}}
		s.Spec = appsv1.ReplicaSetSpec{Replicas: ptr.To(n(6)), Selector: d.Spec.Selector, Template: template(v)}
		defaults.ReplicaSet(s)
		s.Spec.Template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = fmt.Sprint("v", v)
		s.Status.Replicas, s.Status.ObservedGeneration, s.Status.TerminatingReplicas = n(*s.Spec.Replicas), 1, ptr.To(n(2))
		s.Status.ReadyReplicas = n(s.Status.Replicas)
		s.Status.AvailableReplicas = n(s.Status.ReadyReplicas)
		if r.IntN(3) > 0 {
			s.Annotations[revisionAnnotation] = fmt.Sprint(v + 1)
		}
		switch r.IntN(4) {
		case 0:
			s.Annotations[desiredAnnotation], s.Annotations[maxAnnotation] = fmt.Sprint(n(12)), fmt.Sprint(n(15))
		case 1:
		default:
			mark(d, s)
		}
		if r.IntN(5) == 0 {
			s.Status.Conditions = []appsv1.ReplicaSetCondition{{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: s.Name}}
		}
		q.Sets = append(q.Sets, s)
	}
	if reason := []string{"", setUpdated, setCreated, setAvailable, timedOut, isPaused}[r.IntN(6)]; reason != "" {
		since := metav1.NewTime(time.Now().Add(-time.Duration(n(1)) * time.Hour).Truncate(time.Second))
		status := corev1.ConditionTrue
		if reason == timedOut {
			status = corev1.ConditionFalse
		}
		d.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: status, Reason: reason, Message: "before", LastUpdateTime: since, LastTransitionTime: since}}
	}
	return q
}

// memory is an API in memory that counts what is written.
type memory struct {
	client.Client
	writes int
}

func newMemory(objects []client.Object) *memory {
	m := &memory{}
	m.Client = fake.NewClientBuilder().WithScheme(clientscheme.Scheme).WithObjects(objects...).WithIndex(&corev1.Pod{}, owned.ByController, owned.ControllerOf).WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			m.writes++
			o.SetUID(types.UID(o.GetName()))
			// Newer than all that were asked about.
			o.SetCreationTimestamp(metav1.NewTime(world.Noon.Add(time.Hour)))
			return c.Create(ctx, o, opts...)
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			m.writes++
			return c.Update(ctx, o, opts...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			m.writes++
			return c.Delete(ctx, o, opts...)
		},
		// The API takes annotations with a status, which the one in memory does not.
		SubResourceUpdate: func(ctx context.Context, c client.Client, _ string, o client.Object, _ ...client.SubResourceUpdateOption) error {
			m.writes++
			with := o.DeepCopyObject().(client.Object)
			if err := c.SubResource("status").Update(ctx, o); err != nil {
				return err
			}
			with.SetResourceVersion(o.GetResourceVersion())
			return c.Update(ctx, with)
		},
	}).Build()
	return m
}

// settled looks at the Deployment until nothing is written any more.
func settled(t *testing.T, c *memory, q question) answer {
	t.Helper()
	events := record.NewFakeRecorder(1000)
	r := deployments{owned.Owning{Client: c, Live: c, Events: events, Gvk: appsv1.SchemeGroupVersion.WithKind("Deployment")}}
	key := client.ObjectKeyFromObject(q.Deployment)
	c.writes = 0
	for before := -1; before != c.writes; {
		before = c.writes
		if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: key}); err != nil {
			t.Fatalf("question %d: %v", q.Seed, err)
		}
		if c.writes > 100 {
			t.Fatalf("question %d: never settles", q.Seed)
		}
	}
	var d appsv1.Deployment
	var sets appsv1.ReplicaSetList
	if err := c.Get(t.Context(), key, &d); err != nil {
		t.Fatal(err)
	}
	if err := c.List(t.Context(), &sets, client.InNamespace(key.Namespace)); err != nil {
		t.Fatal(err)
	}
	a := answer{Seed: q.Seed, Revision: d.Annotations[revisionAnnotation], Status: d.Status}
	for i := range a.Status.Conditions {
		x := &a.Status.Conditions[i]
		x.LastTransitionTime, x.LastUpdateTime = metav1.Time{}, metav1.Time{}
	}
	// Their order is that of the writes, of which ours are fewer.
	slices.SortFunc(a.Status.Conditions, func(x, y appsv1.DeploymentCondition) int { return strings.Compare(string(x.Type), string(y.Type)) })
	for _, s := range sets.Items {
		a.Sets = append(a.Sets, sized{s.Name, *s.Spec.Replicas, s.Annotations})
	}
	slices.SortFunc(a.Sets, func(x, y sized) int { return strings.Compare(x.Name, y.Name) })
	for len(events.Events) > 0 {
		a.Events = append(a.Events, <-events.Events)
	}
	slices.Sort(a.Events)
	a.Events = slices.Compact(a.Events)
	return a
}

// TestDeploymentsUpstream compares what becomes of random Deployments with what
// kube-controller-manager's own controller makes of them, when it has come to
// rest: sizes, annotations, names with their hashes, conditions, events.
func TestDeploymentsUpstream(t *testing.T) {
	var all []question
	var objects []client.Object
	for seed := range uint64(asked) {
		q := ask(seed)
		all, objects = append(all, q), append(objects, q.Deployment)
		for _, s := range q.Sets {
			objects = append(objects, s)
		}
	}
	c := sync.OnceValue(func() *memory { return newMemory(objects) }) // it writes on the objects
	world.Upstream(t, "deployments.jsonl", all, func(q question) answer { return settled(t, c(), q) })
}
