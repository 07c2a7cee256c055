// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ResourceClaim checks a new claim to devices.
func ResourceClaim(c *resourcev1.ResourceClaim) field.ErrorList {
	return append(meta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain), deviceClaim(&c.Spec.Devices, spec.Child("devices")).all()...)
}

// ResourceClaimUpdate checks a change of anything but the status: the claim
// itself stays.
func ResourceClaimUpdate(c, old *resourcev1.ResourceClaim) field.ErrorList {
	errs := append(meta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain), metaUpdate(&c.ObjectMeta, &old.ObjectMeta)...)
	return reported(errs, declaredKept(!equality.Semantic.DeepEqual(c.Spec, old.Spec), spec))
}

// ResourceClaimTemplate checks a template of claims.
func ResourceClaimTemplate(t *resourcev1.ResourceClaimTemplate) field.ErrorList {
	return resourceClaimTemplate(t).all()
}

func resourceClaimTemplate(t *resourcev1.ResourceClaimTemplate) *found {
	f := deviceClaim(&t.Spec.Spec.Devices, spec.Child("spec", "devices"))
	errs := append(meta(&t.ObjectMeta, true, apivalidation.NameIsDNSSubdomain), claimTemplateMeta(&t.Spec.ObjectMeta, spec.Child("metadata"))...)
	f.written = append(errs, f.written...)
	return f
}

// ResourceClaimTemplateUpdate checks a change: the template itself stays.
func ResourceClaimTemplateUpdate(t, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
	f := resourceClaimTemplate(t)
	f.write(metaUpdate(&t.ObjectMeta, &old.ObjectMeta)...)
	if !equality.Semantic.DeepEqual(t.Spec, old.Spec) {
		f.write(field.Invalid(spec, goFields{t.Spec}, immutable))
	}
	return f.all()
}

// requests are the names in a claim, each with those of what would do, too.
type requests map[string][]string

func requestsOf(c *resourcev1.DeviceClaim) requests {
	names := requests{}
	for _, r := range c.Requests {
		names[r.Name] = nil
		for _, s := range r.FirstAvailable {
			names[r.Name] = append(names[r.Name], s.Name)
		}
	}
	return names
}

const unknownRequest = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"

func (r requests) named(name string, at *field.Path) (errs field.ErrorList) {
	parts := strings.Split(name, "/")
	if len(parts) > 2 {
		return field.ErrorList{field.Invalid(at, name, unknownRequest)}
	}
	for _, p := range parts {
		errs = append(errs, label(p, at)...)
	}
	subs, ok := r[parts[0]]
	if !ok || len(parts) == 2 && !slices.Contains(subs, parts[1]) {
		errs = append(errs, field.Invalid(at, name, unknownRequest))
	}
	return errs
}

// references are names of requests that something is about.
func (f *found) references(list []string, names requests, at *field.Path) {
	at = at.Child("requests")
	if !few(f, list, resourcev1.DeviceRequestsMaxSize, at) {
		return
	}
	different(f, list, itself, at)
	for i, name := range list {
		f.write(names.named(name, at.Index(i))...)
	}
}

func deviceClaim(c *resourcev1.DeviceClaim, at *field.Path) *found {
	f, names := &found{}, requestsOf(c)
	if at := at.Child("requests"); few(f, c.Requests, resourcev1.DeviceRequestsMaxSize, at) {
		different(f, c.Requests, func(r resourcev1.DeviceRequest) string { return r.Name }, at)
		for i, r := range c.Requests {
			f.request(r, at.Index(i))
		}
	}
	if at := at.Child("constraints"); few(f, c.Constraints, resourcev1.DeviceConstraintsMaxSize, at) {
		for i, k := range c.Constraints {
			f.constraint(k, names, at.Index(i))
		}
	}
	if at := at.Child("config"); few(f, c.Config, resourcev1.DeviceConfigMaxSize, at) {
		for i, k := range c.Config {
			f.references(k.Requests, names, at.Index(i))
			f.configuration(k.DeviceConfiguration, false, at.Index(i))
		}
	}
	return f
}

// request checks what is asked for: exactly this, or the first that there is
// of some.
func (f *found) request(r resourcev1.DeviceRequest, at *field.Path) {
	f.write(label(r.Name, at.Child("name"))...)
	inner := &found{}
	if r.Exactly != nil {
		inner.exactly(r.Exactly, at.Child("exactly"))
	}
	if first := at.Child("firstAvailable"); few(inner, r.FirstAvailable, resourcev1.FirstAvailableDeviceRequestMaxSize, first) {
		different(inner, r.FirstAvailable, func(s resourcev1.DeviceSubRequest) string { return s.Name }, first)
		for i := range r.FirstAvailable {
			inner.first(&r.FirstAvailable[i], first.Index(i))
		}
	}
	f.declare(inner.declared)
	const one = "exactly one of `exactly` or `firstAvailable` is required"
	switch exact, first := r.Exactly != nil, len(r.FirstAvailable) > 0; {
	case exact && first:
		f.write(field.Invalid(at, nil, one+", but multiple fields are set"))
	case !exact && !first:
		f.write(field.Required(at, one))
	default:
		f.write(inner.written...)
	}
}

func (f *found) exactly(r *resourcev1.ExactDeviceRequest, at *field.Path) {
	f.write(requiredAnd(r.DeviceClassName, at.Child("deviceClassName"), validation.IsDNS1123Subdomain)...)
	f.selectors(r.Selectors, false, at.Child("selectors"))
	f.amount(r.AllocationMode, r.Count, at)
	f.deviceTolerations(r.Tolerations, at.Child("tolerations"))
}

func (f *found) first(r *resourcev1.DeviceSubRequest, at *field.Path) {
	f.write(label(r.Name, at.Child("name"))...)
	if class := at.Child("deviceClassName"); r.DeviceClassName == "" {
		f.declare(field.ErrorList{field.Required(class, "")})
	} else {
		f.declare(byType(validate.LongName[string], r.DeviceClassName, class))
	}
	f.selectors(r.Selectors, false, at.Child("selectors"))
	f.amount(r.AllocationMode, r.Count, at)
	f.deviceTolerations(r.Tolerations, at.Child("tolerations"))
}

// amount checks how many devices are asked for.
func (f *found) amount(mode resourcev1.DeviceAllocationMode, count int64, at *field.Path) {
	switch mode {
	case resourcev1.DeviceAllocationModeAll:
		if count != 0 {
			f.write(field.Invalid(at.Child("count"), count, "must not be specified when allocationMode is 'All'"))
		}
	case resourcev1.DeviceAllocationModeExactCount:
		f.write(positive(count, at.Child("count"))...)
	default:
		f.declare(supported(mode, at.Child("allocationMode"), resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount))
	}
}

// constraint checks what devices must have in common, or must not.
func (f *found) constraint(c resourcev1.DeviceConstraint, names requests, at *field.Path) {
	f.references(c.Requests, names, at)
	if c.MatchAttribute == nil && c.DistinctAttribute == nil {
		f.write(field.Required(at, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`))
	}
	attribute := func(name *resourcev1.FullyQualifiedName, at *field.Path) {
		if name != nil {
			f.declare(byType(validate.ResourceFullyQualifiedName[resourcev1.FullyQualifiedName], *name, at))
		}
	}
	attribute(c.MatchAttribute, at.Child("matchAttribute"))
	attribute(c.DistinctAttribute, at.Child("distinctAttribute"))
}
