// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	admissionreview "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// makeMap creates a ConfigMap that goes with the test.
func makeMap(t *testing.T, m *corev1.ConfigMap) (*corev1.ConfigMap, error) {
	t.Helper()
	made, err := admin.CoreV1().ConfigMaps("default").Create(t.Context(), m, metav1.CreateOptions{})
	if err == nil {
		t.Cleanup(func() {
			if err := admin.CoreV1().ConfigMaps("default").Delete(context.Background(), made.Name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	return made, err
}

// reviewer answers AdmissionReviews of maps until the test is over, and is
// reached by the name of a Service.
func reviewer(t *testing.T, answer func(m *corev1.ConfigMap) *admissionreview.AdmissionResponse) admissionv1.WebhookClientConfig {
	t.Helper()
	listener := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionreview.AdmissionReview
		var m corev1.ConfigMap
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(body, &review)
		}
		if err == nil {
			err = json.Unmarshal(review.Request.Object.Raw, &m)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		review.Response = answer(&m)
		review.Response.UID = review.Request.UID
		if err := json.NewEncoder(w).Encode(review); err != nil {
			t.Error(err)
		}
	}))
	listener.StartTLS()
	t.Cleanup(listener.Close)
	at := netip.MustParseAddrPort(listener.Listener.Addr().String())
	const name = "example" // the certificate is for example.com
	ports := []corev1.ServicePort{{Name: "https", Port: 8443}}
	if _, err := admin.CoreV1().Services("default").Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: ports}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := admin.CoreV1().Services("default").Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}}, AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.1"}}},
		Ports:     []discoveryv1.EndpointPort{{Name: ptr.To("https"), Port: ptr.To(int32(at.Port()))}},
	}
	if _, err := admin.DiscoveryV1().EndpointSlices("default").Create(t.Context(), slice, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := admin.DiscoveryV1().EndpointSlices("default").Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	// The address of the slice is nobody's; what a name resolves to is looked at
	// apart, and the review itself goes to the test's server.
	host, err := webhookServices{server}.ResolveEndpoint("default", name, 8443)
	if err != nil || host.Host != fmt.Sprintf("192.0.2.1:%d", at.Port()) {
		t.Errorf("the Service is at %v, %v", host, err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: listener.Certificate().Raw})
	return admissionv1.WebhookClientConfig{URL: ptr.To(listener.URL), CABundle: ca}
}

func mapsOf(labels map[string]string) ([]admissionv1.RuleWithOperations, *metav1.LabelSelector) {
	return []admissionv1.RuleWithOperations{{
		Operations: []admissionv1.OperationType{admissionv1.Create},
		Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
	}}, &metav1.LabelSelector{MatchLabels: labels}
}

// Webhooks change and refuse what is written, soon after they are configured.
func TestWebhooks(t *testing.T) {
	labels := map[string]string{"test": "webhooks"}
	rules, selector := mapsOf(labels)
	none := admissionv1.SideEffectClassNone
	to := reviewer(t, func(m *corev1.ConfigMap) *admissionreview.AdmissionResponse {
		r := &admissionreview.AdmissionResponse{Allowed: m.Data["mood"] != "bad", Result: &metav1.Status{Message: "not in this mood"}, Warnings: []string{"looked at"}}
		if m.Data["seen"] == "" && r.Allowed {
			patch := admissionreview.PatchTypeJSONPatch
			r.PatchType, r.Patch = &patch, []byte(`[{"op":"add","path":"/data/seen","value":"yes"}]`)
		}
		return r
	})
	mutating := &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "test"}, Webhooks: []admissionv1.MutatingWebhook{{
		Name: "mutating.example.com", ClientConfig: to, Rules: rules, ObjectSelector: selector, SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
	}}}
	hooks := admin.AdmissionregistrationV1().MutatingWebhookConfigurations()
	made, err := hooks.Create(t.Context(), mutating, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := hooks.Delete(context.Background(), "test", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	if w := made.Webhooks[0]; made.Generation != 1 || *w.TimeoutSeconds != 10 || *w.FailurePolicy != admissionv1.Fail || *w.Rules[0].Scope != admissionv1.AllScopes {
		t.Errorf("made: %+v", made)
	}
	eventually(t, "maps are changed", func() bool {
		m, err := makeMap(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "w-", Labels: labels}, Data: map[string]string{"a": "b"}})
		return err == nil && m.Data["seen"] == "yes"
	})
	_, err = makeMap(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "w-", Labels: labels}, Data: map[string]string{"mood": "bad"}})
	if err == nil || !strings.Contains(err.Error(), `admission webhook "mutating.example.com" denied the request: not in this mood`) {
		t.Errorf("refused: %v", err)
	}
	// A webhook that does not answer refuses, unless it is to be ignored.
	validating := &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "test"}, Webhooks: []admissionv1.ValidatingWebhook{{
		Name: "validating.example.com", ClientConfig: admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Namespace: "default", Name: "missing"}},
		Rules: rules, ObjectSelector: selector, SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
	}}}
	checks := admin.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	if _, err := checks.Create(t.Context(), validating, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := checks.Delete(context.Background(), "test", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "maps are refused", func() bool {
		_, err = makeMap(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "w-", Labels: labels}, Data: map[string]string{"a": "b"}})
		return err != nil
	})
	if !strings.Contains(err.Error(), `failed calling webhook "validating.example.com"`) || !strings.Contains(err.Error(), `services "missing" not found`) {
		t.Errorf("without an answer: %v", err)
	}
}

