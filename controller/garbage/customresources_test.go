// SPDX-License-Identifier: Apache-2.0

package garbage

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/controller/world"
)

func ownedBy(o client.Object) metav1.OwnerReference {
	kind := o.GetObjectKind().GroupVersionKind()
	return metav1.OwnerReference{APIVersion: kind.GroupVersion().String(), Kind: kind.Kind, Name: o.GetName(), UID: o.GetUID()}
}

// Kinds that come while the collector runs are collected as all others, as
// owners and as dependents, and also after their definition was made anew.
func TestCustomResourcesAreCollected(t *testing.T) {
	const group, kind = "collected.example.com", "Thing"
	ns := world.Space(t)
	for _, round := range []string{"first", "second"} {
		t.Run(round, func(t *testing.T) {
			world.Define(t, group, "things", kind)
			owner := world.Custom(group, kind, ns, "owner")
			world.Put(t, owner)
			other := world.Custom(group, kind, ns, "other")
			world.Put(t, other)
			world.Put(t, world.Custom(group, kind, ns, "dependent", ownedBy(owner)),
				world.Custom(group, kind, ns, "shared", ownedBy(owner), ownedBy(other)),
				world.MapOf(ns, "map", ownedBy(owner)))
			world.Erase(t, owner, metav1.DeletePropagationBackground)
			names(t, ns)
			list := &unstructured.UnstructuredList{}
			list.SetGroupVersionKind(schema.GroupVersionKind{Group: group, Version: "v1", Kind: kind + "List"})
			world.Until(t, "the shared one has let go", list, func() bool {
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
			world.Put(t, world.MapOf(ns, "orphan", ownedBy(other)))
			names(t, ns, "orphan<other")
			world.Erase(t, other, metav1.DeletePropagationOrphan)
			names(t, ns, "orphan")
			world.Erase(t, world.MapOf(ns, "orphan"), metav1.DeletePropagationBackground)
		})
	}
}

// What names an owner of a kind that is not served yet is judged when it is.
func TestOwnersOfAKindToCome(t *testing.T) {
	const group, kind = "coming.example.com", "Owner"
	ns := world.Space(t)
	world.Put(t, world.MapOf(ns, "early", metav1.OwnerReference{APIVersion: group + "/v1", Kind: kind, Name: "nobody", UID: "of-nobody"}))
	names(t, ns, "early<nobody")
	world.Define(t, group, "owners", kind)
	names(t, ns)
}
