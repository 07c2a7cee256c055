// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"os"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storagehelper "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	apiclaim "github.com/peapod/peapod/api/claim"
	"github.com/peapod/peapod/controller/world"
)

func ofSize(q string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(q)}
}

// putVolume makes a volume of a class, which goes with the test.
func putVolume(t *testing.T, class, size string, change ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	t.Helper()
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{GenerateName: "v-"}, Spec: corev1.PersistentVolumeSpec{
		Capacity: ofSize(size), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: class,
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}},
	}}
	for _, f := range change {
		f(v)
	}
	world.Put(t, v)
	return v
}

func putClaim(t *testing.T, ns, class, size string, change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	t.Helper()
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{GenerateName: "c-", Namespace: ns}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class, Resources: corev1.VolumeResourceRequirements{Requests: ofSize(size)},
	}}
	for _, f := range change {
		f(c)
	}
	world.Put(t, c)
	return c
}

// untilClaim waits for a claim that is so.
func untilClaim(t *testing.T, what string, c *corev1.PersistentVolumeClaim, so func(*corev1.PersistentVolumeClaim) bool) {
	t.Helper()
	var list corev1.PersistentVolumeClaimList
	world.Until(t, what, &list, func() bool {
		return slices.ContainsFunc(list.Items, func(x corev1.PersistentVolumeClaim) bool {
			if x.UID != c.UID || !so(&x) {
				return false
			}
			x.DeepCopyInto(c)
			return true
		})
	}, client.InNamespace(c.Namespace))
}

func untilVolume(t *testing.T, what string, so func(all []corev1.PersistentVolume) bool) {
	t.Helper()
	var list corev1.PersistentVolumeList
	world.Until(t, what, &list, func() bool { return so(list.Items) })
}

func phaseOf(name string, p corev1.PersistentVolumePhase) func([]corev1.PersistentVolume) bool {
	return func(all []corev1.PersistentVolume) bool {
		return slices.ContainsFunc(all, func(v corev1.PersistentVolume) bool { return v.Name == name && v.Status.Phase == p })
	}
}

func isBound(c *corev1.PersistentVolumeClaim) bool { return c.Status.Phase == corev1.ClaimBound }

// TestClaimsGetVolumes: the smallest that satisfies them, and with the claim a
// volume's use is over.
func TestClaimsGetVolumes(t *testing.T) {
	ns := world.Space(t)
	class := "hand-" + ns
	large, small, tiny := putVolume(t, class, "3Gi"), putVolume(t, class, "2Gi"), putVolume(t, class, "1Mi")
	for _, v := range []*corev1.PersistentVolume{large, small, tiny} {
		untilVolume(t, "available", phaseOf(v.Name, corev1.VolumeAvailable))
	}
	c := putClaim(t, ns, class, "1Gi")
	untilClaim(t, "bound", c, isBound)
	if q := c.Status.Capacity[corev1.ResourceStorage]; c.Spec.VolumeName != small.Name || q.String() != "2Gi" || !slices.Equal(c.Status.AccessModes, small.Spec.AccessModes) {
		t.Errorf("has %s, %+v", c.Spec.VolumeName, c.Status)
	}
	untilVolume(t, "the volume bound", phaseOf(small.Name, corev1.VolumeBound))
	if err := world.Client.Get(t.Context(), client.ObjectKeyFromObject(small), small); err != nil {
		t.Fatal(err)
	}
	if r := small.Spec.ClaimRef; r == nil || r.UID != c.UID || r.Kind != "PersistentVolumeClaim" || small.Annotations[storagehelper.AnnBoundByController] != "yes" {
		t.Errorf("kept for %+v, %v", small.Spec.ClaimRef, small.Annotations)
	}
	if !slices.Contains(c.Finalizers, apiclaim.ClaimProtection) || !slices.Contains(small.Finalizers, apiclaim.VolumeProtection) {
		t.Errorf("finalizers %v, %v", c.Finalizers, small.Finalizers)
	}
	if err := world.Client.Delete(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	untilVolume(t, "released", phaseOf(small.Name, corev1.VolumeReleased))
}

// TestKeptVolumes: a claim gets what it names, or what names it, but not what
// does not satisfy it.
func TestKeptVolumes(t *testing.T) {
	ns := world.Space(t)
	class := "hand-" + ns
	kept := putVolume(t, class, "5Gi", func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: ns, Name: "mine"}
	})
	free, tiny := putVolume(t, class, "2Gi"), putVolume(t, class, "1Mi")
	c := putClaim(t, ns, class, "1Gi", func(c *corev1.PersistentVolumeClaim) { c.GenerateName, c.Name = "", "mine" })
	untilClaim(t, "bound to what is kept", c, isBound)
	if c.Spec.VolumeName != kept.Name {
		t.Errorf("has %s, not %s", c.Spec.VolumeName, kept.Name)
	}
	wrong := putClaim(t, ns, class, "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = tiny.Name })
	var told corev1.EventList
	world.Until(t, "told", &told, func() bool {
		return slices.ContainsFunc(told.Items, func(e corev1.Event) bool {
			return e.InvolvedObject.Name == wrong.Name && e.Reason == "VolumeMismatch" && e.Message == `Cannot bind to requested volume "`+tiny.Name+`": requested PV is too small`
		})
	}, client.InNamespace(ns))
	right := putClaim(t, ns, class, "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = free.Name })
	untilClaim(t, "bound to what it names", right, isBound)
}

// TestLostVolume: a claim whose volume is gone says so.
func TestLostVolume(t *testing.T) {
	ns := world.Space(t)
	class := "hand-" + ns
	v := putVolume(t, class, "2Gi")
	c := putClaim(t, ns, class, "1Gi")
	untilClaim(t, "bound", c, isBound)
	if err := world.Client.Delete(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if err := world.Client.Patch(t.Context(), v, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))); err != nil {
		t.Fatal(err)
	}
	untilClaim(t, "lost", c, func(c *corev1.PersistentVolumeClaim) bool { return c.Status.Phase == corev1.ClaimLost })
}

