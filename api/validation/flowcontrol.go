// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/util/shufflesharding"
)

// flowVerbs are those that a rule can name, beside all of them.
var flowVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}

// FlowSchema checks a schema. Those that every server has must be as it has
// them.
func FlowSchema(f *flowcontrolv1.FlowSchema) field.ErrorList {
	errs, at := plainMeta(&f.ObjectMeta, false), field.NewPath("spec")
	errs = append(errs, flowSchemaSpec(f.Name, &f.Spec, at)...)
	for _, fixed := range bootstrap.MandatoryFlowSchemas {
		if fixed.Name == f.Name && !equality.Semantic.DeepEqual(f.Spec, fixed.Spec) {
			errs = append(errs, field.Invalid(at, goFields{f.Spec}, fmt.Sprintf("spec of '%s' must equal the fixed value", f.Name)))
		}
	}
	return append(errs, flowConditions(f.Status.Conditions)...)
}

// FlowSchemaUpdate checks a change.
func FlowSchemaUpdate(f, old *flowcontrolv1.FlowSchema) field.ErrorList { return FlowSchema(f) }

// FlowSchemaStatusUpdate checks what the status says.
func FlowSchemaStatusUpdate(f, _ *flowcontrolv1.FlowSchema) field.ErrorList {
	return flowConditions(f.Status.Conditions)
}

// flowConditions: each of a type of its own.
func flowConditions[C flowcontrolv1.FlowSchemaCondition | flowcontrolv1.PriorityLevelConfigurationCondition](list []C) (errs field.ErrorList) {
	seen := map[string]bool{}
	for i, c := range list {
		t, at := "", field.NewPath("status", "conditions").Index(i).Child("type")
		switch c := any(c).(type) {
		case flowcontrolv1.FlowSchemaCondition:
			t = string(c.Type)
		case flowcontrolv1.PriorityLevelConfigurationCondition:
			t = string(c.Type)
		}
		if seen[t] {
			errs = append(errs, field.Duplicate(at, t))
		}
		seen[t] = true
		errs = append(errs, required(t, at)...)
	}
	return errs
}

func flowSchemaSpec(name string, s *flowcontrolv1.FlowSchemaSpec, at *field.Path) (errs field.ErrorList) {
	p := at.Child("matchingPrecedence")
	if s.MatchingPrecedence <= 0 {
		errs = append(errs, field.Invalid(p, s.MatchingPrecedence, "must be a positive value"))
	}
	if s.MatchingPrecedence > flowcontrolv1.FlowSchemaMaxMatchingPrecedence {
		errs = append(errs, field.Invalid(p, s.MatchingPrecedence, fmt.Sprintf("must not be greater than %v", flowcontrolv1.FlowSchemaMaxMatchingPrecedence)))
	}
	if s.MatchingPrecedence == 1 && name != flowcontrolv1.FlowSchemaNameExempt {
		errs = append(errs, field.Invalid(p, s.MatchingPrecedence, "only the schema named 'exempt' may have matchingPrecedence 1"))
	}
	by := []flowcontrolv1.FlowDistinguisherMethodType{flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType}
	if m := s.DistinguisherMethod; m != nil && !slices.Contains(by, m.Type) {
		errs = append(errs, field.NotSupported[flowcontrolv1.FlowDistinguisherMethodType](at.Child("distinguisherMethod", "type"), goFields{m}, by))
	}
	level := at.Child("priorityLevelConfiguration", "name")
	if n := s.PriorityLevelConfiguration.Name; n == "" {
		errs = append(errs, field.Required(level, "must reference a priority level"))
	} else {
		errs = append(errs, invalidAll(level, n, apivalidation.NameIsDNSSubdomain(n, false))...)
	}
	for i := range s.Rules {
		errs = append(errs, flowRule(&s.Rules[i], at.Child("rules").Index(i))...)
	}
	return errs
}

