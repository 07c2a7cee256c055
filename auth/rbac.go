// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
	"k8s.io/component-helpers/auth/rbac/validation"

	"k8s.io/apimachinery/pkg/labels"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
)

// RBAC answers from roles and bindings (KEP-2, rbac.authorization.k8s.io/v1).
type RBAC struct {
	Roles               rbaclisters.RoleLister
	RoleBindings        rbaclisters.RoleBindingLister
	ClusterRoles        rbaclisters.ClusterRoleLister
	ClusterRoleBindings rbaclisters.ClusterRoleBindingLister
}

// Authorize allows what a bound rule allows and has no opinion otherwise.
func (r *RBAC) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	var reason string
	errs := r.visit(a.GetUser(), a.GetNamespace(), func(why string, rule rbacv1.PolicyRule) bool {
		if allows(a, rule) {
			reason = "RBAC: allowed by " + why
			return false
		}
		return true
	})
	if reason != "" {
		return authorizer.DecisionAllow, reason, nil
	}
	if err := utilerrors.NewAggregate(errs); err != nil {
		return authorizer.DecisionNoOpinion, fmt.Sprintf("RBAC: %v", err), nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// RulesFor lists what a user may do in a namespace, for SelfSubjectRulesReview.
func (r *RBAC) RulesFor(_ context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	var resources []authorizer.ResourceRuleInfo
	var paths []authorizer.NonResourceRuleInfo
	errs := r.visit(u, namespace, func(_ string, rule rbacv1.PolicyRule) bool {
		if len(rule.Resources) > 0 {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames})
		}
		if len(rule.NonResourceURLs) > 0 {
			paths = append(paths, &authorizer.DefaultNonResourceRuleInfo{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
		}
		return true
	})
	return resources, paths, false, utilerrors.NewAggregate(errs)
}

// Rules are all rules of a user, for escalation checks.
func (r *RBAC) Rules(u user.Info, namespace string) ([]rbacv1.PolicyRule, error) {
	var out []rbacv1.PolicyRule
	errs := r.visit(u, namespace, func(_ string, rule rbacv1.PolicyRule) bool {
		out = append(out, rule)
		return true
	})
	return out, utilerrors.NewAggregate(errs)
}

// visit calls f with every rule that applies to the user, until it says no.
func (r *RBAC) visit(u user.Info, namespace string, f func(why string, rule rbacv1.PolicyRule) bool) (errs []error) {
	bindings, err := r.ClusterRoleBindings.List(labels.Everything())
	if err != nil {
		return []error{err}
	}
	for _, b := range bindings {
		subject, ok := applies(b.Subjects, u, "")
		if !ok {
			continue
		}
		rules, err := r.referred(b.RoleRef, "")
		if err != nil {
			errs = append(errs, err)
			continue
		}
		why := fmt.Sprintf("ClusterRoleBinding %q of %s %q to %s", b.Name, b.RoleRef.Kind, b.RoleRef.Name, subject)
		for _, rule := range rules {
			if !f(why, rule) {
				return nil
			}
		}
	}
	if namespace == "" {
		return errs
	}
	return append(errs, r.visitNamespace(u, namespace, f)...)
}

func (r *RBAC) visitNamespace(u user.Info, namespace string, f func(why string, rule rbacv1.PolicyRule) bool) (errs []error) {
	bindings, err := r.RoleBindings.RoleBindings(namespace).List(labels.Everything())
	if err != nil {
		return []error{err}
	}
	for _, b := range bindings {
		subject, ok := applies(b.Subjects, u, namespace)
		if !ok {
			continue
		}
		rules, err := r.referred(b.RoleRef, namespace)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		why := fmt.Sprintf("RoleBinding %q of %s %q to %s", b.Name+"/"+namespace, b.RoleRef.Kind, b.RoleRef.Name, subject)
		for _, rule := range rules {
			if !f(why, rule) {
				return nil
			}
		}
	}
	return errs
}

func (r *RBAC) referred(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	switch ref.Kind {
	case "Role":
		role, err := r.Roles.Roles(namespace).Get(ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	case "ClusterRole":
		role, err := r.ClusterRoles.Get(ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	}
	return nil, fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
}

// RoleRules are the rules behind a role reference, for the bind check.
func (r *RBAC) RoleRules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	return r.referred(ref, namespace)
}

// applies finds the subject that names the user.
func applies(subjects []rbacv1.Subject, u user.Info, namespace string) (string, bool) {
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			if u.GetName() == s.Name {
				return fmt.Sprintf("User %q", s.Name), true
			}
		case rbacv1.GroupKind:
			if slices.Contains(u.GetGroups(), s.Name) {
				return fmt.Sprintf("Group %q", s.Name), true
			}
		case rbacv1.ServiceAccountKind:
			ns := s.Namespace
			if ns == "" {
				ns = namespace
			}
			if ns != "" && serviceaccount.MatchesUsername(ns, s.Name, u.GetName()) {
				return fmt.Sprintf("ServiceAccount %q", s.Name+"/"+ns), true
			}
		}
	}
	return "", false
}