// putClass makes a class of folders.
func putClass(t *testing.T, mode storagev1.VolumeBindingMode) string {
	t.Helper()
	s := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{GenerateName: "folders-"}, Provisioner: apiclaim.LocalProvisioner, VolumeBindingMode: ptr.To(mode)}
	world.Put(t, s)
	return s.Name
}

// TestFolders: a claim of the local class gets a folder of the node that the
// scheduler has chosen, which goes with it.
func TestFolders(t *testing.T) {
	ns := world.Space(t)
	c := putClaim(t, ns, putClass(t, storagev1.VolumeBindingWaitForFirstConsumer), "1Gi")
	var told corev1.EventList
	world.Until(t, "waits", &told, func() bool {
		return slices.ContainsFunc(told.Items, func(e corev1.Event) bool {
			return e.InvolvedObject.Name == c.Name && e.Reason == "WaitForFirstConsumer" && e.Message == "waiting for first consumer to be created before binding"
		})
	}, client.InNamespace(ns))
	if err := world.Client.Patch(t.Context(), c, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"volume.kubernetes.io/selected-node":"n1"}}}`))); err != nil {
		t.Fatal(err)
	}
	untilClaim(t, "bound", c, isBound)
	v := &corev1.PersistentVolume{}
	if err := world.Client.Get(t.Context(), client.ObjectKey{Name: c.Spec.VolumeName}, v); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(v.Spec.Local.Path)
	if err != nil || info.Mode().Perm() != 0o777 || v.Name != "pvc-"+string(c.UID) || v.Spec.Local.Path != world.Folders.Path(v.Name) {
		t.Errorf("%s: %v, %v", v.Spec.Local.Path, info, err)
	}
	if err := os.WriteFile(v.Spec.Local.Path+"/data", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := world.Client.Delete(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	untilVolume(t, "gone", func(all []corev1.PersistentVolume) bool {
		return !slices.ContainsFunc(all, func(x corev1.PersistentVolume) bool { return x.Name == v.Name })
	})
	if _, err := os.Stat(v.Spec.Local.Path); !os.IsNotExist(err) {
		t.Errorf("the folder is there: %v", err)
	}
}

// TestImmediateFolder and one on a node that is not here.
func TestImmediateFolder(t *testing.T) {
	ns := world.Space(t)
	untilClaim(t, "bound at once", putClaim(t, ns, putClass(t, storagev1.VolumeBindingImmediate), "1Gi"), isBound)
	c := putClaim(t, ns, putClass(t, storagev1.VolumeBindingWaitForFirstConsumer), "1Gi", func(c *corev1.PersistentVolumeClaim) {
		c.Annotations = map[string]string{storagehelper.AnnSelectedNode: "elsewhere"}
	})
	untilClaim(t, "given back", c, func(c *corev1.PersistentVolumeClaim) bool { return c.Annotations[storagehelper.AnnSelectedNode] == "" })
}

// TestClaimsInUse: a claim that is deleted stays while a Pod has it.
func TestClaimsInUse(t *testing.T) {
	ns := world.Space(t)
	c := putClaim(t, ns, "none-"+ns, "1Gi")
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "user", Namespace: ns}, Spec: corev1.PodSpec{
		NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}},
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c.Name}}}},
	}}
	world.Put(t, p)
	if err := world.Client.Delete(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	other := putClaim(t, ns, "none-"+ns, "1Gi")
	if err := world.Client.Delete(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	gone := func(c *corev1.PersistentVolumeClaim) {
		t.Helper()
		var list corev1.PersistentVolumeClaimList
		world.Until(t, "gone", &list, func() bool {
			return !slices.ContainsFunc(list.Items, func(x corev1.PersistentVolumeClaim) bool { return x.UID == c.UID })
		}, client.InNamespace(ns))
	}
	gone(other) // by then the first has had its turn
	if err := world.Client.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
		t.Errorf("the claim in use: %v", err)
	}
	if err := world.Client.Delete(context.Background(), p, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	gone(c)
}

// TestEphemeralVolumes: a Pod's claim is made of its template, and is the Pod's.
func TestEphemeralVolumes(t *testing.T) {
	ns := world.Space(t)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: ns}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: "i"}},
		Volumes: []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
			Spec:       corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Resources: corev1.VolumeResourceRequirements{Requests: ofSize("1Gi")}},
		}}}}},
	}}
	world.Put(t, p)
	var list corev1.PersistentVolumeClaimList
	world.Until(t, "made", &list, func() bool { return len(list.Items) == 1 }, client.InNamespace(ns))
	if c := &list.Items[0]; c.Name != "p-scratch" || !metav1.IsControlledBy(c, p) || c.Labels["a"] != "b" {
		t.Errorf("%+v", c.ObjectMeta)
	}
}
