// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"fmt"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	applyv1 "k8s.io/client-go/applyconfigurations/admissionregistration/v1"
	"k8s.io/client-go/kubernetes"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/peapod/peapod/controller/loop"
)

// policyStatus tells in the status of a ValidatingAdmissionPolicy which of its
// expressions do not fit the types that it matches. Types are looked up in what
// the API server publishes, custom resources included.
type policyStatus struct {
	client  kubernetes.Interface
	checker *validating.TypeChecker
}

const policyStatusManager = "validatingadmissionpolicy-status"

func addPolicyStatus(m manager.Manager, c loop.Config) error {
	p := policyStatus{c.Client, &validating.TypeChecker{
		SchemaResolver: &resolver.ClientDiscoveryResolver{Discovery: c.Client.Discovery()},
		RestMapper:     m.GetRESTMapper(),
	}}
	return ctrl.NewControllerManagedBy(m).Named(policyStatusManager).For(&admissionv1.ValidatingAdmissionPolicy{}).
		Complete(reconcile.AsReconciler(m.GetClient(), reconcile.ObjectReconciler[*admissionv1.ValidatingAdmissionPolicy](p)))
}

func (c policyStatus) Reconcile(ctx context.Context, p *admissionv1.ValidatingAdmissionPolicy) (reconcile.Result, error) {
	if p.Generation <= p.Status.ObservedGeneration {
		return reconcile.Result{}, nil
	}
	checked := applyv1.TypeChecking()
	for _, w := range c.checker.Check(p) {
		checked.WithExpressionWarnings(applyv1.ExpressionWarning().WithFieldRef(w.FieldRef).WithWarning(w.Warning))
	}
	status := applyv1.ValidatingAdmissionPolicyStatus().WithObservedGeneration(p.Generation).WithTypeChecking(checked)
	_, err := c.client.AdmissionregistrationV1().ValidatingAdmissionPolicies().
		ApplyStatus(ctx, applyv1.ValidatingAdmissionPolicy(p.Name).WithStatus(status), metav1.ApplyOptions{FieldManager: policyStatusManager, Force: true})
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("cannot tell what the types of policy %s are: %w", p.Name, err)
	}
	return reconcile.Result{}, nil
}
