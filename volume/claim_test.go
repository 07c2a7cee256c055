// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestClaims: a claim's volume is mounted when both know each other, and not
// before.
func TestClaims(t *testing.T) {
	dir := t.TempDir()
	good := func() (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume) {
		c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "ns", UID: "u"}}
		c.Spec.VolumeName, c.Status.Phase = "v", corev1.ClaimBound
		v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}}
		v.Spec.ClaimRef = &corev1.ObjectReference{UID: "u"}
		v.Spec.Local = &corev1.LocalVolumeSource{Path: dir}
		return c, v
	}
	block := corev1.PersistentVolumeBlock
	for name, x := range map[string]struct {
		change func(*corev1.PersistentVolumeClaim, *corev1.PersistentVolume)
		want   string // of the error
	}{
		"bound": {func(*corev1.PersistentVolumeClaim, *corev1.PersistentVolume) {}, ""},
		"a path": {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
			v.Spec.Local, v.Spec.HostPath = nil, &corev1.HostPathVolumeSource{Path: dir}
		}, ""},
		"no claim": {func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) { c.Name = "d" }, `error processing PVC ns/c: failed to fetch PVC from API server: persistentvolumeclaim "c" not found`},
		"not bound": {func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			c.Status.Phase = corev1.ClaimPending
		}, "error processing PVC ns/c: PVC is not bound"},
		"going": {func(c *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
			c.DeletionTimestamp = &metav1.Time{}
		}, "error processing PVC ns/c: PVC is being deleted"},
		"no volume": {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) { v.Name = "w" }, `failed to fetch PV v from API server: persistentvolume "v" not found`},
		"another's": {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) { v.Spec.ClaimRef.UID = "x" }, "does not match the PVC"},
		"a device":  {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) { v.Spec.VolumeMode = &block }, "volume v is a block device"},
		"not local": {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) { v.Spec.Local = nil }, "neither local nor a path of the node"},
		"not there": {func(_ *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) { v.Spec.Local.Path = dir + "/none" }, "does not exist"},
	} {
		b := newBench(t)
		b.objects.claim, b.objects.volume = good()
		x.change(b.objects.claim, b.objects.volume)
		path, err := b.Mount(t.Context(), b.pod, corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}})
		switch {
		case x.want == "" && (err != nil || path != dir):
			t.Errorf("%s: %q, %v", name, path, err)
		case x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)):
			t.Errorf("%s: %v, want %s", name, err, x.want)
		}
	}
}

// TestLocalGroup: a local volume is given to the Pod's group, once.
func TestLocalGroup(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	group := int64(4321)
	gid := func() uint32 {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Gid
	}
	if _, err := local(dir, &group); err != nil || gid() != 4321 {
		t.Fatalf("%v, of group %d", err, gid())
	}
	if err := os.Chown(file, -1, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := local(dir, &group); err != nil || gid() != 1 {
		t.Errorf("%v, of group %d", err, gid())
	}
}

// TestFolders are made once, for everybody, and removed with what is in them.
func TestFolders(t *testing.T) {
	f := &Folders{Root: filepath.Join(t.TempDir(), "volumes")}
	for range 2 {
		if err := f.Make("v"); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(f.Path("v")); err != nil || info.Mode().Perm() != 0o777 {
			t.Fatalf("%v, %v", info, err)
		}
		if err := os.WriteFile(f.Path("v")+"/data", nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := f.Remove("v"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(f.Path("v")); !os.IsNotExist(err) {
		t.Error(err)
	}
}
