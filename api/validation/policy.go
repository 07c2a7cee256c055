// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/client-go/util/jsonpath"
)

const (
	maxAuditAnnotations = 20
	maxAuditExpression  = 5 * 1024 // what it gives may be twice as long
)

// ValidatingAdmissionPolicy checks a new one.
func ValidatingAdmissionPolicy(p *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	return validatingPolicy(p, nil)
}

// ValidatingAdmissionPolicyUpdate checks a change.
func ValidatingAdmissionPolicyUpdate(p, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	return validatingPolicy(p, old)
}

func validatingPolicy(p, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&p.ObjectMeta, false, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	s, at := &p.Spec, field.NewPath("spec")
	e := expressions{params: s.ParamKind != nil}
	sameConditions := false
	if old != nil {
		sameConditions = equality.Semantic.DeepEqual(s.ParamKind, old.Spec.ParamKind) && equality.Semantic.DeepEqual(s.MatchConditions, old.Spec.MatchConditions)
		for _, c := range old.Spec.MatchConditions {
			e.old = append(e.old, c.Expression)
		}
		for _, v := range old.Spec.Validations {
			e.old = append(e.old, v.Expression, v.MessageExpression)
		}
		for _, a := range old.Spec.AuditAnnotations {
			e.old = append(e.old, a.ValueExpression)
		}
	}
	errs = append(errs, policyFrame(s.FailurePolicy, s.ParamKind, s.MatchConstraints, at)...)
	if !sameConditions {
		errs = append(errs, matchConditions(s.MatchConditions, e, at.Child("matchConditions"))...)
	}
	if len(s.Validations) == 0 && len(s.AuditAnnotations) == 0 {
		const missing = "validations or auditAnnotations must contain at least one item"
		return append(errs, field.Required(at.Child("validations"), missing), field.Required(at.Child("auditAnnotations"), missing))
	}
	e, wrong := policyVariables(s.Variables, e, at.Child("variables"))
	errs = append(errs, wrong...)
	for i := range s.Validations {
		errs = append(errs, policyValidation(&s.Validations[i], e, at.Child("validations").Index(i))...)
	}
	if len(s.AuditAnnotations) > maxAuditAnnotations {
		errs = append(errs, field.Invalid(at.Child("auditAnnotations"), s.AuditAnnotations, fmt.Sprintf("must not have more than %d auditAnnotations", maxAuditAnnotations)))
	}
	var keys unique
	for i, a := range s.AuditAnnotations {
		at := at.Child("auditAnnotations").Index(i)
		errs = append(errs, auditAnnotation(p.Name, a, e, at)...)
		errs = append(errs, keys.add(a.Key, at.Child("key"))...)
	}
	return errs
}

// policyFrame is what policies of both kinds begin with.
func policyFrame(failure *admissionv1.FailurePolicyType, params *admissionv1.ParamKind, match *admissionv1.MatchResources, at *field.Path) (errs field.ErrorList) {
	if failure == nil {
		errs = append(errs, field.Required(at.Child("failurePolicy"), ""))
	}
	errs = append(errs, supportedIfSet(failure, at.Child("failurePolicy"), admissionv1.Fail, admissionv1.Ignore)...)
	if params != nil {
		errs = append(errs, paramKind(params, at.Child("paramKind"))...)
	}
	if match == nil {
		return append(errs, field.Required(at.Child("matchConstraints"), ""))
	}
	errs = append(errs, matchResources(match, at.Child("matchConstraints"))...)
	if len(match.ResourceRules) == 0 {
		errs = append(errs, field.Required(at.Child("matchConstraints", "resourceRules"), ""))
	}
	return errs
}

