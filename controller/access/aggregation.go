// SPDX-License-Identifier: Apache-2.0

package access

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	rbacapply "k8s.io/client-go/applyconfigurations/rbac/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/controller/loop"
)

// aggregator is the manager of the rules that are gathered.
const aggregator = "clusterrole-aggregation-controller"

// addAggregation gives a ClusterRole with an aggregation rule the rules of the
// roles that it selects. There are few roles, so that a change of any makes all
// that gather look again.
func addAggregation(m manager.Manager, c loop.Config) error {
	reader := m.GetClient()
	gathering := func(ctx context.Context, _ client.Object) (out []reconcile.Request) {
		var all rbacv1.ClusterRoleList
		if err := reader.List(ctx, &all); err != nil {
			return nil // a cache that is shut down
		}
		for _, r := range all.Items {
			if r.AggregationRule != nil {
				out = append(out, reconcile.Request{NamespacedName: client.ObjectKey{Name: r.Name}})
			}
		}
		return out
	}
	return ctrl.NewControllerManagedBy(m).Named("clusterrole-aggregation").
		Watches(&rbacv1.ClusterRole{}, handler.EnqueueRequestsFromMapFunc(gathering)).
		Complete(reconcile.Func(func(ctx context.Context, q reconcile.Request) (reconcile.Result, error) {
			var role rbacv1.ClusterRole
			if err := reader.Get(ctx, q.NamespacedName, &role); err != nil || role.AggregationRule == nil || role.DeletionTimestamp != nil {
				return reconcile.Result{}, client.IgnoreNotFound(err)
			}
			rules, err := gather(ctx, reader, &role)
			if err != nil || equality.Semantic.DeepEqual(rules, role.Rules) {
				return reconcile.Result{}, err
			}
			want := rbacapply.ClusterRole(role.Name)
			for _, r := range rules {
				want.WithRules(&rbacapply.PolicyRuleApplyConfiguration{Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames, NonResourceURLs: r.NonResourceURLs})
			}
			_, err = c.Client.RbacV1().ClusterRoles().Apply(ctx, want, metav1.ApplyOptions{FieldManager: aggregator, Force: true})
			return reconcile.Result{}, err
		}))
}

// gather adds up the rules, each once, of the selected roles by their names.
func gather(ctx context.Context, reader client.Reader, role *rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	var out []rbacv1.PolicyRule
	for _, s := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&s)
		if err != nil {
			return nil, fmt.Errorf("cannot gather the rules of ClusterRole %s: %w", role.Name, err)
		}
		var list rbacv1.ClusterRoleList
		if err := reader.List(ctx, &list, client.MatchingLabelsSelector{Selector: selector}); err != nil {
			return nil, err
		}
		slices.SortFunc(list.Items, func(a, b rbacv1.ClusterRole) int { return cmp.Compare(a.Name, b.Name) })
		for _, r := range list.Items {
			if r.Name == role.Name {
				continue
			}
			for _, rule := range r.Rules {
				if !slices.ContainsFunc(out, func(have rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(have, rule) }) {
					out = append(out, rule)
				}
			}
		}
	}
	return out, nil
}