// Policies refuse and change by themselves, and may use what their bindings
// name.
func TestAdmissionPolicies(t *testing.T) {
	labels := map[string]string{"test": "policies"}
	rules, selector := mapsOf(labels)
	match := &admissionv1.MatchResources{ObjectSelector: selector, ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: rules[0]}}}
	params, err := makeMap(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "limits"}, Data: map[string]string{"most": "2"}})
	if err != nil {
		t.Fatal(err)
	}
	api := admin.AdmissionregistrationV1()
	kind := &admissionv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}
	ref := &admissionv1.ParamRef{Name: params.Name, Namespace: "default", ParameterNotFoundAction: ptr.To(admissionv1.DenyAction)}
	_, err = api.ValidatingAdmissionPolicies().Create(t.Context(), &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "test"}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
		ParamKind: kind, MatchConstraints: match,
		Validations: []admissionv1.Validation{{Expression: "size(object.data) <= int(params.data.most)", MessageExpression: "'no more than ' + params.data.most"}},
	}}, metav1.CreateOptions{})
	if err == nil {
		_, err = api.ValidatingAdmissionPolicyBindings().Create(t.Context(), &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "test"}, Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: "test", ParamRef: ref, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
		}}, metav1.CreateOptions{})
	}
	if err == nil {
		_, err = api.MutatingAdmissionPolicies().Create(t.Context(), &admissionv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "test"}, Spec: admissionv1.MutatingAdmissionPolicySpec{
			MatchConstraints: match, ReinvocationPolicy: admissionv1.NeverReinvocationPolicy,
			Mutations: []admissionv1.Mutation{{PatchType: admissionv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionv1.ApplyConfiguration{Expression: "Object{data: {'by': 'policy'}}"}}},
		}}, metav1.CreateOptions{})
	}
	if err == nil {
		_, err = api.MutatingAdmissionPolicyBindings().Create(t.Context(), &admissionv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "test"}, Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "test"}}, metav1.CreateOptions{})
	}
	t.Cleanup(func() {
		ctx := context.Background()
		for _, err := range []error{
			api.ValidatingAdmissionPolicies().Delete(ctx, "test", metav1.DeleteOptions{}), api.ValidatingAdmissionPolicyBindings().Delete(ctx, "test", metav1.DeleteOptions{}),
			api.MutatingAdmissionPolicies().Delete(ctx, "test", metav1.DeleteOptions{}), api.MutatingAdmissionPolicyBindings().Delete(ctx, "test", metav1.DeleteOptions{}),
		} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "maps are changed", func() bool {
		m, err := makeMap(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "p-", Labels: labels}, Data: map[string]string{"a": "b"}})
		return err == nil && m.Data["by"] == "policy"
	})
	eventually(t, "maps are refused", func() bool {
		_, err = makeMap(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "p-", Labels: labels}, Data: map[string]string{"a": "b", "c": "d"}})
		return err != nil
	})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy 'test' with binding 'test' denied request: no more than 2") {
		t.Errorf("refused: %v", err)
	}
}

// Nobody has a policy read for him what he may not read.
func TestParametersAreForThoseWhoMayReadThem(t *testing.T) {
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "policies"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"*"}, APIGroups: []string{admissionv1.GroupName}, Resources: []string{"*"}}}}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "policies"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "policies"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "policeman"}}}
	if _, err := admin.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = admin.RbacV1().ClusterRoles().Delete(context.Background(), role.Name, metav1.DeleteOptions{})
	})
	if _, err := admin.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = admin.RbacV1().ClusterRoleBindings().Delete(context.Background(), binding.Name, metav1.DeleteOptions{})
	})
	rules, _ := mapsOf(nil)
	policy := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "secretive"}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
		ParamKind:        &admissionv1.ParamKind{APIVersion: "v1", Kind: "Secret"},
		MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: rules[0]}}},
		Validations:      []admissionv1.Validation{{Expression: "true"}},
	}}
	var err error
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	policies := as(t, "policeman").AdmissionregistrationV1().ValidatingAdmissionPolicies()
	eventually(t, "the role is known", func() bool { _, err = policies.Create(t.Context(), policy, dry); return !apierrors.IsForbidden(err) })
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `must have "get" permission on all objects of the referenced paramKind (kind=Secret, apiVersion=v1)`) {
		t.Errorf("a policy with Secrets: %v", err)
	}
	policy.Spec.ParamKind = nil
	if _, err := policies.Create(t.Context(), policy, dry); err != nil {
		t.Errorf("a policy without: %v", err)
	}
}

// The generation of a configuration counts changes of its webhooks, and no
// others.
func TestGenerationOfWebhooks(t *testing.T) {
	none := admissionv1.SideEffectClassNone
	hooks := admin.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	c, err := hooks.Create(t.Context(), &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "counted"}, Webhooks: []admissionv1.ValidatingWebhook{{
		Name: "counted.example.com", ClientConfig: admissionv1.WebhookClientConfig{URL: ptr.To("https://192.0.2.1")}, SideEffects: &none, AdmissionReviewVersions: []string{"v1"},
	}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := hooks.Delete(context.Background(), c.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	for _, step := range []struct {
		change func(*admissionv1.ValidatingWebhookConfiguration)
		want   int64
	}{
		{func(c *admissionv1.ValidatingWebhookConfiguration) { c.Labels = map[string]string{"a": "b"} }, 1},
		{func(c *admissionv1.ValidatingWebhookConfiguration) { c.Webhooks[0].TimeoutSeconds = ptr.To[int32](5) }, 2},
		{func(c *admissionv1.ValidatingWebhookConfiguration) { c.Generation = 7 }, 2},
	} {
		step.change(c)
		now, err := hooks.Update(t.Context(), c, metav1.UpdateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if c = now; c.Generation != step.want {
			t.Errorf("generation %d, not %d", c.Generation, step.want)
		}
	}
}
