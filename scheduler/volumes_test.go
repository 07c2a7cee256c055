// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"
	storagehelper "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/claim"
)

func using(names ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for _, name := range names {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
			}})
		}
	}
}

func testClaim(name, class string, change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)}, Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}}
	for _, f := range change {
		f(c)
	}
	return c
}

func having(volume string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) {
		c.Spec.VolumeName = volume
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, storagehelper.AnnBindCompleted, "yes")
		c.Status.Phase = corev1.ClaimBound
	}
}

func testVolume(name, class, node string, change ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.PersistentVolumeSpec{
		StorageClassName: class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
	}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable}}
	if node != "" {
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
		}}}}
	}
	for _, f := range change {
		f(v)
	}
	return v
}

func testClass(name, provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
}

// stocked is a cluster of the nodes a, in zone x, and b with some storage.
func stocked(objects ...metav1.Object) *known {
	k := cluster(nodeWith(testNode("a", 1000, inZone("x"))), nodeWith(testNode("b", 1000)))
	k.stock.classes[types.NamespacedName{Name: "hand"}] = testClass("hand", claim.NoProvisioner, storagev1.VolumeBindingWaitForFirstConsumer)
	k.stock.classes[types.NamespacedName{Name: "made"}] = testClass("made", claim.LocalProvisioner, storagev1.VolumeBindingWaitForFirstConsumer)
	k.stock.classes[types.NamespacedName{Name: "now"}] = testClass("now", claim.LocalProvisioner, storagev1.VolumeBindingImmediate)
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.PersistentVolumeClaim:
			k.stock.claims[nameOf(o)] = o
		case *corev1.PersistentVolume:
			k.stock.volumes[nameOf(o)] = o
		}
	}
	return k
}

// TestVolumes: where a Pod can go with its claims, or why nowhere, in
// kube-scheduler's words.
func TestVolumes(t *testing.T) {
	const unhelpful = " preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
	sole := func(c *corev1.PersistentVolumeClaim) {
		c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	}
	for name, x := range map[string]struct {
		pod   *corev1.Pod
		known *known
		want  string
	}{
		"no claim":              {testPod("p", 1, using("c")), stocked(), `0/2 nodes are available: persistentvolumeclaim "c" not found.` + unhelpful},
		"not yet bound":         {testPod("p", 1, using("c")), stocked(testClaim("c", "now")), `0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.` + unhelpful},
		"a claim without class": {testPod("p", 1, using("c")), stocked(testClaim("c", "")), `0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.` + unhelpful},
		"lost": {testPod("p", 1, using("c")), stocked(testClaim("c", "now", having("v"), func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimLost })),
			`0/2 nodes are available: persistentvolumeclaim "c" bound to non-existent persistentvolume "v".` + unhelpful},
		"deleted": {testPod("p", 1, using("c")), stocked(testClaim("c", "now", func(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = &metav1.Time{} })),
			`0/2 nodes are available: persistentvolumeclaim "c" is being deleted.` + unhelpful},
		"ephemeral, not made yet": {testPod("p", 1, func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "e", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
		}), stocked(), `0/2 nodes are available: waiting for ephemeral volume controller to create the persistentvolumeclaim "p-e".` + unhelpful},
		"bound anywhere":     {testPod("p", 1, using("c")), stocked(testClaim("c", "now", having("v")), testVolume("v", "now", "")), "a b"},
		"bound on b":         {testPod("p", 1, using("c")), stocked(testClaim("c", "now", having("v")), testVolume("v", "now", "b")), "b"},
		"bound elsewhere":    {testPod("p", 1, using("c")), stocked(testClaim("c", "now", having("v")), testVolume("v", "now", "z")), "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity." + unhelpful},
		"bound to nothing":   {testPod("p", 1, using("c")), stocked(testClaim("c", "now", having("v"))), "0/2 nodes are available: 2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)." + unhelpful},
		"in another zone":    {testPod("p", 1, using("c")), stocked(testClaim("c", "now", having("v")), testVolume("v", "now", "a", func(v *corev1.PersistentVolume) { v.Labels = map[string]string{corev1.LabelTopologyZone: "y__z"} })), "0/2 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 1 node(s) had no available volume zone." + unhelpful},
		"in its zone":        {testPod("p", 1, using("c")), stocked(testClaim("c", "now", having("v")), testVolume("v", "now", "a", func(v *corev1.PersistentVolume) { v.Labels = map[string]string{corev1.LabelTopologyZone: "x__z"} })), "a"},
		"one there is, on a": {testPod("p", 1, using("c")), stocked(testClaim("c", "hand"), testVolume("v", "hand", "a")), "a"},
		"one for two":        {testPod("p", 1, using("c", "d")), stocked(testClaim("c", "hand"), testClaim("d", "hand"), testVolume("v", "hand", "a")), "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind." + unhelpful},
		"two for two":        {testPod("p", 1, using("c", "d")), stocked(testClaim("c", "hand"), testClaim("d", "hand"), testVolume("v", "hand", "a"), testVolume("w", "hand", "a")), "a"},
		"to be made":         {testPod("p", 1, using("c")), stocked(testClaim("c", "made")), "a b"},
		"being made for b": {testPod("p", 1, using("c")), stocked(testClaim("c", "made", func(c *corev1.PersistentVolumeClaim) {
			c.Annotations = map[string]string{storagehelper.AnnSelectedNode: "b"}
		})), "b"},
		"alone": {testPod("p", 1, using("c")), stocked(testClaim("c", "now", having("v"), sole), testVolume("v", "now", "")), "a b"},
	} {
		w := newWish(x.pod)
		v := look(w, x.known)
		var fits []string
		for _, i := range v.fit {
			fits = append(fits, i.node.Name)
		}
		slices.Sort(fits)
		got := strings.Join(fits, " ")
		if len(fits) == 0 {
			_, words, _ := preemption(w, v, "")
			got = explain(v, words)
		}
		if got != x.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, x.want)
		}
	}
}

