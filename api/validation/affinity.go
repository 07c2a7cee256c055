// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	requiredTerms  = "requiredDuringSchedulingIgnoredDuringExecution"
	preferredTerms = "preferredDuringSchedulingIgnoredDuringExecution"
)

func (c *context) affinity(at *field.Path) (errs field.ErrorList) {
	a := c.spec.Affinity
	if a == nil {
		return nil
	}
	if n := a.NodeAffinity; n != nil {
		p := at.Child("nodeAffinity")
		if r := n.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
			errs = append(errs, nodeSelector(r, c.old != nil && badNodeValues(c.old), p.Child(requiredTerms, "nodeSelectorTerms"))...)
		}
		for i, t := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			term := p.Child(preferredTerms).Index(i)
			errs = append(errs, weight(t.Weight, term.Child("weight"))...)
			errs = append(errs, nodeTerm(t.Preference, true, term.Child("preference"))...)
		}
	}
	loose := c.old != nil && badAffinityLabels(c.old)
	if p := a.PodAffinity; p != nil {
		errs = append(errs, podTerms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, loose, at.Child("podAffinity"))...)
	}
	if p := a.PodAntiAffinity; p != nil {
		errs = append(errs, podTerms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution, loose, at.Child("podAntiAffinity"))...)
	}
	return errs
}

func weight(w int32, at *field.Path) field.ErrorList {
	if w <= 0 || w > 100 {
		return field.ErrorList{field.Invalid(at, w, "must be in the range 1-100")}
	}
	return nil
}

func nodeSelector(s *corev1.NodeSelector, anyValue bool, at *field.Path) (errs field.ErrorList) {
	if len(s.NodeSelectorTerms) == 0 {
		return field.ErrorList{field.Required(at, "must have at least one node selector term")}
	}
	for i, t := range s.NodeSelectorTerms {
		errs = append(errs, nodeTerm(t, anyValue, at.Index(i))...)
	}
	return errs
}

func nodeTerm(t corev1.NodeSelectorTerm, anyValue bool, at *field.Path) (errs field.ErrorList) {
	for i, e := range t.MatchExpressions {
		errs = append(errs, nodeLabel(e, anyValue, at.Child("matchExpressions").Index(i))...)
	}
	for i, e := range t.MatchFields {
		errs = append(errs, nodeField(e, at.Child("matchFields").Index(i))...)
	}
	return errs
}

func nodeLabel(e corev1.NodeSelectorRequirement, anyValue bool, at *field.Path) (errs field.ErrorList) {
	values := at.Child("values")
	switch e.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(e.Values) == 0 {
			errs = append(errs, field.Required(values, "must be specified when `operator` is 'In' or 'NotIn'"))
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if len(e.Values) > 0 {
			errs = append(errs, field.Forbidden(values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if len(e.Values) != 1 {
			errs = append(errs, field.Required(values, "must be specified single value when `operator` is 'Lt' or 'Gt'"))
		}
	default:
		errs = append(errs, field.Invalid(at.Child("operator"), e.Operator, "not a valid selector operator"))
	}
	errs = append(errs, metavalidation.ValidateLabelName(e.Key, at.Child("key"))...)
	if anyValue {
		return errs
	}
	for i, v := range e.Values {
		errs = append(errs, invalidAll(values.Index(i), v, validation.IsValidLabelValue(v))...)
	}
	return errs
}

// nodeField: a node can be chosen by its name alone.
func nodeField(e corev1.NodeSelectorRequirement, at *field.Path) (errs field.ErrorList) {
	switch e.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(e.Values) != 1 {
			errs = append(errs, field.Required(at.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"))
		}
	default:
		errs = append(errs, field.Invalid(at.Child("operator"), e.Operator, "not a valid selector operator"))
	}
	if e.Key != metav1.ObjectNameField {
		return append(errs, field.Invalid(at.Child("key"), e.Key, "not a valid field selector key"))
	}
	for i, v := range e.Values {
		errs = append(errs, invalidAll(at.Child("values").Index(i), v, apivalidation.NameIsDNSSubdomain(v, false))...)
	}
	return errs
}

// badNodeValues: the Pod was accepted when values were not looked at.
func badNodeValues(s *corev1.PodSpec) bool {
	if s.Affinity == nil || s.Affinity.NodeAffinity == nil || s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return false
	}
	for _, t := range s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, e := range t.MatchExpressions {
			for _, v := range e.Values {
				if len(validation.IsValidLabelValue(v)) > 0 {
					return true
				}
			}
		}
	}
	return false
}

func podTerms(must []corev1.PodAffinityTerm, should []corev1.WeightedPodAffinityTerm, loose bool, at *field.Path) (errs field.ErrorList) {
	for i, t := range must {
		errs = append(errs, podTerm(t, loose, at.Child(requiredTerms).Index(i))...)
	}
	for i, t := range should {
		p := at.Child(preferredTerms).Index(i)
		errs = append(errs, weight(t.Weight, p.Child("weight"))...)
		errs = append(errs, podTerm(t.PodAffinityTerm, loose, p.Child("podAffinityTerm"))...)
	}
	return errs
}

func podTerm(t corev1.PodAffinityTerm, loose bool, at *field.Path) field.ErrorList {
	errs := termSelectors(t, loose, at)
	for _, n := range t.Namespaces {
		errs = append(errs, invalidAll(at.Child("namespace"), n, apivalidation.ValidateNamespaceName(n, false))...)
	}
	errs = append(errs, matchKeys(t.MatchLabelKeys, t.MismatchLabelKeys, t.LabelSelector, at)...)
	if t.TopologyKey == "" {
		errs = append(errs, field.Required(at.Child("topologyKey"), "can not be empty"))
	}
	return append(errs, metavalidation.ValidateLabelName(t.TopologyKey, at.Child("topologyKey"))...)
}

func termSelectors(t corev1.PodAffinityTerm, loose bool, at *field.Path) field.ErrorList {
	errs := labelSelector(t.LabelSelector, loose, at.Child("labelSelector"))
	return append(errs, labelSelector(t.NamespaceSelector, loose, at.Child("namespaceSelector"))...)
}

func labelSelector(s *metav1.LabelSelector, anyValue bool, at *field.Path) field.ErrorList {
	return metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: anyValue}, at)
}

