// SPDX-License-Identifier: Apache-2.0

package table

import (
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func webhookColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{name(), number("Webhooks", "Webhooks indicates the number of webhooks registered in this configuration"), ageColumn()}
}

// ValidatingWebhookConfiguration are the columns of
// validatingwebhookconfigurations.
func ValidatingWebhookConfiguration() Columns[admissionv1.ValidatingWebhookConfiguration] {
	return Columns[admissionv1.ValidatingWebhookConfiguration]{
		Definitions: webhookColumns(),
		Cells: func(c *admissionv1.ValidatingWebhookConfiguration, now time.Time) []any {
			return []any{c.Name, int64(len(c.Webhooks)), age(c.CreationTimestamp, now)}
		},
	}
}

// MutatingWebhookConfiguration are the columns of
// mutatingwebhookconfigurations.
func MutatingWebhookConfiguration() Columns[admissionv1.MutatingWebhookConfiguration] {
	return Columns[admissionv1.MutatingWebhookConfiguration]{
		Definitions: webhookColumns(),
		Cells: func(c *admissionv1.MutatingWebhookConfiguration, now time.Time) []any {
			return []any{c.Name, int64(len(c.Webhooks)), age(c.CreationTimestamp, now)}
		},
	}
}

func policyColumns(rules metav1.TableColumnDefinition) []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{name(), rules, text("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy"), ageColumn()}
}

func paramKind(k *admissionv1.ParamKind) string {
	if k == nil {
		return unset
	}
	return k.APIVersion + "/" + k.Kind
}

// ValidatingAdmissionPolicy are the columns of validatingadmissionpolicies.
func ValidatingAdmissionPolicy() Columns[admissionv1.ValidatingAdmissionPolicy] {
	return Columns[admissionv1.ValidatingAdmissionPolicy]{
		Definitions: policyColumns(number("Validations", "Validations indicates the number of validation rules defined in this configuration")),
		Cells: func(p *admissionv1.ValidatingAdmissionPolicy, now time.Time) []any {
			return []any{p.Name, int64(len(p.Spec.Validations)), paramKind(p.Spec.ParamKind), age(p.CreationTimestamp, now)}
		},
	}
}

// MutatingAdmissionPolicy are the columns of mutatingadmissionpolicies.
func MutatingAdmissionPolicy() Columns[admissionv1.MutatingAdmissionPolicy] {
	return Columns[admissionv1.MutatingAdmissionPolicy]{
		Definitions: policyColumns(number("Mutations", "Mutation indicates the number of mutations rules defined in this configuration")),
		Cells: func(p *admissionv1.MutatingAdmissionPolicy, now time.Time) []any {
			return []any{p.Name, int64(len(p.Spec.Mutations)), paramKind(p.Spec.ParamKind), age(p.CreationTimestamp, now)}
		},
	}
}

func policyBindingColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		name(), text("PolicyName", "PolicyName indicates the policy definition which the policy binding binded to"),
		text("ParamRef", "ParamRef indicates the param resource which sets the configuration param"), ageColumn(),
	}
}

func paramRef(r *admissionv1.ParamRef) string {
	switch {
	case r == nil:
	case r.Name != "" && r.Namespace != "":
		return r.Namespace + "/" + r.Name
	case r.Name != "":
		return "*/" + r.Name
	case r.Selector != nil:
		return r.Selector.String()
	}
	return unset
}

// ValidatingAdmissionPolicyBinding are the columns of
// validatingadmissionpolicybindings.
func ValidatingAdmissionPolicyBinding() Columns[admissionv1.ValidatingAdmissionPolicyBinding] {
	return Columns[admissionv1.ValidatingAdmissionPolicyBinding]{
		Definitions: policyBindingColumns(),
		Cells: func(b *admissionv1.ValidatingAdmissionPolicyBinding, now time.Time) []any {
			return []any{b.Name, b.Spec.PolicyName, paramRef(b.Spec.ParamRef), age(b.CreationTimestamp, now)}
		},
	}
}

// MutatingAdmissionPolicyBinding are the columns of
// mutatingadmissionpolicybindings.
func MutatingAdmissionPolicyBinding() Columns[admissionv1.MutatingAdmissionPolicyBinding] {
	return Columns[admissionv1.MutatingAdmissionPolicyBinding]{
		Definitions: policyBindingColumns(),
		Cells: func(b *admissionv1.MutatingAdmissionPolicyBinding, now time.Time) []any {
			return []any{b.Name, b.Spec.PolicyName, paramRef(b.Spec.ParamRef), age(b.CreationTimestamp, now)}
		},
	}
}
