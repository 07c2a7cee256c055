// SPDX-License-Identifier: Apache-2.0

package defaults

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ValidatingWebhookConfiguration fills in how its webhooks are called.
func ValidatingWebhookConfiguration(c *admissionv1.ValidatingWebhookConfiguration) {
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		webhook(&w.FailurePolicy, &w.MatchPolicy, &w.NamespaceSelector, &w.ObjectSelector, &w.TimeoutSeconds, w.ClientConfig.Service, w.Rules)
	}
}

// MutatingWebhookConfiguration fills in how its webhooks are called.
func MutatingWebhookConfiguration(c *admissionv1.MutatingWebhookConfiguration) {
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		webhook(&w.FailurePolicy, &w.MatchPolicy, &w.NamespaceSelector, &w.ObjectSelector, &w.TimeoutSeconds, w.ClientConfig.Service, w.Rules)
		set(&w.ReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
	}
}

func webhook(failure **admissionv1.FailurePolicyType, match **admissionv1.MatchPolicyType, namespaces, objects **metav1.LabelSelector, timeout **int32, service *admissionv1.ServiceReference, rules []admissionv1.RuleWithOperations) {
	set(failure, admissionv1.Fail)
	set(match, admissionv1.Equivalent)
	set(namespaces, metav1.LabelSelector{})
	set(objects, metav1.LabelSelector{})
	set(timeout, 10)
	if service != nil {
		set(&service.Port, 443)
	}
	for i := range rules {
		set(&rules[i].Scope, admissionv1.AllScopes)
	}
}

// ValidatingAdmissionPolicy fills in what it matches and what a failure means.
func ValidatingAdmissionPolicy(p *admissionv1.ValidatingAdmissionPolicy) {
	set(&p.Spec.FailurePolicy, admissionv1.Fail)
	matchResources(p.Spec.MatchConstraints)
}

// MutatingAdmissionPolicy fills in what it matches and what a failure means.
func MutatingAdmissionPolicy(p *admissionv1.MutatingAdmissionPolicy) {
	set(&p.Spec.FailurePolicy, admissionv1.Fail)
	matchResources(p.Spec.MatchConstraints)
}

// ValidatingAdmissionPolicyBinding fills in what it matches.
func ValidatingAdmissionPolicyBinding(b *admissionv1.ValidatingAdmissionPolicyBinding) {
	matchResources(b.Spec.MatchResources)
}

// MutatingAdmissionPolicyBinding fills in what it matches.
func MutatingAdmissionPolicyBinding(b *admissionv1.MutatingAdmissionPolicyBinding) {
	matchResources(b.Spec.MatchResources)
}

func matchResources(m *admissionv1.MatchResources) {
	if m == nil {
		return
	}
	set(&m.MatchPolicy, admissionv1.Equivalent)
	set(&m.NamespaceSelector, metav1.LabelSelector{})
	set(&m.ObjectSelector, metav1.LabelSelector{})
	for _, rules := range [][]admissionv1.NamedRuleWithOperations{m.ResourceRules, m.ExcludeResourceRules} {
		for i := range rules {
			set(&rules[i].Scope, admissionv1.AllScopes)
		}
	}
}
