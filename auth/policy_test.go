// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// upstreamPolicy reads a list of the default policy of the Kubernetes release
// that test/stock pins.
func upstreamPolicy[T any](t *testing.T, file string) (out []T) {
	t.Helper()
	c := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes")
	c.Dir = "../test/stock"
	dir, err := c.Output()
	if err != nil {
		t.Fatalf("cannot find the pinned Kubernetes sources: %v", err)
	}
	b, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "plugin/pkg/auth/authorizer/rbac/bootstrappolicy/testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	var list metav1.List
	if err := yaml.Unmarshal(b, &list); err != nil {
		t.Fatal(err)
	}
	for _, raw := range list.Items {
		var o T
		if err := yaml.Unmarshal(raw.Raw, &o); err != nil {
			t.Fatal(err)
		}
		out = append(out, o)
	}
	return out
}

// text is an object as it is compared: as YAML, without its type.
func text(t *testing.T, o any) string {
	t.Helper()
	u, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		t.Fatal(err)
	}
	delete(u, "apiVersion")
	delete(u, "kind")
	if u["rules"] == nil {
		delete(u, "rules")
	}
	b, err := yaml.Marshal(u)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDefaultPolicyIsUpstreams(t *testing.T) {
	roles := map[string]rbacv1.ClusterRole{}
	for _, r := range upstreamPolicy[rbacv1.ClusterRole](t, "cluster-roles.yaml") {
		roles[r.Name] = r
	}
	sums := map[string][]rbacv1.PolicyRule{}
	for _, r := range ClusterRoles() {
		w := roles[r.Name]
		if r.AggregationRule != nil {
			sums[r.Name], r.Rules = r.Rules, nil // a controller adds them up
		}
		if got, want := text(t, &r), text(t, &w); got != want {
			t.Errorf("%s\ngot:\n%s\nwant:\n%s", r.Name, got, want)
		}
	}
	part := func(name string) []rbacv1.PolicyRule { return roles["system:aggregate-to-"+name].Rules }
	for name, want := range map[string][]rbacv1.PolicyRule{
		"view": part("view"), "edit": concat(part("edit"), part("view")), "admin": concat(part("edit"), part("view"), part("admin")),
	} {
		if !reflect.DeepEqual(sums[name], want) {
			t.Errorf("%s\ngot  %v\nwant %v", name, sums[name], want)
		}
	}
	bindings := map[string]rbacv1.ClusterRoleBinding{}
	for _, b := range upstreamPolicy[rbacv1.ClusterRoleBinding](t, "cluster-role-bindings.yaml") {
		bindings[b.Name] = b
	}
	for _, b := range ClusterRoleBindings() {
		w := bindings[b.Name]
		b.TypeMeta, w.TypeMeta = metav1.TypeMeta{}, metav1.TypeMeta{}
		if !reflect.DeepEqual(b, w) {
			t.Errorf("%s\ngot  %+v\nwant %+v", b.Name, b, w)
		}
	}
}
