// SPDX-License-Identifier: Apache-2.0

package garbage

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/controller/world"
)

// owns is a reference to o; blocking when it is to wait for the dependent.
func owns(o client.Object, block bool) metav1.OwnerReference {
	kinds := map[string]string{"*v1.ConfigMap": "v1 ConfigMap", "*v1.Secret": "v1 Secret", "*v1.ClusterRole": "rbac.authorization.k8s.io/v1 ClusterRole"}
	apiVersion, kind, _ := strings.Cut(kinds[fmt.Sprintf("%T", o)], " ")
	return metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: o.GetName(), UID: o.GetUID(), BlockOwnerDeletion: &block}
}

// names waits until the ConfigMaps of a namespace are these, as
// "name" or "name<owner,owner".
func names(t *testing.T, ns string, want ...string) {
	t.Helper()
	var list corev1.ConfigMapList
	var got []string
	world.Until(t, fmt.Sprintf("the maps are %v", want), &list, func() bool {
		got = nil
		for _, m := range list.Items {
			if m.Name == "kube-root-ca.crt" {
				continue
			}
			var owners []string
			for _, r := range m.OwnerReferences {
				owners = append(owners, r.Name)
			}
			got = append(got, strings.TrimSuffix(m.Name+"<"+strings.Join(owners, ","), "<"))
		}
		t.Log(got)
		return slices.Equal(got, want)
	}, client.InNamespace(ns))
}

// TestBackground: what has no owner any more goes, along the whole chain; what
// has another loses the reference only.
func TestBackground(t *testing.T) {
	ns := world.Space(t)
	a, z := world.MapOf(ns, "a"), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "z"}}
	world.Put(t, a, z)
	b := world.MapOf(ns, "b", owns(a, false))
	world.Put(t, b)
	world.Put(t, world.MapOf(ns, "c", owns(b, true)), world.MapOf(ns, "d", owns(a, false), owns(z, false)), world.MapOf(ns, "e"))
	world.Erase(t, a, metav1.DeletePropagationBackground)
	names(t, ns, "d<z", "e")
	world.Erase(t, z, metav1.DeletePropagationBackground)
	names(t, ns, "e")
}

// TestForeground: the owner is there until the last dependent that blocks it.
func TestForeground(t *testing.T) {
	ns := world.Space(t)
	a := world.MapOf(ns, "a")
	world.Put(t, a)
	held := world.MapOf(ns, "held", owns(a, true))
	held.Finalizers = []string{"example.com/hold"}
	b := world.MapOf(ns, "b", owns(a, true))
	world.Put(t, held, b, world.MapOf(ns, "free", owns(a, false)))
	world.Put(t, world.MapOf(ns, "c", owns(b, true)))
	world.Erase(t, a, metav1.DeletePropagationForeground)
	names(t, ns, "a", "held<a")
	var now corev1.ConfigMap
	if err := world.Client.Get(t.Context(), client.ObjectKeyFromObject(a), &now); err != nil || now.DeletionTimestamp == nil || !slices.Equal(now.Finalizers, []string{metav1.FinalizerDeleteDependents}) {
		t.Errorf("the owner that waits: %v %v %v", now.DeletionTimestamp, now.Finalizers, err)
	}
	letHeldGo := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))
	if err := world.Client.Patch(t.Context(), held, letHeldGo); err != nil {
		t.Fatal(err)
	}
	names(t, ns)
}

