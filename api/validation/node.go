// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// Node checks a new node.
func Node(n *corev1.Node) field.ErrorList {
	errs := meta(&n.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, nodeAnnotations(n.Annotations, metadata.Child("annotations"))...)
	errs = append(errs, taints(n.Spec.Taints, metadata.Child("taints"))...)
	errs = append(errs, nodeAmounts(n)...)
	if s := n.Status.NodeInfo.Swap; s != nil && s.Capacity != nil {
		errs = append(errs, positive(*s.Capacity, metadata.Child("nodeSwapStatus", "capacity"))...)
	}
	errs = append(errs, nodeFeatures(n.Status.DeclaredFeatures, field.NewPath("status", "declaredFeatures"))...)
	return append(errs, podRanges(n.Spec.PodCIDRs, field.NewPath("spec", "podCIDRs"))...)
}

func podRanges(list []string, at *field.Path) (errs field.ErrorList) {
	for i, s := range list {
		errs = append(errs, validation.IsValidCIDRForLegacyField(at.Index(i), s, true, nil)...)
	}
	if len(list) < 2 {
		return errs
	}
	both, err := netutils.IsDualStackCIDRStrings(list)
	if err != nil {
		errs = append(errs, field.InternalError(at, fmt.Errorf("invalid PodCIDRs. failed to check with dual stack with error:%w", err)))
	}
	if !both || len(list) > 2 {
		errs = append(errs, field.Invalid(at, list, "may specify no more than one CIDR for each IP family"))
	}
	return errs
}

// nodeAnnotations checks what was in annotations before there were fields.
func nodeAnnotations(a map[string]string, at *field.Path) (errs field.ErrorList) {
	if s := a[corev1.TaintsAnnotationKey]; s != "" {
		var list []corev1.Taint
		if err := json.Unmarshal([]byte(s), &list); err != nil {
			errs = append(errs, field.Invalid(at, corev1.TaintsAnnotationKey, err.Error()))
		}
		errs = append(errs, taints(list, at.Child(corev1.TaintsAnnotationKey))...)
	}
	const avoid = corev1.PreferAvoidPodsAnnotationKey
	if s := a[avoid]; s != "" {
		var pods corev1.AvoidPods
		if err := json.Unmarshal([]byte(s), &pods); err != nil {
			return append(errs, field.Invalid(at.Child("AvoidPods"), avoid, err.Error()))
		}
		for i, p := range pods.PreferAvoidPods {
			signature := at.Child(avoid).Index(i).Child("PodSignature")
			if c := p.PodSignature.PodController; c == nil {
				errs = append(errs, field.Required(signature, ""))
			} else if c.Controller == nil || !*c.Controller {
				errs = append(errs, field.Invalid(signature.Child("PodController", "Controller"), false, "must point to a controller"))
			}
		}
	}
	return errs
}

func nodeAmounts(n *corev1.Node) (errs field.ErrorList) {
	for _, l := range []struct {
		name string
		list corev1.ResourceList
	}{{"capacity", n.Status.Capacity}, {"allocatable", n.Status.Allocatable}} {
		for _, name := range slices.Sorted(maps.Keys(l.list)) {
			errs = append(errs, amount(name, l.list[name], field.NewPath("status", l.name, string(name)))...)
		}
	}
	return errs
}

const featureName = `^[A-Z][a-zA-Z0-9]*(\/[a-zA-Z][a-zA-Z0-9]*)*$`

// nodeFeatures are declared in order, each once.
func nodeFeatures(list []string, at *field.Path) (errs field.ErrorList) {
	for i, f := range list {
		switch {
		case len(f) > validation.DNS1123SubdomainMaxLength:
			errs = append(errs, field.Invalid(at.Index(i), f, fmt.Sprintf("invalid feature name %q: must be no more than %d characters", f, validation.DNS1123SubdomainMaxLength)))
		case !matches(featureName, f):
			errs = append(errs, field.Invalid(at.Index(i), f, fmt.Sprintf("invalid feature name %q: must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes", f)))
		}
		if i+1 == len(list) {
			break
		}
		switch next := list[i+1]; {
		case f == next:
			errs = append(errs, field.Duplicate(at.Index(i+1), next))
		case f > next:
			errs = append(errs, field.Invalid(at.Index(i+1), next, "list must be sorted alphabetically"))
		}
	}
	return errs
}

func taints(list []corev1.Taint, at *field.Path) (errs field.ErrorList) {
	seen := &unique{}
	for i, t := range list {
		p := at.Index(i)
		errs = append(errs, metavalidation.ValidateLabelName(t.Key, p.Child("key"))...)
		if problems := validation.IsValidLabelValue(t.Value); len(problems) > 0 {
			errs = append(errs, field.Invalid(p.Child("value"), t.Value, strings.Join(problems, ";")))
		}
		errs = append(errs, taintEffect(t.Effect, p.Child("effect"))...)
		if seen.again(string(t.Effect) + " " + t.Key) {
			dup := field.Duplicate(p, goFields{t})
			dup.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, dup)
		}
	}
	return errs
}

