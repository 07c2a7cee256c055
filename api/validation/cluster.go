// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Lease checks a lease.
func Lease(l *coordinationv1.Lease) field.ErrorList {
	return append(plainMeta(&l.ObjectMeta, true), leaseSpec(&l.Spec, field.NewPath("spec"))...)
}

// LeaseUpdate checks a change.
func LeaseUpdate(l, old *coordinationv1.Lease) field.ErrorList {
	return append(apivalidation.ValidateObjectMetaUpdate(&l.ObjectMeta, &old.ObjectMeta, metadata), leaseSpec(&l.Spec, field.NewPath("spec"))...)
}

func leaseSpec(s *coordinationv1.LeaseSpec, at *field.Path) (errs field.ErrorList) {
	if d := s.LeaseDurationSeconds; d != nil && *d <= 0 {
		errs = append(errs, field.Invalid(at.Child("leaseDurationSeconds"), *d, "must be greater than 0"))
	}
	if t := s.LeaseTransitions; t != nil && *t < 0 {
		errs = append(errs, field.Invalid(at.Child("leaseTransitions"), *t, "must be greater than or equal to 0"))
	}
	if y := s.Strategy; y != nil {
		p := at.Child("strategy", "strategy")
		if strings.Contains(string(*y), "/") {
			errs = append(errs, invalidAll(p, *y, validation.IsQualifiedName(string(*y)))...)
		} else {
			errs = append(errs, supported(*y, p, coordinationv1.OldestEmulationVersion)...)
		}
	}
	if h := s.PreferredHolder; h != nil && *h != "" && (s.Strategy == nil || *s.Strategy == "") {
		errs = append(errs, field.Forbidden(at.Child("preferredHolder"), "may only be specified if `strategy` is defined"))
	}
	return errs
}

// highestUserPriority is where the range of system classes begins.
const highestUserPriority = 1_000_000_000

// systemPriorities are the classes that every cluster has.
var systemPriorities = map[string]int32{"system-cluster-critical": 2 * highestUserPriority, "system-node-critical": 2*highestUserPriority + 1000}

// PriorityClass checks a class; only the system's own may be above a billion.
func PriorityClass(p *schedulingv1.PriorityClass) field.ErrorList {
	errs := meta(&p.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	if strings.HasPrefix(p.Name, "system-") {
		if problem := systemPriority(p); problem != "" {
			errs = append(errs, field.Forbidden(metadata.Child("name"), "priority class names with 'system-' prefix are reserved for system use only. error: "+problem))
		}
	} else if p.Value > highestUserPriority {
		errs = append(errs, field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %v", highestUserPriority)))
	}
	if p.PreemptionPolicy != nil {
		errs = append(errs, oneOf(*p.PreemptionPolicy, field.NewPath("preemptionPolicy"), corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	return errs
}

func systemPriority(p *schedulingv1.PriorityClass) string {
	value, known := systemPriorities[p.Name]
	switch {
	case !known:
		return p.Name + " is not a known system priority class"
	case value != p.Value:
		return fmt.Sprintf("value of %v PriorityClass must be %v", p.Name, value)
	case p.GlobalDefault:
		return fmt.Sprintf("globalDefault of %v PriorityClass must be %v", p.Name, false)
	}
	return ""
}

// PriorityClassUpdate checks a change; value and policy stay.
func PriorityClassUpdate(p, old *schedulingv1.PriorityClass) field.ErrorList {
	errs := metaUpdate(&p.ObjectMeta, &old.ObjectMeta)
	if p.Value != old.Value {
		errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
	}
	return append(errs, apivalidation.ValidateImmutableField(p.PreemptionPolicy, old.PreemptionPolicy, field.NewPath("preemptionPolicy"))...)
}

// RuntimeClass checks a class.
func RuntimeClass(r *nodev1.RuntimeClass) field.ErrorList {
	errs := plainMeta(&r.ObjectMeta, false)
	declared := requiredAnd(r.Handler, field.NewPath("handler"), whole(apivalidation.NameIsDNSLabel))
	if r.Overhead != nil {
		c := &context{spec: &corev1.PodSpec{}}
		errs = append(errs, c.containerResources(&corev1.ResourceRequirements{Limits: r.Overhead.PodFixed}, field.NewPath("overhead"))...)
	}
	if s := r.Scheduling; s != nil {
		at := field.NewPath("scheduling")
		errs = append(errs, metavalidation.ValidateLabels(s.NodeSelector, at.Child("nodeSelector"))...)
		errs = append(errs, tolerations(s.Tolerations, at.Child("tolerations"))...)
		seen := map[corev1.Toleration]bool{}
		for i, t := range s.Tolerations {
			key := corev1.Toleration{Key: t.Key, Operator: t.Operator, Value: t.Value, Effect: t.Effect}
			if seen[key] {
				errs = append(errs, field.Duplicate(at.Child("tolerations").Index(i), goFields{t}))
			}
			seen[key] = true
		}
	}
	return reported(errs, declared)
}

// RuntimeClassUpdate checks a change; the handler stays.
func RuntimeClassUpdate(r, old *nodev1.RuntimeClass) field.ErrorList {
	errs := RuntimeClass(r)
	errs = append(errs, apivalidation.ValidateObjectMetaUpdate(&r.ObjectMeta, &old.ObjectMeta, metadata)...)
	return append(errs, declaredKept(r.Handler != old.Handler, field.NewPath("handler"))...)
}

// RuntimeClassWarnings are the notes on old labels of nodes.
func RuntimeClassWarnings(r, _ *nodev1.RuntimeClass) []string {
	out := notes{}
	if r.Scheduling != nil {
		for _, k := range sorted(r.Scheduling.NodeSelector) {
			if text, old := oldNodeLabels[k]; old {
				out.add(field.NewPath("scheduling", "nodeSelector"), "%s", text)
			}
		}
	}
	return out
}
