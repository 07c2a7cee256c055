// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/util/webhook"
)

// leniency is what may be wrong in an update of webhooks as it was wrong before.
type leniency struct {
	conditions, sideEffects, reviewVersions, names, labelValues bool
	old                                                         []string // expressions
}

// ValidatingWebhookConfiguration checks a new one.
func ValidatingWebhookConfiguration(c *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
	return webhooks(&c.ObjectMeta, c.Webhooks, nil, leniency{})
}

// ValidatingWebhookConfigurationUpdate checks a change.
func ValidatingWebhookConfigurationUpdate(c, old *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
	return webhooks(&c.ObjectMeta, c.Webhooks, nil, wrongBefore(c.Webhooks, old.Webhooks))
}

// MutatingWebhookConfiguration checks a new one.
func MutatingWebhookConfiguration(c *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
	return webhooks(&c.ObjectMeta, plain(c.Webhooks), c.Webhooks, leniency{})
}

// MutatingWebhookConfigurationUpdate checks a change.
func MutatingWebhookConfigurationUpdate(c, old *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
	return webhooks(&c.ObjectMeta, plain(c.Webhooks), c.Webhooks, wrongBefore(plain(c.Webhooks), plain(old.Webhooks)))
}

// plain are mutating webhooks by what they have in common with validating ones.
func plain(hooks []admissionv1.MutatingWebhook) []admissionv1.ValidatingWebhook {
	out := make([]admissionv1.ValidatingWebhook, len(hooks))
	for i, h := range hooks {
		out[i] = admissionv1.ValidatingWebhook{
			Name: h.Name, ClientConfig: h.ClientConfig, Rules: h.Rules, FailurePolicy: h.FailurePolicy, MatchPolicy: h.MatchPolicy,
			NamespaceSelector: h.NamespaceSelector, ObjectSelector: h.ObjectSelector, SideEffects: h.SideEffects,
			TimeoutSeconds: h.TimeoutSeconds, AdmissionReviewVersions: h.AdmissionReviewVersions, MatchConditions: h.MatchConditions,
		}
	}
	return out
}

func wrongBefore(now, old []admissionv1.ValidatingWebhook) (l leniency) {
	l.conditions = len(now) == len(old)
	var names unique
	for i, h := range old {
		if l.conditions && !reflect.DeepEqual(now[i].MatchConditions, h.MatchConditions) {
			l.conditions = false
		}
		l.names = names.again(h.Name) || l.names
		l.sideEffects = l.sideEffects || h.SideEffects == nil || !slices.Contains(noSideEffects, *h.SideEffects)
		l.reviewVersions = l.reviewVersions || len(h.AdmissionReviewVersions) > 0 && !slices.ContainsFunc(h.AdmissionReviewVersions, reviewVersion)
		for _, s := range []*metav1.LabelSelector{h.NamespaceSelector, h.ObjectSelector} {
			if s != nil {
				l.labelValues = l.labelValues || len(metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, nil)) > 0
			}
		}
		for _, c := range h.MatchConditions {
			l.old = append(l.old, c.Expression)
		}
	}
	return l
}