// allows says whether one rule covers a request.
func allows(a authorizer.Attributes, rule rbacv1.PolicyRule) bool {
	if !contains(rule.Verbs, a.GetVerb()) {
		return false
	}
	if !a.IsResourceRequest() {
		return slices.ContainsFunc(rule.NonResourceURLs, func(p string) bool {
			prefix, star := strings.CutSuffix(p, "*")
			return p == a.GetPath() || star && strings.HasPrefix(a.GetPath(), prefix)
		})
	}
	if !contains(rule.APIGroups, a.GetAPIGroup()) || !coversResource(rule.Resources, a) {
		return false
	}
	return len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, a.GetName())
}

func coversResource(resources []string, a authorizer.Attributes) bool {
	whole := a.GetResource()
	if a.GetSubresource() != "" {
		whole += "/" + a.GetSubresource()
	}
	return slices.ContainsFunc(resources, func(r string) bool {
		return r == "*" || r == whole || a.GetSubresource() != "" && r == "*/"+a.GetSubresource()
	})
}

func contains(list []string, want string) bool {
	return slices.Contains(list, "*") || slices.Contains(list, want)
}

// Missing are the rules of wanted that a user does not hold: what keeps it
// from granting them (privilege escalation).
func (r *RBAC) Missing(u user.Info, namespace string, wanted []rbacv1.PolicyRule) ([]rbacv1.PolicyRule, error) {
	own, err := r.Rules(u, namespace)
	if covered, missing := validation.Covers(own, wanted); !covered {
		return missing, err
	}
	return nil, nil
}

// Describe tells rules as messages do: one a line, sorted, with the verbs on
// one resource together.
func Describe(rules []rbacv1.PolicyRule) string {
	var whole []rbacv1.PolicyRule
	for _, r := range rules {
		same := func(o rbacv1.PolicyRule) bool {
			return len(r.NonResourceURLs) == 0 && len(r.Resources) == 1 && len(r.APIGroups) == 1 && len(r.ResourceNames) <= 1 &&
				slices.Equal(o.APIGroups, r.APIGroups) && slices.Equal(o.Resources, r.Resources) && slices.Equal(o.ResourceNames, r.ResourceNames) && len(o.NonResourceURLs) == 0
		}
		if i := slices.IndexFunc(whole, same); i >= 0 {
			whole[i].Verbs = append(slices.Clone(whole[i].Verbs), r.Verbs...)
			continue
		}
		whole = append(whole, r)
	}
	var lines []string
	for _, r := range whole {
		var parts []string
		for _, p := range []struct {
			name string
			list []string
		}{
			{"APIGroups", r.APIGroups}, {"Resources", r.Resources}, {"NonResourceURLs", r.NonResourceURLs}, {"ResourceNames", r.ResourceNames}, {"Verbs", r.Verbs},
		} {
			if len(p.list) > 0 {
				parts = append(parts, fmt.Sprintf("%s:%q", p.name, p.list))
			}
		}
		lines = append(lines, "{"+strings.Join(parts, ", ")+"}")
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "\n")
}