func flowRule(r *flowcontrolv1.PolicyRulesWithSubjects, at *field.Path) (errs field.ErrorList) {
	if len(r.Subjects) == 0 {
		errs = append(errs, field.Required(at.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range r.Subjects {
		errs = append(errs, flowSubject(&r.Subjects[i], at.Child("subjects").Index(i))...)
	}
	if len(r.ResourceRules) == 0 && len(r.NonResourceRules) == 0 {
		errs = append(errs, field.Required(at, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	for i := range r.ResourceRules {
		errs = append(errs, flowResources(&r.ResourceRules[i], at.Child("resourceRules").Index(i))...)
	}
	for i, n := range r.NonResourceRules {
		p := at.Child("nonResourceRules").Index(i)
		errs = append(errs, flowRuleVerbs(n.Verbs, p.Child("verbs"))...)
		errs = append(errs, flowURLs(n.NonResourceURLs, p.Child("nonResourceURLs"))...)
	}
	return errs
}

// flowSubject has what its kind says, and nothing else.
func flowSubject(s *flowcontrolv1.Subject, at *field.Path) (errs field.ErrorList) {
	user, group, account := flowcontrolv1.SubjectKindUser, flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount
	forbidden := func(present bool, kind flowcontrolv1.SubjectKind, name string) {
		if present && s.Kind != kind {
			errs = append(errs, field.Forbidden(at.Child(name), fmt.Sprintf("%s is forbidden when subject kind is not '%s'", name, kind)))
		}
	}
	missing := func(kind flowcontrolv1.SubjectKind, name string) field.ErrorList {
		return field.ErrorList{field.Required(at.Child(name), fmt.Sprintf("%s is required when subject kind is '%s'", name, kind))}
	}
	switch {
	case s.Kind == account && s.ServiceAccount == nil:
		errs = missing(account, "serviceAccount")
	case s.Kind == account:
		errs = flowAccount(s.ServiceAccount, at.Child("serviceAccount"))
	case s.Kind == user && s.User == nil:
		errs = missing(user, "user")
	case s.Kind == user:
		errs = required(s.User.Name, at.Child("user", "name"))
	case s.Kind == group && s.Group == nil:
		errs = missing(group, "group")
	case s.Kind == group:
		errs = required(s.Group.Name, at.Child("group", "name"))
	default:
		return field.ErrorList{field.NotSupported(at.Child("kind"), s.Kind, []flowcontrolv1.SubjectKind{group, account, user})}
	}
	forbidden(s.ServiceAccount != nil, account, "serviceAccount")
	forbidden(s.User != nil, user, "user")
	forbidden(s.Group != nil, group, "group")
	return errs
}

func flowAccount(a *flowcontrolv1.ServiceAccountSubject, at *field.Path) (errs field.ErrorList) {
	if a.Name != flowcontrolv1.NameAll {
		errs = requiredAnd(a.Name, at.Child("name"), whole(apivalidation.ValidateServiceAccountName))
	}
	if a.Namespace == "" {
		return append(errs, field.Required(at.Child("namespace"), "must specify namespace for service account"))
	}
	return append(errs, invalidAll(at.Child("namespace"), a.Namespace, apivalidation.ValidateNamespaceName(a.Namespace, false))...)
}

// flowWords are words of a rule, or "*" alone for all of them. judge sees those
// that are not "*".
func flowWords(list []string, at *field.Path, needed, other string, judge func() field.ErrorList) field.ErrorList {
	switch {
	case len(list) == 0 && needed != "":
		return field.ErrorList{field.Required(at, needed)}
	case slices.Contains(list, "*") && len(list) > 1:
		return field.ErrorList{field.Invalid(at, list, "if '*' is present, must not specify other "+other)}
	case slices.Contains(list, "*") || judge == nil:
		return nil
	}
	return judge()
}

func flowRuleVerbs(verbs []string, at *field.Path) field.ErrorList {
	return flowWords(verbs, at, "verbs must contain at least one value", "verbs", func() field.ErrorList {
		if slices.ContainsFunc(verbs, func(v string) bool { return !slices.Contains(flowVerbs, v) }) {
			return field.ErrorList{field.NotSupported(at, verbs, flowVerbs)}
		}
		return nil
	})
}

func flowURLs(urls []string, at *field.Path) field.ErrorList {
	return flowWords(urls, at, "nonResourceURLs must contain at least one value", "non-resource URLs", func() (errs field.ErrorList) {
		for i, u := range urls {
			if problem := flowURL(u); problem != "" {
				errs = append(errs, field.Invalid(at.Index(i), u, problem))
			}
		}
		return errs
	})
}

// flowURL says what is wrong with a path.
func flowURL(path string) string {
	stars := strings.Count(path, "*")
	switch {
	case path == "":
		return "must not be empty"
	case !strings.HasPrefix(path, "/"):
		return "must start with slash"
	case strings.Contains(path, " "):
		return "must not contain white-space"
	case strings.Contains(path, "//"):
		return "must not contain double slash"
	case stars > 1 || stars == 1 && !strings.HasSuffix(path, "/*"):
		return "wildcard can only do suffix matching"
	}
	return ""
}

func flowResources(r *flowcontrolv1.ResourcePolicyRule, at *field.Path) field.ErrorList {
	errs := flowRuleVerbs(r.Verbs, at.Child("verbs"))
	errs = append(errs, flowWords(r.APIGroups, at.Child("apiGroups"), "resource rules must supply at least one api group", "api groups", nil)...)
	errs = append(errs, flowWords(r.Resources, at.Child("resources"), "resource rules must supply at least one resource", "resources", nil)...)
	needed := "resource rules that are not cluster scoped must supply at least one namespace"
	if r.ClusterScope {
		needed = ""
	}
	p := at.Child("namespaces")
	return append(errs, flowWords(r.Namespaces, p, needed, "namespaces", func() (errs field.ErrorList) {
		for i, n := range r.Namespaces {
			for _, problem := range apivalidation.ValidateNamespaceName(n, false) {
				errs = append(errs, field.Invalid(p.Index(i), n, "each member of this list must be '*' or a DNS-1123 label; "+problem))
			}
		}
		return errs
	})...)
}

// preservedZero is an annotation by which an older version carried a zero.
const preservedZero = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares"

// PriorityLevelConfiguration checks a level. Those that every server has must be
// as it has them, but for how much the exempt one lends.
func PriorityLevelConfiguration(p *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	return priorityLevel(p, &flowcontrolv1.PriorityLevelConfigurationSpec{})
}

// PriorityLevelConfigurationUpdate checks a change.
func PriorityLevelConfigurationUpdate(p, old *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	return priorityLevel(p, &old.Spec)
}

func priorityLevel(p *flowcontrolv1.PriorityLevelConfiguration, old *flowcontrolv1.PriorityLevelConfigurationSpec) field.ErrorList {
	errs, at := plainMeta(&p.ObjectMeta, false), field.NewPath("spec")
	if _, ok := p.Annotations[preservedZero]; ok {
		errs = append(errs, field.Forbidden(metadata.Child("annotations"), fmt.Sprintf("annotation '%s' is forbidden", preservedZero)))
	}
	errs = append(errs, levelSpec(p.Name, &p.Spec, at)...)
	errs = append(errs, mandatoryLevel(p, at)...)
	errs = append(errs, flowConditions(p.Status.Conditions)...)
	declared := levelShape(&p.Spec, at)
	if !equality.Semantic.DeepEqual(&p.Spec, old) {
		// What has changed is checked by the rules of the types, which have no words.
		for _, e := range declared {
			e.Detail = ""
		}
	}
	return reported(errs, declared)
}

// PriorityLevelConfigurationStatusUpdate checks what the status says.
func PriorityLevelConfigurationStatusUpdate(p, _ *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	return flowConditions(p.Status.Conditions)
}

func mandatoryLevel(p *flowcontrolv1.PriorityLevelConfiguration, at *field.Path) field.ErrorList {
	i := slices.IndexFunc(bootstrap.MandatoryPriorityLevelConfigurations, func(m *flowcontrolv1.PriorityLevelConfiguration) bool { return m.Name == p.Name })
	if i < 0 {
		return nil
	}
	want, have, but := bootstrap.MandatoryPriorityLevelConfigurations[i].Spec, p.Spec, ""
	if p.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt {
		have.Exempt, but = want.Exempt, " except the 'spec.exempt' field"
	}
	if equality.Semantic.DeepEqual(want, have) {
		return nil
	}
	return field.ErrorList{field.Invalid(at, goFields{p.Spec}, fmt.Sprintf("spec of '%s'%s must equal the fixed value", p.Name, but))}
}

// levelShape: what is not limited has no limits, and only what queues has queues.
func levelShape(s *flowcontrolv1.PriorityLevelConfigurationSpec, at *field.Path) (errs field.ErrorList) {
	const exempt, limited = flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited
	if s.Exempt != nil && s.Type != exempt {
		errs = append(errs, field.Forbidden(at.Child("exempt"), "must be nil if the type is Limited"))
	}
	switch {
	case s.Limited != nil && s.Type != limited:
		errs = append(errs, field.Forbidden(at.Child("limited"), "must be nil if the type is not Limited"))
	case s.Limited == nil && s.Type == limited:
		errs = append(errs, field.Required(at.Child("limited"), "must not be empty when type is Limited"))
	}
	errs = append(errs, required(string(s.Type), at.Child("type"))...)
	if s.Limited == nil {
		return errs
	}
	r, at := s.Limited.LimitResponse, at.Child("limited", "limitResponse")
	switch queues := r.Type == flowcontrolv1.LimitResponseTypeQueue; {
	case r.Queuing != nil && !queues:
		errs = append(errs, field.Forbidden(at.Child("queuing"), "must be nil if limited.limitResponse.type is not Limited"))
	case r.Queuing == nil && queues:
		errs = append(errs, field.Required(at.Child("queuing"), "must not be empty if limited.limitResponse.type is Limited"))
	}
	return append(errs, required(string(r.Type), at.Child("type"))...)
}

func levelSpec(name string, s *flowcontrolv1.PriorityLevelConfigurationSpec, at *field.Path) (errs field.ErrorList) {
	const exempt, limited = flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited
	if (name == flowcontrolv1.PriorityLevelConfigurationNameExempt) != (s.Type == exempt) {
		errs = append(errs, field.Invalid(at.Child("type"), s.Type, "must be 'Exempt' if and only if `name` is 'exempt'"))
	}
	switch {
	case s.Type == exempt && s.Exempt != nil:
		e, p := s.Exempt, at.Child("exempt")
		return append(append(errs, shares(e.NominalConcurrencyShares, p)...), lent(e.LendablePercent, p)...)
	case s.Type == limited && s.Limited != nil:
		return append(errs, limitedLevel(s.Limited, at.Child("limited"))...)
	case s.Type != "":
		return append(errs, supported(s.Type, at.Child("type"), exempt, limited)...)
	}
	return errs
}

func shares(nominal *int32, at *field.Path) field.ErrorList {
	if nominal != nil && *nominal < 0 {
		return field.ErrorList{field.Invalid(at.Child("nominalConcurrencyShares"), *nominal, "must be a non-negative integer")}
	}
	return nil
}

func lent(percent *int32, at *field.Path) field.ErrorList {
	if percent != nil && (*percent < 0 || *percent > 100) {
		return field.ErrorList{field.Invalid(at.Child("lendablePercent"), *percent, "must be between 0 and 100, inclusive")}
	}
	return nil
}

func limitedLevel(l *flowcontrolv1.LimitedPriorityLevelConfiguration, at *field.Path) field.ErrorList {
	errs := shares(l.NominalConcurrencyShares, at)
	p := at.Child("limitResponse")
	const reject, queue = flowcontrolv1.LimitResponseTypeReject, flowcontrolv1.LimitResponseTypeQueue
	switch l.LimitResponse.Type {
	case reject, "":
	case queue:
		if q := l.LimitResponse.Queuing; q != nil {
			errs = append(errs, queuing(q, p.Child("queuing"))...)
		}
	default:
		errs = append(errs, field.NotSupported(p.Child("type"), l.LimitResponse.Type, []flowcontrolv1.LimitResponseType{queue, reject}))
	}
	errs = append(errs, lent(l.LendablePercent, at)...)
	if b := l.BorrowingLimitPercent; b != nil && *b < 0 {
		errs = append(errs, field.Invalid(at.Child("borrowingLimitPercent"), *b, "if specified, must be a non-negative integer"))
	}
	return errs
}

// mostQueues is how many queues a level may have.
const mostQueues = 10_000_000

func queuing(q *flowcontrolv1.QueuingConfiguration, at *field.Path) (errs field.ErrorList) {
	if q.QueueLengthLimit <= 0 {
		errs = append(errs, field.Invalid(at.Child("queueLengthLimit"), q.QueueLengthLimit, "must be positive"))
	}
	if q.Queues <= 0 {
		errs = append(errs, field.Invalid(at.Child("queues"), q.Queues, "must be positive"))
	} else if q.Queues > mostQueues {
		errs = append(errs, field.Invalid(at.Child("queues"), q.Queues, fmt.Sprintf("must not be greater than %d", mostQueues)))
	}
	hand := at.Child("handSize")
	if q.HandSize <= 0 {
		return append(errs, field.Invalid(hand, q.HandSize, "must be positive"))
	}
	if q.HandSize > q.Queues {
		return append(errs, field.Invalid(hand, q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues)))
	}
	if bits := shufflesharding.RequiredEntropyBits(int(q.Queues), int(q.HandSize)); bits > shufflesharding.MaxHashBits {
		errs = append(errs, field.Invalid(hand, q.HandSize, fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues, q.HandSize, shufflesharding.MaxHashBits)))
	}
	return errs
}
