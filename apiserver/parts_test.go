// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// managers are who owns what of an object: "manager/part: fields".
func managers(o metav1.Object) (out []string) {
	for _, m := range o.GetManagedFields() {
		out = append(out, m.Manager+"/"+m.Subresource+": "+string(m.FieldsV1.Raw))
	}
	slices.Sort(out)
	return out
}

func newController(name string, replicas int32) *corev1.ReplicationController {
	labels := map[string]string{"app": name}
	return &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ReplicationControllerSpec{
		Replicas: &replicas, Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: newPod("").Spec},
	}}
}

// What a manager scales it owns, of the Scale and of the object behind it.
func TestScaleIsOwned(t *testing.T) {
	sets := admin.CoreV1().ReplicationControllers("default")
	made, err := sets.Create(t.Context(), newController("scale-owned", 1), metav1.CreateOptions{FieldManager: "maker"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		background := metav1.DeletePropagationBackground
		if err := sets.Delete(context.Background(), made.Name, metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
			t.Error(err)
		}
	})
	other := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: made.Name, UID: "other"}, Spec: autoscalingv1.ScaleSpec{Replicas: 4}}
	_, err = sets.UpdateScale(t.Context(), made.Name, other, metav1.UpdateOptions{})
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), "UID in precondition: other, UID in object meta: "+string(made.UID)) {
		t.Errorf("the Scale of another: %v", err)
	}
	other.UID, other.ResourceVersion = "", "1"
	if _, err := sets.UpdateScale(t.Context(), made.Name, other, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an old version: %v", err)
	}
	patch := []byte(`{"spec":{"replicas":3}}`)
	if _, err := sets.Patch(t.Context(), made.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "scaler"}, "scale"); err != nil {
		t.Fatal(err)
	}
	got, err := sets.Get(t.Context(), made.Name, metav1.GetOptions{})
	if err != nil || *got.Spec.Replicas != 3 || got.Generation != 2 {
		t.Fatalf("scaled: %+v, %v", got.Spec, err)
	}
	if m := managers(got); len(m) != 2 || strings.Contains(m[0], "f:replicas") || m[1] != `scaler/scale: {"f:spec":{"f:replicas":{}}}` {
		t.Errorf("managers: %q", m)
	}
}

// A writer of one half owns nothing of the other.
func TestManagersOwnTheirHalf(t *testing.T) {
	pods := admin.CoreV1().Pods("default")
	p := create(t, newPod("halves"), "n1")
	p.Status.Message, p.Status.Phase = "m", corev1.PodRunning
	p.Labels = map[string]string{"a": "b"}
	if _, err := pods.Update(t.Context(), p, metav1.UpdateOptions{FieldManager: "main"}); err != nil {
		t.Fatal(err)
	}
	p.ResourceVersion, p.Spec.ActiveDeadlineSeconds = "", ptr.To[int64](9)
	if _, err := pods.UpdateStatus(t.Context(), p, metav1.UpdateOptions{FieldManager: "status"}); err != nil {
		t.Fatal(err)
	}
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{}
	p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "d", Image: "i"}}}
	p.Status.Message = "other"
	if _, err := pods.UpdateEphemeralContainers(t.Context(), p.Name, p, metav1.UpdateOptions{FieldManager: "debug"}); err != nil {
		t.Fatal(err)
	}
	got, err := pods.Get(t.Context(), p.Name, metav1.GetOptions{})
	if err != nil || got.Status.Message != "m" || got.Spec.ActiveDeadlineSeconds != nil || got.Labels["a"] != "b" {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, m := range managers(got) {
		who, fields, _ := strings.Cut(m, ": ")
		switch who {
		case "main/":
			if strings.Contains(fields, "f:status") || !strings.Contains(fields, `"f:a"`) {
				t.Errorf("%s owns %s", who, fields)
			}
		case "status/status":
			if strings.Contains(fields, "f:spec") || !strings.Contains(fields, "f:message") {
				t.Errorf("%s owns %s", who, fields)
			}
		case "debug/ephemeralcontainers":
			if strings.Contains(fields, "f:status") || strings.Contains(fields, "f:labels") || !strings.Contains(fields, "f:ephemeralContainers") {
				t.Errorf("%s owns %s", who, fields)
			}
		}
	}
}