// policyVariables compiles the variables, which the other expressions see.
func policyVariables(variables []admissionv1.Variable, e expressions, at *field.Path) (expressions, field.ErrorList) {
	var errs field.ErrorList
	if len(variables) == 0 && !e.patches {
		e.compiler = stateless()
		return e, nil
	}
	compiler, err := composing()
	if err != nil {
		return e, field.ErrorList{field.InternalError(at, err)}
	}
	e.compiler = compiler
	composed, ok := compiler.(*plugincel.CompositedCompiler)
	if !ok {
		return e, field.ErrorList{field.InternalError(at, errors.New("variable composition is not allowed"))}
	}
	for i, v := range variables {
		at := at.Index(i)
		if strings.TrimSpace(v.Name) == "" {
			errs = append(errs, field.Required(at.Child("name"), "name is not specified"))
		} else if !celIdentifier(v.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), v.Name, "must be a valid CEL identifier"))
		}
		if strings.TrimSpace(v.Expression) == "" {
			errs = append(errs, field.Required(at.Child("expression"), "expression is not specified"))
			continue
		}
		variable := &validating.Variable{Name: v.Name, Expression: v.Expression}
		declared := plugincel.OptionalVariableDeclarations{HasParams: e.params, HasAuthorizer: true}
		if err := composed.CompileAndStoreVariable(variable, declared, e.mode(v.Expression)).Error; err != nil {
			errs = append(errs, wrongExpression(err, v.Expression, at.Child("expression")))
		}
	}
	return e, errs
}

func celIdentifier(name string) bool {
	reserved := []string{
		"true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let",
		"loop", "package", "namespace", "return", "var", "void", "while",
	}
	return matches("^[_a-zA-Z][_a-zA-Z0-9]*$", name) && !slices.Contains(reserved, name)
}

func policyValidation(v *admissionv1.Validation, e expressions, at *field.Path) (errs field.ErrorList) {
	if strings.TrimSpace(v.Expression) == "" {
		errs = append(errs, field.Required(at.Child("expression"), "expression is not specified"))
	} else {
		errs = append(errs, e.check(&validating.ValidationCondition{Expression: v.Expression}, v.Expression, true, at.Child("expression"))...)
	}
	if blank := strings.TrimSpace(v.MessageExpression) == ""; v.MessageExpression != "" && blank {
		errs = append(errs, field.Invalid(at.Child("messageExpression"), v.MessageExpression, "must be non-empty if specified"))
	} else if !blank {
		errs = append(errs, e.check(&validating.MessageExpressionCondition{MessageExpression: v.MessageExpression}, v.MessageExpression, false, at.Child("messageExpression"))...)
	}
	message := strings.TrimSpace(v.Message)
	if v.Message != "" && message == "" {
		errs = append(errs, field.Invalid(at.Child("message"), v.Message, "must be non-empty if specified"))
	} else if strings.ContainsAny(message, "\n\r") {
		errs = append(errs, field.Invalid(at.Child("message"), v.Message, "must not contain line breaks"))
	}
	return append(errs, supportedIfSet(v.Reason, at.Child("reason"), metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge)...)
}

func auditAnnotation(policy string, a admissionv1.AuditAnnotation, e expressions, at *field.Path) (errs field.ErrorList) {
	if policy == "" {
		errs = append(errs, field.Invalid(at.Child("key"), a.Key, "requires metadata.name be non-empty"))
	} else {
		key := policy + "/" + a.Key
		errs = append(errs, invalidAll(at.Child("key"), key, validation.IsQualifiedName(key))...)
	}
	at = at.Child("valueExpression")
	switch expression := strings.TrimSpace(a.ValueExpression); {
	case expression == "":
		errs = append(errs, field.Required(at, "valueExpression is not specified"))
	case len(expression) > maxAuditExpression:
		errs = append(errs, field.Required(at, fmt.Sprintf("must not exceed %d bytes in length", maxAuditExpression)))
	default:
		errs = append(errs, e.check(&validating.AuditAnnotationCondition{ValueExpression: expression}, a.ValueExpression, true, at)...)
	}
	return errs
}

