// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// define makes a kind of custom resources that goes with the test, and waits
// until it is served.
func define(t *testing.T, group, plural, kind string) {
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
	until(t, "no earlier one is ending", list, func() bool {
		return !slices.ContainsFunc(list.Items, func(o unstructured.Unstructured) bool { return o.GetName() == d.GetName() })
	})
	put(t, d)
	until(t, plural+" are served", list, func() bool {
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
		_, err := world.RESTMapper().RESTMapping(schema.GroupKind{Group: group, Kind: kind}, "v1")
		if err == nil {
			return
		}
		if !meta.IsNoMatchError(err) || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

func custom(group, kind, ns, name string, owners ...metav1.OwnerReference) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: "v1", Kind: kind})
	o.SetNamespace(ns)
	o.SetName(name)
	o.SetOwnerReferences(owners)
	return o
}

func ownedBy(o client.Object) metav1.OwnerReference {
	kind := o.GetObjectKind().GroupVersionKind()
	return metav1.OwnerReference{APIVersion: kind.GroupVersion().String(), Kind: kind.Kind, Name: o.GetName(), UID: o.GetUID()}
}

// Kinds that come while the collector runs are collected as all others, as
// owners and as dependents, and also after their definition was made anew.
func TestCustomResourcesAreCollected(t *testing.T) {
	const group, kind = "collected.example.com", "Thing"
	ns := space(t)
	for _, round := range []string{"first", "second"} {
		t.Run(round, func(t *testing.T) {
			define(t, group, "things", kind)
			owner := custom(group, kind, ns, "owner")
			put(t, owner)
			other := custom(group, kind, ns, "other")
			put(t, other)
			put(t, custom(group, kind, ns, "dependent", ownedBy(owner)),
				custom(group, kind, ns, "shared", ownedBy(owner), ownedBy(other)),
				mapOf(ns, "map", ownedBy(owner)))
			erase(t, owner, metav1.DeletePropagationBackground)
			names(t, ns)
			list := &unstructured.UnstructuredList{}
			list.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: "v1", Kind: kind + "List"})
			until(t, "the shared one has let go", list, func() bool {
				var got []string
				for _, o := range list.Items {
					got = append(got, o.GetName())
					for _, r := range o.GetOwnerReferences() {
						got = append(got, "<"+r.Name)
					}
				}
				t.Log(got)
				return slices.Equal(got, []string{"other", "shared", "<other"})
			}, client.InNamespace(ns))
			// Orphans of a custom resource stay.
			put(t, mapOf(ns, "orphan", ownedBy(other)))
			names(t, ns, "orphan<other")
			erase(t, other, metav1.DeletePropagationOrphan)
			names(t, ns, "orphan")
			erase(t, mapOf(ns, "orphan"), metav1.DeletePropagationBackground)
		})
	}
}

// What names an owner of a kind that is not served yet is judged when it is.
func TestOwnersOfAKindToCome(t *testing.T) {
	const group, kind = "coming.example.com", "Owner"
	ns := space(t)
	put(t, mapOf(ns, "early", metav1.OwnerReference{APIVersion: group + "/v1", Kind: kind, Name: "nobody", UID: "of-nobody"}))
	names(t, ns, "early<nobody")
	define(t, group, "owners", kind)
	names(t, ns)
}

// A namespace is empty of custom resources before it goes.
func TestNamespaceEndsWithCustomResources(t *testing.T) {
	const group, kind = "ending.example.com", "Content"
	define(t, group, "contents", kind)
	ns := space(t)
	held := custom(group, kind, ns, "held")
	held.SetFinalizers([]string{"example.com/held"})
	put(t, held, custom(group, kind, ns, "free"))
	space := custom("", "Namespace", "", ns)
	erase(t, space, metav1.DeletePropagationBackground)
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: "v1", Kind: kind + "List"})
	until(t, "only the one with a finalizer is left", list, func() bool {
		return len(list.Items) == 1 && list.Items[0].GetName() == "held" && list.Items[0].GetDeletionTimestamp() != nil
	}, client.InNamespace(ns))
	if err := world.Patch(t.Context(), held, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))); err != nil {
		t.Fatal(err)
	}
	spaces := &unstructured.UnstructuredList{}
	spaces.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "NamespaceList"})
	until(t, "the namespace is gone", spaces, func() bool {
		return !slices.ContainsFunc(spaces.Items, func(o unstructured.Unstructured) bool { return o.GetName() == ns })
	})
}
