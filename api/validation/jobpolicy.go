// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	mostRules         = 20
	mostExitCodes     = 255
	mostConditions    = 20
	mostIndexesLength = 64 * 1024
)

var (
	failureActions    = []batchv1.PodFailurePolicyAction{batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore}
	exitCodeOperators = []batchv1.PodFailurePolicyOnExitCodesOperator{batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn}
	conditionStatuses = []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
)

// chosen refuses an empty value, naming the values, or one outside the set.
func chosen[T ~string](v T, at *field.Path, allowed []T) field.ErrorList {
	if v == "" {
		return field.ErrorList{field.Required(at, fmt.Sprintf("valid values: %q", allowed))}
	}
	return supported(v, at, allowed...)
}

// failurePolicy checks the rules of podFailurePolicy (KEP-3329).
func failurePolicy(s *batchv1.JobSpec, at *field.Path) (errs field.ErrorList) {
	rules := s.PodFailurePolicy.Rules
	if len(rules) > mostRules {
		errs = append(errs, field.TooMany(at, len(rules), mostRules))
	}
	var names []string
	for _, list := range [][]corev1.Container{s.Template.Spec.Containers, s.Template.Spec.InitContainers} {
		for i := range list {
			names = append(names, list[i].Name)
		}
	}
	for i := range rules {
		errs = append(errs, failureRule(s, &rules[i], names, at.Index(i))...)
	}
	return errs
}

func failureRule(s *batchv1.JobSpec, r *batchv1.PodFailurePolicyRule, names []string, at *field.Path) (errs field.ErrorList) {
	if r.Action != batchv1.PodFailurePolicyActionFailIndex {
		errs = append(errs, chosen(r.Action, at.Child("action"), failureActions)...)
	} else if s.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Invalid(at.Child("action"), r.Action, "requires the backoffLimitPerIndex to be set"))
	}
	if r.OnExitCodes != nil {
		errs = append(errs, exitCodes(r.OnExitCodes, names, at.Child("onExitCodes"))...)
	}
	if len(r.OnPodConditions) > mostConditions {
		errs = append(errs, field.TooMany(at.Child("onPodConditions"), len(r.OnPodConditions), mostConditions))
	}
	for i, c := range r.OnPodConditions {
		at := at.Child("onPodConditions").Index(i)
		errs = append(errs, invalidAll(at.Child("type"), string(c.Type), validation.IsQualifiedName(string(c.Type)))...)
		errs = append(errs, chosen(c.Status, at.Child("status"), conditionStatuses)...)
	}
	switch both, either := r.OnExitCodes != nil && len(r.OnPodConditions) > 0, r.OnExitCodes != nil || len(r.OnPodConditions) > 0; {
	case both:
		errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
	case !either:
		errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
	}
	return errs
}

func exitCodes(r *batchv1.PodFailurePolicyOnExitCodesRequirement, names []string, at *field.Path) (errs field.ErrorList) {
	errs = chosen(r.Operator, at.Child("operator"), exitCodeOperators)
	if r.ContainerName != nil && !slices.Contains(names, *r.ContainerName) {
		errs = append(errs, field.Invalid(at.Child("containerName"), *r.ContainerName, "must be one of the container or initContainer names in the pod template"))
	}
	values := at.Child("values")
	switch n := len(r.Values); {
	case n == 0:
		errs = append(errs, field.Invalid(values, r.Values, "at least one value is required"))
	case n > mostExitCodes:
		errs = append(errs, field.TooMany(values, n, mostExitCodes))
	}
	for i, code := range r.Values {
		if r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && code == 0 {
			errs = append(errs, field.Invalid(values.Index(i), code, "must not be 0 for the In operator"))
		}
		if slices.Contains(r.Values[:i], code) {
			errs = append(errs, field.Duplicate(values.Index(i), code))
		}
	}
	if !slices.IsSorted(r.Values) {
		errs = append(errs, field.Invalid(values, r.Values, "must be ordered"))
	}
	return errs
}