func TestTokensAreForWhomTheyName(t *testing.T) {
	a := account(t, "named")
	accounts := admin.CoreV1().ServiceAccounts("default")
	ask := func(account string, m metav1.ObjectMeta, seconds int64) (*authenticationv1.TokenRequest, error) {
		return accounts.CreateToken(t.Context(), account, &authenticationv1.TokenRequest{ObjectMeta: m, Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	}
	got, err := ask("named", metav1.ObjectMeta{}, 600)
	if err != nil || got.Name != "named" || got.Namespace != "default" || got.UID != a.UID || got.CreationTimestamp.IsZero() || got.Status.Token == "" {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = ask("named", metav1.ObjectMeta{UID: "other"}, 600)
	mustRefuse(t, err, fmt.Sprintf(`Operation cannot be fulfilled on TokenRequest.authentication.k8s.io "named": the UID in the token request (other) does not match the UID of the service account (%s)`, a.UID))
	_, err = ask("named", metav1.ObjectMeta{Name: "else"}, 600)
	if !apierrors.IsBadRequest(err) && !apierrors.IsInvalid(err) {
		t.Errorf("another name: %v", err)
	}
	_, err = ask("named", metav1.ObjectMeta{}, 5)
	mustRefuse(t, err, `TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes`)
	_, err = ask("nobody", metav1.ObjectMeta{}, 5)
	mustRefuse(t, err, `serviceaccounts "nobody" not found`)
}

// A ReplicationController leaves its Pods when nobody says otherwise, an Event
// has none to leave.
func TestDependentsOfTheDeleted(t *testing.T) {
	rcs := admin.CoreV1().ReplicationControllers("default")
	if _, err := rcs.Create(t.Context(), newController("orphaning", 0), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := rcs.Delete(t.Context(), "orphaning", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	rc, err := rcs.Get(t.Context(), "orphaning", metav1.GetOptions{})
	if err != nil || !slices.Equal(rc.Finalizers, []string{metav1.FinalizerOrphanDependents}) || rc.DeletionTimestamp == nil {
		t.Fatalf("%+v, %v", rc, err)
	}
	rc.Finalizers = nil
	if _, err := rcs.Update(t.Context(), rc, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	events := admin.CoreV1().Events("default")
	e := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "undivided"}, InvolvedObject: corev1.ObjectReference{Namespace: "default"}, Reason: "R", Type: "Normal"}
	if _, err := events.Create(t.Context(), e, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	foreground := metav1.DeletePropagationForeground
	if err := events.Delete(t.Context(), "undivided", metav1.DeleteOptions{PropagationPolicy: &foreground}); err != nil {
		t.Fatal(err)
	}
	if _, err := events.Get(t.Context(), "undivided", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("an Event waits for dependents: %v", err)
	}
}

// events.k8s.io/v1 is stricter than core/v1, about the same Events.
func TestStrictEvents(t *testing.T) {
	e := &eventsv1.Event{ObjectMeta: metav1.ObjectMeta{Name: "strict"}, Type: "Normal"}
	_, err := admin.EventsV1().Events("default").Create(t.Context(), e, metav1.CreateOptions{})
	mustRefuse(t, err, `Event "strict" is invalid: eventTime: Required value`)
	loose := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "strict"}, Type: "Normal"}
	if _, err := admin.CoreV1().Events("default").Create(t.Context(), loose, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := admin.CoreV1().Events("default").Delete(context.Background(), "strict", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	l, err := admin.EventsV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=strict,regarding.fieldPath=,reportingController="})
	if err != nil || len(l.Items) != 1 {
		t.Errorf("%v, %v", l, err)
	}
	if _, err := admin.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{FieldSelector: "reportingController=x"}); !apierrors.IsBadRequest(err) {
		t.Errorf("the newer field by the older version: %v", err)
	}
}

// A Node may bring its status; nobody else may.
func TestNodesAreBornWithTheirStatus(t *testing.T) {
	nodes := admin.CoreV1().Nodes()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "born"}, Status: corev1.NodeStatus{Phase: corev1.NodeRunning}}
	t.Cleanup(func() {
		if err := nodes.Delete(context.Background(), "born", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	if got, err := nodes.Create(t.Context(), n, metav1.CreateOptions{}); err != nil || got.Status.Phase != corev1.NodeRunning {
		t.Errorf("%+v, %v", got, err)
	}
	p := newPod("unborn")
	p.Status.Phase = corev1.PodRunning
	if got := create(t, p, ""); got.Status.Phase != corev1.PodPending {
		t.Errorf("phase %s", got.Status.Phase)
	}
}
