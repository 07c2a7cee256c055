// SPDX-License-Identifier: Apache-2.0

package world

import (
	"context"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Noon is when Replicas are looked at.
var Noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// Space makes a namespace that goes with the test.
func Space(t *testing.T) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	Put(t, ns)
	return ns.Name
}

// Put creates objects and deletes them when the test is over.
func Put(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := Client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := Client.Delete(context.Background(), o, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
				t.Error(err)
			}
		})
	}
}

// Until reads a list again after each change until it is so.
func Until(t *testing.T, what string, list client.ObjectList, so func() bool, opts ...client.ListOption) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		if err := Client.List(ctx, list, opts...); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if so() {
			return
		}
		w, err := Client.Watch(ctx, list, append(opts, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.GetResourceVersion()}})...)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		_, more := <-w.ResultChan()
		w.Stop()
		if !more && ctx.Err() != nil {
			t.Fatalf("%s: not in time", what)
		}
	}
}

// NewPod is a Pod on a node, or on none.
func NewPod(ns, name, node string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{"app": "web"}}}
	p.Spec = corev1.PodSpec{NodeName: node, AutomountServiceAccountToken: ptr.To(false), Containers: []corev1.Container{{Name: "c", Image: "busybox"}}}
	return p
}

// NewNode is a node that nobody works for.
func NewNode(t *testing.T) string {
	t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{GenerateName: "node-"}}
	Put(t, n)
	return n.Name
}

// Drop takes the finalizers of an object away.
func Drop(t *testing.T, o client.Object) {
	t.Helper()
	if err := Client.Patch(t.Context(), o, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))); err != nil {
		t.Fatal(err)
	}
}

// Replica is a Pod that has run and been ready for an hour.
func Replica(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(Noon.Add(-2 * time.Hour))}}
	p.Spec.NodeName = "node-of-" + name
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(Noon.Add(-time.Hour))}}
	for _, f := range change {
		f(p)
	}
	return p
}

// MapOf is a ConfigMap with owners.
func MapOf(ns, name string, owners ...metav1.OwnerReference) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, OwnerReferences: owners}}
}

// Erase deletes an object as a user would.
func Erase(t *testing.T, o client.Object, policy metav1.DeletionPropagation) {
	t.Helper()
	if err := Client.Delete(t.Context(), o, client.PropagationPolicy(policy)); err != nil {
		t.Fatal(err)
	}
}

// Define makes a kind of custom resources that goes with the test, and waits
// until it is served.
func Define(t *testing.T, group, plural, kind string) {
	t.Helper()
	d := &unstructured.Unstructured{Object: map[string]any{
		"spec": map[string]any{
			"group": group, "scope": "Namespaced",
			"names": map[string]any{"plural": plural, "kind": kind, "listKind": kind + "List"},
			"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true, "schema": map[string]any{
				"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true},
			}}},
		},
	}}
	d.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	d.SetName(plural + "." + group)
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinitionList"})
	Until(t, "no earlier one is ending", list, func() bool {
		return !slices.ContainsFunc(list.Items, func(o unstructured.Unstructured) bool { return o.GetName() == d.GetName() })
	})
	Put(t, d)
	Until(t, plural+" are served", list, func() bool {
		return slices.ContainsFunc(list.Items, func(o unstructured.Unstructured) bool {
			conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
			return o.GetName() == d.GetName() && slices.ContainsFunc(conditions, func(c any) bool {
				return c.(map[string]any)["type"] == "Established" && c.(map[string]any)["status"] == "True"
			})
		})
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for { // discovery says so a moment later, and each question takes its time
		_, err := Client.RESTMapper().RESTMapping(schema.GroupKind{Group: group, Kind: kind}, "v1")
		if err == nil {
			return
		}
		if !meta.IsNoMatchError(err) || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

func Custom(group, kind, ns, name string, owners ...metav1.OwnerReference) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: "v1", Kind: kind})
	o.SetNamespace(ns)
	o.SetName(name)
	o.SetOwnerReferences(owners)
	return o
}