func replacementPolicy(s *batchv1.JobSpec, at *field.Path) field.ErrorList {
	if s.PodFailurePolicy != nil {
		return supportedIfSet(s.PodReplacementPolicy, at, batchv1.Failed)
	}
	return supportedIfSet(s.PodReplacementPolicy, at, batchv1.Failed, batchv1.TerminatingOrFailed)
}

// successPolicy checks the rules of successPolicy (KEP-3998).
func successPolicy(s *batchv1.JobSpec, at *field.Path) (errs field.ErrorList) {
	rules := s.SuccessPolicy.Rules
	if len(rules) == 0 {
		errs = append(errs, field.Required(at, "at least one rules must be specified when the successPolicy is specified"))
	}
	if len(rules) > mostRules {
		errs = append(errs, field.TooMany(at, len(rules), mostRules))
	}
	if s.Completions == nil {
		return errs // which is refused
	}
	for i := range rules {
		errs = append(errs, successRule(&rules[i], *s.Completions, at.Index(i))...)
	}
	return errs
}

func successRule(r *batchv1.SuccessPolicyRule, completions int32, at *field.Path) (errs field.ErrorList) {
	if r.SucceededCount == nil && r.SucceededIndexes == nil {
		errs = append(errs, field.Required(at, "at least one of succeededCount or succeededIndexes must be specified"))
	}
	var total int32
	if list := r.SucceededIndexes; list != nil {
		at := at.Child("succeededIndexes")
		if len(*list) > mostIndexesLength {
			errs = append(errs, field.TooLong(at, "" /* unused */, mostIndexesLength))
		}
		var err error
		if total, err = indexes(*list, completions); err != nil {
			errs = append(errs, field.Invalid(at, *list, "error parsing succeededIndexes: "+err.Error()))
		}
	}
	if n := r.SucceededCount; n != nil {
		at := at.Child("succeededCount")
		errs = append(errs, nonNegative(int64(*n), at)...)
		if *n > completions {
			errs = append(errs, field.Invalid(at, *n, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", completions)))
		}
		if r.SucceededIndexes != nil && *n > total {
			errs = append(errs, field.Invalid(at, *n, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", total)))
		}
	}
	return errs
}

// indexes counts what a list of indexes such as 1,3-5,7 names. Numbers
// increase and stay below completions.
func indexes(list string, completions int32) (total int32, err error) {
	if list == "" {
		return 0, nil
	}
	last := int32(-1)
	for i, part := range strings.Split(list, ",") {
		first, end, err := indexRange(part, completions)
		if err != nil {
			return 0, err
		}
		if i > 0 && last >= first {
			return 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", last, first)
		}
		total += end - first + 1
		last = end
	}
	return total, nil
}

func indexRange(part string, completions int32) (first, last int32, err error) {
	ends := strings.Split(part, "-")
	if len(ends) > 2 {
		return 0, 0, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", part)
	}
	var n [2]int
	for i, end := range ends {
		if n[i], err = strconv.Atoi(end); err != nil {
			return 0, 0, fmt.Errorf("cannot convert string to integer for index: %q", end)
		}
		if n[i] >= int(completions) {
			return 0, 0, fmt.Errorf("too large index: %q", end)
		}
	}
	if len(ends) == 1 {
		return int32(n[0]), int32(n[0]), nil
	}
	if n[0] >= n[1] {
		return 0, 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", n[0], n[1])
	}
	return int32(n[0]), int32(n[1]), nil
}

// overlap finds the first index that is in both lists; parts that cannot be
// read are passed over.
func overlap(completed, failed string, completions int32) (index int32, found bool) {
	if completed == "" || failed == "" {
		return 0, false
	}
	a, b := strings.Split(completed, ","), strings.Split(failed, ",")
	for len(a) > 0 && len(b) > 0 {
		af, al, aErr := indexRange(a[0], completions)
		bf, bl, bErr := indexRange(b[0], completions)
		switch {
		case aErr != nil:
			a = a[1:]
		case bErr != nil:
			b = b[1:]
		case af <= bl && bf <= al:
			return max(af, bf), true
		case af <= bf:
			a = a[1:]
		default:
			b = b[1:]
		}
	}
	return 0, false
}
