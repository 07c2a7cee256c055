// SPDX-License-Identifier: Apache-2.0

package validation

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// rbacName is the loose rule for names of roles and bindings.
func rbacName(name string, _ bool) []string { return content.IsPathSegmentName(name) }

// Role checks a namespaced role.
func Role(r *rbacv1.Role) field.ErrorList {
	errs, declared := policyRules(r.Rules, true)
	return reported(append(meta(&r.ObjectMeta, true, rbacName), errs...), declared)
}

// RoleUpdate checks a change.
func RoleUpdate(r, old *rbacv1.Role) field.ErrorList {
	errs, declared := policyRules(r.Rules, true)
	errs = append(meta(&r.ObjectMeta, true, rbacName), errs...)
	return reported(append(errs, metaUpdate(&r.ObjectMeta, &old.ObjectMeta)...), declared)
}

// ClusterRole checks a role of the cluster.
func ClusterRole(r *rbacv1.ClusterRole) field.ErrorList {
	errs, declared := clusterRole(r, nil)
	return reported(errs, declared)
}

// ClusterRoleUpdate checks a change.
func ClusterRoleUpdate(r, old *rbacv1.ClusterRole) field.ErrorList {
	errs, declared := clusterRole(r, old)
	return reported(append(errs, metaUpdate(&r.ObjectMeta, &old.ObjectMeta)...), declared)
}

func clusterRole(r, old *rbacv1.ClusterRole) (errs, declared field.ErrorList) {
	errs, declared = policyRules(r.Rules, false)
	errs = append(meta(&r.ObjectMeta, false, rbacName), errs...)
	if r.AggregationRule == nil {
		return errs, declared
	}
	at := field.NewPath("aggregationRule", "clusterRoleSelectors")
	if len(r.AggregationRule.ClusterRoleSelectors) == 0 {
		errs = append(errs, field.Required(at, "at least one clusterRoleSelector required if aggregationRule is non-nil"))
	}
	loose := old != nil && badAggregation(old)
	for i := range r.AggregationRule.ClusterRoleSelectors {
		s := &r.AggregationRule.ClusterRoleSelectors[i]
		errs = append(errs, labelSelector(s, loose, at.Index(i))...)
		if selector, err := metav1.LabelSelectorAsSelector(s); err != nil {
			errs = append(errs, field.Invalid(at.Index(i), selector, "invalid label selector."))
		}
	}
	return errs, declared
}

func badAggregation(r *rbacv1.ClusterRole) bool {
	if r.AggregationRule == nil {
		return false
	}
	for i := range r.AggregationRule.ClusterRoleSelectors {
		if len(labelSelector(&r.AggregationRule.ClusterRoleSelectors[i], false, nil)) > 0 {
			return true
		}
	}
	return false
}

func policyRules(list []rbacv1.PolicyRule, namespaced bool) (errs, declared field.ErrorList) {
	for i, r := range list {
		at := field.NewPath("rules").Index(i)
		if len(r.Verbs) == 0 {
			declared = append(declared, field.Required(at.Child("verbs"), ""))
		}
		if len(r.NonResourceURLs) > 0 {
			p := at.Child("nonResourceURLs")
			if namespaced {
				errs = append(errs, field.Invalid(p, r.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs"))
			}
			if len(r.APIGroups)+len(r.Resources)+len(r.ResourceNames) > 0 {
				errs = append(errs, field.Invalid(p, r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
			}
			continue
		}
		if len(r.APIGroups) == 0 {
			errs = append(errs, field.Required(at.Child("apiGroups"), "resource rules must supply at least one api group"))
		}
		if len(r.Resources) == 0 {
			errs = append(errs, field.Required(at.Child("resources"), "resource rules must supply at least one resource"))
		}
	}
	return errs, declared
}

// RoleBinding checks a namespaced binding.
func RoleBinding(b *rbacv1.RoleBinding) field.ErrorList {
	errs, declared := binding(b.RoleRef, b.Subjects, true)
	return reported(append(meta(&b.ObjectMeta, true, rbacName), errs...), declared)
}

// ClusterRoleBinding checks a binding of the cluster.
func ClusterRoleBinding(b *rbacv1.ClusterRoleBinding) field.ErrorList {
	errs, declared := binding(b.RoleRef, b.Subjects, false)
	return reported(append(meta(&b.ObjectMeta, false, rbacName), errs...), declared)
}

func binding(ref rbacv1.RoleRef, subjects []rbacv1.Subject, namespaced bool) (errs, declared field.ErrorList) {
	at := field.NewPath("roleRef")
	for i, s := range subjects {
		declared = append(declared, required(s.Name, field.NewPath("subjects").Index(i).Child("name"))...)
	}
	errs = append(errs, supported(ref.APIGroup, at.Child("apiGroup"), rbacv1.GroupName)...)
	kinds := []string{"ClusterRole"}
	if namespaced {
		kinds = []string{"Role", "ClusterRole"}
	}
	errs = append(errs, supported(ref.Kind, at.Child("kind"), kinds...)...)
	if ref.Name == "" {
		declared = append(declared, field.Required(at.Child("name"), ""))
	} else {
		errs = append(errs, invalidAll(at.Child("name"), ref.Name, rbacName(ref.Name, false))...)
	}
	for i, s := range subjects {
		p := field.NewPath("subjects").Index(i)
		switch s.Kind {
		case rbacv1.ServiceAccountKind:
			errs = append(errs, ifSet(s.Name, p.Child("name"), whole(apivalidation.ValidateServiceAccountName))...)
			errs = append(errs, supported(s.APIGroup, p.Child("apiGroup"), "")...)
			if !namespaced {
				errs = append(errs, required(s.Namespace, p.Child("namespace"))...)
			}
		case rbacv1.UserKind, rbacv1.GroupKind:
			errs = append(errs, supported(s.APIGroup, p.Child("apiGroup"), rbacv1.GroupName)...)
		default:
			errs = append(errs, field.NotSupported(p.Child("kind"), s.Kind, []string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
		}
	}
	return errs, declared
}

// RoleBindingUpdate checks a change; the role stays.
func RoleBindingUpdate(b, old *rbacv1.RoleBinding) field.ErrorList {
	errs, declared := binding(b.RoleRef, b.Subjects, true)
	errs = append(meta(&b.ObjectMeta, true, rbacName), errs...)
	errs = append(errs, metaUpdate(&b.ObjectMeta, &old.ObjectMeta)...)
	return reported(errs, append(roleKept(b.RoleRef, old.RoleRef), declared...))
}

// ClusterRoleBindingUpdate checks a change; the role stays.
func ClusterRoleBindingUpdate(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
	errs, declared := binding(b.RoleRef, b.Subjects, false)
	errs = append(meta(&b.ObjectMeta, false, rbacName), errs...)
	errs = append(errs, metaUpdate(&b.ObjectMeta, &old.ObjectMeta)...)
	return reported(errs, append(roleKept(b.RoleRef, old.RoleRef), declared...))
}

func roleKept(now, was rbacv1.RoleRef) field.ErrorList {
	if now == was {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("roleRef"), goFields{now}, immutable)}
}