// TestSoleClaims: who is more urgent displaces the one that has the claim.
func TestSoleClaims(t *testing.T) {
	k := stocked(testClaim("c", "now", having("v"), func(c *corev1.PersistentVolumeClaim) {
		c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	}), testVolume("v", "now", ""))
	k.nodes["a"].add(newLoad(placed(testPod("has", 1, using("c")), "a")))
	w := newWish(testPod("p", 1, urgent(5), using("c")))
	v := look(w, k)
	if len(v.fit) > 0 || v.reasons[claimInUse] != 2 {
		t.Fatalf("fits on %d, %v", len(v.fit), v.reasons)
	}
	c, _, _ := preemption(w, v, "")
	if got := victimsOf(c); !slices.Equal(got, []string{"has"}) {
		t.Errorf("displaces %q", got)
	}
}

// TestSupply: a Pod whose claim waits for it gets its node first, its volume
// then, and is bound last.
func TestSupply(t *testing.T) {
	play(t, func(s *stage) {
		s.nodes.h.OnAdd(testNode("n", 1000), false)
		s.classes.h.OnAdd(testClass("made", claim.LocalProvisioner, storagev1.VolumeBindingWaitForFirstConsumer), false)
		s.create(t, testPod("p", 100, using("c")))
		if _, c := s.get(t, "p"); !strings.Contains(c.Message, `persistentvolumeclaim "c" not found`) {
			t.Fatalf("said %q", c.Message)
		}
		c := testClaim("c", "made")
		claims := s.client.CoreV1().PersistentVolumeClaims("default")
		if _, err := claims.Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		s.claims.h.OnAdd(c, false)
		synctest.Wait()
		chosen, err := claims.Get(t.Context(), "c", metav1.GetOptions{})
		if err != nil || chosen.Annotations[storagehelper.AnnSelectedNode] != "n" || s.on("p") != "" {
			t.Fatalf("%v, %v, on %q", err, chosen.Annotations, s.on("p"))
		}
		s.claims.h.OnUpdate(c, chosen)
		synctest.Wait()
		bound := chosen.DeepCopy()
		having("v")(bound)
		s.volumes.h.OnAdd(testVolume("v", "made", "n"), false)
		s.claims.h.OnUpdate(chosen, bound)
		synctest.Wait()
		if s.on("p") != "n" {
			t.Errorf("p is on %q", s.on("p"))
		}
	})
}

