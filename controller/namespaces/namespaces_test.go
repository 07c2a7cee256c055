// SPDX-License-Identifier: Apache-2.0

package namespaces

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/controller/loop"
	"github.com/peapod/peapod/controller/world"
)

// TestNamespaceEnd: Pods go first and gracefully, then the rest; the conditions
// tell what is waited for, and each end is heard at once.
func TestNamespaceEnd(t *testing.T) {
	ns := world.Space(t)
	var accounts corev1.ServiceAccountList
	world.Until(t, "there is an account", &accounts, func() bool { return len(accounts.Items) == 1 }, client.InNamespace(ns))
	graceful, held, heldMap := world.NewPod(ns, "graceful", world.NewNode(t)), world.NewPod(ns, "held", ""), world.MapOf(ns, "held")
	held.Finalizers, heldMap.Finalizers = []string{"example.com/pod"}, []string{"example.com/map"}
	world.Put(t, graceful, held, heldMap, world.NewPod(ns, "pending", ""), world.MapOf(ns, "plain"))
	begun := time.Now()
	if err := world.Client.Delete(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}); err != nil {
		t.Fatal(err)
	}
	var spaces corev1.NamespaceList
	tells := func(texts ...string) {
		t.Helper()
		world.Until(t, fmt.Sprint(texts), &spaces, func() bool {
			var all []string
			for _, c := range spaces.Items[0].Status.Conditions {
				all = append(all, fmt.Sprintf("%s %s %s: %s", c.Type, c.Status, c.Reason, c.Message))
			}
			return slices.Equal(all, texts)
		}, client.MatchingFields{"metadata.name": ns})
	}
	const (
		discovered = "NamespaceDeletionDiscoveryFailure False ResourcesDiscovered: All resources successfully discovered"
		parsed     = "NamespaceDeletionGroupVersionParsingFailure False ParsedGroupVersions: All legacy kube types successfully parsed"
		deleted    = "NamespaceDeletionContentFailure False ContentDeleted: All content successfully deleted, may be waiting on finalization"
		remaining  = "NamespaceContentRemaining True SomeResourcesRemain: Some resources are remaining: "
		finalizers = "NamespaceFinalizersRemaining True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: "
	)
	tells(discovered, parsed, deleted, remaining+"pods. has 2 resource instances", finalizers+"example.com/pod in 1 resource instances")
	for _, o := range []client.Object{world.MapOf(ns, "plain"), world.MapOf(ns, "held")} {
		if err := world.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil || o.GetDeletionTimestamp() != nil {
			t.Errorf("%s goes before the Pods: %v", o.GetName(), err)
		}
	}
	if err := world.Client.Get(t.Context(), client.ObjectKeyFromObject(graceful), graceful); err != nil || graceful.DeletionGracePeriodSeconds == nil || *graceful.DeletionGracePeriodSeconds != 30 {
		t.Errorf("the grace of a Pod is %v, %v", graceful.DeletionGracePeriodSeconds, err)
	}
	if err := world.Client.Delete(t.Context(), graceful, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	tells(discovered, parsed, deleted, remaining+"pods. has 1 resource instances", finalizers+"example.com/pod in 1 resource instances")
	world.Drop(t, held)
	tells(discovered, parsed, deleted, remaining+"configmaps. has 1 resource instances", finalizers+"example.com/map in 1 resource instances")
	world.Drop(t, heldMap)
	world.Until(t, "the namespace is gone", &spaces, func() bool { return len(spaces.Items) == 0 }, client.MatchingFields{"metadata.name": ns})
	if took := time.Since(begun); took > loop.Unseen/2 {
		t.Errorf("it took %v: an end was not heard", took)
	}
}