// webhooks checks a configuration; mutating are its webhooks if they mutate.
func webhooks(m *metav1.ObjectMeta, hooks []admissionv1.ValidatingWebhook, mutating []admissionv1.MutatingWebhook, l leniency) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(m, false, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	var names unique
	for i := range hooks {
		at := field.NewPath("webhooks").Index(i)
		var reinvocation field.ErrorList
		if mutating != nil {
			reinvocation = supportedIfSet(mutating[i].ReinvocationPolicy, at.Child("reinvocationPolicy"), admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
		}
		errs = append(errs, oneWebhook(&hooks[i], reinvocation, l, at)...)
		errs = append(errs, reviewVersions(hooks[i].AdmissionReviewVersions, !l.reviewVersions, at.Child("admissionReviewVersions"))...)
		if !l.names && hooks[i].Name != "" {
			errs = append(errs, names.add(hooks[i].Name, at.Child("name"))...)
		}
	}
	return errs
}

// noSideEffects are the answers that a new webhook may give.
var noSideEffects = []admissionv1.SideEffectClass{admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun}

func oneWebhook(h *admissionv1.ValidatingWebhook, reinvocation field.ErrorList, l leniency, at *field.Path) field.ErrorList {
	errs := validation.IsFullyQualifiedName(at.Child("name"), h.Name)
	for i := range h.Rules {
		errs = append(errs, admissionRule(&h.Rules[i], at.Child("rules").Index(i))...)
	}
	errs = append(errs, supportedIfSet(h.FailurePolicy, at.Child("failurePolicy"), admissionv1.Fail, admissionv1.Ignore)...)
	errs = append(errs, supportedIfSet(h.MatchPolicy, at.Child("matchPolicy"), admissionv1.Equivalent, admissionv1.Exact)...)
	allowed := noSideEffects
	if l.sideEffects {
		allowed = []admissionv1.SideEffectClass{admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun, admissionv1.SideEffectClassSome, admissionv1.SideEffectClassUnknown}
	}
	if h.SideEffects == nil {
		errs = append(errs, field.Required(at.Child("sideEffects"), "must specify one of "+joined(allowed)))
	}
	errs = append(errs, supportedIfSet(h.SideEffects, at.Child("sideEffects"), allowed...)...)
	if t := h.TimeoutSeconds; t != nil && (*t > 30 || *t < 1) {
		errs = append(errs, field.Invalid(at.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds"))
	}
	labels := metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: l.labelValues}
	if h.NamespaceSelector != nil {
		errs = append(errs, metav1validation.ValidateLabelSelector(h.NamespaceSelector, labels, at.Child("namespaceSelector"))...)
	}
	if h.ObjectSelector != nil {
		errs = append(errs, metav1validation.ValidateLabelSelector(h.ObjectSelector, labels, at.Child("objectSelector"))...)
	}
	errs = append(errs, reinvocation...)
	switch c, at := h.ClientConfig, at.Child("clientConfig"); {
	case (c.URL == nil) == (c.Service == nil):
		errs = append(errs, field.Required(at, "exactly one of url or service is required"))
	case c.URL != nil:
		errs = append(errs, webhook.ValidateWebhookURL(at.Child("url"), *c.URL, true)...)
	default:
		port := int32(443)
		if c.Service.Port != nil {
			port = *c.Service.Port
		}
		errs = append(errs, webhook.ValidateWebhookService(at.Child("service"), c.Service.Name, c.Service.Namespace, c.Service.Path, port)...)
	}
	if !l.conditions {
		errs = append(errs, matchConditions(h.MatchConditions, expressions{old: l.old}, at.Child("matchConditions"))...)
	}
	return errs
}

func joined[T ~string](values []T) string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = string(v)
	}
	return strings.Join(out, ", ")
}

// reviewVersion says whether the API server speaks a version of AdmissionReview.
func reviewVersion(v string) bool { return v == "v1" || v == "v1beta1" }

func reviewVersions(versions []string, spoken bool, at *field.Path) (errs field.ErrorList) {
	if len(versions) == 0 {
		return field.ErrorList{field.Required(at, "must specify one of v1, v1beta1")}
	}
	var seen unique
	for i, v := range versions {
		if seen.again(v) {
			errs = append(errs, field.Invalid(at.Index(i), v, "duplicate version"))
			continue
		}
		errs = append(errs, invalidAll(at.Index(i), v, validation.IsDNS1035Label(v))...)
	}
	if spoken && !slices.ContainsFunc(versions, reviewVersion) {
		errs = append(errs, field.Invalid(at, versions, "must include at least one of v1, v1beta1"))
	}
	return errs
}

// admissionRule checks what a webhook or a policy is asked about.
func admissionRule(r *admissionv1.RuleWithOperations, at *field.Path) (errs field.ErrorList) {
	if len(r.Operations) == 0 {
		errs = append(errs, field.Required(at.Child("operations"), ""))
	}
	if len(r.Operations) > 1 && slices.Contains(r.Operations, admissionv1.OperationAll) {
		errs = append(errs, field.Invalid(at.Child("operations"), r.Operations, "if '*' is present, must not specify other operations"))
	}
	for i, o := range r.Operations {
		errs = append(errs, supported(o, at.Child("operations").Index(i), admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Delete, admissionv1.Update)...)
	}
	list := func(values []string, name, others string) {
		if len(values) == 0 {
			errs = append(errs, field.Required(at.Child(name), ""))
		}
		if len(values) > 1 && slices.Contains(values, "*") {
			errs = append(errs, field.Invalid(at.Child(name), values, "if '*' is present, must not specify other API "+others))
		}
	}
	list(r.APIGroups, "apiGroups", "groups")
	list(r.APIVersions, "apiVersions", "versions")
	for i, v := range r.APIVersions {
		errs = append(errs, required(v, at.Child("apiVersions").Index(i))...)
	}
	errs = append(errs, ruleResources(r.Resources, at.Child("resources"))...)
	return append(errs, supportedIfSet(r.Scope, at.Child("scope"), admissionv1.AllScopes, admissionv1.ClusterScope, admissionv1.NamespacedScope)...)
}

