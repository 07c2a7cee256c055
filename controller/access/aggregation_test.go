// SPDX-License-Identifier: Apache-2.0

package access

import (
	"slices"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/auth"
	"github.com/peapod/peapod/controller/world"
)

// A role that says so is part of view, and so of edit and admin; without it
// they are what they were made as.
func TestAggregatedRoles(t *testing.T) {
	made := map[string][]rbacv1.PolicyRule{}
	for _, r := range auth.ClusterRoles() {
		if r.AggregationRule != nil {
			made[r.Name] = r.Rules
		}
	}
	rule := rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{"example.com"}, Resources: []string{"things"}}
	extra := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "test-things-view", Labels: map[string]string{"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
		Rules:      []rbacv1.PolicyRule{rule, rule},
	}
	world.Put(t, extra)
	var all rbacv1.ClusterRoleList
	count := func(r rbacv1.ClusterRole) (n int) {
		for _, have := range r.Rules {
			if equality.Semantic.DeepEqual(have, rule) {
				n++
			}
		}
		return n
	}
	gathered := func(so func(rbacv1.ClusterRole) bool) func() bool {
		return func() bool {
			return !slices.ContainsFunc(all.Items, func(r rbacv1.ClusterRole) bool { return made[r.Name] != nil && !so(r) })
		}
	}
	world.Until(t, "view, edit and admin have the rule once", &all, gathered(func(r rbacv1.ClusterRole) bool { return count(r) == 1 }))
	if err := world.Client.Delete(t.Context(), extra); client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	world.Until(t, "they are as they were made", &all, gathered(func(r rbacv1.ClusterRole) bool { return equality.Semantic.DeepEqual(r.Rules, made[r.Name]) }))
}