// TestRemains: the words for what cannot be done, and for what can again.
func TestRemains(t *testing.T) {
	kind := schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "replicasets"}
	r := remains{
		discovery: &discovery.ErrGroupDiscoveryFailed{Groups: map[schema.GroupVersion]error{{Group: "metrics.k8s.io", Version: "v1"}: errors.New("it is down")}},
		parsing:   errors.New("unexpected GroupVersion string: a/b/c"),
		content:   []error{errors.New("z fails"), errors.New("a fails")},
	}
	r.note(kind, make([]metav1.PartialObjectMetadata, 2))
	r.note(kind.GroupVersion().WithResource("deployments"), []metav1.PartialObjectMetadata{{ObjectMeta: metav1.ObjectMeta{Finalizers: []string{"y", "x"}}}})
	s := corev1.NamespaceStatus{Conditions: []corev1.NamespaceCondition{{Type: "Other", Status: corev1.ConditionTrue}}}
	if !r.tell(&s) || r.tell(&s) {
		t.Error("what is told twice is new twice")
	}
	var got []string
	for _, c := range s.Conditions {
		got = append(got, fmt.Sprintf("%s %s %s: %s", c.Type, c.Status, c.Reason, c.Message))
	}
	want := `Other True : 
NamespaceDeletionDiscoveryFailure True DiscoveryFailed: Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: metrics.k8s.io/v1: it is down
NamespaceDeletionGroupVersionParsingFailure True GroupVersionParsingFailed: unexpected GroupVersion string: a/b/c
NamespaceDeletionContentFailure True ContentDeletionFailed: Failed to delete all resource types, 2 remaining: a fails, z fails
NamespaceContentRemaining True SomeResourcesRemain: Some resources are remaining: deployments.apps has 1 resource instances, replicasets.apps has 2 resource instances
NamespaceFinalizersRemaining True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: x in 1 resource instances, y in 1 resource instances`
	if strings.Join(got, "\n") != want {
		t.Errorf("it tells\n%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
	for i := range s.Conditions {
		s.Conditions[i].LastTransitionTime = metav1.NewTime(world.Noon)
	}
	if !(&remains{discovery: r.discovery}).tell(&s) {
		t.Error("what is well again is not told")
	}
	for _, c := range s.Conditions[1:] {
		if moved, now := !c.LastTransitionTime.Time.Equal(world.Noon), c.Status == corev1.ConditionFalse; moved != now {
			t.Errorf("%s is %s since %v", c.Type, c.Status, c.LastTransitionTime)
		}
	}
}

// TestPerNamespace: what every namespace has comes back when it is removed or
// changed, and keeps what a user added.
func TestPerNamespace(t *testing.T) {
	ns := world.Space(t)
	var accounts corev1.ServiceAccountList
	var uid types.UID
	there := func() bool {
		return len(accounts.Items) == 1 && accounts.Items[0].Name == "default" && accounts.Items[0].UID != uid
	}
	world.Until(t, "there is an account", &accounts, there, client.InNamespace(ns))
	uid = accounts.Items[0].UID
	if err := world.Client.Delete(t.Context(), &accounts.Items[0]); err != nil {
		t.Fatal(err)
	}
	world.Until(t, "there is an account again", &accounts, there, client.InNamespace(ns))
	var maps corev1.ConfigMapList
	good := func() bool {
		return len(maps.Items) == 1 && maps.Items[0].Name == "kube-root-ca.crt" && len(maps.Items[0].Data) == 1 && strings.HasPrefix(maps.Items[0].Data["ca.crt"], "-----BEGIN CERTIFICATE-----") &&
			strings.HasPrefix(maps.Items[0].Annotations["kubernetes.io/description"], "Contains a CA bundle that can be used to verify the kube-apiserver")
	}
	world.Until(t, "the root is published", &maps, good, client.InNamespace(ns))
	for _, bad := range []string{`{"data":{"ca.crt":"other","more":"x"}}`, `{"metadata":{"annotations":{"kubernetes.io/description":null,"mine":"yes"}}}`} {
		if err := world.Client.Patch(t.Context(), &maps.Items[0], client.RawPatch(types.MergePatchType, []byte(bad))); err != nil {
			t.Fatal(err)
		}
		world.Until(t, "the root is mended", &maps, good, client.InNamespace(ns))
	}
	if maps.Items[0].Annotations["mine"] != "yes" {
		t.Errorf("a user's annotation is gone: %v", maps.Items[0].Annotations)
	}
}
