// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
)

// namespace makes a namespace with its default account, as the controllers do.
func namespace(t *testing.T, name string, labels map[string]string) {
	t.Helper()
	if _, err := admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.CoreV1().ServiceAccounts(name).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// warnings collects what the server warns of.
type warnings struct {
	mu   sync.Mutex
	text []string
}

func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, text)
}

func (w *warnings) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.text
	w.text = nil
	return out
}

func withWarnings(t *testing.T) (kubernetes.Interface, *warnings) {
	t.Helper()
	w := &warnings{}
	c := server.ClientConfig("admin", "system:masters")
	c.WarningHandler = rest.WarningHandler(w)
	client, err := kubernetes.NewForConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	return client, w
}

func TestPodSecurity(t *testing.T) {
	const enforce, warn = "pod-security.kubernetes.io/enforce", "pod-security.kubernetes.io/warn"
	client, warned := withWarnings(t)
	namespace(t, "baseline", map[string]string{enforce: "baseline"})
	namespace(t, "warned", map[string]string{warn: "restricted"})
	shared := newPod("ipc")
	shared.Spec.HostIPC = true
	_, err := client.CoreV1().Pods("baseline").Create(t.Context(), shared, metav1.CreateOptions{})
	want := `pods "ipc" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostIPC=true)`
	if !apierrors.IsForbidden(err) || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if _, err := client.CoreV1().Pods("baseline").Create(t.Context(), newPod("plain"), metav1.CreateOptions{}); err != nil {
		t.Errorf("a Pod that keeps to the level: %v", err)
	}
	warned.take()
	if _, err := client.CoreV1().Pods("warned").Create(t.Context(), shared, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(warned.take(), "\n")
	if !strings.HasPrefix(got, `would violate PodSecurity "restricted:latest": host namespaces (hostIPC=true), allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false)`) {
		t.Errorf("warned %q", got)
	}
	// A stricter label tells what is there already.
	if _, err := client.CoreV1().Namespaces().Patch(t.Context(), "warned", types.MergePatchType, []byte(`{"metadata":{"labels":{"`+enforce+`":"baseline"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := warned.take(); !slices.Equal(got, []string{`existing pods in namespace "warned" violate the new PodSecurity enforce level "baseline:latest"`, "ipc: host namespaces"}) {
		t.Errorf("warned %q", got)
	}
	_, err = client.CoreV1().Namespaces().Patch(t.Context(), "warned", types.MergePatchType, []byte(`{"metadata":{"labels":{"`+enforce+`":"strict"}}}`), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `must be one of privileged, baseline, restricted`) {
		t.Errorf("an unknown level: %v", err)
	}
}

func TestServiceAccountAdmission(t *testing.T) {
	p := newPod("account")
	p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "busybox", VolumeMounts: []corev1.VolumeMount{{Name: "own", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}}}}
	p.Spec.Volumes = []corev1.Volume{{Name: "own", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	p = create(t, p, "")
	volume := p.Spec.Volumes[1]
	if !strings.HasPrefix(volume.Name, "kube-api-access-") || len(volume.Name) != len("kube-api-access-")+5 {
		t.Errorf("token volume %q", volume.Name)
	}
	sources := volume.Projected.Sources
	if len(sources) != 3 || *sources[0].ServiceAccountToken.ExpirationSeconds != 3607 || sources[0].ServiceAccountToken.Path != "token" ||
		sources[1].ConfigMap.Name != "kube-root-ca.crt" || sources[2].DownwardAPI.Items[0].FieldRef.FieldPath != "metadata.namespace" || *volume.Projected.DefaultMode != 0o644 {
		t.Errorf("sources %+v", volume.Projected)
	}
	if len(p.Spec.InitContainers[0].VolumeMounts) != 1 || len(p.Spec.Containers[0].VolumeMounts) != 1 {
		t.Errorf("mounts %v, %v", p.Spec.InitContainers[0].VolumeMounts, p.Spec.Containers[0].VolumeMounts)
	}
	bare := newPod("bare")
	bare.Spec.AutomountServiceAccountToken = ptr.To(false)
	if p := create(t, bare, ""); len(p.Spec.Volumes) != 0 {
		t.Errorf("a Pod that wants no token has volumes %v", p.Spec.Volumes)
	}
	lost := newPod("lost")
	lost.Spec.ServiceAccountName = "nobody"
	refused(t, lost, `pods "lost" is forbidden: error looking up service account default/nobody: serviceaccount "nobody" not found`)

	strict := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "strict", Annotations: map[string]string{"kubernetes.io/enforce-mountable-secrets": "true"}}}
	if _, err := admin.CoreV1().ServiceAccounts("default").Create(t.Context(), strict, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	thief := newPod("thief")
	thief.Spec.ServiceAccountName = "strict"
	thief.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "other"}}}}
	refused(t, thief, `pods "thief" is forbidden: container c with envFrom referencing secret.secretName="other" is not allowed because service account strict does not reference that secret`)
}

// refused creates a Pod that must not come to be.
func refused(t *testing.T, p *corev1.Pod, want string) {
	t.Helper()
	_, err := admin.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{})
	if err == nil || err.Error() != want {
		t.Errorf("%s\ngot  %v\nwant %s", p.Name, err, want)
	}
}

func TestPriorityAdmission(t *testing.T) {
	classes := admin.SchedulingV1().PriorityClasses()
	high := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 1000, PreemptionPolicy: ptr.To(corev1.PreemptNever)}
	if _, err := classes.Create(t.Context(), high, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p := newPod("high")
	p.Spec.PriorityClassName = "high" // known at once
	if p = create(t, p, ""); *p.Spec.Priority != 1000 || *p.Spec.PreemptionPolicy != corev1.PreemptNever {
		t.Errorf("priority %d, %s", *p.Spec.Priority, *p.Spec.PreemptionPolicy)
	}
	unset := p.DeepCopy()
	unset.Spec.Priority, unset.Spec.PreemptionPolicy = nil, nil
	if got, err := admin.CoreV1().Pods("default").Update(t.Context(), unset, metav1.UpdateOptions{}); err != nil || *got.Spec.Priority != 1000 {
		t.Errorf("an update without the number: %v", err)
	}
	wrong := newPod("wrong")
	wrong.Spec.PriorityClassName = "none"
	refused(t, wrong, `pods "wrong" is forbidden: no PriorityClass with name none was found`)
	wrong.Spec.PriorityClassName, wrong.Spec.Priority = "high", ptr.To[int32](7)
	refused(t, wrong, `pods "wrong" is forbidden: the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 1000 from the given PriorityClass name`)
}

func TestRuntimeClassAdmission(t *testing.T) {
	class := &nodev1.RuntimeClass{
		ObjectMeta: metav1.ObjectMeta{Name: "vm"}, Handler: "vm",
		Overhead:   &nodev1.Overhead{PodFixed: corev1.ResourceList{"memory": apiresource.MustParse("64Mi")}},
		Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"vm": "yes"}, Tolerations: []corev1.Toleration{{Key: "vm", Operator: corev1.TolerationOpExists}}},
	}
	if _, err := admin.NodeV1().RuntimeClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p := newPod("vm")
	p.Spec.RuntimeClassName = ptr.To("vm")
	p.Spec.Tolerations = []corev1.Toleration{{Key: "vm", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}}
	p = create(t, p, "")
	if p.Spec.Overhead.Memory().String() != "64Mi" || p.Spec.NodeSelector["vm"] != "yes" {
		t.Errorf("overhead %v, selector %v", p.Spec.Overhead, p.Spec.NodeSelector)
	}
	if n := slices.IndexFunc(p.Spec.Tolerations, func(t corev1.Toleration) bool { return t.Key == "vm" && t.Effect == "" }); n < 0 || len(p.Spec.Tolerations) != 3 {
		t.Errorf("tolerations %v", p.Spec.Tolerations)
	}
	p = newPod("unknown")
	p.Spec.RuntimeClassName = ptr.To("none")
	refused(t, p, `pods "unknown" is forbidden: pod rejected: RuntimeClass "none" not found`)
	p = newPod("elsewhere")
	p.Spec.RuntimeClassName, p.Spec.NodeSelector = ptr.To("vm"), map[string]string{"vm": "no"}
	refused(t, p, `pods "elsewhere" is forbidden: conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no`)
	p = newPod("heavy")
	p.Spec.Overhead = corev1.ResourceList{"memory": apiresource.MustParse("1Mi")}
	refused(t, p, `pods "heavy" is forbidden: pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead`)
}

func TestTopologyLabelsAndResize(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "zoned", Labels: map[string]string{corev1.LabelTopologyZone: "z1", corev1.LabelTopologyRegion: "r1", "other": "x"}}}
	node, err := admin.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(node.Spec.Taints) != 1 || node.Spec.Taints[0].Key != corev1.TaintNodeNotReady {
		t.Errorf("a new node's taints %v", node.Spec.Taints)
	}
	node.Status.Allocatable = corev1.ResourceList{"cpu": apiresource.MustParse("2"), "memory": apiresource.MustParse("1Gi")}
	if _, err := admin.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	p := newPod("zoned")
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": apiresource.MustParse("1")}
	p = create(t, p, "zoned")
	if p.Labels[corev1.LabelTopologyZone] != "z1" || p.Labels[corev1.LabelTopologyRegion] != "r1" || p.Labels["other"] != "" {
		t.Errorf("labels %v", p.Labels)
	}
	size := func(cpu string) error {
		patch := []byte(`{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"` + cpu + `"}}}]}}`)
		_, err := admin.CoreV1().Pods("default").Patch(t.Context(), "zoned", types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "resize")
		return err
	}
	if err := size("1500m"); err != nil {
		t.Error(err)
	}
	err = size("3")
	want := `pods "zoned" is forbidden: node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000`
	if err == nil || err.Error() != want || apierrors.ReasonForError(err) != metav1.StatusReasonForbidden || !apierrors.HasStatusCause(err, "NodeCapacity") {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	got, err := admin.CoreV1().Pods("default").Get(t.Context(), "zoned", metav1.GetOptions{})
	if err != nil || got.Spec.Containers[0].Resources.Requests.Cpu().String() != "1500m" || got.Generation != 2 {
		t.Errorf("%v, generation %d, %v", got.Spec.Containers[0].Resources, got.Generation, err)
	}
	_, err = admin.CoreV1().Pods("default").Patch(t.Context(), "zoned", types.JSONPatchType, []byte(`[{"op":"add","path":"/spec/containers/-","value":{"name":"d","image":"x"}}]`), metav1.PatchOptions{}, "resize")
	if err == nil || !strings.Contains(err.Error(), "spec.containers: Forbidden: containers may not be added or removed on resize") {
		t.Errorf("a container added by resize: %v", err)
	}
}