func paramKind(k *admissionv1.ParamKind, at *field.Path) (errs field.ErrorList) {
	version := at.Child("apiVersion")
	gv, err := schema.ParseGroupVersion(k.APIVersion)
	switch {
	case k.APIVersion == "":
		errs = append(errs, field.Required(version, ""))
	case err != nil:
		errs = append(errs, field.Invalid(version, k.APIVersion, err.Error()))
	default:
		if problems := validation.IsDNS1123Subdomain(gv.Group); gv.Group != "" && len(problems) > 0 {
			errs = append(errs, field.Invalid(version, gv.Group, strings.Join(problems, ",")))
		}
		if gv.Version == "" {
			errs = append(errs, field.Invalid(version, k.APIVersion, "version must be specified"))
		} else if problems := validation.IsDNS1035Label(gv.Version); len(problems) > 0 {
			errs = append(errs, field.Invalid(version, gv.Version, strings.Join(problems, ",")))
		}
	}
	if k.Kind == "" {
		errs = append(errs, field.Required(at.Child("kind"), ""))
	} else if problems := validation.IsDNS1035Label(strings.ToLower(k.Kind)); len(problems) > 0 {
		errs = append(errs, field.Invalid(at.Child("kind"), k.Kind, "may have mixed case, but should otherwise match: "+strings.Join(problems, ",")))
	}
	return errs
}

func matchResources(m *admissionv1.MatchResources, at *field.Path) (errs field.ErrorList) {
	if m == nil {
		return nil
	}
	if m.MatchPolicy == nil {
		errs = append(errs, field.Required(at.Child("matchPolicy"), ""))
	}
	errs = append(errs, supportedIfSet(m.MatchPolicy, at.Child("matchPolicy"), admissionv1.Equivalent, admissionv1.Exact)...)
	selector := func(s *metav1.LabelSelector, at *field.Path) {
		if s == nil {
			errs = append(errs, field.Required(at, ""))
			return
		}
		errs = append(errs, metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, at)...)
	}
	selector(m.NamespaceSelector, at.Child("namespaceSelector"))
	selector(m.ObjectSelector, at.Child("objectSelector"))
	for i := range m.ResourceRules {
		errs = append(errs, namedRule(&m.ResourceRules[i], at.Child("resourceRules").Index(i))...)
	}
	for i := range m.ExcludeResourceRules {
		errs = append(errs, namedRule(&m.ExcludeResourceRules[i], at.Child("excludeResourceRules").Index(i))...)
	}
	return errs
}

func namedRule(r *admissionv1.NamedRuleWithOperations, at *field.Path) (errs field.ErrorList) {
	var names unique
	for i, name := range r.ResourceNames {
		at := at.Child("resourceNames").Index(i)
		errs = append(errs, invalidAll(at, name, content.IsPathSegmentName(name))...)
		errs = append(errs, names.add(name, at)...)
	}
	return append(errs, admissionRule(&r.RuleWithOperations, at)...)
}

// ValidatingAdmissionPolicyStatusUpdate checks what the type check has found.
func ValidatingAdmissionPolicyStatusUpdate(p, _ *admissionv1.ValidatingAdmissionPolicy) (errs field.ErrorList) {
	at := field.NewPath("status")
	if p.Status.TypeChecking != nil {
		for i, w := range p.Status.TypeChecking.ExpressionWarnings {
			at := at.Child("typeChecking", "expressionWarnings").Index(i)
			errs = append(errs, required(w.Warning, at.Child("warning"))...)
			ref := strings.TrimSpace(w.FieldRef)
			if ref == "" {
				errs = append(errs, field.Required(at.Child("fieldRef"), ""))
			} else if err := jsonpath.New("spec").Parse("{" + ref + "}"); err != nil {
				errs = append(errs, field.Invalid(at.Child("fieldRef"), ref, fmt.Sprintf("invalid JSONPath: %v", err)))
			}
		}
	}
	return append(errs, metav1validation.ValidateConditions(p.Status.Conditions, at.Child("conditions"))...)
}

