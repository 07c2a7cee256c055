// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func amounts(pairs ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = quantity.MustParse(pairs[i+1])
	}
	return out
}

// Containers get what the namespace gives by default, and Pods and claims are
// held to its limits, from the moment they are there.
func TestLimitRanges(t *testing.T) {
	ns, err := admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "limits-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := admin.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	if _, err := admin.CoreV1().ServiceAccounts(ns.Name).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	made, err := admin.CoreV1().LimitRanges(ns.Name).Create(t.Context(), &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "l"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
		{Type: corev1.LimitTypeContainer, Max: amounts("cpu", "1"), Min: amounts("cpu", "50m"), DefaultRequest: amounts("cpu", "100m"), MaxLimitRequestRatio: amounts("cpu", "20")},
		{Type: corev1.LimitTypePod, Max: amounts("cpu", "1500m")},
		{Type: corev1.LimitTypePersistentVolumeClaim, Max: amounts("storage", "1Gi"), Min: amounts("storage", "1Mi")},
	}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if d := made.Spec.Limits[0].Default["cpu"]; d.String() != "1" {
		t.Errorf("by default the most: %s", d.String())
	}
	pods := admin.CoreV1().Pods(ns.Name)
	var pod *corev1.Pod
	eventually(t, "defaults are given", func() bool {
		pod, err = pods.Create(t.Context(), newPod("plain"), metav1.CreateOptions{DryRun: []string{"All"}})
		return err != nil || pod.Annotations != nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := pod.Annotations["kubernetes.io/limit-ranger"]; got != "LimitRanger plugin set: cpu request for container c; cpu limit for container c" {
		t.Errorf("told: %q", got)
	}
	if r := pod.Spec.Containers[0].Resources; r.Requests.Cpu().String() != "100m" || r.Limits.Cpu().String() != "1" {
		t.Errorf("given: %v", r)
	}
	for _, c := range []struct{ request, limit, want string }{
		{"10m", "100m", "minimum cpu usage per Container is 50m, but request is 10m"},
		{"100m", "1100m", "maximum cpu usage per Container is 1, but limit is 1100m"},
		{"50m", "1", ""},
		{"51m", "1", ""},
		{"50m", "999m", ""},
	} {
		p := newPod("p")
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: amounts("cpu", c.request), Limits: amounts("cpu", c.limit)}
		_, err := pods.Create(t.Context(), p, metav1.CreateOptions{DryRun: []string{"All"}})
		if c.want == "" && err != nil || c.want != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s of %s: %v", c.request, c.limit, err)
		}
	}
	two := newPod("two")
	two.Spec.Containers = append(two.Spec.Containers, corev1.Container{Name: "d", Image: "i"})
	if _, err := pods.Create(t.Context(), two, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "maximum cpu usage per Pod is 1500m, but limit is 2") {
		t.Errorf("two containers: %v", err)
	}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Resources: corev1.VolumeResourceRequirements{Requests: amounts("storage", "2Gi")},
	}}
	if _, err := admin.CoreV1().PersistentVolumeClaims(ns.Name).Create(t.Context(), claim, metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi") {
		t.Errorf("a claim: %v", err)
	}
}