// badAffinityLabels: the Pod was accepted with labels that can match nothing.
func badAffinityLabels(s *corev1.PodSpec) bool {
	if s.Affinity == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	collect := func(must []corev1.PodAffinityTerm, should []corev1.WeightedPodAffinityTerm) {
		terms = append(terms, must...)
		for _, t := range should {
			terms = append(terms, t.PodAffinityTerm)
		}
	}
	if p := s.Affinity.PodAffinity; p != nil {
		collect(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := s.Affinity.PodAntiAffinity; p != nil {
		collect(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool { return len(termSelectors(t, false, nil)) > 0 })
}

// matchKeys checks label keys that add to a selector. They have been added
// already: a key that is there twice was in the selector before.
func matchKeys(match, mismatch []string, s *metav1.LabelSelector, at *field.Path) (errs field.ErrorList) {
	for _, k := range []struct {
		name string
		keys []string
	}{{"matchLabelKeys", match}, {"mismatchLabelKeys", mismatch}} {
		p := at.Child(k.name)
		if len(k.keys) > 0 && s == nil {
			errs = append(errs, field.Forbidden(p, "must not be specified when labelSelector is not set"))
			continue
		}
		for i, key := range k.keys {
			errs = append(errs, metavalidation.ValidateLabelName(key, p.Index(i))...)
		}
	}
	if s != nil {
		seen := sets.KeySet(s.MatchLabels)
		for _, e := range s.MatchExpressions {
			if i := lastIndex(match, e.Key); i >= 0 && seen.Has(e.Key) {
				errs = append(errs, field.Invalid(at.Index(i), e.Key, "exists in both matchLabelKeys and labelSelector"))
			}
			seen.Insert(e.Key)
		}
	}
	for i, k := range match {
		if slices.Contains(mismatch, k) {
			errs = append(errs, field.Invalid(at.Child("matchLabelKeys").Index(i), k, "exists in both matchLabelKeys and mismatchLabelKeys"))
		}
	}
	return errs
}

func lastIndex(list []string, v string) int {
	for i := len(list) - 1; i >= 0; i-- {
		if list[i] == v {
			return i
		}
	}
	return -1
}

func (c *context) topologySpread(at *field.Path) (errs field.ErrorList) {
	anySelector := c.old != nil && badSpreadSelectors(c.old)
	oldKeys := c.old != nil && badSpreadKeys(c.old)
	for i, t := range c.spec.TopologySpreadConstraints {
		p := at.Index(i)
		errs = append(errs, positive(int64(t.MaxSkew), p.Child("maxSkew"))...)
		if t.TopologyKey == "" {
			errs = append(errs, field.Required(p.Child("topologyKey"), "can not be empty"))
		}
		errs = append(errs, supported(t.WhenUnsatisfiable, p.Child("whenUnsatisfiable"), corev1.DoNotSchedule, corev1.ScheduleAnyway)...)
		if slices.ContainsFunc(c.spec.TopologySpreadConstraints[i+1:], func(o corev1.TopologySpreadConstraint) bool {
			return o.TopologyKey == t.TopologyKey && o.WhenUnsatisfiable == t.WhenUnsatisfiable
		}) {
			errs = append(errs, field.Duplicate(p.Child("{topologyKey, whenUnsatisfiable}"), fmt.Sprintf("{%v, %v}", t.TopologyKey, t.WhenUnsatisfiable)))
		}
		if m := t.MinDomains; m != nil {
			errs = append(errs, positive(int64(*m), p.Child("minDomains"))...)
			if t.WhenUnsatisfiable != corev1.DoNotSchedule {
				errs = append(errs, field.Invalid(p.Child("minDomains"), m, fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", corev1.DoNotSchedule, t.WhenUnsatisfiable)))
			}
		}
		errs = append(errs, supportedIfSet(t.NodeAffinityPolicy, p.Child("nodeAffinityPolicy"), corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)...)
		errs = append(errs, supportedIfSet(t.NodeTaintsPolicy, p.Child("nodeTaintsPolicy"), corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)...)
		if oldKeys {
			errs = append(errs, unmergedKeys(t.MatchLabelKeys, t.LabelSelector, p.Child("matchLabelKeys"))...)
		} else {
			errs = append(errs, matchKeys(t.MatchLabelKeys, nil, t.LabelSelector, p)...)
		}
		if !anySelector {
			errs = append(errs, labelSelector(t.LabelSelector, false, p.Child("labelSelector"))...)
		}
	}
	return errs
}

// unmergedKeys checks label keys of Pods from before their keys were added to
// the selector.
func unmergedKeys(keys []string, s *metav1.LabelSelector, at *field.Path) (errs field.ErrorList) {
	if len(keys) > 0 && s == nil {
		errs = append(errs, field.Forbidden(at, "must not be specified when labelSelector is not set"))
	}
	for i, k := range keys {
		errs = append(errs, metavalidation.ValidateLabelName(k, at.Index(i))...)
		if s == nil {
			continue
		}
		_, label := s.MatchLabels[k]
		if label || slices.ContainsFunc(s.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool { return e.Key == k }) {
			errs = append(errs, field.Invalid(at.Index(i), k, "exists in both matchLabelKeys and labelSelector"))
		}
	}
	return errs
}

func badSpreadSelectors(s *corev1.PodSpec) bool {
	return slices.ContainsFunc(s.TopologySpreadConstraints, func(t corev1.TopologySpreadConstraint) bool {
		return len(labelSelector(t.LabelSelector, false, nil)) > 0
	})
}

func badSpreadKeys(s *corev1.PodSpec) bool {
	return slices.ContainsFunc(s.TopologySpreadConstraints, func(t corev1.TopologySpreadConstraint) bool {
		return len(matchKeys(t.MatchLabelKeys, nil, t.LabelSelector, field.NewPath(""))) > 0
	})
}

func tolerations(list []corev1.Toleration, at *field.Path) (errs field.ErrorList) {
	for i, t := range list {
		p := at.Index(i)
		if t.Key != "" {
			errs = append(errs, metavalidation.ValidateLabelName(t.Key, p.Child("key"))...)
		} else if t.Operator != corev1.TolerationOpExists {
			errs = append(errs, field.Invalid(p.Child("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			errs = append(errs, field.Invalid(p.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			if problems := validation.IsValidLabelValue(t.Value); len(problems) > 0 {
				errs = append(errs, field.Invalid(p.Child("operator"), t.Value, strings.Join(problems, ";")))
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				errs = append(errs, field.Invalid(p.Child("operator"), t.Value, "value must be empty when `operator` is 'Exists'"))
			}
		case corev1.TolerationOpLt, corev1.TolerationOpGt:
			errs = append(errs, field.NotSupported(p.Child("operator"), t.Operator, []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists, corev1.TolerationOpLt, corev1.TolerationOpGt}))
		default:
			errs = append(errs, field.NotSupported(p.Child("operator"), t.Operator, []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists}))
		}
		if t.Effect != "" {
			errs = append(errs, taintEffect(t.Effect, p.Child("effect"))...)
		}
	}
	return errs
}

func taintEffect(e corev1.TaintEffect, at *field.Path) field.ErrorList {
	return oneOf(e, at, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
}
