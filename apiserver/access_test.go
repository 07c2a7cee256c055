// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/auth"
)

// call makes a request over TLS, with a token or a client certificate or
// neither, and returns the status and the body.
func call(t *testing.T, method, path, token, certificate string) (int, string) {
	t.Helper()
	pki := server.config.PKI
	c := &tls.Config{RootCAs: pki.Pool(), MinVersion: tls.VersionTLS12}
	if certificate != "" {
		cert, key := pki.Pair(certificate)
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	transport := &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}
	q, err := http.NewRequestWithContext(t.Context(), method, "https://"+server.config.Listen[0].String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		q.Header.Set("Authorization", "Bearer "+token)
	}
	r, err := (&http.Client{Transport: transport}).Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func account(t *testing.T, name string) *corev1.ServiceAccount {
	t.Helper()
	a, err := admin.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestWhoMayKnock(t *testing.T) {
	a := account(t, "knock")
	token, _, err := server.Tokens().Sign(auth.Request{Account: a, Seconds: 600})
	if err != nil {
		t.Fatal(err)
	}
	inside := server.ClientConfig("thief", "system:masters").Transport.(transport).token
	for _, c := range []struct {
		name, path, token, certificate string
		want                           int
	}{
		{"anonymous sees health", "/healthz", "", "", 200},
		{"anonymous sees liveness", "/livez", "", "", 200},
		{"anonymous sees readiness", "/readyz", "", "", 200},
		{"anonymous may not see what the cluster says of itself before there is a token", "/api/v1/namespaces/kube-public/configmaps/cluster-info", "", "", 403},
		{"anonymous sees no Pods", "/api/v1/pods", "", "", 401},
		{"anonymous sees no parts of health", "/livez/ping", "", "", 401},
		{"a made-up token", "/healthz", "abc", "", 401},
		{"a token of this process over the network", "/api/v1/pods", inside, "", 401},
		{"the admin's certificate", "/api/v1/pods", "", "admin", 200},
		{"a node's certificate sees the other machines", "/api/v1/nodes", "", "kubelet", 200},
		{"a node's certificate does not see all Secrets", "/api/v1/secrets", "", "kubelet", 403},
		{"a token", "/apis", token, "", 200},
		{"a token without rights", "/api/v1/pods", token, "", 403},
		{"metrics", "/metrics", "", "admin", 200},
		{"metrics are not for all", "/metrics", token, "", 403},
		{"keys of tokens", "/openid/v1/jwks", token, "", 200},
		{"nobody needs no keys", "/openid/v1/jwks", "", "", 401},
		{"an unknown path", "/nothing", "", "admin", 404},
		{"the version", "/version", token, "", 200},
	} {
		if got, body := call(t, "GET", c.path, c.token, c.certificate); got != c.want {
			t.Errorf("%s: %d, want %d: %s", c.name, got, c.want, body)
		}
	}
	_, body := call(t, "GET", "/api/v1/namespaces/default/pods", token, "")
	want := `pods is forbidden: User \"system:serviceaccount:default:knock\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"`
	if !strings.Contains(body, want) {
		t.Errorf("got %s, want %s", body, want)
	}
	if _, body := call(t, "GET", "/version", token, ""); !strings.Contains(body, `"minor": "37"`) || !strings.Contains(body, `"gitVersion": "v1.37.2"`) {
		t.Errorf("version %s", body)
	}
}

func TestTokensDieWithTheirObjects(t *testing.T) {
	a := account(t, "bound")
	p := newPod("bearer")
	p.Spec.ServiceAccountName = "bound"
	p = create(t, p, "n1")
	ask := func(r authenticationv1.TokenRequestSpec) (string, error) {
		got, err := admin.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "bound", &authenticationv1.TokenRequest{Spec: r}, metav1.CreateOptions{})
		if err != nil {
			return "", err
		}
		return got.Status.Token, nil
	}
	review := func(token string, audiences ...string) authenticationv1.TokenReviewStatus {
		t.Helper()
		r, err := admin.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status
	}
	ref := &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "bearer", UID: p.UID}
	bound, err := ask(authenticationv1.TokenRequestSpec{BoundObjectRef: ref, ExpirationSeconds: ptr.To[int64](3600)})
	if err != nil {
		t.Fatal(err)
	}
	s := review(bound)
	if !s.Authenticated || s.User.Username != "system:serviceaccount:default:bound" || s.User.UID != string(a.UID) ||
		!slices.Equal(s.User.Groups, []string{"system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"}) ||
		s.User.Extra["authentication.kubernetes.io/pod-name"][0] != "bearer" || s.User.Extra["authentication.kubernetes.io/node-name"][0] != "n1" {
		t.Errorf("review of a bound token: %+v", s)
	}
	other, err := ask(authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}})
	if err != nil {
		t.Fatal(err)
	}
	if s := review(other); s.Authenticated {
		t.Error("a token for another audience opens the API")
	}
	if s := review(other, "vault", "more"); !s.Authenticated || len(s.Audiences) != 1 || s.Audiences[0] != "vault" {
		t.Errorf("the token's own audience: %+v", s)
	}
	wrong := *ref
	wrong.UID = "else"
	if _, err := ask(authenticationv1.TokenRequestSpec{BoundObjectRef: &wrong}); !apierrors.IsConflict(err) {
		t.Errorf("a token for another Pod of the name: %v", err)
	}
	if _, err := ask(authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](60)}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "may not specify a duration less than 10 minutes") {
		t.Errorf("a token for a minute: %v", err)
	}
	if err := admin.CoreV1().Pods("default").Delete(t.Context(), "bearer", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the Pod's token dies with it", func() bool { return !review(bound).Authenticated })
	if err := admin.CoreV1().ServiceAccounts("default").Delete(t.Context(), "bound", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the account's token dies with it", func() bool { return !review(other, "vault").Authenticated })
}

// eventually asks again after each change of the store until it is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for !so() {
		// A write and its answer are longer than the watch cache needs.
		_, err := admin.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "tick-"}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatalf("%s: not yet, and %v", what, err)
		}
	}
}

