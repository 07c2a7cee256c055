// SPDX-License-Identifier: Apache-2.0

package namespaces

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/controller/world"
)

// A namespace is empty of custom resources before it goes.
func TestNamespaceEndsWithCustomResources(t *testing.T) {
	const group, kind = "ending.example.com", "Content"
	world.Define(t, group, "contents", kind)
	ns := world.Space(t)
	held := world.Custom(group, kind, ns, "held")
	held.SetFinalizers([]string{"example.com/held"})
	world.Put(t, held, world.Custom(group, kind, ns, "free"))
	space := world.Custom("", "Namespace", "", ns)
	world.Erase(t, space, metav1.DeletePropagationBackground)
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: "v1", Kind: kind + "List"})
	world.Until(t, "only the one with a finalizer is left", list, func() bool {
		return len(list.Items) == 1 && list.Items[0].GetName() == "held" && list.Items[0].GetDeletionTimestamp() != nil
	}, client.InNamespace(ns))
	if err := world.Client.Patch(t.Context(), held, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))); err != nil {
		t.Fatal(err)
	}
	spaces := &unstructured.UnstructuredList{}
	spaces.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "NamespaceList"})
	world.Until(t, "the namespace is gone", spaces, func() bool {
		return !slices.ContainsFunc(spaces.Items, func(o unstructured.Unstructured) bool { return o.GetName() == ns })
	})
}
