// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"math"
	"strconv"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// capacities checks what a device has to give, and, of one that is given out
// more than once, how much of it may be asked for.
func capacities(d *resourcev1.Device, at *field.Path) (errs field.ErrorList) {
	for _, name := range sorted(d.Capacity) {
		errs = append(errs, qualifiedName(string(name), at)...)
		c, at := d.Capacity[name], at.Key(shortened(string(name))).Child("requestPolicy")
		switch {
		case c.RequestPolicy == nil:
		case yes(d.AllowMultipleAllocations):
			errs = append(errs, requestPolicy(c.Value, c.RequestPolicy, at)...)
		default:
			errs = append(errs, field.Forbidden(at, "allowMultipleAllocations must be true"))
		}
	}
	return errs
}

func requestPolicy(capacity resource.Quantity, p *resourcev1.CapacityRequestPolicy, at *field.Path) field.ErrorList {
	needed := func(what string) field.ErrorList {
		return field.ErrorList{field.Required(at.Child("default"), "required when "+what+" is defined")}
	}
	switch values, ranged := len(p.ValidValues) > 0, p.ValidRange != nil; {
	case values && ranged:
		return field.ErrorList{field.Forbidden(at, `exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`)}
	case values && p.Default == nil:
		return needed("validValues")
	case ranged && p.Default == nil:
		return needed("validRange")
	case values:
		return validValues(*p.Default, capacity, p.ValidValues, at.Child("validValues"))
	case ranged:
		return validRange(*p.Default, capacity, p.ValidRange, at.Child("validRange"))
	}
	return nil
}

// mostValidValues is how many amounts a policy may name.
const mostValidValues = 10

func validValues(standard, capacity resource.Quantity, values []resource.Quantity, at *field.Path) (errs field.ErrorList) {
	for i := 1; i < len(values); i++ {
		if values[i-1].Cmp(values[i]) > 0 {
			errs = append(errs, field.Invalid(at.Index(i), values[i].String(), "values must be sorted in ascending order"))
		}
	}
	there := false
	if len(values) > mostValidValues {
		errs = append(errs, field.TooMany(at, len(values), mostValidValues))
	} else {
		for i, v := range values {
			if v.Cmp(capacity) > 0 {
				errs = append(errs, field.Invalid(at.Index(i), v.String(), "option is larger than capacity value: "+capacity.String()))
			}
			there = there || v.Cmp(standard) == 0
		}
		seen := &unique{}
		for i, v := range values {
			errs = append(errs, seen.add(strconv.FormatInt(v.Value(), 10), at.Index(i))...)
		}
	}
	if !there {
		errs = append(errs, field.Invalid(at, standard.String(), "default value is not valid according to the requestPolicy"))
	}
	return errs
}

func validRange(standard, capacity resource.Quantity, r *resourcev1.CapacityRequestPolicyRange, at *field.Path) (errs field.ErrorList) {
	if r.Min == nil {
		return field.ErrorList{field.Required(at.Child("min"), "required when validRange is defined")}
	}
	refuse := func(name, value, format string, args ...any) {
		errs = append(errs, field.Invalid(at.Child(name), value, fmt.Sprintf(format, args...)))
	}
	if r.Min.Cmp(capacity) > 0 {
		refuse("min", r.Min.String(), "min is larger than capacity value: %s", &capacity)
	}
	if standard.Cmp(*r.Min) < 0 {
		refuse("default", standard.String(), "default is less than min: %s", r.Min)
	}
	if r.Max != nil {
		if r.Min.Cmp(*r.Max) > 0 {
			refuse("max", r.Min.String(), "min is larger than max: %s", r.Max)
		}
		if r.Max.Cmp(capacity) > 0 {
			refuse("max", r.Max.String(), "max is larger than capacity value: %s", &capacity)
		}
		if standard.Cmp(*r.Max) > 0 {
			refuse("default", standard.String(), "default is more than max: %s", r.Max)
		}
	}
	if r.Step != nil {
		errs = append(errs, validStep(standard, capacity, r, at)...)
	}
	return errs
}

// validStep checks that what may be asked for lies whole steps above the least.
func validStep(standard, capacity resource.Quantity, r *resourcev1.CapacityRequestPolicyRange, at *field.Path) (errs field.ErrorList) {
	step := at.Child("step")
	if r.Step.Sign() <= 0 {
		return field.ErrorList{field.Invalid(step, r.Step.String(), "must be greater than zero")}
	}
	once := r.Min.DeepCopy()
	once.Add(*r.Step)
	if once.Cmp(capacity) > 0 {
		errs = append(errs, field.Invalid(step, r.Step.String(), fmt.Sprintf("one step %s is larger than capacity value: %s", &once, &capacity)))
	}
	countable := len(errs)
	errs = append(errs, countableQuantity(&standard, at.Child("default"))...)
	errs = append(errs, countableQuantity(r.Min, at.Child("min"))...)
	errs = append(errs, countableQuantity(r.Max, at.Child("max"))...)
	errs = append(errs, countableQuantity(r.Step, step)...)
	if len(errs) > countable {
		return errs
	}
	for _, v := range []*resource.Quantity{&standard, r.Max} {
		if v != nil && (v.Value()-r.Min.Value())%r.Step.Value() != 0 {
			errs = append(errs, field.Invalid(step, v.String(), fmt.Sprintf("value is not a multiple of a given step (%s) from (%s)", r.Step, r.Min)))
		}
	}
	return errs
}

// countableQuantity refuses what an int64 cannot hold.
func countableQuantity(q *resource.Quantity, at *field.Path) field.ErrorList {
	switch {
	case q == nil:
		return nil
	case q.Sign() < 0:
		return field.ErrorList{field.Invalid(at, q.String(), apivalidation.IsNegativeErrorMsg)}
	case q.CmpInt64(math.MaxInt64) > 0:
		return field.ErrorList{field.Invalid(at, q.String(), fmt.Sprintf("must not be larger than %d", math.MaxInt64))}
	}
	return nil
}