// TestForegroundUnblocked: a dependent that stops blocking lets its owner go.
func TestForegroundUnblocked(t *testing.T) {
	ns := world.Space(t)
	a := world.MapOf(ns, "a")
	world.Put(t, a)
	held := world.MapOf(ns, "held", owns(a, true))
	held.Finalizers = []string{"example.com/hold"}
	world.Put(t, held)
	world.Erase(t, a, metav1.DeletePropagationForeground)
	names(t, ns, "a", "held<a")
	held.OwnerReferences[0].BlockOwnerDeletion = ptr.To(false)
	unblock := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"a","uid":%q}]}}`, a.UID))
	if err := world.Client.Patch(t.Context(), held, unblock); err != nil {
		t.Fatal(err)
	}
	names(t, ns, "held<a")
	if err := world.Client.Patch(t.Context(), held, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))); err != nil {
		t.Fatal(err)
	}
	names(t, ns)
}

// TestForegroundCircle: two that own each other do not wait for ever.
func TestForegroundCircle(t *testing.T) {
	ns := world.Space(t)
	a := world.MapOf(ns, "a")
	world.Put(t, a)
	b := world.MapOf(ns, "b", owns(a, true))
	world.Put(t, b)
	a.OwnerReferences = []metav1.OwnerReference{owns(b, true)}
	if err := world.Client.Update(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	world.Erase(t, a, metav1.DeletePropagationForeground)
	names(t, ns)
}

// TestOrphan: dependents lose their owner and live on.
func TestOrphan(t *testing.T) {
	ns := world.Space(t)
	a := world.MapOf(ns, "a")
	world.Put(t, a)
	b := world.MapOf(ns, "b", owns(a, true))
	world.Put(t, b, world.MapOf(ns, "c", owns(a, false)))
	world.Put(t, world.MapOf(ns, "d", owns(b, true)))
	world.Erase(t, a, metav1.DeletePropagationOrphan)
	names(t, ns, "b", "c", "d<b")
}

// TestAbsentOwners: references that never meant anything that is there.
func TestAbsentOwners(t *testing.T) {
	ns, other := world.Space(t), world.Space(t)
	a, elsewhere := world.MapOf(ns, "a"), world.MapOf(other, "elsewhere")
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{GenerateName: "owner-"}}
	world.Put(t, a, elsewhere, role)
	uid, kind, name, never := owns(a, false), owns(a, false), owns(a, false), owns(a, false)
	uid.UID, kind.Kind, name.Name, never.Name, never.UID = "another", "Secret", "b", "never", "never"
	unknown := owns(a, false)
	unknown.APIVersion, unknown.UID = "example.com/v1", "unknown"
	world.Put(t, world.MapOf(ns, "by-cluster", owns(role, false)), world.MapOf(ns, "by-elsewhere", owns(elsewhere, false)), world.MapOf(ns, "by-kind", kind),
		world.MapOf(ns, "by-name", name), world.MapOf(ns, "by-never", never), world.MapOf(ns, "by-never-and-a", never, owns(a, false)), world.MapOf(ns, "by-uid", uid), world.MapOf(ns, "by-unknown", unknown))
	clustered := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{GenerateName: "dependent-", OwnerReferences: []metav1.OwnerReference{owns(a, false)}}}
	world.Put(t, clustered)
	names(t, ns, "a", "by-cluster<"+role.Name, "by-never-and-a<a", "by-unknown<a")
	for ns, want := range map[string]string{
		ns:        fmt.Sprintf(`ownerRef [v1/ConfigMap, namespace: %s, name: elsewhere, uid: %s] does not exist in namespace %q`, ns, elsewhere.UID, ns),
		"default": fmt.Sprintf(`ownerRef [v1/ConfigMap, namespace: , name: a, uid: %s] does not exist in namespace ""`, a.UID),
	} {
		var events corev1.EventList
		world.Until(t, "an event says "+want, &events, func() bool {
			return slices.ContainsFunc(events.Items, func(e corev1.Event) bool {
				return e.Reason == "OwnerRefInvalidNamespace" && e.Message == want && e.Type == corev1.EventTypeWarning && e.Source.Component == "garbage-collector-controller"
			})
		}, client.InNamespace(ns))
	}
	world.Erase(t, role, metav1.DeletePropagationBackground)
	names(t, ns, "a", "by-never-and-a<a", "by-unknown<a")
	if err := world.Client.Get(t.Context(), client.ObjectKeyFromObject(clustered), clustered); err != nil {
		t.Errorf("a cluster's object with an owner in a namespace: %v", err)
	}
}