// ValidatingAdmissionPolicyBinding checks a binding.
func ValidatingAdmissionPolicyBinding(b *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	errs := policyBinding(&b.ObjectMeta, b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
	at := field.NewPath("spec", "validationActions")
	var seen unique
	for i, a := range b.Spec.ValidationActions {
		errs = append(errs, supported(a, at.Index(i), admissionv1.Audit, admissionv1.Deny, admissionv1.Warn)...)
		errs = append(errs, seen.add(string(a), at.Index(i))...)
	}
	if slices.Contains(b.Spec.ValidationActions, admissionv1.Deny) && slices.Contains(b.Spec.ValidationActions, admissionv1.Warn) {
		errs = append(errs, field.Invalid(at, b.Spec.ValidationActions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	if len(b.Spec.ValidationActions) == 0 {
		errs = append(errs, field.Required(at, ""))
	}
	return errs
}

// ValidatingAdmissionPolicyBindingUpdate checks a change.
func ValidatingAdmissionPolicyBindingUpdate(b, _ *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	return ValidatingAdmissionPolicyBinding(b)
}

func policyBinding(m *metav1.ObjectMeta, policy string, params *admissionv1.ParamRef, match *admissionv1.MatchResources) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(m, false, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	at := field.NewPath("spec")
	errs = append(errs, requiredAnd(policy, at.Child("policyName"), whole(apivalidation.NameIsDNSSubdomain))...)
	errs = append(errs, paramRef(params, at.Child("paramRef"))...)
	return append(errs, matchResources(match, at.Child("matchResources"))...)
}

func paramRef(r *admissionv1.ParamRef, at *field.Path) (errs field.ErrorList) {
	if r == nil {
		return nil
	}
	const exclusive = "name and selector are mutually exclusive"
	if r.Name != "" {
		errs = append(errs, invalidAll(at.Child("name"), r.Name, content.IsPathSegmentName(r.Name))...)
		if r.Selector != nil {
			errs = append(errs, field.Forbidden(at.Child("name"), exclusive))
		}
	}
	if r.Selector != nil {
		errs = append(errs, metav1validation.ValidateLabelSelector(r.Selector, metav1validation.LabelSelectorValidationOptions{}, at.Child("selector"))...)
		if r.Name != "" {
			errs = append(errs, field.Forbidden(at.Child("selector"), exclusive))
		}
	}
	if r.Name == "" && r.Selector == nil {
		errs = append(errs, field.Required(at, "one of name or selector must be specified"))
	}
	at = at.Child("parameterNotFoundAction")
	if a := r.ParameterNotFoundAction; a == nil || *a == "" {
		errs = append(errs, field.Required(at, ""))
	} else if *a != admissionv1.DenyAction && *a != admissionv1.AllowAction {
		errs = append(errs, field.NotSupported(at, a, []admissionv1.ParameterNotFoundActionType{admissionv1.DenyAction, admissionv1.AllowAction}))
	}
	return errs
}

// MutatingAdmissionPolicy checks a new one.
func MutatingAdmissionPolicy(p *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
	return mutatingPolicy(p, nil)
}

// MutatingAdmissionPolicyUpdate checks a change.
func MutatingAdmissionPolicyUpdate(p, old *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
	return mutatingPolicy(p, old)
}

func mutatingPolicy(p, old *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&p.ObjectMeta, false, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	s, at := &p.Spec, field.NewPath("spec")
	e := expressions{params: s.ParamKind != nil, patches: true}
	sameConditions := false
	if old != nil {
		sameConditions = equality.Semantic.DeepEqual(s.ParamKind, old.Spec.ParamKind) && equality.Semantic.DeepEqual(s.MatchConditions, old.Spec.MatchConditions)
		for _, c := range old.Spec.MatchConditions {
			e.old = append(e.old, c.Expression)
		}
		for _, m := range old.Spec.Mutations {
			if m.ApplyConfiguration != nil {
				e.old = append(e.old, m.ApplyConfiguration.Expression)
			}
			if m.JSONPatch != nil {
				e.old = append(e.old, m.JSONPatch.Expression)
			}
		}
	}
	errs = append(errs, policyFrame(s.FailurePolicy, s.ParamKind, s.MatchConstraints, at)...)
	errs = append(errs, mutatedOperations(s.MatchConstraints, at.Child("matchConstraints"))...)
	if !sameConditions {
		errs = append(errs, matchConditions(s.MatchConditions, e, at.Child("matchConditions"))...)
	}
	e, wrong := policyVariables(s.Variables, e, at.Child("variables"))
	errs = append(errs, wrong...)
	if len(s.Mutations) == 0 {
		errs = append(errs, field.Required(at.Child("mutations"), "mutations must contain at least one item"))
	}
	for i := range s.Mutations {
		errs = append(errs, mutation(&s.Mutations[i], e, at.Child("mutations").Index(i))...)
	}
	return append(errs, oneOf(s.ReinvocationPolicy, at.Child("reinvocationPolicy"), admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy)...)
}

// mutatedOperations refuses to mutate what is being deleted.
func mutatedOperations(m *admissionv1.MatchResources, at *field.Path) (errs field.ErrorList) {
	if m == nil {
		return nil
	}
	for _, r := range m.ResourceRules {
		for _, o := range r.Operations {
			errs = append(errs, supported(o, at.Child("resourceRules", "operations"), admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Update)...)
		}
	}
	return errs
}

func mutation(m *admissionv1.Mutation, e expressions, at *field.Path) field.ErrorList {
	apply, jsonPatch := at.Child("applyConfiguration"), at.Child("jsonPatch")
	var errs field.ErrorList
	check := func(expression string, at *field.Path, a func(string) plugincel.ExpressionAccessor) {
		trimmed := strings.TrimSpace(expression)
		if trimmed == "" {
			errs = append(errs, field.Required(at.Child("expression"), ""))
			return
		}
		errs = append(errs, e.check(a(trimmed), expression, true, at.Child("expression"))...)
	}
	switch m.PatchType {
	case "":
		return field.ErrorList{field.Required(at.Child("patchType"), "")}
	case admissionv1.PatchTypeJSONPatch:
		if m.JSONPatch == nil {
			errs = append(errs, field.Required(jsonPatch, "must be specified when patchType is JSONPatch"))
		} else {
			check(m.JSONPatch.Expression, jsonPatch, func(x string) plugincel.ExpressionAccessor { return &patch.JSONPatchCondition{Expression: x} })
		}
		if m.ApplyConfiguration != nil {
			errs = append(errs, field.Invalid(apply, "{applyConfiguration}", "must not be specified when patchType is JSONPatch"))
		}
	case admissionv1.PatchTypeApplyConfiguration:
		if m.ApplyConfiguration == nil {
			errs = append(errs, field.Required(apply, "must be specified when patchType is ApplyConfiguration"))
		} else {
			check(m.ApplyConfiguration.Expression, apply, func(x string) plugincel.ExpressionAccessor { return &patch.ApplyConfigurationCondition{Expression: x} })
		}
		if m.JSONPatch != nil {
			errs = append(errs, field.Invalid(jsonPatch, "{jsonPatch}", "must not be specified when patchType is ApplyConfiguration"))
		}
	default:
		errs = supported(m.PatchType, at.Child("patchType"), admissionv1.PatchTypeApplyConfiguration, admissionv1.PatchTypeJSONPatch)
	}
	return errs
}

// MutatingAdmissionPolicyBinding checks a binding.
func MutatingAdmissionPolicyBinding(b *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
	errs := policyBinding(&b.ObjectMeta, b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources)
	return append(errs, mutatedOperations(b.Spec.MatchResources, field.NewPath("spec", "matchResources"))...)
}

// MutatingAdmissionPolicyBindingUpdate checks a change.
func MutatingAdmissionPolicyBindingUpdate(b, _ *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
	return MutatingAdmissionPolicyBinding(b)
}
