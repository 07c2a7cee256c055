// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

func authorizationFile(hook, condition string) string {
	return fmt.Sprintf(`apiVersion: apiserver.config.k8s.io/v1
kind: AuthorizationConfiguration
authorizers:
- type: Webhook
  name: guard
  webhook:
    timeout: 5s
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    failurePolicy: Deny
    authorizedTTL: 1s
    unauthorizedTTL: 1s
    cacheAuthorizedRequests: false
    cacheUnauthorizedRequests: false
    connectionInfo: {type: KubeConfigFile, kubeConfigFile: %s}
    matchConditions: [{expression: "%s"}]
- {type: RBAC, name: rbac}
`, hook, condition)
}

// A webhook is asked before RBAC about what its conditions match; the file is
// read again, and one that is wrong, or leaves out what is ours, changes nothing.
func TestAuthorizationConfiguration(t *testing.T) {
	dir := t.TempDir()
	hook := hookTo(t, dir, func(w http.ResponseWriter, r *http.Request) {
		var review authorizationv1.SubjectAccessReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Error(err)
		}
		a := review.Spec.ResourceAttributes
		review.Status = authorizationv1.SubjectAccessReviewStatus{Allowed: a != nil && a.Resource == "pods"}
		if a != nil && a.Resource == "nodes" {
			review.Status = authorizationv1.SubjectAccessReviewStatus{Denied: true, Reason: "nodes are nobody's business"}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	})
	file := written(t, filepath.Join(dir, "authorization.yaml"), authorizationFile(hook, "request.user == 'jane'"))
	s := serve(t, dir, "--authorization-config="+file)
	for _, name := range []string{"jane", "joe"} {
		_, err := s.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:node-problem-detector"},
			Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: name}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	may := func(name, resource string) (bool, string) {
		t.Helper()
		r, err := s.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: name, ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get", Resource: resource, Namespace: "default"},
		}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status.Allowed, r.Status.Reason
	}
	expect := func(name, resource string, want bool) {
		t.Helper()
		if got, why := may(name, resource); got != want {
			t.Errorf("%s may get %s: %t, as %q", name, resource, got, why)
		}
	}
	expect("jane", "pods", true)
	expect("jane", "secrets", false)
	expect("joe", "pods", false) // nobody is asked about joe but RBAC
	if got, why := may("jane", "nodes"); got || why != "nodes are nobody's business" {
		t.Errorf("jane and nodes: %t, %q", got, why)
	}
	const reloads = "apiserver_authorization_config_controller_automatic_reloads_total{"
	written(t, file, authorizationFile(hook, "request.user == 'joe'"))
	s.until(t, reloads, `status="success"} 1`)
	expect("jane", "pods", false)
	expect("joe", "pods", true)
	written(t, file, strings.Replace(authorizationFile(hook, "true"), "- {type: RBAC, name: rbac}\n", "", 1))
	s.until(t, reloads, `status="failure"} 1`)
	expect("jane", "pods", false)
	s.end(t)
}

// Who may impersonate whom is RBAC's to say, in the old form for all that the
// other may, and in the constrained form for some of it.
func TestImpersonation(t *testing.T) {
	role := func(name string, rules ...rbacv1.PolicyRule) {
		t.Helper()
		if _, err := admin.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		_, err := admin.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
			Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: name}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	read := rbacv1.PolicyRule{Verbs: []string{"get", "list"}, APIGroups: []string{""}, Resources: []string{"configmaps", "pods"}}
	role("imp-target", read)
	role("imp-old", rbacv1.PolicyRule{Verbs: []string{"impersonate"}, APIGroups: []string{""}, Resources: []string{"users"}, ResourceNames: []string{"imp-target"}})
	role("imp-new", rbacv1.PolicyRule{Verbs: []string{"impersonate:user-info"}, APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"users"}, ResourceNames: []string{"imp-target"}},
		rbacv1.PolicyRule{Verbs: []string{"impersonate-on:user-info:list"}, APIGroups: []string{""}, Resources: []string{"pods"}})
	try := func(who, asWhom, resource string) error {
		c := server.ClientConfig(who)
		c.Impersonate = rest.ImpersonationConfig{UserName: asWhom}
		client, err := rest.UnversionedRESTClientFor(&rest.Config{Host: c.Host, Transport: c.Transport, Impersonate: c.Impersonate, ContentConfig: rest.ContentConfig{NegotiatedSerializer: server.codecs.WithoutConversion()}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Get().AbsPath("/api/v1/namespaces/default/" + resource).DoRaw(t.Context())
		return err
	}
	eventually(t, "the old form is known", func() bool { return try("imp-old", "imp-target", "configmaps") == nil })
	eventually(t, "the new form is known", func() bool { return try("imp-new", "imp-target", "pods") == nil })
	for _, c := range [][3]string{{"imp-old", "imp-other", "pods"}, {"imp-old", "imp-target", "secrets"}, {"imp-new", "imp-target", "configmaps"}, {"imp-new", "imp-other", "pods"}, {"imp-nobody", "imp-target", "pods"}} {
		if err := try(c[0], c[1], c[2]); !apierrors.IsForbidden(err) {
			t.Errorf("%v: %v", c, err)
		}
	}
}