// NodeUpdate checks a change.
func NodeUpdate(n, old *corev1.Node) field.ErrorList {
	return append(Node(n), NodeStatusUpdate(n, old)...)
}

// NodeStatusUpdate checks a change of either half; provider and ranges are set
// once.
func NodeStatusUpdate(n, old *corev1.Node) field.ErrorList {
	errs := metaUpdate(&n.ObjectMeta, &old.ObjectMeta)
	errs = append(errs, nodeAnnotations(n.Annotations, metadata.Child("annotations"))...)
	errs = append(errs, nodeAmounts(n)...)
	errs = append(errs, nodeFeatures(n.Status.DeclaredFeatures, field.NewPath("status", "declaredFeatures"))...)
	addresses := map[corev1.NodeAddress]bool{}
	for i, a := range n.Status.Addresses {
		if addresses[a] {
			errs = append(errs, field.Duplicate(field.NewPath("status", "addresses").Index(i), goFields{a}))
		}
		addresses[a] = true
	}
	spec := field.NewPath("spec")
	kept := field.Forbidden(spec.Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid")
	if was, now := old.Spec.PodCIDRs, n.Spec.PodCIDRs; len(was) > 0 && len(was) != len(now) {
		errs = append(errs, kept)
	} else {
		for i := range was {
			if was[i] != now[i] {
				errs = append(errs, kept)
			}
		}
	}
	errs = append(errs, nodeConfig(n)...)
	errs = append(errs, taints(n.Spec.Taints, metadata.Child("taints"))...)
	if n.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID {
		errs = append(errs, field.Forbidden(spec.Child("externalID"), "may not be updated"))
	}
	var declared field.ErrorList
	if was, now := old.Spec.ProviderID, n.Spec.ProviderID; was != "" && now == "" {
		declared = append(declared, field.Invalid(spec.Child("providerID"), nil, "field cannot be cleared once set"))
	} else if was != "" && was != now {
		declared = append(declared, field.Invalid(spec.Child("providerID"), nil, "field cannot be modified once set"))
	}
	return reported(errs, declared)
}

// nodeConfig checks the lapsed dynamic configuration of nodes that still have
// it. The status says which version of a ConfigMap it means, the spec may not.
func nodeConfig(n *corev1.Node) (errs field.ErrorList) {
	source := func(s *corev1.NodeConfigSource, at *field.Path, version func(*corev1.ConfigMapNodeConfigSource, *field.Path) field.ErrorList) {
		switch {
		case s == nil:
		case s.ConfigMap == nil:
			errs = append(errs, field.Invalid(at, goFields{*s}, "exactly one reference subfield must be non-nil"))
		default:
			m, at := s.ConfigMap, at.Child("configMap")
			errs = append(errs, version(m, at)...)
			errs = append(errs, requiredAnd(m.Namespace, at.Child("namespace"), plainName(apivalidation.ValidateNamespaceName))...)
			errs = append(errs, requiredAnd(m.Name, at.Child("name"), plainName(apivalidation.NameIsDNSSubdomain))...)
			errs = append(errs, requiredAnd(m.KubeletConfigKey, at.Child("kubeletConfigKey"), validation.IsConfigMapKey)...)
		}
	}
	source(n.Spec.ConfigSource, field.NewPath("spec", "configSource"), func(m *corev1.ConfigMapNodeConfigSource, at *field.Path) (errs field.ErrorList) {
		if m.UID != "" {
			errs = append(errs, field.Forbidden(at.Child("uid"), "uid must not be set in spec"))
		}
		if m.ResourceVersion != "" {
			errs = append(errs, field.Forbidden(at.Child("resourceVersion"), "resourceVersion must not be set in spec"))
		}
		return errs
	})
	if c := n.Status.Config; c != nil {
		at := field.NewPath("status", "config")
		named := func(m *corev1.ConfigMapNodeConfigSource, at *field.Path) (errs field.ErrorList) {
			if m.UID == "" {
				errs = append(errs, field.Required(at.Child("uid"), ""))
			}
			if m.ResourceVersion == "" {
				errs = append(errs, field.Required(at.Child("resourceVersion"), ""))
			}
			return errs
		}
		source(c.Assigned, at.Child("assigned"), named)
		source(c.Active, at.Child("active"), named)
		source(c.LastKnownGood, at.Child("lastKnownGood"), named)
	}
	return errs
}

func plainName(f apivalidation.ValidateNameFunc) func(string) []string {
	return func(n string) []string { return f(n, false) }
}

// NodeWarnings are the notes on lapsed fields and odd ranges.
func NodeWarnings(n, _ *corev1.Node) []string {
	out := notes{}
	spec := field.NewPath("spec")
	if n.Spec.ConfigSource != nil {
		out.add(spec.Child("configSource"), "the feature is removed")
	}
	if n.Spec.DoNotUseExternalID != "" {
		out.add(spec.Child("externalID"), "this field is deprecated, and is unused by Kubernetes")
	}
	for i, r := range n.Spec.PodCIDRs {
		out = append(out, validation.GetWarningsForCIDR(spec.Child("podCIDRs").Index(i), r)...)
	}
	return out
}
