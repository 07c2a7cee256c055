// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/peapod/peapod/controller/world"
)

// A policy is told in its status what does not fit the types it is about.
func TestPoliciesAreTypeChecked(t *testing.T) {
	p := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "typed"}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
			Operations: []admissionv1.OperationType{admissionv1.Create},
			Rule:       admissionv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"replicasets"}, Scope: ptr.To(admissionv1.AllScopes)},
		}}}},
		Validations: []admissionv1.Validation{{Expression: "object.spec.replicas > 1"}, {Expression: "object.spec.replicas == 'many'"}},
	}}
	world.Put(t, p)
	list := &admissionv1.ValidatingAdmissionPolicyList{}
	world.Until(t, "the types are checked", list, func() bool {
		return len(list.Items) == 1 && list.Items[0].Status.ObservedGeneration == 1
	}, client.MatchingFields{"metadata.name": p.Name})
	found := list.Items[0].Status.TypeChecking
	if found == nil || len(found.ExpressionWarnings) != 1 || found.ExpressionWarnings[0].FieldRef != "spec.validations[1].expression" ||
		!strings.Contains(found.ExpressionWarnings[0].Warning, "apps/v1, Kind=ReplicaSet: ERROR: <input>:1:22: found no matching overload for '_==_'") {
		t.Errorf("found: %+v", found)
	}
}
