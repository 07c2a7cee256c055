// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"slices"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
	"k8s.io/client-go/tools/cache"
)

// lister holds objects as an informer would.
func lister(t *testing.T, objects ...any) cache.Indexer {
	t.Helper()
	i := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	for _, o := range objects {
		if err := i.Add(o); err != nil {
			t.Fatal(err)
		}
	}
	return i
}

// policy is the default policy and a few objects of a user.
func policy(t *testing.T) *RBAC {
	t.Helper()
	var roles, bindings []any
	for _, r := range ClusterRoles() {
		roles = append(roles, &r)
	}
	for _, b := range ClusterRoleBindings() {
		bindings = append(bindings, &b)
	}
	pick := &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "pick", Namespace: "a"},
		Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{"one"}},
			{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"*/log"}},
		},
	}
	bind := func(ns, name, kind, role string, s rbacv1.Subject) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns}, Subjects: []rbacv1.Subject{s}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role}}
	}
	return &RBAC{
		ClusterRoles: rbaclisters.NewClusterRoleLister(lister(t, roles...)), ClusterRoleBindings: rbaclisters.NewClusterRoleBindingLister(lister(t, bindings...)),
		Roles: rbaclisters.NewRoleLister(lister(t, pick)),
		RoleBindings: rbaclisters.NewRoleBindingLister(lister(t,
			bind("a", "pick", "Role", "pick", rbacv1.Subject{Kind: "User", Name: "jane"}),
			bind("a", "edit", "ClusterRole", "edit", rbacv1.Subject{Kind: "ServiceAccount", Name: "builder"}), // its own namespace
			bind("a", "view", "ClusterRole", "view", rbacv1.Subject{Kind: "Group", Name: "readers"}),
			bind("a", "lost", "Role", "gone", rbacv1.Subject{Kind: "User", Name: "joe"}),
			bind("b", "admin", "ClusterRole", "admin", rbacv1.Subject{Kind: "User", Name: "boss"}),
		)),
	}
}

func TestAuthorize(t *testing.T) {
	r := policy(t)
	jane := &user.DefaultInfo{Name: "jane", Groups: []string{user.AllAuthenticated}}
	reader := &user.DefaultInfo{Name: "r", Groups: []string{"readers", user.AllAuthenticated}}
	builder := &user.DefaultInfo{Name: "system:serviceaccount:a:builder", Groups: []string{"system:serviceaccounts", "system:serviceaccounts:a", user.AllAuthenticated}}
	boss := &user.DefaultInfo{Name: "boss", Groups: []string{user.AllAuthenticated}}
	root := &user.DefaultInfo{Name: "root", Groups: []string{user.SystemPrivilegedGroup}}
	nobody := &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}
	node := &user.DefaultInfo{Name: "system:node:n", Groups: []string{"system:nodes", user.AllAuthenticated}}
	for _, c := range []struct {
		name                                  string
		who                                   user.Info
		verb, group, ns, resource, sub, named string
		path                                  string
		want                                  bool
	}{
		{"root does all", root, "delete", "", "", "nodes", "", "n", "", true},
		{"one secret by name", jane, "get", "", "a", "secrets", "", "one", "", true},
		{"not another", jane, "get", "", "a", "secrets", "", "two", "", false},
		{"not all of them", jane, "list", "", "a", "secrets", "", "", "", false},
		{"not elsewhere", jane, "get", "", "b", "secrets", "", "one", "", false},
		{"a subresource of all", jane, "get", "", "a", "pods", "log", "p", "", true},
		{"and not the resource", jane, "get", "", "a", "pods", "", "p", "", false},
		{"view reads Pods", reader, "watch", "", "a", "pods", "", "", "", true},
		{"view reads no secrets", reader, "get", "", "a", "secrets", "", "s", "", false},
		{"view does not exec", reader, "create", "", "a", "pods", "exec", "p", "", false},
		{"edit execs", builder, "create", "", "a", "pods", "exec", "p", "", true},
		{"edit evicts", builder, "create", "", "a", "pods", "eviction", "p", "", true},
		{"edit grants nothing", builder, "create", "rbac.authorization.k8s.io", "a", "roles", "", "", "", false},
		{"an account of another namespace", &user.DefaultInfo{Name: "system:serviceaccount:b:builder"}, "get", "", "a", "pods", "", "", "", false},
		{"admin grants", boss, "create", "rbac.authorization.k8s.io", "b", "roles", "", "", "", true},
		{"admin writes no status", boss, "update", "", "b", "pods", "status", "p", "", false},
		{"everybody asks about itself", jane, "create", "authorization.k8s.io", "", "selfsubjectaccessreviews", "", "", "", true},
		{"everybody discovers", jane, "get", "", "", "", "", "", "/apis/apps/v1", true},
		{"nobody does not", nobody, "get", "", "", "", "", "", "/apis/apps/v1", false},
		{"nobody sees health", nobody, "get", "", "", "", "", "", "/healthz", true},
		{"nobody sees the version", nobody, "get", "", "", "", "", "", "/version", true},
		{"health of parts is not for all", nobody, "get", "", "", "", "", "", "/healthz/etcd", false},
		{"metrics are not for all", jane, "get", "", "", "", "", "", "/metrics", false},
		{"accounts find the issuer", builder, "get", "", "", "", "", "", "/openid/v1/jwks", true},
		{"a node by itself", node, "get", "", "", "nodes", "", "n", "", false},
	} {
		a := authorizer.AttributesRecord{User: c.who, Verb: c.verb, APIGroup: c.group, Namespace: c.ns, Resource: c.resource, Subresource: c.sub, Name: c.named, Path: c.path, ResourceRequest: c.path == ""}
		got, reason, err := r.Authorize(t.Context(), a)
		if err != nil || (got == authorizer.DecisionAllow) != c.want || got == authorizer.DecisionDeny {
			t.Errorf("%s: %v (%s), %v", c.name, got, reason, err)
		}
	}
}