func as(t *testing.T, name string, groups ...string) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(server.ClientConfig(name, groups...))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestNobodyGrantsMoreThanItHas(t *testing.T) {
	boss := as(t, "boss")
	_, err := admin.RbacV1().RoleBindings("default").Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "boss"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "boss"}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	role := func(name, verb, resource string) error {
		_, err := boss.RbacV1().Roles("default").Create(t.Context(), &rbacv1.Role{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{{Verbs: []string{verb, "list"}, APIGroups: []string{""}, Resources: []string{resource}}},
		}, metav1.CreateOptions{})
		return err
	}
	eventually(t, "the binding is known", func() bool { return role("pods", "get", "pods") == nil })
	err = role("nodes", "get", "nodes")
	want := `roles.rbac.authorization.k8s.io "nodes" is forbidden: user "boss" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently held:
{APIGroups:[""], Resources:["nodes"], Verbs:["get" "list"]}`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	_, err = boss.RbacV1().RoleBindings("default").Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "more"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "boss"}},
	}, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.HasPrefix(err.Error(), `rolebindings.rbac.authorization.k8s.io "more" is forbidden: user "boss"`) {
		t.Errorf("a binding to cluster-admin: %v", err)
	}
}

func TestAccessReviews(t *testing.T) {
	pods := &authorizationv1.ResourceAttributes{Namespace: "default", Verb: "get", Resource: "pods"}
	review := func(s authorizationv1.SubjectAccessReviewSpec) (*authorizationv1.SubjectAccessReview, error) {
		return admin.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{Spec: s}, metav1.CreateOptions{})
	}
	if r, err := review(authorizationv1.SubjectAccessReviewSpec{User: "nobody", ResourceAttributes: pods}); err != nil || r.Status.Allowed {
		t.Errorf("nobody: %+v, %v", r.Status, err)
	}
	if r, err := review(authorizationv1.SubjectAccessReviewSpec{Groups: []string{"system:masters"}, ResourceAttributes: pods}); err != nil || !r.Status.Allowed {
		t.Errorf("masters: %+v, %v", r.Status, err)
	}
	_, err := review(authorizationv1.SubjectAccessReviewSpec{ResourceAttributes: pods})
	if want := `SubjectAccessReview.authorization.k8s.io "" is invalid: spec.user: Invalid value: "": at least one of user or group must be specified`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	self, err := as(t, "jane").AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: pods}}, metav1.CreateOptions{})
	if err != nil || self.Status.Allowed {
		t.Errorf("jane: %+v, %v", self.Status, err)
	}
	c := server.ClientConfig("root", "system:masters")
	c.Impersonate.UserName, c.Impersonate.Groups = "joe", []string{"team"}
	joe, err := kubernetes.NewForConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	me, err := joe.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || me.Status.UserInfo.Username != "joe" || me.Status.UserInfo.Groups[0] != "team" {
		t.Errorf("impersonated: %+v, %v", me.Status, err)
	}
}

// A stream opened with GET, as WebSockets are, needs the right to create one.
func TestReadersDoNotExec(t *testing.T) {
	_, err := admin.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "looks"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods", "pods/exec"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = admin.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "looks"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "looks"},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "looker"}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	looker := as(t, "looker")
	create(t, newPod("seen"), "")
	eventually(t, "the binding is known", func() bool {
		_, err := looker.CoreV1().Pods("default").Get(t.Context(), "seen", metav1.GetOptions{})
		return err == nil
	})
	exec := func(c kubernetes.Interface) error {
		return c.CoreV1().RESTClient().Get().Namespace("default").Resource("pods").Name("seen").SubResource("exec").Param("command", "id").Do(t.Context()).Error()
	}
	if err := exec(looker); !apierrors.IsForbidden(err) {
		t.Errorf("exec of a reader: %v", err)
	}
	if err := exec(admin); err == nil || err.Error() != "pod seen does not have a host assigned" {
		t.Errorf("exec in a Pod without a node: %v", err)
	}
}

func TestKeysArePrivate(t *testing.T) {
	entries, err := os.ReadDir(server.config.DataDir + "/pki")
	if err != nil || len(entries) < 10 {
		t.Fatalf("%d files, %v", len(entries), err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s is %v, %v", e.Name(), info.Mode(), err)
		}
	}
}
