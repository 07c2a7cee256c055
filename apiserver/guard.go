// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic/registry"

	podadmission "github.com/peapod/peapod/apiserver/admission"
	"github.com/peapod/peapod/auth"
)

// guardRoles keeps a user from granting what it does not hold itself, unless
// it has the verb escalate on roles or bind on the role.
func (s *Server) guardRoles(_ *stores, main *registry.Store) {
	done := func(context.Context, bool) {}
	main.BeginCreate = func(ctx context.Context, o runtime.Object, _ *metav1.CreateOptions) (registry.FinishFunc, error) {
		return done, s.mayGrant(ctx, o, nil)
	}
	main.BeginUpdate = func(ctx context.Context, o, old runtime.Object, _ *metav1.UpdateOptions) (registry.FinishFunc, error) {
		if podadmission.OnlyCollected(o, old) {
			return done, nil
		}
		return done, s.mayGrant(ctx, o, old)
	}
}

func (s *Server) mayGrant(ctx context.Context, o, old runtime.Object) error {
	u, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return apierrors.NewInternalError(errors.New("no user on context"))
	}
	if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		return nil
	}
	ns, name := namespaceOf(ctx), o.(object).GetName()
	verb, role, kind := "escalate", name, ""
	var wanted []rbacv1.PolicyRule
	var err error
	switch r := o.(type) {
	case *rbacv1.Role:
		kind, wanted = "roles", r.Rules
	case *rbacv1.ClusterRole:
		kind, wanted = "clusterroles", r.Rules
	case *rbacv1.RoleBinding:
		kind, verb, role = "rolebindings", "bind", r.RoleRef.Name
		wanted, err = s.rbac.RoleRules(r.RoleRef, ns)
		if s.allowed(ctx, u, verb, rbacv1.Resource(roleResource(r.RoleRef)), ns, role) {
			return nil
		}
	case *rbacv1.ClusterRoleBinding:
		kind, verb, role = "clusterrolebindings", "bind", r.RoleRef.Name
		wanted, err = s.rbac.RoleRules(r.RoleRef, "")
		if s.allowed(ctx, u, verb, rbacv1.Resource(roleResource(r.RoleRef)), "", role) {
			return nil
		}
	}
	gr := rbacv1.Resource(kind)
	if err != nil {
		return err
	}
	if verb == "escalate" && s.allowed(ctx, u, verb, gr, ns, role) {
		return nil
	}
	if err := s.held(u, ns, wanted); err != nil {
		return apierrors.NewForbidden(gr, name, err)
	}
	return s.mayAggregate(u, gr, o, old)
}

// held says which of the rules a user lacks.
func (s *Server) held(u user.Info, namespace string, wanted []rbacv1.PolicyRule) error {
	missing, err := s.rbac.Missing(u, namespace, wanted)
	if len(missing) == 0 {
		return nil
	}
	text := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s", u.GetName(), u.GetGroups(), auth.Describe(missing))
	if err != nil {
		text += fmt.Sprintf("; resolution errors: %v", []error{err})
	}
	return errors.New(text)
}

// mayAggregate lets only those who may do everything gather rules from roles
// that do not exist yet.
func (s *Server) mayAggregate(u user.Info, gr schema.GroupResource, o, old runtime.Object) error {
	gathers := func(o runtime.Object) bool {
		r, ok := o.(*rbacv1.ClusterRole)
		return ok && r.AggregationRule != nil && len(r.AggregationRule.ClusterRoleSelectors) > 0
	}
	if !gathers(o) && !gathers(old) {
		return nil
	}
	all := []string{rbacv1.VerbAll}
	everything := []rbacv1.PolicyRule{{Verbs: all, APIGroups: all, Resources: all}, {Verbs: all, NonResourceURLs: all}}
	if s.held(u, "", everything) != nil {
		return apierrors.NewForbidden(gr, o.(object).GetName(), errors.New("must have cluster-admin privileges to use the aggregationRule"))
	}
	return nil
}

func roleResource(r rbacv1.RoleRef) string {
	if r.Kind == "Role" {
		return "roles"
	}
	return "clusterroles"
}