func TestReasons(t *testing.T) {
	r := policy(t)
	ask := func(who string, ns string) string {
		_, reason, err := r.Authorize(t.Context(), authorizer.AttributesRecord{User: &user.DefaultInfo{Name: who}, Verb: "get", Namespace: ns, Resource: "secrets", Name: "one", ResourceRequest: true})
		if err != nil {
			t.Error(err)
		}
		return reason
	}
	if got, want := ask("jane", "a"), `RBAC: allowed by RoleBinding "pick/a" of Role "pick" to User "jane"`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := ask("joe", "a"), `RBAC: role.rbac.authorization.k8s.io "gone" not found`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEscalation(t *testing.T) {
	r := policy(t)
	boss := &user.DefaultInfo{Name: "boss", Groups: []string{user.AllAuthenticated}}
	rule := func(verbs, resource string) []rbacv1.PolicyRule {
		return []rbacv1.PolicyRule{{Verbs: []string{verbs}, APIGroups: []string{""}, Resources: []string{resource}}}
	}
	for _, c := range []struct {
		name   string
		ns     string
		wanted []rbacv1.PolicyRule
		held   bool
	}{
		{"what one has", "b", rule("get", "pods"), true},
		{"elsewhere", "a", rule("get", "pods"), false},
		{"every verb", "b", rule("*", "pods"), false},
		{"a resource one has not", "b", rule("get", "nodes"), false},
	} {
		missing, err := r.Missing(boss, c.ns, c.wanted)
		if err != nil || (len(missing) == 0) != c.held {
			t.Errorf("%s: missing %v, %v", c.name, missing, err)
		}
	}
	resources, paths, incomplete, err := r.RulesFor(t.Context(), boss, "b")
	if err != nil || incomplete || len(resources) < 10 || !slices.ContainsFunc(paths, func(p authorizer.NonResourceRuleInfo) bool {
		return slices.Contains(p.GetNonResourceURLs(), "/healthz")
	}) {
		t.Errorf("rules of boss: %d, %v, %v", len(resources), paths, err)
	}
}