// ruleResources checks that no resource is covered by another of the list.
func ruleResources(resources []string, at *field.Path) (errs field.ErrorList) {
	if len(resources) == 0 {
		errs = append(errs, field.Required(at, ""))
	}
	allParts, allOwners := map[string]bool{}, map[string]bool{} // x/*, */x
	whole := false
	for i, name := range resources {
		if name == "" {
			errs = append(errs, field.Required(at.Index(i), ""))
			continue
		}
		owner, part, isPart := strings.Cut(name, "/")
		if !isPart {
			whole = name != "*"
			continue
		}
		if allParts[owner] {
			errs = append(errs, field.Invalid(at.Index(i), name, fmt.Sprintf("if '%s/*' is present, must not specify %s", owner, name)))
		}
		if allOwners[part] {
			errs = append(errs, field.Invalid(at.Index(i), name, fmt.Sprintf("if '*/%s' is present, must not specify %s", part, name)))
		}
		allParts[owner] = allParts[owner] || part == "*"
		allOwners[part] = allOwners[part] || owner == "*"
	}
	if len(resources) > 1 && slices.Contains(resources, "*/*") {
		errs = append(errs, field.Invalid(at, resources, "if '*/*' is present, must not specify other resources"))
	}
	if whole && slices.Contains(resources, "*") {
		errs = append(errs, field.Invalid(at, resources, "if '*' is present, must not specify other resources without subresources"))
	}
	return errs
}

// StaticName refuses names that are for what files configure.
func StaticName(name string) field.ErrorList {
	const reserved = ".static.k8s.io"
	if !strings.HasSuffix(name, reserved) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata", "name"), name, fmt.Sprintf("names ending with %q are reserved for static manifest-based configurations and cannot be managed via the API", reserved))}
}

// ValidatingWebhookWarnings tell of rules that nothing will match.
func ValidatingWebhookWarnings(c, _ *admissionv1.ValidatingWebhookConfiguration) []string {
	return withoutEffect(c.Webhooks)
}

// MutatingWebhookWarnings tell of rules that nothing will match.
func MutatingWebhookWarnings(c, _ *admissionv1.MutatingWebhookConfiguration) []string {
	return withoutEffect(plain(c.Webhooks))
}

// NotIntercepted are the reviews by which the cluster asks itself: nobody takes
// part in their admission.
func NotIntercepted() []schema.GroupResource {
	return []schema.GroupResource{
		{Group: "authentication.k8s.io", Resource: "selfsubjectreviews"}, {Group: "authentication.k8s.io", Resource: "tokenreviews"},
		{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"}, {Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"},
		{Group: "authorization.k8s.io", Resource: "selfsubjectrulesreviews"}, {Group: "authorization.k8s.io", Resource: "subjectaccessreviews"},
	}
}

func withoutEffect(hooks []admissionv1.ValidatingWebhook) (out []string) {
	for i, h := range hooks {
		for j, r := range h.Rules {
			if slices.Contains(r.APIGroups, "*") || slices.Contains(r.Resources, "*") {
				continue
			}
			var seen unique
			for _, group := range r.APIGroups {
				for _, name := range r.Resources {
					gr := schema.GroupResource{Group: group, Resource: name}
					if slices.Contains(NotIntercepted(), gr) && !seen.again(gr.String()) {
						out = append(out, fmt.Sprintf("%s: %s is excluded from admission webhooks; this rule will have no effect", field.NewPath("webhooks").Index(i).Child("rules").Index(j), gr))
					}
				}
			}
		}
	}
	return out
}