// TestSupplyFails: the provisioner gives the claim back, or never makes the
// volume; the room is free again, and the Pod says why.
func TestSupplyFails(t *testing.T) {
	for name, x := range map[string]struct {
		end  func(*stage, *corev1.PersistentVolumeClaim)
		want string
	}{
		"given back": {func(s *stage, c *corev1.PersistentVolumeClaim) {
			back := c.DeepCopy()
			delete(back.Annotations, storagehelper.AnnSelectedNode)
			s.claims.h.OnUpdate(c, back)
		}, `running PreBind plugin "VolumeBinding": selectedNode annotation reset for PVC "c"`},
		"never made": {func(*stage, *corev1.PersistentVolumeClaim) { pass(volumePatience + time.Second) },
			`running PreBind plugin "VolumeBinding": binding volumes: context deadline exceeded`},
		"gone": {func(s *stage, c *corev1.PersistentVolumeClaim) { s.claims.h.OnDelete(c) }, `running PreBind plugin "VolumeBinding": persistentvolumeclaim "c" not found`},
	} {
		play(t, func(s *stage) {
			s.nodes.h.OnAdd(testNode("n", 1000), false)
			s.classes.h.OnAdd(testClass("made", "example.com/slow", storagev1.VolumeBindingWaitForFirstConsumer), false)
			c := testClaim("c", "made")
			claims := s.client.CoreV1().PersistentVolumeClaims("default")
			if _, err := claims.Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			s.claims.h.OnAdd(c, false)
			s.create(t, testPod("p", 900, using("c")))
			chosen, err := claims.Get(t.Context(), "c", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			s.claims.h.OnUpdate(c, chosen)
			synctest.Wait()
			x.end(s, chosen)
			synctest.Wait()
			if got := s.messages(t, "FailedScheduling"); len(got) == 0 || got[0] != x.want {
				t.Errorf("%s: said %q", name, got)
			}
		})
	}
}

// TestVolumesArePromisedOnce: two Pods at one moment do not get one volume.
func TestVolumesArePromisedOnce(t *testing.T) {
	play(t, func(s *stage) {
		s.nodes.h.OnAdd(testNode("n", 1000), false)
		s.classes.h.OnAdd(testClass("hand", claim.NoProvisioner, storagev1.VolumeBindingWaitForFirstConsumer), false)
		v := testVolume("v", "hand", "n")
		if _, err := s.client.CoreV1().PersistentVolumes().Create(t.Context(), v, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		s.volumes.h.OnAdd(v, false)
		for _, name := range []string{"c", "d"} {
			s.claims.h.OnAdd(testClaim(name, "hand"), false)
			s.create(t, testPod("of-"+name, 100, using(name)))
		}
		kept, err := s.client.CoreV1().PersistentVolumes().Get(t.Context(), "v", metav1.GetOptions{})
		if err != nil || ptr.Deref(kept.Spec.ClaimRef, corev1.ObjectReference{}).Name != "c" {
			t.Errorf("%v, kept for %+v", err, kept.Spec.ClaimRef)
		}
		if _, c := s.get(t, "of-d"); !strings.HasPrefix(c.Message, fmt.Sprintf("0/1 nodes are available: 1 %s.", noVolume)) {
			t.Errorf("the other says %q", c.Message)
		}
	})
}

// TestSupplyOfOneThatLeaves: a Pod that is deleted while its volumes are ordered
// keeps none of them from others.
func TestSupplyOfOneThatLeaves(t *testing.T) {
	play(t, func(s *stage) {
		s.nodes.h.OnAdd(testNode("n", 1000), false)
		s.classes.h.OnAdd(testClass("hand", claim.NoProvisioner, storagev1.VolumeBindingWaitForFirstConsumer), false)
		v := testVolume("v", "hand", "n")
		if _, err := s.client.CoreV1().PersistentVolumes().Create(t.Context(), v, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		s.volumes.h.OnAdd(v, false)
		s.claims.h.OnAdd(testClaim("c", "hand"), false)
		p, left := testPod("p", 100, using("c")), false
		s.client.PrependReactor("update", "persistentvolumes", func(clienttesting.Action) (bool, runtime.Object, error) {
			s.pods.h.OnDelete(p)
			left = true
			return false, nil, nil
		})
		s.create(t, p)
		s.Scheduler.mu.Lock()
		defer s.Scheduler.mu.Unlock()
		if !left || len(s.stock.reserved) > 0 {
			t.Errorf("left: %v, reserved: %v", left, s.stock.reserved)
		}
	})
}
